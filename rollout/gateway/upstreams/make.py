"""The upstream that an arm's plan asks for."""

from rollout.errors import ConfigError
from rollout.gateway.base import Upstream
from rollout.gateway.settings import ModelPlan
from rollout.gateway.upstreams.anthropic import AnthropicUpstream
from rollout.gateway.upstreams.litellm import LiteLLMUpstream
from rollout.gateway.upstreams.openai import OpenAIUpstream
from rollout.gateway.upstreams.scripted import ScriptedUpstream

KINDS = ("openai", "anthropic", "litellm", "scripted")


def make_upstream(plan: ModelPlan) -> Upstream:
    """Not entered yet; ConfigError for a script that cannot be read."""
    if plan.conf.kind == "openai":
        return OpenAIUpstream(plan.conf)
    if plan.conf.kind == "anthropic":
        return AnthropicUpstream(plan.conf)
    if plan.conf.kind == "litellm":
        return LiteLLMUpstream(plan.conf)
    if plan.conf.kind == "scripted":
        return ScriptedUpstream(plan.conf.name, plan.script, capture=plan.conf.capture)
    raise ConfigError(f"model.kind: {plan.conf.kind!r} is none of {', '.join(KINDS)}")
