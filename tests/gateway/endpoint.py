"""A real server of chat completions that answers as it is told."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

from aiohttp import web

from rollout.config import ModelConf

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Endpoint:
    """One real server; each request is answered by the next of its answers, the last for ever."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.url = ""

    async def handle(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(await request.json())
        self.headers.append(dict(request.headers))
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        return await answer(request)


@asynccontextmanager
async def endpoint(*answers: Answer) -> AsyncIterator[Endpoint]:
    made = Endpoint(*answers)
    app = web.Application()
    app.router.add_post("/v1/chat/completions", made.handle)
    app.router.add_post("/v1/messages", made.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0]
    made.url = f"http://{host}:{port}/v1"
    try:
        yield made
    finally:
        await runner.cleanup()


def conf(*urls: str, **more: Any) -> ModelConf:
    given: dict[str, Any] = {"timeout_s": 1.0, "patience_s": 20.0}
    return ModelConf(kind="openai", name="real", urls=list(urls), **{**given, **more})
