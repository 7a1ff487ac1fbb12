"""One task's computer, a command at a time, for loops that step: reset, step, reward.

    async with Environment(["task=quickstart", "engine=native"]) as env:
        observation, info = await env.reset("csv-totals")
        while not done:
            observation, reward, terminated, truncated, info = await env.step(policy(observation))

Gymnasium's five values, awaited. It is the very episode of a run, with the caller in the agent's
place: the same sandbox, the same limits, and at the end the same scoring, where the agent cannot
reach. Nothing is written to a dataset.
"""

import asyncio
import socket
from collections.abc import Sequence
from contextlib import AsyncExitStack
from typing import Any, Self

from rollout import build
from rollout.agents.base import Model, Recorder
from rollout.agents.workshell import WorkShell
from rollout.aio import Deadline
from rollout.capacity import Capacity
from rollout.checks import nearest
from rollout.compose import compose, composed_of
from rollout.config import RunConf
from rollout.episode import Bench, Ended, run_episode
from rollout.errors import ConfigError, RolloutError
from rollout.library import running_engine
from rollout.objects.where import open_objects
from rollout.plugins import make
from rollout.pool import WarmPool
from rollout.sandbox.base import Sandbox
from rollout.sandbox.made import make_spec
from rollout.scorers.base import opened
from rollout.transcript import clip
from rollout.types import Lease, Message, RolloutSpec, StopReason, Task, Trajectory

Step = tuple[str, float | None, bool, bool, dict[str, Any]]
"""Observation, reward, terminated, truncated, info."""


class Environment:
    """One rollout at a time; have several for a batch. Use as `async with`.

    The reward is 0.0 until the last step, whose reward is the scorer's verdict. It is None, never
    0.0, where *we* failed (machine, sandbox, scorer): such an episode says nothing of the policy.
    `info` of the last step has `outcome` and the whole `trajectory`.
    """

    def __init__(
        self,
        config: RunConf | Sequence[str],
        *,
        config_dir: str | None = None,
        max_steps: int = 30,
        command_timeout_s: float = 120.0,
        output_chars: int = 10_000,
    ) -> None:
        """
        config: a run's, with one arm; its agent and model are not used.
        config_dir: a folder with more options of `conf/`.
        max_steps: after so many the episode is truncated, and scored on the state it left.
        command_timeout_s: of one command; the observation says that it was cut off.
        output_chars: longer output is shown by its head and tail.
        """
        self._config, self._config_dir = config, config_dir
        self._max_steps, self._command_timeout_s = max_steps, command_timeout_s
        self._output_chars = output_chars
        self._stack = AsyncExitStack()
        self._made = 0
        self._hand: _Hand
        self._episode: asyncio.Task[Ended] | None = None

    @property
    def tasks(self) -> tuple[str, ...]:
        """Ids, in the order of the config."""
        return tuple(self._tasks)

    async def __aenter__(self) -> Self:
        """ConfigError for a config that cannot be run here."""
        async with self._stack:
            await self._open()
            self._stack = self._stack.pop_all()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._end_episode()
        await self._stack.aclose()

    async def _open(self) -> None:
        if isinstance(self._config, RunConf):
            composed = composed_of(self._config)
        else:
            composed = compose([*self._config, "agent=nop"], self._config_dir)
        job = await asyncio.to_thread(build.prepare, composed)
        self._stack.callback(job.store.close)
        if len(job.plan.arms) != 1:
            names = ", ".join(arm.name for arm in job.plan.arms)
            raise ConfigError(f"an environment has one arm; the config's sweep makes {names}")
        self._plan, self._arm = job.plan, job.plan.arms[0]
        self._tasks = {task.id: task for task in self._plan.tasks}
        self._scorer = await opened(make(self._arm.scorer), self._stack)
        engine, conf = self._plan.engine, self._plan.pool
        objects = open_objects(self._plan.objects, self._plan.store, root_dir=engine.root_dir)
        running = await self._stack.enter_async_context(running_engine(engine, objects))
        pool = WarmPool(running, conf, Capacity.of_machine(engine.root_dir), objects=objects)
        self._stack.push_async_callback(pool.close)
        await pool.start()
        self._bench = Bench(
            engine=running,
            pool=pool,
            timeouts=self._plan.timeouts,
            run_id=self._plan.run_id,
            node=socket.gethostname(),
            worker="environment",
            objects=objects,
        )

    # ---------------------------------------------------------------- what a loop calls

    async def reset(self, task_id: str | None = None) -> tuple[str, dict[str, Any]]:
        """A fresh sandbox of this task, or of the first one: the instruction, and info.

        An episode that is not at its end is given up. RolloutError when the sandbox cannot be
        made ready.
        """
        await self._end_episode()
        task = self._task(task_id)
        self._hand = _Hand(self._max_steps, self._command_timeout_s, self._output_chars)
        self._episode = asyncio.create_task(self._begin(task, self._hand))
        if await self._first(self._hand.ready.wait()) is None:
            row = self._episode.result().trajectory
            raise RolloutError(f"task {task.id}: {row.outcome.value}: {row.error_message}")
        spec = await make_spec(self._bench.engine, task.blueprint, self._bench.objects)
        self._bench.pool.expect([(spec, 1)])  # so that the next reset finds a warm one
        return task.instruction, {"task_id": task.id}

    async def step(self, command: str) -> Step:
        """Run one command in the shell of this episode; folder and variables are kept."""
        await self._check_runs()
        self._hand.commands.put_nowait(command)
        seen = await self._first(self._hand.seen.get())
        if seen is None or self._hand.steps == self._max_steps:
            return await self._last("" if seen is None else seen[0])
        return seen[0], 0.0, False, False, seen[1]

    async def finish(self) -> Step:
        """The policy says that it is done: score what is there."""
        await self._check_runs()
        self._hand.commands.put_nowait(None)
        return await self._last("")

    # ---------------------------------------------------------------- the episode behind it

    async def _begin(self, task: Task, hand: "_Hand") -> Ended:
        self._made += 1
        spec = RolloutSpec(
            trajectory_id=f"environment-{id(self):x}-{self._made}",
            group_id="environment",
            arm=self._arm.name,
            task_id=task.id,
            sample=self._made,
            group_size=1,
        )
        lease = Lease(spec=spec, epoch=1, n=1, last=True)
        return await run_episode(lease, task, self._arm, hand, self._scorer, self._bench)

    async def _first(self, wanted: Any) -> Any:
        """What is awaited, or None where the episode ends before."""
        assert self._episode is not None
        waiting = asyncio.ensure_future(wanted)
        await asyncio.wait({waiting, self._episode}, return_when=asyncio.FIRST_COMPLETED)
        if waiting.done():
            return waiting.result()
        waiting.cancel()
        return None

    async def _last(self, observation: str) -> Step:
        assert self._episode is not None
        ended = await self._episode
        ended.remove_files()
        row = ended.trajectory
        cut = row.stop_reason in (StopReason.MAX_TURNS, StopReason.TIMEOUT)
        reward = row.reward if row.outcome.scored else None
        return observation, reward, not cut, cut, _told(row)

    async def _check_runs(self) -> None:
        if self._episode is None or self._episode.done():
            raise RolloutError("the episode is over, or has not begun: call reset first")

    async def _end_episode(self) -> None:
        episode, self._episode = self._episode, None
        if episode is not None:
            episode.cancel()
            await asyncio.gather(episode, return_exceptions=True)

    def _task(self, task_id: str | None) -> Task:
        if task_id is None:
            return next(iter(self._tasks.values()))
        if task_id not in self._tasks:
            hint = nearest(task_id, self.tasks) or f"; there are {len(self._tasks)}"
            raise ConfigError(f"{task_id!r} is no task of this environment{hint}")
        return self._tasks[task_id]


