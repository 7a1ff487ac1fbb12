"""Anthropic's messages API, or whoever speaks it."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from rollout.config import ModelConf
from rollout.gateway.base import CallRefused, ModelCall, ModelReply
from rollout.gateway.dialects.anthropic_client import from_anthropic_reply, to_anthropic_request
from rollout.gateway.upstreams.http import HttpUpstream

URL = "https://api.anthropic.com/v1"
VERSION = "2023-06-01"


class AnthropicUpstream(HttpUpstream):
    """`model.sampling` is in the API's own words here: `max_tokens`, `thinking`, …"""

    path = "/messages"

    def __init__(self, conf: ModelConf) -> None:
        super().__init__(replace(conf, urls=conf.urls or [URL]))

    def headers(self, key: str) -> dict[str, str]:
        return {"anthropic-version": VERSION, **({"x-api-key": key} if key else {})}

    def request(self, call: ModelCall) -> dict[str, Any]:
        return {**to_anthropic_request(call, self._conf.name), **self._conf.sampling}

    def reply(self, body: Any, sent: Mapping[str, Any], headers: Mapping[str, str]) -> ModelReply:
        if not isinstance(body, dict):
            raise CallRefused("the endpoint's reply is no message")
        return from_anthropic_reply(body)

    async def probe(self) -> None:
        """Nothing to try out: no log probabilities are asked of it."""
