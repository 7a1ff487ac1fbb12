"""The gateway inside a sandbox: HTTP on a socket that listens there and is accepted from here.

Who calls is known by the socket, so no key is looked at. What calls is hostile: bodies, headers,
connections and waiting are bounded, and every answer is in the shape of the caller's own dialect.
"""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from rollout.errors import ModelError
from rollout.gateway.base import CallRefused, Dialect, ModelReply
from rollout.gateway.dialects.anthropic import Anthropic
from rollout.gateway.dialects.chat import Chat
from rollout.gateway.dialects.responses import Responses
from rollout.gateway.reach import remote_address
from rollout.gateway.session import Session

BODY_LIMIT_BYTES = 16 << 20
BODIES_AT_ONCE = 4
"""Read and parsed; others wait. So much memory at most is one sandbox's to take."""
MOST_VALUES = 1_000_000
"""In a body: an empty list takes a hundred times the bytes that it has there."""
MOST_MESSAGES = 10_000
"""In a call."""
MOST_CONNECTIONS = 128
READ_TIMEOUT_S = 60.0
PING_S = 10.0
"""A caller that streams hears something this often while the model thinks."""
CHARS_PER_TOKEN = 4
"""For `count_tokens`, which is an estimate."""

log = logging.getLogger(__name__)


@asynccontextmanager
async def serve(session: Session, sock: socket.socket) -> AsyncIterator[None]:
    """Answer on `sock`, which listens, while the block runs; then every connection is closed."""
    line = _Line(session)
    server = web.Server(
        line.handle,
        request_factory=_request,
        access_log=None,
        handler_cancellation=True,
        keepalive_timeout=READ_TIMEOUT_S,
    )

    def connection() -> asyncio.BaseProtocol:
        return _Refused() if len(server.connections) >= MOST_CONNECTIONS else server()

    listening = await asyncio.get_running_loop().create_server(connection, sock=sock)
    try:
        yield
    finally:
        listening.close()
        await server.shutdown(timeout=1.0)


class _Refused(asyncio.Protocol):
    """One connection too many."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


def _request(message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(
        message, payload, protocol, writer, task, loop, client_max_size=BODY_LIMIT_BYTES
    )


class _Line:
    """All requests of one sandbox."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._reading = asyncio.Semaphore(BODIES_AT_ONCE)
        self._dialects: dict[str, Dialect] = {
            "/chat/completions": Chat(),
            "/responses": Responses(),
            "/messages": Anthropic(),
        }

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.rstrip("/").removeprefix("/v1")
        if request.method in ("GET", "HEAD") and path in ("", "/models"):
            return web.json_response(self._models())
        dialect = self._dialects.get(path)
        try:
            if request.method == "POST" and path == "/messages/count_tokens":
                return web.json_response(_counted(await self._body(request)))
            if request.method != "POST" or dialect is None:
                raise CallRefused(f"no such route: {request.method} {request.path}", "not_found")
            return await self._complete(request, dialect, await self._body(request))
        except CallRefused as exc:
            if exc.kind in ("not_found", "invalid", "too_large"):
                self._session.record.refused(None, str(exc))
            return _refusal(dialect or self._guessed(request), exc)
        except ModelError as exc:
            return _refusal(dialect or self._guessed(request), CallRefused(str(exc)))

    async def _complete(
        self, request: web.BaseRequest, dialect: Dialect, body: Mapping[str, Any]
    ) -> web.StreamResponse:
        call = dialect.read(body)
        if len(call.messages) > MOST_MESSAGES:
            raise CallRefused(f"more than {MOST_MESSAGES} messages", "too_large")
        if address := remote_address(body):
            raise CallRefused(
                f"{address[:200]!r} would be fetched by the endpoint; send data: URLs", "invalid"
            )
        if not call.stream:
            return web.json_response(dialect.answer(call, await self._session.complete(call)))
        asking = asyncio.ensure_future(self._session.complete(call))
        try:
            done, _ = await asyncio.wait({asking}, timeout=PING_S)
            if done:
                asking.result()  # a refusal is still told by its status
            response = web.StreamResponse(
                headers={"Content-Type": "text/event-stream", "Cache-Control": "no-cache"}
            )
            await response.prepare(request)
            while not asking.done():
                await response.write(b": ping\n\n")
                await asyncio.wait({asking}, timeout=PING_S)
            for name, data in _events(dialect, call, asking):
                head = f"event: {name}\n" if name else ""
                await response.write(f"{head}data: {data}\n\n".encode(errors="replace"))
            await response.write_eof()
        finally:
            asking.cancel()
        return response

    async def _body(self, request: web.BaseRequest) -> Mapping[str, Any]:
        async with self._reading:
            return _parsed(await _read(request))

    def _models(self) -> dict[str, Any]:
        model = {"id": self._session.model, "object": "model", "owned_by": "gateway"}
        return {"object": "list", "data": [model]}

    def _guessed(self, request: web.BaseRequest) -> Dialect:
        """Of one who asks for what there is not."""
        anthropic = "anthropic-version" in request.headers
        return self._dialects["/messages" if anthropic else "/chat/completions"]


def _events(
    dialect: Dialect, call: Any, asking: "asyncio.Future[ModelReply]"
) -> "list[tuple[str, str]]":
    try:
        return list(dialect.stream(call, asking.result()))
    except ModelError as exc:
        refused = exc if isinstance(exc, CallRefused) else CallRefused(str(exc))
        return [("error", json.dumps(dialect.refusal(refused)[1]))]


def _refusal(dialect: Dialect, refused: CallRefused) -> web.Response:
    status, body = dialect.refusal(refused)
    return web.json_response(body, status=status)


async def _read(request: web.BaseRequest) -> bytes:
    try:
        async with asyncio.timeout(READ_TIMEOUT_S):
            return await request.read()
    except web.HTTPRequestEntityTooLarge as exc:
        raise CallRefused(f"the body is larger than {BODY_LIMIT_BYTES} bytes", "too_large") from exc
    except TimeoutError as exc:
        raise CallRefused(f"the body took longer than {READ_TIMEOUT_S:g} s", "invalid") from exc


def _parsed(data: bytes) -> Mapping[str, Any]:
    if sum(data.count(sign) for sign in (b",", b"[", b"{")) > MOST_VALUES:
        raise CallRefused(f"the body holds more than {MOST_VALUES} values", "too_large")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError) as exc:
        raise CallRefused("the body is no JSON", "invalid") from exc
    if not isinstance(body, dict):
        raise CallRefused("the body must be a JSON object", "invalid")
    return body


def _counted(body: Mapping[str, Any]) -> dict[str, int]:
    asked = {key: body.get(key) for key in ("system", "messages", "tools")}
    return {"input_tokens": len(json.dumps(asked)) // CHARS_PER_TOKEN + 1}
