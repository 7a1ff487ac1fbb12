"""SkyRL: a `GeneratorInterface` whose rollouts are whole agents in sandboxes of their own.

    class MyExp(BasePPOExp):
        def get_generator(self, cfg, tokenizer, inference_engine_client):
            return SkyRlGenerator(["+experiment=rft", ...], pad_token_id=tokenizer.pad_token_id)

The config's `model.urls` are SkyRL's inference endpoint, which speaks OpenAI's dialect; the trainer
moves the weights there itself, and each of its steps is a policy version here. Its prompts are the
tasks' instructions, or say `task_id` in their `env_extras`. Held against skyrl 0.3.
"""

import asyncio
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from rollout.config import RunConf
from rollout.errors import ConfigError, RolloutError
from rollout.online.prompts import Prompts
from rollout.online.source import RolloutSource
from rollout.training.adapters.skyrl import answers
from rollout.types import Group, Trajectory


class SkyRlGenerator:
    """Any number of `generate` calls at once, as SkyRL's asynchronous trainer makes them."""

    def __init__(
        self,
        config: RunConf | Sequence[str],
        *,
        config_dir: str | None = None,
        pad_token_id: int = 0,
        step_wise: bool = False,
    ) -> None:
        """
        config: of one arm, without a sampler: the trainer says which tasks come.
        pad_token_id: what stands for a rollout that has nothing to train on.
        step_wise: as SkyRL's `step_wise_trajectories`: a rollout may have several sequences.
        """
        self._source = RolloutSource(config, config_dir=config_dir)
        self._pad_token_id, self._step_wise = pad_token_id, step_wise
        self._opening = asyncio.Lock()
        self._is_open = False
        self._promised: dict[str, asyncio.Future[Group]] = {}
        self._pump: asyncio.Task[None] | None = None

    async def generate(self, input_batch: Mapping[str, Any]) -> dict[str, Any]:
        """A `GeneratorOutput` with an entry for each prompt, in their order."""
        await self._open()
        told, known = input_batch.get("batch_metadata"), self._source.version
        if told is not None and (known is None or told.global_step > known):
            await self._source.update_policy(told.global_step)
        names = input_batch.get("trajectory_ids") or [None] * len(input_batch["prompts"])
        extras = input_batch.get("env_extras") or [{}] * len(input_batch["prompts"])
        wanted = [
            (getattr(name, "instance_id", None), self._task(prompt, extra or {}))
            for name, prompt, extra in zip(names, input_batch["prompts"], extras, strict=True)
        ]
        runs = [(task_id, len(list(same))) for (_, task_id), same in groupby(wanted)]
        groups = await asyncio.gather(*[self._group(task_id, n) for task_id, n in runs])
        rows = [(group, row) for group in groups for row in group.trajectories]
        if not self._step_wise:
            _check_single(row for _, row in rows)
        asked = [
            ((group.group_id, row.spec.sample) if name is None else name, group, row)
            for name, (group, row) in zip(names, rows, strict=True)
        ]
        return answers(asked, pad_token_id=self._pad_token_id)

    async def close(self) -> None:
        """End the sandboxes; what still runs is given up. Idempotent."""
        if self._is_open:
            self._is_open = False
            if self._pump is not None:
                self._pump.cancel()
                await asyncio.gather(self._pump, return_exceptions=True)
            await self._source.__aexit__(*sys.exc_info())

    async def _open(self) -> None:
        async with self._opening:
            if not self._is_open:
                await self._source.__aenter__()
                self._is_open = True
                try:
                    self._prompts = Prompts(self._source, "SkyRL")
                except ConfigError:
                    await self.close()
                    raise

    def _task(self, prompt: Any, extra: Mapping[str, Any]) -> str:
        return str(extra["task_id"]) if "task_id" in extra else self._prompts.task(prompt)

    async def _group(self, task_id: str, size: int) -> Group:
        (name,) = await self._source.submit(task_id, size)
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._hand_out())
        try:
            return await self._promise(name)
        finally:
            self._promised.pop(name, None)

    def _promise(self, name: str) -> "asyncio.Future[Group]":
        """Of whoever asks first: a group may come before its caller waits for it."""
        return self._promised.setdefault(name, asyncio.get_running_loop().create_future())

    async def _hand_out(self) -> None:
        """Each group to whoever asked for it, until all that was asked for has come.

        However old its weights: what is too old the trainer knows better.
        """
        try:
            async for group in self._source.groups(max_staleness=sys.maxsize):
                promise = self._promise(group.group_id)
                if not promise.done():  # its caller is gone
                    promise.set_result(group)
        except RolloutError as exc:
            for promise in self._promised.values():
                if not promise.done():
                    promise.set_exception(exc)


def _check_single(rows: Iterable[Trajectory]) -> None:
    for row in rows:
        if sum(any(sequence.loss_mask) for sequence in row.sequences) > 1:
            raise RolloutError(
                f"trajectory {row.spec.trajectory_id} has several sequences (its harness rewrites "
                "its context): train step-wise, or use agent=bash"
            )
