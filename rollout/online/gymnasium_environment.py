"""A `gymnasium.Env`: a task's computer, for loops and wrappers that know Gymnasium's.

    env = ShellEnv(["task=quickstart"])
    instruction, info = env.reset(options={"task_id": "csv-totals"})
    observation, reward, terminated, truncated, info = env.step("ls -l")

`rollout.Environment` with its five values, and without `await`.
"""

import math
from collections.abc import Sequence
from typing import Any

import gymnasium

from rollout.config import RunConf
from rollout.environment import Environment
from rollout.online.loop import LoopThread

DONE = ""
"""The action of a policy that says it is done: what is there is scored."""


class AnyText(gymnasium.Space[str]):
    """Any string: what a command prints keeps to no alphabet. A sample is a command that does
    nothing."""

    def __init__(self) -> None:
        super().__init__(shape=None, dtype=str)

    def contains(self, x: Any) -> bool:
        return isinstance(x, str)

    def sample(self, mask: Any = None, probability: Any = None) -> str:
        return "true"


class ShellEnv(gymnasium.Env[str, str]):
    """Observations are what was printed, actions are commands of the shell, `DONE` ends it.

    The reward is 0.0 until the last step, whose reward is the scorer's verdict; NaN, and never
    0.0, where *we* failed: leave such an episode out. `info` of the last step has `outcome` and
    the whole `trajectory`.
    """

    def __init__(self, config: RunConf | Sequence[str], **settings: Any) -> None:
        """
        config: as of `Environment`.
        settings: its other arguments, `max_steps` and the like.
        """
        self.observation_space, self.action_space = AnyText(), AnyText()
        self._loop = LoopThread("rollout-environment")
        self._loop.start()
        self._environment = Environment(config, **settings)
        try:
            self._loop.call(self._environment.__aenter__())
        except BaseException:
            self._loop.close()
            raise

    @property
    def tasks(self) -> tuple[str, ...]:
        """Ids, in the order of the config."""
        return self._environment.tasks

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[str, dict[str, Any]]:
        """A fresh sandbox of `options["task_id"]`, or of a task drawn; its instruction."""
        super().reset(seed=seed)
        task_id = (options or {}).get("task_id") or self.np_random.choice(list(self.tasks))
        return self._loop.call(self._environment.reset(str(task_id)))

    def step(self, action: str) -> tuple[str, float, bool, bool, dict[str, Any]]:
        asked = self._environment.finish() if action == DONE else self._environment.step(action)
        seen, reward, terminated, truncated, info = self._loop.call(asked)
        return seen, math.nan if reward is None else reward, terminated, truncated, info

    def close(self) -> None:
        """End the sandbox. Idempotent."""
        try:
            if self._loop.runs:
                self._loop.call(self._environment.__aexit__(None, None, None))
        finally:
            self._loop.close()
