"""What trains on a run's rollouts while they are made, as `python -m rollout` starts it."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from rollout import plugins
from rollout.compose import compose, composed_of
from rollout.config import RunConf
from rollout.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a training step has seen."""

    version: int
    """Of the weights that it made."""
    reward: float
    """Mean over the rollouts that were scored."""
    by_kind: dict[str, float]
    """The same for each kind of task: what its id begins with."""
    rollouts: int
    failed: int
    """Of them, those without a reward, by a fault of ours."""
    stale: int
    """Groups dropped so far because their weights were too old."""
    loss: float
    seconds: float
    """Since the last step."""
    waited_s: float
    """Of that, for rollouts."""


class Learner(Protocol):
    """Implementations are found by `_target_`; see `conf/learner/`."""

    async def learn(self, conf: RunConf, show: Callable[[Step], None]) -> Sequence[Step]:
        """Train to the end, telling each step; all of them, those of earlier starts included."""


async def learn(
    config: RunConf | Sequence[str],
    *,
    config_dir: str | None = None,
    on_step: Callable[[Step], None] = lambda step: None,
) -> Sequence[Step]:
    """`python -m rollout +experiment=learn` as a call: every step, those of earlier starts too.

    ConfigError for a config without a learner, and where it cannot be run as asked.
    """
    if isinstance(config, RunConf):
        conf = composed_of(config).conf
    else:
        conf = (await asyncio.to_thread(compose, config, config_dir)).conf
    if not conf.learner:
        raise ConfigError("learner: must be given, learner=tiny")
    learner: Learner = plugins.make(plugins.plugin_of(conf.learner))
    return await learner.learn(conf, on_step)
