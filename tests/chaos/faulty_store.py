"""An S3 endpoint that fails as stores do, in front of one that works."""

import asyncio
import io
import math
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from aiohttp import ClientSession, web

FAULTS = ("refuse", "hang", "slow_down", "cut", "lost_reply")
"""No connection; no answer; 503 at once; hung up in the middle of what is put; done, and the answer
lost."""

SLOW_DOWN = (
    "<Error><Code>SlowDown</Code><Message>Please reduce your request rate.</Message></Error>"
)


class FaultyStore:
    """Passes everything on to `upstream` unless told to fail; a thread with an event loop."""

    def __init__(self, upstream: str) -> None:
        self._upstream = upstream
        self.fault: str | None = None
        self.met = 0
        """Requests that met a fault."""
        self.bytes_per_s = math.inf
        """Of all that is put, over all connections."""
        self.put_bytes = 0
        self._line = asyncio.Lock()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._runner: web.AppRunner
        self._session: ClientSession
        self.url = f"http://127.0.0.1:{self._in_loop(self._start)}"

    def close(self) -> None:
        self.fault = None
        self._in_loop(self._stop)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def _in_loop(self, what: Callable[[], Any]) -> Any:
        done: Future[Any] = asyncio.run_coroutine_threadsafe(what(), self._loop)
        return done.result(30)

    async def _start(self) -> int:
        self._session = ClientSession(auto_decompress=False)
        app = web.Application(client_max_size=1 << 30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        port: int = self._runner.addresses[0][1]
        return port

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        fault = self.fault
        if fault is None:
            body = await request.read()
            await self._pace(len(body))
            return await self._passed_on(request, body)
        self.met += 1
        if fault == "slow_down":
            await request.read()
            return web.Response(status=503, text=SLOW_DOWN, content_type="application/xml")
        if fault == "lost_reply":
            await self._passed_on(request, await request.read())
        elif fault == "cut":
            await request.content.readany()
        while fault == "hang" and self.fault == fault:
            await asyncio.sleep(0.05)
        return _hung_up(request)

    async def _pace(self, size: int) -> None:
        async with self._line:
            await asyncio.sleep(size / self.bytes_per_s)
            self.put_bytes += size

    async def _passed_on(self, request: web.Request, body: bytes) -> web.Response:
        headers = {k: v for k, v in request.headers.items() if k.lower() not in _OF_A_CONNECTION}
        async with self._session.request(
            request.method,
            f"{self._upstream}{request.raw_path}",
            headers=headers,
            data=io.BytesIO(body),  # as bytes it warns of long ones
            skip_auto_headers=("Content-Type", "Accept-Encoding", "User-Agent"),
            allow_redirects=False,
        ) as reply:
            passed = {k: v for k, v in reply.headers.items() if k.lower() not in _OF_A_CONNECTION}
            return web.Response(status=reply.status, body=await reply.read(), headers=passed)


_OF_A_CONNECTION = {"connection", "transfer-encoding", "content-length", "expect", "date", "server"}


def _hung_up(request: web.Request) -> web.Response:
    if request.transport is not None:
        request.transport.abort()
    return web.Response()
