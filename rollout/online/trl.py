"""TRL: a `rollout_func` for GRPOTrainer, and a rollout worker for its asynchronous trainer.

    rollouts = TrlRollouts(["+experiment=rft", ...])
    GRPOTrainer(model, reward_funcs=[rollout_reward], rollout_func=rollouts,
                train_dataset=rollouts.dataset(), ...)

Held against trl 1.16, whose own words for both are "experimental".
"""

import queue
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

from rollout.config import RunConf
from rollout.errors import ConfigError, RolloutError
from rollout.online.background import BackgroundSource
from rollout.online.prompts import Prompts
from rollout.training.adapters.split import Split, split, trained
from rollout.training.advantages import advantages
from rollout.types import Group, Trajectory

LOOK_S = 0.05
"""Between two looks at whether the worker is to end."""


def rollout_reward(completions: Sequence[Any], reward: Sequence[float | None], **_: Any) -> Any:
    """A reward function of TRL that hands on the scorer's verdict; None is no zero to it either."""
    return list(reward)


class TrlRollouts:
    """Called by the trainer with its prompts; each is the instruction of a task of the run."""

    def __init__(self, config: RunConf | Sequence[str], *, config_dir: str | None = None) -> None:
        """Opens the source; `close` ends it. The weights must reach the endpoint by the trainer's
        own means (`use_vllm`, mode server); each of its steps is a policy version here. The trainer
        says which tasks it wants, so the config has no sampler."""
        self._background = BackgroundSource(config, config_dir=config_dir)
        self._background.open()
        try:
            self._prompts = Prompts(self._background.source, "TRL's GRPOTrainer")
            if alike := self._prompts.alike:
                raise ConfigError(f"tasks with one prompt, which TRL cannot tell apart: {alike}")
        except ConfigError:
            self._background.close()
            raise

    def close(self) -> None:
        self._background.close()

    def prompts(self) -> list[list[dict[str, str]]]:
        """One for each task, for the trainer's dataset: its instruction as a chat."""
        return [[{"role": "user", "content": text}] for text in self._prompts.texts]

    def dataset(self) -> Any:
        """The same as a `datasets.Dataset` with the column `prompt`."""
        from datasets import Dataset

        return Dataset.from_list([{"prompt": prompt} for prompt in self.prompts()])

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, list[Any]]:
        """`prompt_ids completion_ids logprobs`, `env_mask` for what tools said, and `reward`."""
        version = int(trainer.state.global_step)
        if self._background.source.version is None or version > self._background.source.version:
            self._background.update_policy(version)
        wanted = [
            (task_id, len(list(same)))
            for task_id, same in groupby(map(self._prompts.task, prompts))
        ]
        for task_id, count in wanted:
            self._background.submit(task_id, count)
        groups = self._background.take(len(wanted), max_staleness=version + 1)
        by_shape: dict[tuple[str, int], list[Group]] = {}
        for group in groups:
            by_shape.setdefault((group.task_id, group.size), []).append(group)
        rows = [row for shape in wanted for row in by_shape[shape].pop().trajectories]
        return _fields(rows, trainer)


def _fields(rows: Sequence[Trajectory], trainer: Any) -> dict[str, list[Any]]:
    tokenizer = getattr(trainer, "processing_class", None)
    pad = getattr(tokenizer, "pad_token_id", None) or 0
    nothing = Split(prompt_ids=[pad], response_ids=[pad], mask=[0], logprobs=[0.0])
    parts = [_only(row) or nothing for row in rows]
    return {
        "prompt_ids": [part.prompt_ids for part in parts],
        "completion_ids": [part.response_ids for part in parts],
        "logprobs": [part.logprobs for part in parts],
        "env_mask": [part.mask for part in parts],
        "reward": [row.reward if row.trainable else None for row in rows],
    }


def _only(row: Trajectory) -> Split | None:
    """None for a rollout that has nothing to train on: it keeps its place, and all of it masked."""
    sequences = trained(row) if row.trainable else []
    if len(sequences) > 1:
        raise RolloutError(
            f"TRL's rollout_func takes one sequence for each rollout, and trajectory "
            f"{row.spec.trajectory_id} has {len(sequences)} (its harness rewrites its context); "
            "use TrlRolloutWorker, or agent=bash"
        )
    return split(sequences[0]) if sequences else None


