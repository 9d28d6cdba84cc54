"""The caches of other projects behind one face, each used as its documentation shows."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from importlib import import_module
from typing import Any, ClassVar


class Cache:
    """A cache that is called directly.

    Attributes:
        get: None for a miss.
        package: as it is installed; empty for ours.
        bounded: it evicts; puts: it can be put into without a service.
        traits: is it async; a TTL for each entry; a listener for what leaves; a bound in bytes.
    """

    package: ClassVar[str] = ""
    bounded: ClassVar[bool] = True
    puts: ClassVar[bool] = True
    traits: ClassVar[tuple[bool, bool, bool, bool]] = (False, False, False, False)

    get: Callable[[str], Any]
    put: Callable[[str, Any], object]

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity

    @staticmethod
    def key(number: int) -> str:
        return f"session:{number}"

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    def expect(self, keys: Sequence[str]) -> None:
        """All keys that will be asked for."""

    async def fill(self, keys: Sequence[str], value: Any) -> None:
        for key in keys:
            self.put(key, value)

    async def read(self, keys: Sequence[str]) -> None:
        get = self.get
        for key in keys:
            get(key)

    async def ask(self, keys: Sequence[str], value: Any) -> int:
        """Read each key and put it where it is missed; how many were."""
        get, put, missed = self.get, self.put, 0
        for key in keys:
            if get(key) is None:
                missed += 1
                put(key, value)
        return missed

    async def count_missing(self, keys: Sequence[str]) -> int:
        return sum(self.get(key) is None for key in keys)


class AsyncCache(Cache):
    """A cache whose calls are awaited: `aget` and `aput`."""

    traits = (True, True, False, False)
    aget: Callable[[str], Awaitable[Any]]
    aput: Callable[[str, Any], Awaitable[object]]

    async def fill(self, keys: Sequence[str], value: Any) -> None:
        for key in keys:
            await self.aput(key, value)

    async def read(self, keys: Sequence[str]) -> None:
        get = self.aget
        for key in keys:
            await get(key)

    async def ask(self, keys: Sequence[str], value: Any) -> int:
        get, put, missed = self.aget, self.aput, 0
        for key in keys:
            if await get(key) is None:
                missed += 1
                await put(key, value)
        return missed

    async def count_missing(self, keys: Sequence[str]) -> int:
        return sum([await self.aget(key) is None for key in keys])


class CacheTools(Cache):
    package = "cachetools"
    traits = (False, False, False, True)

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        cache = import_module("cachetools").LRUCache(capacity)
        self.get, self.put = cache.get, cache.__setitem__


class CacheBox(Cache):
    package = "cachebox"
    traits = (False, False, False, True)

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        cache = import_module("cachebox").LRUCache(capacity)
        self.get, self.put = cache.get, cache.insert


class Theine(Cache):
    """`get` gives a pair; the loops look at its second part."""

    package = "theine"
    traits = (False, True, False, False)

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._cache = import_module("theine").Cache(capacity)
        self.get, self.put = self._cache.get, self._cache.set

    async def stop(self) -> None:
        self._cache.close()

    async def ask(self, keys: Sequence[str], value: Any) -> int:
        get, put, missed = self.get, self.put, 0
        for key in keys:
            if not get(key)[1]:
                missed += 1
                put(key, value)
        return missed

    async def count_missing(self, keys: Sequence[str]) -> int:
        return sum(not self.get(key)[1] for key in keys)


class Moka(Cache):
    package = "moka-py"
    traits = (False, True, True, True)

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        cache = import_module("moka_py").Moka(capacity)
        self.get, self.put = cache.get, cache.set


class Dogpile(Cache):
    package = "dogpile-cache"
    bounded = False

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        cache = import_module("dogpile.cache").make_region().configure("dogpile.cache.memory")
        self.get, self.put = cache.get, cache.set

    async def count_missing(self, keys: Sequence[str]) -> int:
        nothing = import_module("dogpile.cache.api").NO_VALUE
        return sum(self.get(key) is nothing for key in keys)


class Cashews(AsyncCache):
    package = "cashews"

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        self._cache = import_module("cashews").Cache()
        self.aget, self.aput = self._cache.get, self._cache.set

    async def start(self) -> None:
        await self._cache.init("mem://", size=self.capacity, check_interval=0)

    async def stop(self) -> None:
        await self._cache.close()


class AioCache(AsyncCache):
    package = "aiocache"
    bounded = False

    def __init__(self, capacity: int) -> None:
        super().__init__(capacity)
        cache = import_module("aiocache").SimpleMemoryCache()
        self.aget, self.aput = cache.get, cache.set


PEERS: dict[str, type[Cache]] = {
    "cachetools": CacheTools,
    "cachebox": CacheBox,
    "theine": Theine,
    "moka": Moka,
    "cashews": Cashews,
    "aiocache": AioCache,
    "dogpile": Dogpile,
}
