"""An HTTP endpoint with several replicas, asked until one answers; what it speaks is a subclass's.

Calls of one rollout go to one replica, whose cache knows the conversation, as long as that is well.
The key is added here, on the way out; no error text, log or record ever holds it.
"""

import asyncio
import json
import math
import os
import random
import time
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Self

import aiohttp

from rollout.config import ModelConf
from rollout.errors import ConfigError, ModelError
from rollout.gateway.base import CallRefused, ModelCall, ModelReply
from rollout.transcript import clip

REPLY_LIMIT_BYTES = 64 << 20
PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0
LONGEST_RETRY_AFTER_S = 120.0
REST_S = 10.0
"""For a replica that failed; doubled with each further failure, up to a minute."""
TOO_LONG = (
    *("context_length_exceeded", "maximum context length", "context length", "too long"),
    "exceed context limit",  # Anthropic's, where the prompt and max_tokens together do
)
AGAIN = frozenset({408, 409, 425, 429})
"""With every 5xx: may go better another time."""


class Replica:
    """One base URL, and how it is."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        self.running = 0
        self.rests_until_s = 0.0
        self._failures = 0

    def failed(self, rest_s: float = 0.0) -> None:
        self._failures += 1
        pause_s = max(rest_s, min(60.0, REST_S * 2 ** (self._failures - 1)))
        self.rests_until_s = time.monotonic() + pause_s

    def answered(self) -> None:
        self._failures, self.rests_until_s = 0, 0.0


class Unlucky(Exception):
    """One try that failed, and may be made again after `pause_s` at the least."""

    def __init__(self, why: str, pause_s: float = 0.0) -> None:
        super().__init__(why)
        self.pause_s = pause_s


async def persist(
    once: Callable[[], Awaitable[ModelReply]],
    patience_s: float,
    again: tuple[type[Exception], ...],
    safe: Callable[[str], str],
) -> ModelReply:
    """Try until it goes well, with pauses that grow; ModelError when `patience_s` is over.

    safe: takes out of an error what nobody may read.
    """
    give_up_s, pause_s, tries = time.monotonic() + patience_s, PAUSE_S, 0
    while True:
        tries += 1
        try:
            return replace(await once(), tries=tries)
        except again as exc:
            wait_s = max(getattr(exc, "pause_s", 0.0), pause_s * random.uniform(0.5, 1.5))
            if time.monotonic() + wait_s > give_up_s:
                raise ModelError(safe(f"{exc}; gave up after {tries} tries")) from None
        await asyncio.sleep(wait_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)


class HttpUpstream(ABC):
    """Use as `async with`: it has connections. One for all rollouts of an arm in a worker."""

    path: str
    """Below a base URL."""
    again: tuple[type[Exception], ...] = (Unlucky,)
    """What may go better another time."""

    def __init__(self, conf: ModelConf) -> None:
        self._conf = conf
        self._replicas = [Replica(url) for url in conf.urls]
        self._homes: dict[str, Replica] = {}
        """Session to the replica that answered it last."""
        self._key = ""
        self._http: aiohttp.ClientSession

    @abstractmethod
    def headers(self, key: str) -> dict[str, str]:
        """Of each request; `key` is empty where there is none."""

    @abstractmethod
    def request(self, call: ModelCall) -> dict[str, Any]:
        """The body that asks for the call's whole reply."""

    @abstractmethod
    def reply(self, body: Any, sent: Mapping[str, Any], headers: Mapping[str, str]) -> ModelReply:
        """CallRefused of kind `upstream` for a body that is none."""

    @abstractmethod
    async def probe(self) -> None:
        """ConfigError where the endpoint cannot do what the config asks of it."""

    async def __aenter__(self) -> Self:
        """ConfigError where the key is not in this worker's environment, or of `probe`."""
        if self._conf.key_env is not None:
            # A key read from a file often ends in a newline, which no header may hold.
            self._key = os.environ.get(self._conf.key_env, "").strip()
            if not self._key:
                raise ConfigError(f"model.key_env: {self._conf.key_env} is not set in the worker")
        self._http = aiohttp.ClientSession(
            headers={**self._conf.headers, **self.headers(self._key)},
            connector=aiohttp.TCPConnector(limit=0),
            auto_decompress=True,
        )
        try:
            await self.probe()
        except BaseException:
            await self._http.close()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._http.close()

    async def complete(self, call: ModelCall, session_id: str) -> ModelReply:
        """See `base.Upstream`; tried until `model.patience_s` is over."""
        return await self.answer(self.request(call), session_id, self.again)

    async def answer(
        self, body: Mapping[str, Any], session_id: str, again: tuple[type[Exception], ...]
    ) -> ModelReply:
        """Of the first try that is not one of `again`."""

        async def once() -> ModelReply:
            replica = self._choose(session_id)
            reply = await self._try(replica, body)
            self._homes[session_id] = replica
            return replace(reply, endpoint=replica.url)

        return await persist(once, self._conf.patience_s, again, self._safe)

    def move(self, urls: Sequence[str]) -> None:
        """Ask these replicas from the next try on; the same ones keep what is known of them."""
        known = {each.url: each for each in self._replicas}
        wanted = [Replica(url) for url in urls]
        self._replicas = [known.get(each.url, each) for each in wanted]

    def forget(self, session_id: str) -> None:
        """The rollout is over."""
        self._homes.pop(session_id, None)

    def _choose(self, session_id: str) -> Replica:
        """Its own if that is well and not much busier than others; else the least busy."""
        now_s = time.monotonic()
        well = [each for each in self._replicas if each.rests_until_s <= now_s]
        if well:
            least = min(well, key=lambda each: each.running)
        else:
            least = min(self._replicas, key=lambda each: each.rests_until_s)
        home = self._homes.get(session_id)
        return home if home in well and home.running <= 2 * least.running + 8 else least

    async def _try(self, replica: Replica, body: Mapping[str, Any]) -> ModelReply:
        where = f"{replica.url}{self.path}"
        timeout = aiohttp.ClientTimeout(total=self._conf.timeout_s, sock_connect=10.0)
        replica.running += 1
        try:
            async with self._http.post(where, json=body, timeout=timeout) as response:
                data = await _read(response)
                if response.status != 200:
                    raise self._failure(where, response, data)
            reply = self.reply(json.loads(data), body, response.headers)
        except (aiohttp.ClientError, OSError, TimeoutError) as exc:
            replica.failed()
            raise Unlucky(f"{where}: {type(exc).__name__}: {exc}") from None
        except (ValueError, RecursionError) as exc:
            replica.failed()
            raise Unlucky(f"{where}: its reply is no JSON") from exc
        except CallRefused as exc:
            if exc.kind != "upstream":
                raise
            replica.failed()
            raise Unlucky(f"{where}: {exc}") from exc
        except Unlucky as exc:
            replica.failed(exc.pause_s)
            raise
        except self.again:
            replica.failed()
            raise
        finally:
            replica.running -= 1
        replica.answered()
        return reply

    def _failure(self, where: str, response: aiohttp.ClientResponse, data: bytes) -> Exception:
        # In this order: clipped first, half of a key would stay.
        said = clip(self._safe(data.decode(errors="replace")), 1_000)
        told = f"{where}: status {response.status}: {said}"
        if response.status in AGAIN or response.status >= 500:
            return Unlucky(told, _retry_after_s(response.headers.get("Retry-After", "")))
        if response.status in (400, 413) and any(word in said.lower() for word in TOO_LONG):
            return CallRefused(said, "context_overflow")
        if response.status in (400, 413, 415, 422):
            return CallRefused(said, "invalid")
        hint = {401: "; is model.key_env right?", 403: "; may this key use the model?"}
        hint[404] = "; are model.urls and model.name right?"
        return ModelError(told + hint.get(response.status, ""))

    def _safe(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    async for piece in response.content.iter_chunked(1 << 16):
        data += piece
        if len(data) > REPLY_LIMIT_BYTES:
            raise aiohttp.ClientPayloadError(f"more than {REPLY_LIMIT_BYTES} bytes")
    return bytes(data)


def _retry_after_s(text: str) -> float:
    """Seconds, or a date; 0 for what is neither."""
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
        except (TypeError, ValueError):  # no date, or one without a zone
            return 0.0
    return min(max(seconds, 0.0), LONGEST_RETRY_AFTER_S) if math.isfinite(seconds) else 0.0
