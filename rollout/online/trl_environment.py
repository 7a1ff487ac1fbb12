"""TRL's `environment_factory`: a sandbox for each rollout, its shell a tool of the model.

    environments = TrlEnvironments(["task=quickstart"])
    GRPOTrainer(..., environment_factory=environments, train_dataset=environments.dataset())

The trainer samples with its own engine and calls the tool; the reward is the scorer's verdict on
the state that is left. A rollout that *we* failed has no reward.
"""

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from typing import Any, TypeVar

from rollout.config import RunConf
from rollout.environment import Environment

T = TypeVar("T")


class TrlEnvironments:
    """Makes environments; all of them live in one thread. Close it after training."""

    def __init__(self, config: RunConf | Sequence[str], **settings: Any) -> None:
        """
        config: as of `Environment`.
        settings: its other arguments, `max_steps` and the like.
        """
        self._config, self._settings = config, settings
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self._made: list[Environment] = []

    def __call__(self) -> "ShellEnvironment":
        made = Environment(self._config, **self._settings)
        self.call(made.__aenter__())
        self._made.append(made)
        return ShellEnvironment(self, made)

    def dataset(self) -> Any:
        """A row for each task: `task_id`, and a prompt that `reset` completes."""
        from datasets import Dataset

        one = self._made[0] if self._made else self()._environment
        prompt = [{"role": "user", "content": ""}]
        return Dataset.from_list([{"prompt": prompt, "task_id": name} for name in one.tasks])

    def call(self, asked: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(asked, self._loop).result()

    def close(self) -> None:
        """End every sandbox. Idempotent."""
        while self._made:
            self.call(self._made.pop().__aexit__(None, None, None))
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


class ShellEnvironment:
    """What TRL calls: `reset`, the tool `bash`, `get_reward`. Every other public method would be
    a tool, too."""

    def __init__(self, home: TrlEnvironments, environment: Environment) -> None:
        self._home, self._environment = home, environment
        self._reward: float | None = None
        self._over = True

    def reset(self, task_id: str | None = None, **row: Any) -> str:
        """A fresh sandbox of the row's task; its instruction."""
        instruction, _ = self._home.call(self._environment.reset(task_id))
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
        seen, reward, terminated, truncated, _ = self._home.call(self._environment.step(command))
        if terminated or truncated:
            self._over, self._reward = True, reward
        return seen

    def get_reward(self) -> float | None:
        """The scorer's verdict on what is there now; the rollout is over with it."""
        if not self._over:
            self._over = True
            self._reward = self._home.call(self._environment.finish())[1]
        return self._reward
