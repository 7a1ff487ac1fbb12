"""TRL's `environment_factory`: a sandbox for each rollout, its shell a tool of the model.

    environments = TrlEnvironments(["task=quickstart"])
    GRPOTrainer(..., environment_factory=environments, train_dataset=environments.dataset())

The trainer samples with its own engine and calls the tool; the reward is the scorer's verdict on
the state that is left. A rollout that *we* failed has no reward.
"""

from collections.abc import Sequence
from typing import Any

from rollout.config import RunConf
from rollout.environment import Environment
from rollout.online.loop import LoopThread


class TrlEnvironments:
    """Makes environments; all of them live in one thread. Close it after training."""

    def __init__(self, config: RunConf | Sequence[str], **settings: Any) -> None:
        """
        config: as of `Environment`.
        settings: its other arguments, `max_steps` and the like.
        """
        self._config, self._settings = config, settings
        self.loop = LoopThread("rollout-environments")
        self.loop.start()
        self._made: list[Environment] = []

    def __call__(self) -> "ShellEnvironment":
        made = Environment(self._config, **self._settings)
        self.loop.call(made.__aenter__())
        self._made.append(made)
        return ShellEnvironment(self, made)

    def dataset(self) -> Any:
        """A row for each task: `task_id`, and a prompt that `reset` completes."""
        from datasets import Dataset

        one = self._made[0] if self._made else self()._environment
        prompt = [{"role": "user", "content": ""}]
        return Dataset.from_list([{"prompt": prompt, "task_id": name} for name in one.tasks])

    def close(self) -> None:
        """End every sandbox. Idempotent."""
        while self._made:
            self.loop.call(self._made.pop().__aexit__(None, None, None))
        self.loop.close()


class ShellEnvironment:
    """What TRL calls: `reset`, the tool `bash`, `get_reward`. Every other public method would be
    a tool, too."""

    def __init__(self, home: TrlEnvironments, environment: Environment) -> None:
        self._home, self._environment = home, environment
        self._reward: float | None = None
        self._over = True

    def reset(self, task_id: str | None = None, **row: Any) -> str:
        """A fresh sandbox of the row's task; its instruction."""
        instruction, _ = self._home.loop.call(self._environment.reset(task_id))
        self._over, self._reward = False, None
        return instruction

    def bash(self, command: str) -> str:
        """
        Run a command in the shell; folder and variables are kept between commands.

        Args:
            command: What bash is to run.

        Returns:
            What it printed.
        """
        if self._over:
            return "The episode is over."
        seen, reward, terminated, truncated, _ = self._home.loop.call(
            self._environment.step(command)
        )
        if terminated or truncated:
            self._over, self._reward = True, reward
        return seen

    def get_reward(self) -> float | None:
        """The scorer's verdict on what is there now; the rollout is over with it."""
        if not self._over:
            self._over = True
            self._reward = self._home.loop.call(self._environment.finish())[1]
        return self._reward
