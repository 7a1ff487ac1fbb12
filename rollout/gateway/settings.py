"""An arm's model as its config says it: what of it changes results, and what a worker needs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rollout.config import BudgetConf, ModelConf
from rollout.errors import ConfigError
from rollout.gateway.base import Budget, Price
from rollout.types import canonical_json, digest_of

SCRIPT_LIMIT_BYTES = 16 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlan:
    """One arm's model, as it travels to workers."""

    conf: ModelConf
    script: str = ""
    """The text of `conf.script`."""
    budget: BudgetConf

    @property
    def limits(self) -> Budget:
        return Budget(**vars(self.budget))

    @property
    def price(self) -> Price | None:
        price = self.conf.price
        if price.prompt is None or price.completion is None:
            return None
        return Price(prompt=price.prompt, completion=price.completion, cached=price.cached)


def model_plan(model: ModelConf, budget: BudgetConf) -> ModelPlan | None:
    """None without a model; ConfigError for a script that cannot be read."""
    if model.kind == "none":
        return None
    return ModelPlan(conf=model, script=_script(model), budget=replace(budget))


def model_record(model: ModelConf, budget: BudgetConf) -> str:
    """What changes results, as canonical JSON; empty without a model.

    Where it answers, with which key, how fast and how patiently we ask is not part of it.
    """
    plan = model_plan(model, budget)
    if plan is None:
        return ""
    said: dict[str, Any] = {
        "kind": model.kind,
        "name": model.name,
        "sampling": model.sampling,
        "budget": {name: value for name, value in vars(budget).items() if value is not None},
    }
    if model.headers:
        said["headers"] = model.headers
    if model.capture != "text":
        said["capture"] = [model.capture, model.realign_tokens]
    if plan.script:
        said["script"] = digest_of(plan.script)
    if budget.cost_usd is not None:
        said["price"] = vars(model.price)
    return canonical_json(said)


def _script(model: ModelConf) -> str:
    if model.kind != "scripted":
        return ""
    path = Path(model.script)
    try:
        if path.stat().st_size > SCRIPT_LIMIT_BYTES:
            raise ConfigError(f"model.script: {path} has more than {SCRIPT_LIMIT_BYTES} bytes")
        return path.read_text()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"model.script: {path}: {exc}") from exc
