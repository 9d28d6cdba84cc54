"""`cached`: a function whose results are in the cache, for all processes that have the function.

@cached(loads, LoadPolicy(ttl_ms=60_000))
async def profile(user_id: int) -> dict[str, Any]: ...
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial, update_wrapper
from typing import Any, ParamSpec, Protocol, TypeVar

from models.cache.arguments import call_key
from models.cache.loading import LoadPolicy
from streams.client.read_through import Loaded, ReadThrough

P = ParamSpec("P")
R = TypeVar("R")
R_co = TypeVar("R_co", covariant=True)


class CachedFunction(Protocol[P, R_co]):
    """What `cached` makes of a function: to be awaited, whether the function is async or not."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R_co]: ...

    key: Callable[P, str]
    """The cache key of a call, to delete or to look at it."""

    load: Callable[P, Coroutine[Any, Any, Loaded]]
    """The call with all there is to know of its answer: whether it is stale, and its version."""


def cached(
    loads: ReadThrough,
    policy: LoadPolicy,
    *,
    namespace: str = "call",
    name: str | None = None,
    key: Callable[..., str] | None = None,
) -> Callable[[Callable[P, R | Awaitable[R]]], CachedFunction[P, R]]:
    """Keep a function's results; a function that is not async runs in a thread. None counts as 'there is nothing'.

    Results are msgpack: a tuple comes back as a list, and each caller has a copy of its own. Arguments are told apart
    by type and content, however they are passed: see `models.cache.arguments`. A method's `self` is an argument like
    any other, so its class needs `__cache_key__()`, or give `key`.

    Args:
        namespace: of the keys; clearing it forgets the results of all its functions.
        name: in the key, by default module and qualified name. Change it when results of an older form must not count.
        key: makes the whole key of a call's arguments instead.
    """

    def decorate(function: Callable[P, R | Awaitable[R]]) -> CachedFunction[P, R]:
        signature = inspect.signature(function)
        full_name = name or f"{function.__module__}.{function.__qualname__}"

        def key_of(*args: P.args, **kwargs: P.kwargs) -> str:
            if key is not None:
                return key(*args, **kwargs)
            bound = signature.bind(*args, **kwargs)
            bound.apply_defaults()
            return call_key(namespace, full_name, bound.arguments)

        async def load(*args: P.args, **kwargs: P.kwargs) -> Loaded:
            return await loads.get_or_load(key_of(*args, **kwargs), partial(function, *args, **kwargs), policy)

        async def call(*args: P.args, **kwargs: P.kwargs) -> Any:
            return (await load(*args, **kwargs)).value

        update_wrapper(call, function)
        call.key, call.load = key_of, load  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate
