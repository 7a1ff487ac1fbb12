"""The whole loop: a policy served, rollouts of it, gradients, new weights served.

    while steps are left:
        groups ◀── rollouts go on meanwhile, in sandboxes, against the server below
        learn from them
        server.take(weights, version); source.update_policy(version)

Started again, it goes on from its checkpoint.
"""

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from rollout.build import run_uri
from rollout.config import RunConf
from rollout.errors import ConfigError
from rollout.online.learner import Step
from rollout.online.source import RolloutSource
from rollout.types import Group

if TYPE_CHECKING:
    from rollout.learning.grpo import Grpo
    from rollout.learning.server import PolicyServer

LATELY = 10
"""Steps over which the mean reward is held against the goal."""


class TinyLearner:
    """Teaches `learning.policy.TinyPolicy` the tasks of a run; torch on the CPU."""

    name = "tiny"

    def __init__(
        self,
        *,
        steps: int = 120,
        goal: float = 0.95,
        seed: int = 0,
        learning_rate: float = 3e-3,
        epochs: int = 2,
        entropy: float = 0.06,
        shuffle_rewards: bool = False,
        checkpoint: str = "",
        host: str = "127.0.0.1",
    ) -> None:
        """
        steps: at most so many.
        goal: the end, once the mean reward of the last 10 steps is so high.
        seed: of the first weights and of what is sampled.
        shuffle_rewards: deal each group's rewards out anew: the control, which must not learn.
        checkpoint: a file; empty: `learner.pt` in the run's folder, if that is one.
        host: this machine's address, as the workers know it.
        """
        if steps < 1:
            raise ConfigError(f"learner.steps: must be above 0, was {steps}")
        self._steps, self._goal, self._seed = steps, goal, seed
        self._learning_rate, self._epochs, self._entropy = learning_rate, epochs, entropy
        self._shuffle = shuffle_rewards
        self._checkpoint, self._host = checkpoint, host
        self.curve: list[Step] = []

    async def learn(self, conf: RunConf, show: Callable[[Step], None]) -> list[Step]:
        """Every step so far, those before a checkpoint included. ConfigError without torch."""
        torch = _torch()
        from rollout.learning.grpo import Grpo
        from rollout.learning.policy import TinyPolicy
        from rollout.learning.server import PolicyServer

        torch.set_num_threads(1)  # a model this small only waits for more
        trainer = Grpo(
            TinyPolicy(self._seed),
            learning_rate=self._learning_rate,
            epochs=self._epochs,
            entropy=self._entropy,
        )
        state = self._load(torch, self._file(conf), trainer)
        if self._is_done:
            return self.curve
        server = PolicyServer(
            trainer.policy, seed=self._seed, version=len(self.curve), host=self._host
        )
        async with server:
            source = RolloutSource(replace(conf, model=replace(conf.model, urls=[server.url])))
            if state is not None:
                source.load_state_dict(state)
            async with source:
                await self._loop(torch, conf, source, server, trainer, show)
        return self.curve

    async def _loop(
        self,
        torch: Any,
        conf: RunConf,
        source: RolloutSource,
        server: "PolicyServer",
        trainer: "Grpo",
        show: Callable[[Step], None],
    ) -> None:
        if source.version is None:
            await source.update_policy(0, server.url)
        rng = random.Random(self._seed)
        at_s, waited_s = time.monotonic(), 0.0
        async for groups in source.batches():
            learned_from = groups if not self._shuffle else _shuffled(groups, rng)
            loss = await asyncio.to_thread(trainer.step, learned_from)
            version = len(self.curve) + 1
            server.take(trainer.policy, version)
            await source.update_policy(version, server.url)
            now_s, total_s = time.monotonic(), source.taken.waited_s
            self.curve.append(
                _step(
                    groups,
                    version=version,
                    stale=source.taken.stale,
                    loss=loss,
                    seconds=now_s - at_s,
                    waited_s=total_s - waited_s,
                )
            )
            at_s, waited_s = now_s, total_s
            show(self.curve[-1])
            await asyncio.to_thread(self._save, torch, self._file(conf), trainer, source)
            if self._is_done:
                return

    @property
    def _is_done(self) -> bool:
        lately = [step.reward for step in self.curve[-LATELY:]]
        reached = len(lately) == LATELY and fmean(lately) >= self._goal
        return reached or len(self.curve) >= self._steps

    # ---------------------------------------------------------------- checkpoints

    def _file(self, conf: RunConf) -> Path | None:
        if self._checkpoint:
            return Path(self._checkpoint)
        uri = run_uri(conf.store.uri, conf.name)
        return None if "://" in uri else Path(uri) / "learner.pt"

    def _save(self, torch: Any, file: Path | None, trainer: "Grpo", source: RolloutSource) -> None:
        if file is None:
            return
        state = {
            "policy": trainer.policy.state_dict(),
            "optimiser": trainer.optimiser.state_dict(),
            "curve": [asdict(step) for step in self.curve],
            "source": source.state_dict(),
        }
        torch.save(state, half := file.with_suffix(".half"))
        half.replace(file)

    def _load(self, torch: Any, file: Path | None, trainer: "Grpo") -> dict[str, Any] | None:
        """The source's state; the rest goes where it belongs. None where there is none."""
        if file is None or not file.exists():
            return None
        state = torch.load(file, weights_only=True)
        trainer.policy.load_state_dict(state["policy"])
        trainer.optimiser.load_state_dict(state["optimiser"])
        self.curve = [Step(**step) for step in state["curve"]]
        source: dict[str, Any] = state["source"]
        return source


def _step(groups: Sequence[Group], **told: Any) -> Step:
    rewards: dict[str, list[float]] = {}
    failed = 0
    for group in groups:
        scored = [member.reward for member in group.trainable if member.reward is not None]
        rewards.setdefault(group.task_id.partition("-")[0], []).extend(scored)
        failed += len(group.trajectories) - len(scored)
    every = [reward for kind in rewards.values() for reward in kind]
    return Step(
        reward=fmean(every) if every else 0.0,
        by_kind={kind: fmean(each) for kind, each in sorted(rewards.items()) if each},
        rollouts=len(every) + failed,
        failed=failed,
        **told,
    )


def _shuffled(groups: list[Group], rng: random.Random) -> list[Group]:
    from rollout.learning.grpo import shuffled

    return shuffled(groups, rng)


def _torch() -> Any:
    try:
        import torch
    except ImportError as exc:
        raise ConfigError(
            "learner: it needs torch, which is not installed: pip install 'rollout[learn]'"
        ) from exc
    return torch
