"""Each way a rollout can end, told apart: what the agent did is scored, what we failed is not."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from rollout.agents.base import Model, Recorder
from rollout.aio import Deadline
from rollout.capacity import Capacity
from rollout.config import Keeping, PoolConf, TimeoutsConf
from rollout.episode import Bench, run_episode
from rollout.errors import ModelError, ScoreError
from rollout.pool import WarmPool
from rollout.sandbox.base import Sandbox
from rollout.sandbox.memory import MemoryEngine
from rollout.scorers.base import Verdict
from rollout.types import (
    Arm,
    Attempt,
    Blueprint,
    BuildStep,
    Collect,
    HealthCheck,
    Lease,
    Message,
    Outcome,
    Output,
    Plugin,
    RolloutSpec,
    Score,
    ScoreMode,
    StopReason,
    Task,
    Trajectory,
    Tree,
    Verifier,
)

ARM = Arm(name="default", agent=Plugin(target="a.B"), scorer=Plugin(target="c.D"))
SPEC = RolloutSpec(
    trajectory_id="t" * 32, group_id="g" * 32, arm="default", task_id="one", sample=0, group_size=1
)
LEASE = Lease(spec=SPEC, epoch=1, n=1, last=True)
HOME = Blueprint(steps=(BuildStep(op="put", dest="/app", tree=Tree.of({"given": "yes"})),))
TASK = Task(id="one", instruction="go", blueprint=HOME, agent_timeout_s=5, setup_timeout_s=20)

Act = Callable[[Sandbox, Recorder], Awaitable[StopReason]]


class ActingAgent:
    """An agent that is one function."""

    name, version = "acting", "1"

    def __init__(self, act: Act) -> None:
        self._act = act

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason:
        return await self._act(sandbox, record)


class FileScorer:
    """1.0 if a file is there; what else it sees is in its output."""

    def __init__(self, path: str = "/app/out") -> None:
        self._path = path

    async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict:
        seen = await sandbox.exec(["sh", "-c", "ls /app"])
        there = (await sandbox.exec(["test", "-e", self._path])).ok
        score = Score(name="file", value=float(there))
        return Verdict(reward=float(there), scores=(score,), output=seen.stdout.decode())


class BrokenScorer:
    def __init__(self, error: Exception) -> None:
        self._error = error

    async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict:
        raise self._error


async def writes_out(box: Sandbox, record: Recorder) -> StopReason:
    await box.exec(["sh", "-c", "echo done > /app/out"])
    record.message(Message(role="assistant", content="wrote it"))
    return StopReason.COMPLETED


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    engine = MemoryEngine()
    await engine.start()
    room = Capacity(cpu=8, memory_mb=8000, disk_mb=8000, pids=8000)
    pool = WarmPool(engine, PoolConf(), room)
    await pool.start()
    yield Bench(
        engine=engine, pool=pool, timeouts=TimeoutsConf(), run_id="run", node="here", worker="w1"
    )
    assert pool.counts()["claimed"] == 0, "every sandbox was given back"
    await pool.close()
    await engine.close()


async def roll(
    bench: Bench,
    act: Act = writes_out,
    scorer: object = None,
    task: Task = TASK,
    arm: Arm = ARM,
    lease: Lease = LEASE,
) -> Trajectory:
    judge = scorer or FileScorer()
    ended = await run_episode(lease, task, arm, ActingAgent(act), judge, bench)  # type: ignore[arg-type]
    return ended.trajectory


async def test_ok_is_scored_and_told_whole(bench: Bench) -> None:
    row = await roll(bench)
    assert (row.outcome, row.stop_reason, row.reward) == (Outcome.OK, StopReason.COMPLETED, 1.0)
    assert row.messages == (Message(role="assistant", content="wrote it"),)
    assert [phase.name for phase in row.phases] == ["claim", "agent", "freeze", "score", "release"]
    assert row.scorer_output.split() == ["given", "out"]
    assert [attempt.outcome for attempt in row.attempts] == [Outcome.OK]
    assert row.trainable


class TellingScorer:
    """What a file holds is its output."""

    async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict:
        return Verdict(
            reward=1.0, scores=(), output=(await sandbox.read_file("/tmp/starts")).decode()
        )


@pytest.mark.parametrize(
    ("mode", "seen"),
    [
        (ScoreMode.SHARED, "started, agent"),
        (ScoreMode.FORK, "started, agent"),
        (ScoreMode.FRESH, "started"),
    ],
)
async def test_what_is_done_at_launch_is_not_done_again_on_what_the_agent_left(
    bench: Bench, mode: ScoreMode, seen: str
) -> None:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        await box.exec(["sh", "-c", "printf ', agent' >> /tmp/starts; rm /app/given"])
        return StopReason.COMPLETED

    start = BuildStep(op="run", argv=("sh", "-c", "printf started >> /tmp/starts"))
    agents = (("codex", "1.2.3", "npm:codex@1.2.3"),)
    own = dataclasses.replace(HOME, launch=(start,), ready="test -e /app/given", agents=agents)
    task = dataclasses.replace(TASK, blueprint=own, verifier=Verifier(mode=mode))
    row = await roll(bench, act, TellingScorer(), task)
    assert (row.outcome, row.scorer_output) == (Outcome.OK, seen)
    assert row.agents == agents


@pytest.mark.parametrize(
    ("stop", "outcome"),
    [
        (StopReason.MAX_TURNS, Outcome.MAX_TURNS),
        (StopReason.BUDGET, Outcome.BUDGET),
        (StopReason.CONTEXT_OVERFLOW, Outcome.CONTEXT_OVERFLOW),
        (StopReason.TIMEOUT, Outcome.AGENT_TIMEOUT),
        (StopReason.ERROR, Outcome.AGENT_ERROR),
    ],
)
async def test_an_agent_that_was_stopped_may_have_solved_it(
    bench: Bench, stop: StopReason, outcome: Outcome
) -> None:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        await writes_out(box, record)
        return stop

    row = await roll(bench, act)
    assert (row.outcome, row.stop_reason, row.reward) == (outcome, stop, 1.0)


async def test_an_agent_that_crashes_is_scored_on_what_it_left(bench: Bench) -> None:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        raise ValueError("a bug in the agent")

    row = await roll(bench, act)
    assert (row.outcome, row.reward) == (Outcome.AGENT_ERROR, 0.0)
    assert (row.error_type, row.error_message) == ("ValueError", "a bug in the agent")


async def test_an_agent_that_ignores_its_deadline_is_cut_off_and_scored(bench: Bench) -> None:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        await writes_out(box, record)
        await asyncio.sleep(3600)
        return StopReason.COMPLETED

    hasty = dataclasses.replace(bench, timeouts=TimeoutsConf(grace_s=0.1))
    row = await roll(hasty, act, task=dataclasses.replace(TASK, agent_timeout_s=0.1))
    assert (row.outcome, row.stop_reason, row.reward) == (
        Outcome.AGENT_TIMEOUT,
        StopReason.TIMEOUT,
        1.0,
    )


async def test_the_endpoints_failure_is_ours(bench: Bench) -> None:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        raise ModelError("503 after 5 tries")

    row = await roll(bench, act)
    assert (row.outcome, row.reward, row.trainable) == (Outcome.MODEL_ERROR, None, False)


async def test_a_lost_sandbox_is_ours(bench: Bench) -> None:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        await box.close()
        await box.exec(["true"])
        return StopReason.COMPLETED

    row = await roll(bench, act)
    assert (row.outcome, row.reward) == (Outcome.SANDBOX_LOST, None)


@pytest.mark.parametrize(
    "error", [ScoreError("no verdict"), ValueError("a bug in the scorer"), TimeoutError()]
)
async def test_a_scorer_that_fails_gives_no_reward(bench: Bench, error: Exception) -> None:
    row = await roll(bench, scorer=BrokenScorer(error))
    assert (row.outcome, row.reward) == (Outcome.SCORING_ERROR, None)
    assert (row.stop_reason, row.error_type) == (StopReason.COMPLETED, "ScoreError")


async def test_an_image_that_cannot_be_made_is_a_setup_error(bench: Bench) -> None:
    step = BuildStep(op="put", dest="relative", tree=Tree.of({"x": ""}))
    task = dataclasses.replace(TASK, blueprint=Blueprint(steps=(step,)))
    row = await roll(bench, task=task)
    assert (row.outcome, row.reward, row.stop_reason) == (Outcome.SETUP_ERROR, None, None)
    assert row.error_type == "BuildError"


async def test_a_sandbox_that_never_gets_healthy_is_a_setup_error(bench: Bench) -> None:
    check = HealthCheck(command="exit 3", interval_s=0.001, retries=2)
    row = await roll(bench, task=dataclasses.replace(TASK, healthcheck=check))
    assert (row.outcome, row.reward) == (Outcome.SETUP_ERROR, None)
    assert "still fails after 3 tries, exit code 3" in row.error_message


async def test_fork_keeps_files_and_no_process(bench: Bench) -> None:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        await box.exec(["sh", "-c", "setsid sh -c 'sleep 0.05; echo late > /app/late' &"])
        return await writes_out(box, record)

    class Patient(FileScorer):
        async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict:
            await asyncio.sleep(0.2)
            return await super().score(task, sandbox, deadline)

    row = await roll(bench, act, Patient("/app/late"))
    assert (row.reward, row.scorer_output.split()) == (0.0, ["given", "out"])
    shared = dataclasses.replace(ARM, score_mode=ScoreMode.SHARED)
    assert (await roll(bench, act, Patient("/app/late"), arm=shared)).reward == 1.0


async def test_fresh_gets_declared_outputs_only(bench: Bench) -> None:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        await box.exec(["sh", "-c", "mkdir -p /app/d; echo 1 > /app/d/a; echo 2 > /app/d/b.pyc"])
        await box.exec(["sh", "-c", "ln -s /etc/passwd /app/d/../link; echo x > /app/undeclared"])
        return await writes_out(box, record)

    task = dataclasses.replace(
        TASK,
        outputs=(
            Output(source="/app/d", exclude=("*.pyc",)),
            Output(source="/app/out", destination="/app/d/out"),
            Output(source="/app/missing"),
        ),
        verifier=Verifier(mode=ScoreMode.FRESH, collect=(Collect(command="exit 4"),)),
    )

    class Lister(FileScorer):
        async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict:
            verdict = await super().score(task, sandbox, deadline)
            inner = await sandbox.exec(["ls", "/app/d"])
            return dataclasses.replace(verdict, output=verdict.output + inner.stdout.decode())

    row = await roll(bench, act, Lister("/app/d/out"), task=task)
    assert (row.outcome, row.reward) == (Outcome.OK, 1.0)
    assert row.scorer_output.split() == ["d", "given", "a", "out"]
    assert [event.kind for event in row.events] == ["collect_failed", "output_missing"]


async def test_hostile_outputs_are_left_out_and_told(bench: Bench) -> None:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        await box.exec(["sh", "-c", "mkdir /app/d; ln -s /etc /app/d/etc"])
        return StopReason.COMPLETED

    task = dataclasses.replace(
        TASK, outputs=(Output(source="/app/d"),), verifier=Verifier(mode=ScoreMode.FRESH)
    )
    row = await roll(bench, act, FileScorer("/app/d"), task=task)
    assert (row.outcome, row.reward) == (Outcome.OK, 0.0)
    assert "refused" in row.integrity[0]


async def test_earlier_attempts_ride_along(bench: Bench) -> None:
    first = await roll(bench, scorer=BrokenScorer(ScoreError("no verdict")))
    lease = dataclasses.replace(LEASE, n=2, attempts=first.attempts)
    row = await roll(bench, lease=lease)
    assert [(a.n, a.outcome) for a in row.attempts] == [(1, "scoring_error"), (2, "ok")]
    assert isinstance(row.attempts[0], Attempt)


@pytest.mark.parametrize("mode", [ScoreMode.FORK, ScoreMode.FRESH, ScoreMode.SHARED])
@pytest.mark.parametrize("scorer", [FileScorer(), BrokenScorer(ScoreError("no verdict"))])
async def test_a_state_that_cannot_be_kept_is_told_and_fails_nothing(
    bench: Bench, mode: ScoreMode, scorer: object
) -> None:
    """This engine keeps none; tests/commands/test_shell.py has one that does."""
    outcome = Outcome.OK if isinstance(scorer, FileScorer) else Outcome.SCORING_ERROR
    keeping = dataclasses.replace(bench, keep=Keeping(outcomes=(outcome,)))
    task = dataclasses.replace(TASK, outputs=(Output(source="/app/out"),))
    arm = dataclasses.replace(ARM, score_mode=mode)
    row = await roll(keeping, scorer=scorer, task=task, arm=arm)
    assert (row.outcome, row.error_type) == (outcome, "" if outcome is Outcome.OK else "ScoreError")
    (event,) = row.events
    assert (event.kind, "engine=native" in event.detail) == ("state_not_kept", True)
    assert [phase.name for phase in row.phases][-2:] == ["keep", "release"]
    assert bench.pool.counts()["claimed"] == 0


async def test_a_state_is_kept_only_of_the_endings_asked_for_and_of_the_last_attempt(
    bench: Bench,
) -> None:
    keeping = dataclasses.replace(bench, keep=Keeping(outcomes=(Outcome.SCORING_ERROR,)))
    assert (await roll(keeping)).events == ()
    broken = BrokenScorer(ScoreError("no verdict"))
    again = dataclasses.replace(LEASE, last=False)
    assert (await roll(keeping, scorer=broken, lease=again)).events == ()
    assert (await roll(keeping, scorer=broken)).events[0].kind == "state_not_kept"


async def test_what_is_lost_has_no_state(bench: Bench) -> None:
    async def act(box: Sandbox, record: Recorder) -> StopReason:
        await box.close()
        await box.exec(["true"])
        return StopReason.COMPLETED

    keeping = dataclasses.replace(bench, keep=Keeping(outcomes=tuple(Outcome)))
    row = await roll(keeping, act)
    assert (row.outcome, row.error_type) == (Outcome.SANDBOX_LOST, "SandboxLost")
    assert [event.kind for event in row.events] == ["state_not_kept"]


async def test_cancellation_gives_everything_back(bench: Bench) -> None:
    phases: list[str] = []

    async def act(box: Sandbox, record: Recorder) -> StopReason:
        await asyncio.sleep(3600)
        return StopReason.COMPLETED

    for wanted in ("claim", "agent"):
        phases.clear()
        work = asyncio.create_task(
            run_episode(LEASE, TASK, ARM, ActingAgent(act), FileScorer(), bench, phases.append)
        )
        while wanted not in phases:
            await asyncio.sleep(0)
        work.cancel()
        with pytest.raises(asyncio.CancelledError):
            await work
