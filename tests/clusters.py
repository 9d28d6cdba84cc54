"""A real Redis Cluster of three nodes on this machine, gone with its owner even when that is killed."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import redis

from models.errors import DeadlineExceeded
from streams.services.ports import HOST, free_ports, redis_answers
from streams.services.redis import find_redis, redis_command

N_SLOTS = 16_384
_DEADLINE_S = 60.0
# the shell ends its child when the other end of its input is closed, in order or by death
_UNTIL_ORPHANED = '"$@" & child=$!; read -r _; kill "$child"; wait "$child"'


class Node:
    """One server.

    Attributes:
        slots: it begins with them.
        id: its name in the cluster.
    """

    def __init__(self, folder: Path, binary: Path, *, port: int, bus_port: int, slots: range) -> None:
        folder.mkdir()
        self.port, self.bus_port, self.slots = port, bus_port, slots
        cluster = ["--cluster-enabled", "yes", "--cluster-port", str(bus_port), "--cluster-node-timeout", "1000"]
        command = [*redis_command(binary, folder, port=port, keep=False), *cluster]
        self._process = subprocess.Popen(
            ["sh", "-c", _UNTIL_ORPHANED, "sh", *command, "--cluster-require-full-coverage", "no"],
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        self._client = redis.Redis(host=HOST, port=port)
        self.id = ""

    def command(self, *args: str | int | bytes) -> Any:
        return self._client.execute_command(*args)

    def info(self, section: str) -> dict[str, Any]:
        info: dict[str, Any] = self._client.info(section)
        return info

    def stop(self) -> None:
        """End the server; repeating it is fine."""
        self._client.close()
        if self._process.stdin is not None and not self._process.stdin.closed:
            self._process.stdin.close()
        self._process.wait(10)


@contextlib.contextmanager
def redis_cluster(folder: Path, n_nodes: int = 3) -> Iterator[list[Node]]:
    """Nodes that share all slots in equal ranges."""
    ports, binary = free_ports(2 * n_nodes), find_redis()
    with contextlib.ExitStack() as stack:
        nodes = []
        for n in range(n_nodes):
            slots = range(N_SLOTS * n // n_nodes, N_SLOTS * (n + 1) // n_nodes)
            node = Node(folder / f"node-{n}", binary, port=ports[n], bus_port=ports[n_nodes + n], slots=slots)
            stack.callback(node.stop)
            nodes.append(node)
        for node in nodes:
            _wait(lambda port=node.port: redis_answers(port), "a node of the cluster")  # type: ignore[misc]
            node.command("CLUSTER", "ADDSLOTSRANGE", node.slots.start, node.slots.stop - 1)
            node.id = node.command("CLUSTER", "MYID").decode()
            node.command("CLUSTER", "MEET", HOST, nodes[0].port, nodes[0].bus_port)
        _wait(lambda: all(_agrees(node, n_nodes) for node in nodes), "the cluster")
        yield nodes


def _agrees(node: Node, n_nodes: int) -> bool:
    """Whether it knows all others and that all slots are served."""
    text = str(node.command("CLUSTER", "INFO"))
    return "cluster_state:ok" in text and f"cluster_size:{n_nodes}" in text


def _wait(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + _DEADLINE_S
    while not condition():
        if time.monotonic() > end:
            raise DeadlineExceeded(f"{what} did not come within {_DEADLINE_S:g} s")
        time.sleep(0.02)
