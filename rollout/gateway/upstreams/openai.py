"""Any server of OpenAI's chat completions."""

from collections.abc import Mapping
from typing import Any

from rollout.errors import ConfigError
from rollout.gateway.base import CallRefused, ModelCall, ModelReply
from rollout.gateway.capture import TEXT, Uncaptured, asking, captured, probe_body
from rollout.gateway.dialects.chat import from_chat_reply, to_chat_request
from rollout.gateway.upstreams.http import HttpUpstream, Unlucky


class OpenAIUpstream(HttpUpstream):
    """A reply without what `model.capture` asks for is asked for again."""

    path = "/chat/completions"
    again = (Unlucky, Uncaptured)

    def headers(self, key: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {key}"} if key else {}

    def request(self, call: ModelCall) -> dict[str, Any]:
        body = {**to_chat_request(call, self._conf.name), **self._conf.sampling}
        return asking(body, self._conf.capture)

    def reply(self, body: Any, sent: Mapping[str, Any], headers: Mapping[str, str]) -> ModelReply:
        return captured(from_chat_reply(body), sent, self._conf.capture, headers)

    async def probe(self) -> None:
        """ConfigError where the endpoint does not tell what is to be captured."""
        if self._conf.capture == TEXT:
            return
        body = asking(probe_body(self._conf.name), self._conf.capture)
        try:
            await self.answer(body, "probe", (Unlucky,))
        except (Uncaptured, CallRefused) as exc:
            raise ConfigError(
                f"model.capture: {self._conf.capture}: {', '.join(self._conf.urls)}: {exc}"
            ) from exc
        finally:
            self.forget("probe")