class TrlRolloutWorker:
    """TRL's `RolloutWorkerProtocol`, for `AsyncGRPOTrainer(rollout_worker=…)`."""

    def __init__(
        self,
        config: RunConf | Sequence[str],
        *,
        config_dir: str | None = None,
        estimator: str = "grpo",
    ) -> None:
        """The config needs a sampler and `online.batch`, which say what comes and how far ahead.

        The trainer drops what is too old to it, and packs as many samples as go into its budget of
        tokens. So what it has taken counts as trained on, and no more groups are taken while it
        has the samples of a batch before it.
        """
        self._background = BackgroundSource(config, config_dir=config_dir, taking_is_training=True)
        self._estimator = estimator
        self._thread = threading.Thread(target=self._feed, name="rollout-trl", daemon=True)
        self._stopped = threading.Event()
        self._error: BaseException | None = None
        self._last_s = time.monotonic()
        self._numbers: dict[str, int] = {}
        self._version: int | None = None
        """As the trainer said last, which it does once before `start`."""
        self.rollout_buffer: queue.Queue[Any] = queue.Queue()
        self.metrics_queue: queue.Queue[dict[str, float]] = queue.Queue()

    def start(self) -> None:
        self._background.open()
        if self._version is not None:
            self._background.update_policy(self._version)
        self._last_s = time.monotonic()
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._background.close()

    def update_model_version(self, model_version: int) -> None:
        if self._version is None or model_version > self._version:
            self._version = model_version
            if self._background.is_open:
                self._background.update_policy(model_version)

    def check_health(self, stale_after_s: float) -> None:
        if self._error is not None:
            raise RolloutError(f"rollouts have ended: {self._error}") from self._error
        if time.monotonic() - self._last_s > stale_after_s:
            raise RolloutError(f"no group has come for {stale_after_s:g} s")

    def _feed(self) -> None:
        try:
            while self._wanted():
                for group in self._next():
                    self._last_s = time.monotonic()
                    for sample in self._samples(group):
                        self.rollout_buffer.put(sample)
        except Exception as exc:  # noqa: BLE001  told to whoever checks the health
            self._error = exc

    def _wanted(self) -> bool:
        """Once the trainer has less than a batch before it; False: it has ended."""
        conf = self._background.source.conf
        enough = conf.samples * (conf.online.batch or 1)
        while self.rollout_buffer.qsize() >= enough and not self._stopped.wait(LOOK_S):
            self._last_s = time.monotonic()
        return not self._stopped.is_set()

    def _next(self) -> list[Group]:
        """One group; none when the trainer has ended meanwhile."""
        coming = self._background.begin_take(1)
        while not coming.done() and not self._stopped.wait(LOOK_S):
            pass
        if not coming.done():
            coming.cancel()
            return []
        if not coming.result():
            raise RolloutError("the sampler has no more tasks, and the trainer wants more")
        return coming.result()

    def _samples(self, group: Group) -> Iterator[Any]:
        import numpy as np
        from trl.experimental.async_grpo.async_rollout_worker import RolloutSample

        rewards = [row.reward if row.trainable else None for row in group.trajectories]
        shares = advantages(rewards, self._estimator)
        number = self._numbers.setdefault(group.group_id, len(self._numbers))
        for row, advantage in zip(group.trajectories, shares, strict=True):
            if advantage is None:
                continue
            version = row.policy_version_min
            prompt, completion = _chat(row)
            for tokens in trained(row):
                yield RolloutSample(
                    prompt=prompt,
                    completion=completion,
                    input_ids=np.asarray(tokens.token_ids),
                    completion_mask=np.frombuffer(tokens.loss_mask, np.uint8).astype(np.int64),
                    old_log_probs=np.asarray(tokens.logprobs),
                    advantage=advantage,
                    model_version=0 if version is None else version,
                    group_id=number,
                    metrics={"reward": float(row.reward or 0.0)},
                    enqueued_at=time.time(),
                )


def _chat(row: Trajectory) -> tuple[list[dict[str, str]], list[dict[str, str]]]:
    """For people who look at the trainer's traces: up to the model's first word, and from there."""
    chat = [{"role": message.role, "content": message.content} for message in row.messages]
    first = next((at for at, each in enumerate(chat) if each["role"] == "assistant"), len(chat))
    return chat[:first], chat[first:]
