"""Least frequently used, each step in constant time."""

from __future__ import annotations

from collections import OrderedDict

from models.cache.policy import BoundedPolicy, Capacity, K, Listener, Slot


class _Bucket:
    """Keys of one count, in a ring of buckets by rising count; the ring's head has count -1."""

    __slots__ = ("count", "keys", "left", "right")

    def __init__(self, count: int) -> None:
        self.count = count
        self.keys: OrderedDict[object, None] = OrderedDict()
        self.left = self.right = self


class LFU(BoundedPolicy[K]):
    """Evicts the key with the fewest reads, of equals the one that came to its count first.

    Counts never fade: what was hot long ago stays. W-TinyLFU is the one that forgets. Only a key that grew at capacity
    takes longer: it looks for its count among the different ones there are.

    Source: Shah, Mitra, Matani 2010, "An O(1) algorithm for implementing the LFU cache eviction scheme".
    """

    name = "lfu"

    def __init__(self, capacity: Capacity, listener: Listener[K] | None = None) -> None:
        super().__init__(capacity, listener)
        self._reset()

    def touch(self, key: K) -> bool:
        slot = self._slots.get(key)
        if slot is None:
            return False
        bucket = self._bucket_of[key]
        slot.uses += 1
        self._file(key, slot.uses, after=bucket)
        self._unfile(key, bucket)
        return True

    def _enter(self, key: K, slot: Slot) -> None:
        bucket = self._head
        while bucket.right.count != -1 and bucket.right.count <= slot.uses:  # 0 steps for a beginner's count of 0
            bucket = bucket.right
        self._file(key, slot.uses, after=bucket)

    def _leave(self, key: K, slot: Slot) -> None:
        self._unfile(key, self._bucket_of.pop(key))

    def _victim(self) -> K:
        bucket = self._head.right
        key: K = next(iter(bucket.keys))  # type: ignore[assignment]  # buckets hold nothing but our keys
        self._unfile(key, self._bucket_of.pop(key))
        return key

    def _reset(self) -> None:
        self._head = _Bucket(-1)
        self._bucket_of: dict[K, _Bucket] = {}

    def _file(self, key: K, count: int, *, after: _Bucket) -> None:
        """Put a key into the bucket of its count, which is `after`, its right neighbour, or made between them."""
        bucket = after if after.count == count else after.right
        if bucket.count != count:
            bucket = _Bucket(count)
            bucket.left, bucket.right = after, after.right
            after.right.left = bucket
            after.right = bucket
        bucket.keys[key] = None
        self._bucket_of[key] = bucket

    def _unfile(self, key: K, bucket: _Bucket) -> None:
        del bucket.keys[key]
        if not bucket.keys:
            bucket.left.right, bucket.right.left = bucket.right, bucket.left
