"""What the values of a config may be: one line for each that is out of range."""

import math
import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import Any

from rollout.config import (
    AUTO,
    KEEP_ALL,
    KEEP_LIMIT_MAX_MB,
    SIZES,
    BudgetConf,
    ModelConf,
    RunConf,
)
from rollout.types import NETWORKS, Outcome

PINNED = {"top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Of sampling, with `model.capture=tokens`. Engines tell log probabilities after these have cut and
scaled the distribution; a trainer's forward pass knows nothing of that."""
LEFT_OUT = (
    *("presence_penalty", "frequency_penalty", "logit_bias", "n", "top_logprobs"),
    *("typical_p", "truncate_prompt_tokens"),
)
"""The same, by other means."""

CHOICES = {
    "model.kind": ("none", "openai", "anthropic", "litellm", "scripted"),
    "model.capture": ("text", "logprobs", "tokens"),
    "blueprint.size": tuple(SIZES),
    "blueprint.network": NETWORKS,
    "blueprint.build_network": ("none", "host"),
    "engine.kind": (AUTO, "native", "docker", "memory"),
    "engine.scratch": ("auto", "disk", "btrfs", "tmpfs"),
    "engine.memory_cgroups": ("each", "group", "auto"),
    "executor.kind": ("ray", "local"),
    "store.format": ("parquet", "arrow"),
    "resources.unenforceable": ("refuse", "record"),
    "verifier.mode": ("as_declared", "fresh", "fork", "shared"),
    "verifier.trust": ("as_declared", "workspace", "system"),
}
MAY_BE_ZERO = frozenset(
    {
        "model.price.prompt",
        "model.price.completion",
        "model.price.cached",
        "model.realign_tokens",
        "engine.uid_base",
        "engine.volume_reserve_mb",
        "engine.memory_reserve_mb",
        "pool.spares_per_image",
        "pool.max_spares",
        "pool.breaker_pause_s",
        "retry.backoff_s",
        "executor.drain_s",
        "online.max_staleness",
        "retry.storm_share",
    }
)
"""Every number is finite and above zero, but these may be zero."""

AT_MOST = {
    "retry.storm_share": 1.0,
    "executor.dashboard_port": 65_535,
    "keep_limit_mb": KEEP_LIMIT_MAX_MB,
}
HEADER = re.compile(r"[A-Za-z0-9-]{1,100}")
RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def nearest(word: str, known: Iterator[str] | list[str] | tuple[str, ...]) -> str:
    """`; did you mean "x"?` for the known name most like `word`, or nothing."""
    close = get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f'; did you mean "{close[0]}"?' if close else ""


def problems(conf: RunConf) -> list[str]:
    """Everything out of range, one line each: key, what was seen, what is allowed."""
    found = value_problems(conf)
    if not RUN_NAME.fullmatch(conf.name):
        found.append(
            f"name: {conf.name!r} cannot name a run's folder; "
            "use up to 100 letters, digits, '.', '_' and '-'"
        )
    if conf.store.uri in ("", "s3://"):
        found.append("store.uri: must be given, store.uri=s3://bucket/prefix or a folder")
    if conf.sampler and conf.online.batch is None:
        found.append("online.batch: must be given with a sampler, which else would never stop")
    return found + _keep_problems(conf) + model_problems(conf.model, conf.budget)


def value_problems(conf: Any, prefix: str = "") -> list[str]:
    """What is out of range in one of the config's dataclasses; `prefix`: where it stands."""
    return [line for key, value in _walk(conf, prefix) for line in _problem(key, value)]


def model_problems(model: ModelConf, budget: BudgetConf) -> list[str]:
    """What would leave the agents of an arm without a model, or a budget without a measure."""
    found = []
    if model.kind == "none":
        limited = [name for name, value in vars(budget).items() if value is not None]
        found += [f"budget.{name}: there is no model to use it; choose a model" for name in limited]
        return found
    if not model.name:
        found.append(
            f"model.name: must be given, the endpoint's own name of it (model {model.kind})"
        )
    if model.kind == "openai" and not model.urls:
        found.append("model.urls: must be given, such as [http://127.0.0.1:8000/v1]")
    found += [
        f"model.urls: {url!r} is no http:// or https:// address"
        for url in model.urls
        if not re.match(r"https?://[^/]", url)
    ]
    if model.kind == "scripted" and not model.script:
        found.append("model.script: must be given, the file of replies")
    if model.key_env is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", model.key_env):
        found.append(
            "model.key_env: must be a variable's name; the key itself belongs in no config"
        )
    if model.kind in ("anthropic", "litellm") and model.capture != "text":
        found.append(
            f"model.capture: {model.capture!r}: model={model.kind} tells no tokens; use text"
        )
    if model.kind == "litellm" and len(model.urls) > 1:
        found.append("model.urls: model=litellm takes one at most")
    found += [
        f"model.headers.{name}: must be a header's name and one line of text, and hold no key"
        for name, value in model.headers.items()
        if not HEADER.fullmatch(name)
        or not str(value).isprintable()
        or name.lower() in ("authorization", "x-api-key", "api-key")
    ]
    if model.capture == "tokens":
        found += [
            f"model.sampling.{key}: {value!r} would change what log probabilities are of; "
            f"leave it out, or have model.capture=text"
            for key, value in model.sampling.items()
            if key in LEFT_OUT or (key in PINNED and value != PINNED[key])
        ]
    priced = [model.price.prompt is not None, model.price.completion is not None]
    if any(priced) != all(priced) or (budget.cost_usd is not None and not all(priced)):
        found.append("model.price: must be given as both, model.price.prompt and .completion")
    return found


def _keep_problems(conf: RunConf) -> list[str]:
    known = (*(outcome.value for outcome in Outcome), KEEP_ALL)
    found = []
    for word in conf.keep_on:
        if word not in known:
            hint = nearest(word, known) or f"; there are: {', '.join(known)}"
            found.append(f"keep_on: {word!r} is no outcome{hint}")
    return found


def _walk(conf: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for item in fields(conf):
        key, value = prefix + item.name, getattr(conf, item.name)
        if is_dataclass(value):
            yield from _walk(value, key + ".")
        else:
            yield key, value


def _problem(key: str, value: Any) -> Iterator[str]:
    allowed = CHOICES.get(key)
    if allowed and value is not None and value not in allowed:
        yield f"{key}: {value!r} is none of {', '.join(allowed)}{nearest(str(value), allowed)}"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return
    floor = "at least 0" if key in MAY_BE_ZERO else "above 0"
    if not math.isfinite(value) or value < 0 or (value == 0 and key not in MAY_BE_ZERO):
        yield f"{key}: must be {floor}, was {value}"
    elif value > AT_MOST.get(key, math.inf):
        yield f"{key}: must be at most {AT_MOST[key]:g}, was {value}"