def _told(row: Trajectory) -> dict[str, Any]:
    return {"outcome": row.outcome.value, "error": row.error_message, "trajectory": row}


class _Hand:
    """The agent of such an episode: does what it is told, one command after the other."""

    name, version = "environment", "1"

    def __init__(self, max_steps: int, command_timeout_s: float, output_chars: int) -> None:
        self._max_steps, self._command_timeout_s = max_steps, command_timeout_s
        self._output_chars = output_chars
        self.ready = asyncio.Event()
        self.commands: asyncio.Queue[str | None] = asyncio.Queue()
        self.seen: asyncio.Queue[tuple[str, dict[str, Any]]] = asyncio.Queue()
        self.steps = 0

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason:
        record.message(Message(role="user", content=task.instruction))
        async with WorkShell(sandbox, user=task.agent_user) as shell:
            self.ready.set()
            while self.steps < self._max_steps:
                async with asyncio.timeout(deadline.left_s):
                    command = await self.commands.get()
                if command is None:
                    return StopReason.COMPLETED
                record.message(Message(role="assistant", content=command))
                timeout_s = deadline.sooner(self._command_timeout_s).left_s
                result = await shell.run(command, timeout_s=timeout_s)
                shown = clip(result.stdout.decode(errors="replace"), self._output_chars)
                if result.timed_out:
                    shown += f"\n[cut off after {timeout_s:.1f} s]"
                record.message(Message(role="tool", content=shown))
                self.steps += 1
                info = {"exit_code": result.exit_code, "timed_out": result.timed_out}
                self.seen.put_nowait((shown, info))
        return StopReason.MAX_TURNS
