"""Ports on this machine, and whether something that speaks Kafka or Redis answers there."""

from __future__ import annotations

import contextlib
import random
import socket
import struct

import psutil
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from models.errors import ServiceSetupError

HOST = "127.0.0.1"
_METADATA, _METADATA_VERSION = 3, 1
_PROBE_TIMEOUT_S = 1.0
_SERVERS = range(20_000, 32_768)
_MAX_TRIES = 200
_CHOICE = random.SystemRandom()  # processes that start with one seed must not choose the same ports


def free_ports(n: int) -> list[int]:
    """`n` different ports that nobody listens on now; all are held until the last is chosen.

    They lie below those that systems give to outgoing connections (Linux: 32768 and up): such a connection could take
    one before its server has started or while it restarts, and a client that tries again and again to reach a server
    on a port of that range is in the end connected to itself.

    Raises:
        ServiceSetupError: nearly all of them are taken.
    """
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        for _ in range(_MAX_TRIES):
            if len(ports) == n:
                return ports
            one, port = held.enter_context(socket.socket()), _CHOICE.choice(_SERVERS)
            with contextlib.suppress(OSError):  # taken, also by this very call
                one.bind((HOST, port))
                ports.append(port)
        raise ServiceSetupError(f"no {n} free ports among {_SERVERS.start}..{_SERVERS.stop - 1}; stop other servers")


def require_free(port: int, *, service: str, setting: str) -> None:
    """Raises:
    ServiceSetupError: somebody listens on `port`; the message says who, and which setting moves us elsewhere.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a port in TIME_WAIT is free to a server
        try:
            probe.bind((HOST, port))
        except OSError as exc:
            raise ServiceSetupError(
                f"port {port} for {service} is taken by {_owner(port)}; stop that, or set {setting} to another port"
            ) from exc


def _owner(port: int) -> str:
    with contextlib.suppress(psutil.Error, OSError):  # another user's process may not be looked at
        for connection in psutil.net_connections("tcp"):
            if connection.laddr and connection.laddr.port == port and connection.pid:
                return f"another process ({psutil.Process(connection.pid).name()}, pid {connection.pid})"
    return "another process"


def kafka_answers(port: int, host: str = HOST) -> bool:
    """Whether a broker there tells its metadata with at least one live broker: the port opens before that.

    Source: Kafka protocol guide, Metadata request and response version 1.
    """
    client = b"marketprism"
    body = struct.pack(">hhih", _METADATA, _METADATA_VERSION, 1, len(client)) + client + struct.pack(">i", 0)
    try:
        with socket.create_connection((host, port), timeout=_PROBE_TIMEOUT_S) as connection:
            connection.sendall(struct.pack(">i", len(body)) + body)
            answer = connection.recv(12, socket.MSG_WAITALL)  # size, correlation id, number of brokers
    except OSError:
        return False
    return len(answer) == 12 and bool(struct.unpack(">iii", answer)[2] > 0)


def redis_answers(port: int, host: str = HOST) -> bool:
    """Whether a Redis there answers PING (one that still loads its data does not)."""
    client = redis.Redis(host=host, port=port, socket_timeout=_PROBE_TIMEOUT_S, retry=Retry(NoBackoff(), 0))
    try:
        return bool(client.ping())
    except redis.RedisError:
        return False
    finally:
        client.close()
