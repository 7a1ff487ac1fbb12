"""Agent rollouts in bulk: isolated sandboxes on Ray, scored, into an Arrow dataset.

Importing this is cheap: every public name is fetched from its module when it is first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rollout.baking import bake
    from rollout.config import RunConf
    from rollout.dataset.reader import RolloutDataset, open_dataset
    from rollout.environment import Environment
    from rollout.errors import RolloutError
    from rollout.library import run, run_async, sandbox
    from rollout.online.learner import learn
    from rollout.online.source import RolloutSource
    from rollout.recipes import blueprint_of
    from rollout.types import Blueprint, Outcome, Score, ScoreMode, StopReason, Task, Trajectory

__version__ = "0.1.0"

_HOMES = {
    "Blueprint": "rollout.types",
    "Environment": "rollout.environment",
    "Outcome": "rollout.types",
    "RolloutDataset": "rollout.dataset.reader",
    "RolloutError": "rollout.errors",
    "RolloutSource": "rollout.online.source",
    "RunConf": "rollout.config",
    "Score": "rollout.types",
    "ScoreMode": "rollout.types",
    "StopReason": "rollout.types",
    "Task": "rollout.types",
    "Trajectory": "rollout.types",
    "bake": "rollout.baking",
    "blueprint_of": "rollout.recipes",
    "learn": "rollout.online.learner",
    "open_dataset": "rollout.dataset.reader",
    "run": "rollout.library",
    "run_async": "rollout.library",
    "sandbox": "rollout.library",
}

__all__ = [
    "Blueprint",
    "Environment",
    "Outcome",
    "RolloutDataset",
    "RolloutError",
    "RolloutSource",
    "RunConf",
    "Score",
    "ScoreMode",
    "StopReason",
    "Task",
    "Trajectory",
    "__version__",
    "bake",
    "blueprint_of",
    "learn",
    "open_dataset",
    "run",
    "run_async",
    "sandbox",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'rollout' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
