"""How processes of one test run share its files: the first begins with quick tests, the others with those on services.

So tests that compute run beside tests that wait, and a file that needs a Kafka meets as few others as possible.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling
from xdist.workermanage import WorkerController

_ON_SERVICES = ("tests/integration/", "tests/replay/test_recorded_days.py")
# the longest ones: whoever meets them last keeps all others waiting
_FIRST = ("tests/integration/test_bench", "tests/integration/test_worker", "tests/replay/test_recorded_days.py")


class Shares(LoadScopeScheduling):
    """A file is one process's alone: its module fixtures (a worker, a cluster, a day) are made once."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid.partition("::")[0]

    def _assign_work_unit(self, node: WorkerController) -> None:
        computes = node is self.nodes[0]
        chosen = min(
            self.workqueue, key=lambda file: (file.startswith(_ON_SERVICES) is computes, not file.startswith(_FIRST))
        )
        self.workqueue.move_to_end(chosen, last=False)
        super()._assign_work_unit(node)
