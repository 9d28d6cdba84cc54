"""How a local Kafka is laid out and started: one KRaft node, broker and controller, on the loopback address."""

from __future__ import annotations

import base64
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from models.errors import ServiceSetupError
from streams.services.jars import broker_file
from streams.services.ports import HOST
from streams.topics import MAX_RECORD_BYTES

_FORMAT_TIMEOUT_S = 60
# measured: less CPU and half the memory of G1 at this size
_HEAP = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC")
# a broker that lives for minutes is not worth the second compiler
_SHORT_LIVED = ("-XX:TieredStopAtLevel=1",)
# A market at full speed writes 100 MB a second: with the default of 5 minutes a bound on bytes would be one in name.
_RETENTION_CHECK_MS = 10_000
# How long the controller believes in a broker it does not hear: the default, which a restart after a crash has to wait
# out; and for a node that is never restarted long enough that an overloaded machine does not lose its only broker.
_SESSION_MS, _SHORT_LIVED_SESSION_MS = 9_000, 60_000


@dataclass(frozen=True)
class KafkaNode:
    """A node whose files live in `folder`.

    Attributes:
        java: the `java` program.
        jars: folder of Kafka's jars.
        short_lived: trade peak speed for a quick start.
    """

    folder: Path
    java: Path
    jars: Path
    port: int
    controller_port: int
    short_lived: bool = False

    @property
    def data(self) -> Path:
        return self.folder / "data"

    @property
    def _properties(self) -> Path:
        return self.folder / "server.properties"

    def prepare(self) -> None:
        """Write the properties and format an empty data folder (0.9 s, only once).

        Raises:
            ServiceSetupError: the folder cannot be written or Kafka refuses it.
        """
        try:
            self.data.mkdir(parents=True, exist_ok=True)
            self._properties.write_text("".join(f"{key}={value}\n" for key, value in self.properties().items()))
            if (self.data / "meta.properties").exists():
                return
            subprocess.run(
                [*self._java("-XX:TieredStopAtLevel=1", "kafka.tools.StorageTool"), *self._format_arguments()],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=_FORMAT_TIMEOUT_S,
                check=True,
            )
        except subprocess.CalledProcessError as exc:
            why = " ".join((exc.stderr or exc.stdout).split())[:300]
            raise ServiceSetupError(f"Kafka's storage in {self.data} cannot be prepared: {why}") from exc
        except (OSError, subprocess.TimeoutExpired) as exc:
            raise ServiceSetupError(f"Kafka's storage in {self.data} cannot be prepared: {exc}") from exc

    def command(self) -> list[str]:
        """The broker itself."""
        flags = (*_HEAP, *_SHORT_LIVED) if self.short_lived else _HEAP
        return [*self._java(*flags, "kafka.Kafka"), str(self._properties)]

    def properties(self) -> dict[str, str]:
        """`server.properties`; topics are created by `streams.topics` alone."""
        return {
            "process.roles": "broker,controller",
            "node.id": "1",
            "controller.quorum.voters": f"1@{HOST}:{self.controller_port}",
            "listeners": f"PLAINTEXT://{HOST}:{self.port},CONTROLLER://{HOST}:{self.controller_port}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{self.port}",
            "controller.listener.names": "CONTROLLER",
            "log.dirs": str(self.data),
            "auto.create.topics.enable": "false",
            "message.max.bytes": str(MAX_RECORD_BYTES),
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "share.coordinator.state.topic.num.partitions": "4",
            "log.cleaner.dedupe.buffer.size": str(32 << 20),  # the default 128 MB would be a quarter of the heap
            "broker.session.timeout.ms": str(_SHORT_LIVED_SESSION_MS if self.short_lived else _SESSION_MS),
            "log.retention.check.interval.ms": str(_RETENTION_CHECK_MS),
            "group.initial.rebalance.delay.ms": "0",
            "group.min.session.timeout.ms": "2000",
        }

    def _format_arguments(self) -> list[str]:
        cluster_id = base64.urlsafe_b64encode(uuid.uuid4().bytes).rstrip(b"=").decode()
        # `=`: an id may begin with a dash
        return ["format", f"--cluster-id={cluster_id}", "--config", str(self._properties), "--ignore-formatted"]

    def _java(self, *flags_and_main: str) -> list[str]:
        log4j = f"-Dlog4j2.configurationFile={broker_file('log4j2.properties')}"
        return [str(self.java), "-cp", f"{self.jars}/*", log4j, *flags_and_main]
