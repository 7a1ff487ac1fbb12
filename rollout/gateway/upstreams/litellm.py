"""Any provider that LiteLLM knows, by its name there: `provider/model`. An extra of ours."""

import os
from dataclasses import replace
from importlib import import_module
from typing import Any

from rollout.config import ModelConf
from rollout.errors import ConfigError, ModelError
from rollout.gateway.base import CallRefused, ModelCall, ModelReply
from rollout.gateway.dialects.chat import from_chat_reply, to_chat_request
from rollout.gateway.upstreams.http import TOO_LONG, Unlucky, persist

REFUSED = ("BadRequestError", "ContextWindowExceededError", "UnprocessableEntityError")
HOPELESS = ("AuthenticationError", "PermissionDeniedError", "NotFoundError", "BudgetExceededError")


class LiteLLMUpstream:
    """One for all rollouts of an arm in a worker. Retries are ours, its own are off."""

    def __init__(self, conf: ModelConf) -> None:
        self._conf = conf
        self._key = ""
        self._lib: Any = None

    async def __aenter__(self) -> "LiteLLMUpstream":
        """ConfigError where the library or the key is not in this worker."""
        # Else it asks for the prices of all models over the network, when it is imported.
        os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        try:
            self._lib = import_module("litellm")
        except ImportError as exc:
            raise ConfigError(f"model=litellm: {exc}; pip install 'rollout[litellm]'") from exc
        if self._conf.key_env is not None:
            self._key = os.environ.get(self._conf.key_env, "").strip()
            if not self._key:
                raise ConfigError(f"model.key_env: {self._conf.key_env} is not set in the worker")
        self._lib.telemetry = False
        self._lib.suppress_debug_info = True
        return self

    async def __aexit__(self, *error: object) -> None: ...

    async def complete(self, call: ModelCall, session_id: str) -> ModelReply:
        """See `base.Upstream`; tried until `model.patience_s` is over."""
        asked = self.arguments(call)

        async def once() -> ModelReply:
            return await self._once(asked)

        return await persist(once, self._conf.patience_s, (Unlucky,), self._safe)

    def arguments(self, call: ModelCall) -> dict[str, Any]:
        """Of the library's function. Never the body as it came: a field of it could be `api_base`,
        and a harness be sent our key."""
        asked = {**to_chat_request(replace(call, raw={}), self._conf.name), **self._conf.sampling}
        asked |= {"timeout": self._conf.timeout_s, "drop_params": True}
        asked |= {"num_retries": 0, "max_retries": 0}
        if self._conf.headers:
            asked["extra_headers"] = self._conf.headers
        if self._key:
            asked["api_key"] = self._key
        if self._conf.urls:
            asked["api_base"] = self._conf.urls[0]
        return asked

    async def _once(self, asked: dict[str, Any]) -> ModelReply:
        try:
            response = await self._lib.acompletion(**asked)
            return from_chat_reply(response.model_dump())
        except CallRefused as exc:
            raise Unlucky(str(exc)) from exc
        except Exception as exc:  # noqa: BLE001 - it has an exception for everything, told by name
            raise self._failure(exc) from None

    def _failure(self, exc: Exception) -> Exception:
        name, said = type(exc).__name__, self._safe(f"{type(exc).__name__}: {exc}")
        if name in HOPELESS:
            return ModelError(f"{said}; are model.name, model.urls and model.key_env right?")
        if name not in REFUSED:
            return Unlucky(said)
        is_long = "ContextWindow" in name or any(word in said.lower() for word in TOO_LONG)
        return CallRefused(said, "context_overflow" if is_long else "invalid")

    def _safe(self, text: str) -> str:
        return text.replace(self._key, "…") if self._key else text

    def forget(self, session_id: str) -> None:
        """The rollout is over."""
