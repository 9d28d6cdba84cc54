"""Follower: a cache that holds what a model of it holds, so that another model may take over without a handover."""

from __future__ import annotations

from collections import OrderedDict

from models.cache.policy import BoundedPolicy, Capacity, K, Listener, Reason, Slot


class Follower(BoundedPolicy[K]):
    """Evicts the keys that its model, a policy of the same capacity without entries, has let go.

    The model must hear of each read and put before the follower does; then there is such a key whenever room is
    missing, except for a key that grew. After a change of model the contents become the new one's at one key a miss,
    and its queues and history are those that it would have had all along.

    Args:
        model: the policy to follow; its listener is taken.
    """

    name = "follower"

    def __init__(self, capacity: Capacity, model: BoundedPolicy[K], listener: Listener[K] | None = None) -> None:
        super().__init__(capacity, listener)
        self._model = model
        self._reset()
        self.follow(model)

    def follow(self, model: BoundedPolicy[K]) -> None:
        """Another model decides from now on; no entry leaves. O(keys)."""
        self._model.listen(None)
        self._model = model
        model.listen(self._let_go)
        self._strays: OrderedDict[K, None] = OrderedDict.fromkeys(key for key in self._slots if key not in model)

    def touch(self, key: K) -> bool:
        return key in self._slots

    def _enter(self, key: K, slot: Slot) -> None:
        if key not in self._model:
            self._strays[key] = None

    def _leave(self, key: K, slot: Slot) -> None:
        self._strays.pop(key, None)

    def _victim(self) -> K:
        while self._strays:
            key, _ = self._strays.popitem(last=False)
            if key not in self._model:  # it may have come back
                return key
        return next(iter(self._slots))

    def _reset(self) -> None:
        self._strays = OrderedDict()  # held here, let go by the model; the longest ago first

    def _let_go(self, key: K, weight: int, reason: Reason) -> None:
        if reason is not Reason.REPLACED and key in self._slots:
            self._strays[key] = None
