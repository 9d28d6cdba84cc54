"""The worker's port: `/metrics`, `/health` (is it well) and `/ready` (does it serve)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from models.errors import ServiceSetupError

Report = Callable[[], dict[str, Any]]


class HealthServer:
    """Serves what `report` says.

    Args:
        port: on all addresses of the machine; 0 = a free one, see `port` after `start`.
        report: `{"status": "healthy" | "degraded" | "unhealthy", "ready": bool, ...}`; degraded still answers 200.
    """

    def __init__(self, port: int, report: Report) -> None:
        self.port = port
        self._report = report
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        """Raises: ServiceSetupError when the port is taken."""
        app = web.Application()
        app.add_routes(
            [web.get("/metrics", _metrics), web.get("/health", self._health), web.get("/ready", self._ready)]
        )
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, port=self.port)
        try:
            await site.start()
        except OSError as exc:
            await self._runner.cleanup()
            raise ServiceSetupError(
                f"port {self.port} of the worker is taken: stop what listens there, or set MARKETPRISM_WORKER__PORT"
            ) from exc
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _health(self, _: web.Request) -> web.Response:
        report = self._report()
        return web.json_response(report, status=503 if report["status"] == "unhealthy" else 200)

    async def _ready(self, _: web.Request) -> web.Response:
        report = self._report()
        return web.json_response({"ready": report["ready"]}, status=200 if report["ready"] else 503)


async def _metrics(_: web.Request) -> web.Response:
    return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})
