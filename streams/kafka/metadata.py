"""What the cluster says about topics, ids included: aiokafka speaks Metadata up to version 5, ids came with 10.

Source: Kafka's protocol guide, Metadata request and response, version 12 (KIP-516: topic identifiers).
"""

from __future__ import annotations

from dataclasses import dataclass
from io import BytesIO
from typing import Any
from uuid import UUID

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.errors import IncompatibleBrokerVersion, UnknownTopicOrPartitionError, for_code
from aiokafka.protocol.abstract import AbstractType
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Boolean, CompactArray, CompactString, Int16, Int32, Schema, TaggedFields

from models.errors import ServiceSetupError

_NO_ID = UUID(int=0)


@dataclass(frozen=True)
class TopicState:
    """One topic as the cluster has it.

    Attributes:
        name: full name, prefix included.
        id: the id Kafka gave it when it was created; a topic created anew under its name has another one.
        n_partitions: partitions 0..n-1.
        replication: copies of partition 0.
        ready: every partition has a leader.
    """

    name: str
    id: str
    n_partitions: int
    replication: int
    ready: bool


async def describe(client: AIOKafkaAdminClient, names: list[str] | None) -> dict[str, TopicState]:
    """Those of `names` that exist, by name; all topics for None. Never creates one.

    Raises:
        ServiceSetupError: the broker is older than Kafka 3.1.
        KafkaError: no broker answered, or it refused.
    """
    try:
        response = await client._send_request(_MetadataRequest(names))
    except (IncompatibleBrokerVersion, NotImplementedError) as exc:
        raise ServiceSetupError("this Kafka does not give topic ids: version 3.1 or newer is needed") from exc
    found = {}
    for code, name, topic_id, _internal, partitions, _operations, _tags in response.topics:
        error = for_code(code)
        if error is UnknownTopicOrPartitionError:
            continue
        # "leader not available" is a state of a topic that is just being made, not a failure
        if code and not getattr(error, "retriable", False):
            raise error(f"metadata of {name}")
        found[name] = TopicState(
            name,
            str(topic_id),
            len(partitions),
            len(partitions[0][4]) if partitions else 0,
            not code and bool(partitions) and all(p[0] == 0 and p[2] >= 0 for p in partitions),
        )
    return found


class _Uuid(AbstractType):  # type: ignore[misc]  # aiokafka is not typed
    @classmethod
    def encode(cls, value: UUID) -> bytes:
        return value.bytes

    @classmethod
    def decode(cls, data: BytesIO) -> UUID:
        return UUID(bytes=data.read(16))


class _MetadataResponse(Response):  # type: ignore[misc]
    API_KEY = 3
    API_VERSION = 12
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "brokers",
            CompactArray(
                ("node_id", Int32),
                ("host", CompactString("utf-8")),
                ("port", Int32),
                ("rack", CompactString("utf-8")),
                ("tags", TaggedFields),
            ),
        ),
        ("cluster_id", CompactString("utf-8")),
        ("controller_id", Int32),
        (
            "topics",
            CompactArray(
                ("error_code", Int16),
                ("name", CompactString("utf-8")),
                ("topic_id", _Uuid),
                ("is_internal", Boolean),
                (
                    "partitions",
                    CompactArray(
                        ("error_code", Int16),
                        ("partition_index", Int32),
                        ("leader_id", Int32),
                        ("leader_epoch", Int32),
                        ("replica_nodes", CompactArray(Int32)),
                        ("isr_nodes", CompactArray(Int32)),
                        ("offline_replicas", CompactArray(Int32)),
                        ("tags", TaggedFields),
                    ),
                ),
                ("topic_authorized_operations", Int32),
                ("tags", TaggedFields),
            ),
        ),
        ("tags", TaggedFields),
    )


class _MetadataRequestV12(RequestStruct):  # type: ignore[misc]
    FLEXIBLE_VERSION = True
    API_KEY = 3
    API_VERSION = 12
    RESPONSE_TYPE = _MetadataResponse
    SCHEMA = Schema(
        (
            "topics",
            CompactArray(("topic_id", _Uuid), ("name", CompactString("utf-8")), ("tags", TaggedFields)),
        ),
        ("allow_auto_topic_creation", Boolean),
        ("include_topic_authorized_operations", Boolean),
        ("tags", TaggedFields),
    )


class _MetadataRequest(Request[_MetadataRequestV12]):  # type: ignore[misc]
    API_KEY = 3

    def __init__(self, names: list[str] | None) -> None:
        self._names = names

    def build(self, request_struct_class: type[Any]) -> Any:
        topics: list[Any] | None = None if self._names is None else [(_NO_ID, name, {}) for name in self._names]
        return request_struct_class(topics, False, False, {})
