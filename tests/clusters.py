"""A real Redis Cluster of three nodes on this machine, gone with its owner even when that is killed."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass
from pathlib import Path

from redis.asyncio import Redis

from streams.cache.connect import connect_redis
from streams.services.ports import HOST, free_ports, redis_answers
from streams.services.redis import find_redis, redis_command
from streams.settings import RedisSettings
from tests.conftest import WaitUntil

N_SLOTS = 16_384
_DEADLINE_S = 20.0
# the shell ends its child when the other end of its input is closed, in order or by death
_UNTIL_ORPHANED = '"$@" & child=$!; read -r _; kill "$child"; wait "$child"'


@dataclass
class Node:
    """One server.

    Attributes:
        id: its name in the cluster.
        slots: it began with them.
    """

    port: int
    process: subprocess.Popen[bytes]
    redis: Redis
    slots: range
    id: str = ""

    def stop(self) -> None:
        """End the server; repeating it is fine."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait(10)


@contextlib.asynccontextmanager
async def redis_cluster(folder: Path, wait_until: WaitUntil, n_nodes: int = 3) -> AsyncIterator[list[Node]]:
    """Nodes that share all slots in equal ranges."""
    ports, binary = free_ports(2 * n_nodes), find_redis()
    async with contextlib.AsyncExitStack() as stack:
        nodes = []
        for n in range(n_nodes):
            data = folder / f"node-{n}"
            data.mkdir()
            cluster = ["--cluster-enabled", "yes", "--cluster-port", str(ports[n_nodes + n])]
            tuning = ["--cluster-node-timeout", "1000", "--cluster-require-full-coverage", "no"]
            command = [*redis_command(binary, data, port=ports[n], keep=False), *cluster, *tuning]
            process = _start(command)
            redis = await stack.enter_async_context(
                aclosing(connect_redis(RedisSettings(url=f"redis://{HOST}:{ports[n]}/0")))
            )
            node = Node(ports[n], process, redis, range(N_SLOTS * n // n_nodes, N_SLOTS * (n + 1) // n_nodes))
            stack.callback(node.stop)
            nodes.append(node)
        for node in nodes:
            await wait_until(lambda port=node.port: asyncio.to_thread(redis_answers, port), _DEADLINE_S, "a node")  # type: ignore[misc]
            await node.redis.execute_command("CLUSTER", "ADDSLOTSRANGE", node.slots.start, node.slots.stop - 1)
            node.id = (await node.redis.execute_command("CLUSTER", "MYID")).decode()
        for node in nodes[1:]:
            await node.redis.execute_command("CLUSTER", "MEET", HOST, nodes[0].port, ports[n_nodes])

        async def agreed() -> bool:
            """Each node knows all others and that all slots are served."""
            for node in nodes:
                text = str(await node.redis.execute_command("CLUSTER", "INFO"))
                if "cluster_state:ok" not in text or f"cluster_size:{n_nodes}" not in text:
                    return False
            return True

        await wait_until(agreed, _DEADLINE_S, "the cluster")
        yield nodes


def _start(command: list[str]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["sh", "-c", _UNTIL_ORPHANED, "sh", *command], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL
    )
