"""A local Kafka and Redis for one machine, without Docker and without root."""

from streams.services.site import Addresses, LocalSite, ServiceStatus
from streams.services.temporary import temporary_site

__all__ = ["Addresses", "LocalSite", "ServiceStatus", "temporary_site"]
