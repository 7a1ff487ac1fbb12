"""The story of one rollout, readable top to bottom.

    claim a sandbox ▶ make it ready ▶ the agent works ▶ prepare the scene ▶ score ▶ one trajectory

This is the one place where a failure becomes an outcome. What the agent brought on itself is
scored on the state it left; what was ours to answer for (machine, sandbox, model, scorer) has no
reward at all. A sandbox is always released before the next is claimed, so episodes can never
wait for each other in a circle.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from rollout.agents.base import Agent
from rollout.aio import Deadline, shielded
from rollout.config import KEEP_LIMIT_MAX_MB, Keeping, TimeoutsConf
from rollout.egress.access import egress
from rollout.errors import (
    BuildError,
    JudgeError,
    ModelError,
    OutOfMemory,
    RolloutError,
    SandboxError,
    SandboxLost,
    ScoreError,
    boundary,
)
from rollout.gateway.access import ModelAccess, ModelService
from rollout.gateway.sequences import MOST_TOKENS, placed
from rollout.gateway.session import Session
from rollout.pool import WarmPool
from rollout.recorded import Recorded, Recordings
from rollout.sandbox.base import Engine, Image, Objects, Sandbox, SandboxSpec
from rollout.sandbox.made import make_spec
from rollout.scene import (
    collect,
    launched_outside,
    lay_output,
    left_out,
    take_output,
    workspace_of,
)
from rollout.scorers.base import Scorer, Verdict, verdict_of
from rollout.scorers.integrity import clipped, signs_of, survivors
from rollout.transcript import CLIP_CHARS, Transcript, clip, now
from rollout.types import (
    Arm,
    Attempt,
    Blueprint,
    BuildStep,
    Lease,
    Outcome,
    ScoreMode,
    Sequence,
    StopReason,
    Task,
    Trajectory,
    Trust,
)

ENDED_AS = {
    StopReason.COMPLETED: Outcome.OK,
    StopReason.MAX_TURNS: Outcome.MAX_TURNS,
    StopReason.BUDGET: Outcome.BUDGET,
    StopReason.CONTEXT_OVERFLOW: Outcome.CONTEXT_OVERFLOW,
    StopReason.TIMEOUT: Outcome.AGENT_TIMEOUT,
    StopReason.ERROR: Outcome.AGENT_ERROR,
}

STATE_NAME = "state.tar.gz"
"""The artifact that holds what the agent left."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What a worker offers to each of its episodes."""

    engine: Engine
    pool: WarmPool
    timeouts: TimeoutsConf
    run_id: str
    node: str
    worker: str
    keep: Keeping = Keeping()
    objects: Objects | None = None
    model: ModelService | None = None
    """Of the episode's arm."""
    recordings: Recordings | None = None
    """Where no agent works, since what one left in another run is scored."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """One finished attempt, and what is too large for its row."""

    trajectory: Trajectory
    blobs: Mapping[str, bytes] = field(default_factory=dict)
    """Artifact name to content."""
    files: Mapping[str, Path] = field(default_factory=dict)
    """Artifact name to a file of this machine, for the taker to remove."""

    def remove_files(self) -> None:
        for path in self.files.values():
            path.unlink(missing_ok=True)


async def run_episode(
    lease: Lease,
    task: Task,
    arm: Arm,
    agent: Agent,
    scorer: Scorer,
    bench: Bench,
    on_phase: Callable[[str], None] = lambda name: None,
) -> Ended:
    """Make one attempt. Nothing escapes but cancellation; a failure is a typed outcome."""
    episode = _Episode(lease, task, arm, agent, scorer, bench, on_phase)
    try:
        return await episode.run()
    except BaseException:
        episode.forget_state()
        raise


class _Episode:
    def __init__(
        self,
        lease: Lease,
        task: Task,
        arm: Arm,
        agent: Agent,
        scorer: Scorer,
        bench: Bench,
        on_phase: Callable[[str], None],
    ) -> None:
        self.lease, self.task, self.arm = lease, task, arm
        self.agent, self.scorer, self.bench = agent, scorer, bench
        self.transcript = Transcript(on_phase)
        self.outcome = Outcome.SETUP_ERROR
        self.if_it_breaks = Outcome.SETUP_ERROR
        """What a failure of ours would be called in the stage that runs now."""
        self.stop: StopReason | None = None
        self.error: BaseException | None = None
        self.limits_run_into = ""
        """With the kernel's counts, where that explains how the agent ended."""
        self.verdict: Verdict | None = None
        self.box: Sandbox | None = None
        self.scene: Image | None = None
        """The agent's files as an image, to discard in the end."""
        self.work: Image | None = None
        """Of these the workspace alone, to discard as well."""
        self.state: Path | None = None
        """The agent's files as a file, where they are to be kept."""
        self.session: Session | None = None
        """The agent's calls of its model."""
        self.recorded: Recorded | None = None
        """The rollout of another run that this one scores again."""
        self.sandbox_id = ""
        self.limits_enforced: tuple[str, ...] = ()

    async def run(self) -> Ended:
        try:
            await self._run_stages()
            await self._keep_state()
        finally:
            with self.transcript.phase("release"):
                await self._release()
                if self.bench.model is not None:
                    self.bench.model.upstream.forget(self.lease.spec.trajectory_id)
                for image in filter(None, (self.work, self.scene)):
                    await shielded(self.bench.engine.discard(image))
        return self._ended()

    async def _run_stages(self) -> None:
        try:
            if self.bench.recordings is not None:
                await self._recall(self.bench.recordings)
            else:
                box = await self._make_ready()
                async with egress(box, self.transcript.event):
                    await self._let_agent_work()
                await self._prepare_scene()
            await self._score()
        except Exception as exc:  # noqa: BLE001 - the boundary: a failure becomes an outcome here
            self._record_failure(exc)

    # ---------------------------------------------------------------- before the agent

    async def _make_ready(self) -> Sandbox:
        """A sandbox of the task's blueprint, healthy."""
        with self.transcript.phase("claim"):
            box = await self._claim(self.task.blueprint)
        self.sandbox_id, self.limits_enforced = box.id, box.limits_enforced
        if self.task.healthcheck is not None:
            with self.transcript.phase("setup"):
                await self._wait_healthy(box)
        return box

    async def _claim(self, blueprint: Blueprint) -> Sandbox:
        return await self._claim_spec(await self._built(blueprint))

    async def _built(self, blueprint: Blueprint) -> SandboxSpec:
        limit_s = self.task.setup_timeout_s * self._multiplier
        try:
            async with asyncio.timeout(limit_s):
                return await make_spec(self.bench.engine, blueprint, self.bench.objects)
        except TimeoutError:
            raise BuildError(f"blueprint {blueprint.name} not built within {limit_s:g} s") from None

    async def _claim_spec(self, spec: SandboxSpec) -> Sandbox:
        self.box = await self.bench.pool.claim(spec, timeout_s=self.bench.timeouts.create_s)
        return self.box

    async def _release(self) -> None:
        box, self.box = self.box, None
        if box is not None:
            await self.bench.pool.release(box)

    async def _wait_healthy(self, box: Sandbox) -> None:
        check = self.task.healthcheck
        assert check is not None
        patience = Deadline.after(check.start_period_s)
        failures = 0
        while True:
            result = await box.exec(["sh", "-c", check.command], timeout_s=check.timeout_s)
            if result.ok:
                return
            failures += patience.passed
            if failures > check.retries:
                raise SandboxError(
                    f"task {self.task.id}: healthcheck `{check.command}` still fails after "
                    f"{failures} tries, exit code {result.exit_code}: {_text(result.stderr)}"
                )
            await asyncio.sleep(check.interval_s if patience.passed else check.start_interval_s)

    # ---------------------------------------------------------------- the agent

    async def _let_agent_work(self) -> None:
        """However the agent ends, what it left behind is scored, unless the failure is ours."""
        assert self.box is not None
        limit_s = self.arm.agent_timeout_s or self.task.agent_timeout_s
        deadline = Deadline.after((limit_s or self.bench.timeouts.agent_s) * self._multiplier)
        self.if_it_breaks = Outcome.SANDBOX_LOST
        with self.transcript.phase("agent"):
            try:
                async with asyncio.timeout(deadline.left_s + self.bench.timeouts.grace_s):
                    self.stop = await self.agent.run(
                        self.task, self.box, self._model(deadline), deadline, self.transcript
                    )
            except TimeoutError:
                self.stop = StopReason.TIMEOUT
            except OutOfMemory as exc:
                self.stop, self.error = StopReason.ERROR, exc
            except SandboxLost:
                self._tell_alerts()
                raise
            except Exception as exc:  # noqa: BLE001 - whatever the agent let out is its own error
                self.stop, self.error = StopReason.ERROR, exc
            self.stop = self._heed_model(self.stop)
            self.outcome = await self._agent_outcome(self.stop)

    def _model(self, deadline: Deadline) -> ModelAccess | None:
        service = self.bench.model
        if service is None:
            return None
        self.session = service.open(self.lease.spec.trajectory_id, deadline, self.transcript)
        return ModelAccess(self.session, service.plan.conf.name)

    def _heed_model(self, stop: StopReason) -> StopReason:
        """How the agent ended, seen from its model: whatever a harness makes of a budget that is
        used up, or of an endpoint that is down, the gateway knows better."""
        session = self.session
        if session is not None and session.stop is not None:
            return session.stop
        failed = session.error if session is not None else None
        if failed is None and isinstance(self.error, ModelError):
            failed = self.error
        if failed is not None:
            self._tell_alerts()
            raise failed
        return stop

    async def _agent_outcome(self, stop: StopReason) -> Outcome:
        """A limit that was hit explains an agent that ended badly; one that ended well is well.

        For processes there is no outcome of its own: a program that cannot fork fails as programs
        do, so it stays `agent_error`, and the error says what was counted.
        """
        assert self.box is not None
        reasons = await self.box.limit_reasons()
        self._tell_alerts()
        for limit, reason in reasons.items():
            self.transcript.event("limit_hit", f"{limit}: {reason}")
        if stop is not StopReason.ERROR and not self.box.out_of_memory:
            return ENDED_AS[stop]
        self.limits_run_into = "; ".join(f"{limit}: {why}" for limit, why in reasons.items())
        if "memory" in reasons:
            return Outcome.OUT_OF_MEMORY
        return Outcome.OUT_OF_DISK if "disk" in reasons else ENDED_AS[stop]

    def _tell_alerts(self) -> None:
        assert self.box is not None
        for alert in self.box.alerts:
            self.transcript.event("resource_alert", alert.detail, at=alert.at)

    # ---------------------------------------------------------------- in place of the agent

    async def _recall(self, recordings: Recordings) -> None:
        """What an agent left in another run, in the scorer's sandbox of this one."""
        with self.transcript.phase("claim"):
            spec = await self._built(self.task.blueprint)
            async with recordings.of(self.lease.spec.trajectory_id) as recorded:
                image = self.scene = await self.bench.engine.restore_state(
                    spec.image, recorded.state, limit_bytes=KEEP_LIMIT_MAX_MB << 20
                )
        self.recorded, row = recorded, recorded.row
        recorded.retell(self.transcript)
        self.stop = row.stop_reason
        self.outcome = row.outcome
        if not row.outcome.scored and row.stop_reason is not None:
            self.outcome = ENDED_AS[row.stop_reason]
        with self.transcript.phase("freeze"):
            if self._mode is ScoreMode.FORK:
                await self._stand_on(image, spec)
                return
            # It has been launched already, and is not again.
            await self._claim_spec(replace(spec, image=image, launch=(), ready=""))
            if self._mode is ScoreMode.FRESH:
                await self._fresh_scene()

    # ---------------------------------------------------------------- scoring

    @property
    def _mode(self) -> ScoreMode:
        asked = self.arm.score_mode
        return self.task.verifier.mode if asked is ScoreMode.AS_DECLARED else asked

    @property
    def _takes_work_alone(self) -> bool:
        asked = self.arm.trust
        trust = self.task.verifier.trust if asked is Trust.AS_DECLARED else asked
        return self._mode is ScoreMode.FORK and trust is Trust.WORKSPACE

    async def _prepare_scene(self) -> None:
        """Put the scorer's sandbox in `self.box`.

        Of an agent that took its sandbox down with it, the files live on: they are in a new
        sandbox whatever the mode, and the mode begins there.
        """
        assert self.box is not None
        taken_down = self.box.out_of_memory
        if self._mode is ScoreMode.SHARED and not taken_down:
            return
        with self.transcript.phase("freeze"):
            if taken_down:
                await self._fork_scene()
            await collect(self.box, self.task, self.transcript)
            if self._mode is not ScoreMode.SHARED and not taken_down:
                await self._end_processes(self.box)
            if self._mode is ScoreMode.FRESH:
                await self._fresh_scene()
            elif self._mode is ScoreMode.FORK and not taken_down:
                await self._fork_scene()

    async def _end_processes(self, box: Sandbox) -> None:
        self.transcript.integrity.extend(await survivors(box, "after the agent"))
        await box.kill_all()

    async def _fork_scene(self) -> None:
        """The agent's files in a new sandbox; of the agent itself nothing runs any more.

        Where tools and settings of the system are not the agent's to bring, they are the image's.
        Launch commands are not run again: they would start what the agent has put in their place.
        """
        assert self.box is not None
        spec = self.box.spec
        self.scene = await self._end_as_image()
        await self._release()
        await self._stand_on(self.scene, spec)

    async def _stand_on(self, image: Image, spec: SandboxSpec) -> None:
        """`spec` as the agent had it."""
        workspace = workspace_of(self.task, spec)
        again: tuple[BuildStep, ...] = ()
        if self._takes_work_alone:
            engine = self.bench.engine
            image = self.work = await engine.keep_only(image, spec.image, workspace)
            again = launched_outside(spec.launch, workspace)
        await self._claim_spec(replace(spec, image=image, launch=again, ready=""))

    async def _end_as_image(self) -> Image:
        """The agent's files; what of them looks like tampering is written down."""
        assert self.box is not None
        spec = self.box.spec
        image = await self.box.end_as_image()
        changes = await self.bench.engine.changes(image, spec.image, workspace_of(self.task, spec))
        self.transcript.integrity.extend(signs_of(changes))
        if self._takes_work_alone and (told := left_out(changes)):
            self.transcript.event("left_out", told)
        return image

    async def _fresh_scene(self) -> None:
        """A pristine sandbox that receives the declared outputs and nothing else."""
        assert self.box is not None
        taken = [
            await take_output(self.box, output, self.transcript) for output in self.task.outputs
        ]
        if self.scene is None:
            self.scene = await self._end_as_image()
        await self._release()
        box = await self._claim(self.task.verifier.blueprint or self.task.blueprint)
        for tree, folder in filter(None, taken):
            await lay_output(box, tree, folder)

    async def _score(self) -> None:
        assert self.box is not None
        limit_s = self.task.verifier.timeout_s * self._multiplier
        self.if_it_breaks = Outcome.SCORING_ERROR
        task = replace(self.task, verifier=replace(self.task.verifier, mode=self._mode))
        with self.transcript.phase("score"):
            try:
                async with boundary(ScoreError, f"scoring task {self.task.id}"):
                    async with asyncio.timeout(limit_s + self.bench.timeouts.grace_s):
                        self.verdict = await verdict_of(
                            self.scorer,
                            task,
                            self.box,
                            Deadline.after(limit_s),
                            tuple(self.transcript.messages),
                        )
            except SandboxLost as exc:
                await self._blame_scorer(exc)
                raise
            self.transcript.integrity.extend(self.verdict.integrity)
            if self._mode is not ScoreMode.SHARED:
                for limit, reason in (await self.box.limit_reasons()).items():
                    self.transcript.event("scorer_limit_hit", f"{limit}: {reason}")

    async def _blame_scorer(self, exc: SandboxLost) -> None:
        """A sandbox that took its own whole memory limit while it was scored in was not lost.

        There is no verdict then, and neither is it a zero: too small a limit looks the same as
        work that eats memory.
        """
        assert self.box is not None
        if self.box.out_of_memory:
            reasons = await self.box.limit_reasons()
            raise ScoreError(
                f"scoring task {self.task.id}: its sandbox ran out of memory "
                f"({reasons.get('memory', exc)}); give the task or its verifier more memory_mb"
            ) from exc

    # ---------------------------------------------------------------- what is kept of it

    async def _keep_state(self) -> None:
        """Write the agent's files down where `keep_on` asks for it: they never fail the rollout.

        In shared mode, and where nothing was scored, the sandbox ends here, so they include what
        the scorer did.
        """
        keep, final = self.bench.keep, self.outcome.scored or self.lease.last
        if self.outcome not in keep.outcomes or not final:
            return
        with self.transcript.phase("keep"):
            try:
                async with boundary(SandboxError, "keep the end state"):
                    await self._write_state(keep.limit_bytes)
            except RolloutError as exc:
                self.transcript.event("state_not_kept", clip(str(exc), 1_000))

    async def _write_state(self, limit_bytes: int) -> None:
        if self.scene is None:
            if self.box is None:
                raise SandboxError("there is no sandbox")
            self.scene = await self.box.end_as_image()
        await self._release()
        self.state = await self.bench.engine.export_state(
            self.scene, limit_bytes=limit_bytes, timeout_s=self.bench.timeouts.keep_s
        )

    def forget_state(self) -> None:
        """Nobody will take it."""
        if self.state is not None:
            self.state.unlink(missing_ok=True)

    # ---------------------------------------------------------------- the row

    @property
    def _multiplier(self) -> float:
        return self.arm.timeout_multiplier

    @property
    def _error_text(self) -> str:
        return "; ".join(filter(None, (str(self.error or ""), self.limits_run_into)))

    def _record_failure(self, exc: Exception) -> None:
        """The failure was ours: named by its boundary where that is clear, else by the stage."""
        self.error = exc
        if isinstance(exc, ModelError):
            self.outcome = Outcome.MODEL_ERROR
        elif isinstance(exc, SandboxLost):
            self.outcome = Outcome.SANDBOX_LOST
        elif isinstance(exc, JudgeError):
            self.outcome = Outcome.JUDGE_ERROR
        else:
            self.outcome = self.if_it_breaks

    def _ended(self) -> Ended:
        finished_at = now()
        output = self.verdict.output if self.verdict else ""
        blobs = dict(self.transcript.artifacts)
        if len(output) > CLIP_CHARS:
            blobs["scorer_output.txt"] = output.encode()
        files = {} if self.state is None else {STATE_NAME: self.state}
        return Ended(trajectory=self._trajectory(finished_at, output), blobs=blobs, files=files)

    def _model_use(self) -> dict[str, Any]:
        if self.recorded is not None:
            return self.recorded.model_use
        session, service = self.session, self.bench.model
        if session is None or service is None:
            return {}
        sequences: tuple[Sequence, ...] = ()
        if session.sequences is not None and session.sequences.is_whole:
            sequences = session.sequences.finish()
            self.transcript.steps[:] = placed(self.transcript.steps, sequences)
        elif session.sequences is not None:
            self.transcript.event("sequences_left_out", f"more than {MOST_TOKENS} tokens")
        return {
            "model_name": session.model,
            "tools": session.record.tools,
            "prompt_tokens": session.usage.prompt_tokens,
            "completion_tokens": session.usage.completion_tokens,
            "cost_usd": session.cost_usd,
            "capture_level": service.plan.conf.capture,
            "sequences": sequences,
            "policy_version_min": session.policy.lowest,
            "policy_version_max": session.policy.highest,
        }

    def _trajectory(self, finished_at: datetime, output: str) -> Trajectory:
        lease, task, said, verdict = self.lease, self.task, self.transcript, self.verdict
        used = self._model_use()
        attempt = Attempt(
            epoch=lease.epoch,
            n=lease.n,
            outcome=self.outcome,
            worker=self.bench.worker,
            started_at=said.started_at,
            finished_at=finished_at,
            error=clip(self._error_text, 2_000),
        )
        return Trajectory(
            run_id=self.bench.run_id,
            spec=lease.spec,
            epoch=lease.epoch,
            attempt=lease.n,
            outcome=self.outcome,
            stop_reason=self.stop,
            error_type=_error_type(self.error),
            error_message=clip(self._error_text, 4_000),
            reward=verdict.reward if verdict else None,
            scores=verdict.scores if verdict else (),
            scorer_output=clip(output),
            messages=tuple(said.messages),
            steps=tuple(said.steps),
            events=tuple(said.events),
            integrity=tuple(clipped(said.integrity)),
            phases=tuple(said.phases),
            attempts=(*lease.attempts, attempt),
            limits_enforced=self.limits_enforced,
            blueprint=task.blueprint.name,
            blueprint_digest=task.blueprint.digest,
            task_digest=task.digest,
            dataset=task.dataset,
            split=task.split,
            agent_name=self.agent.name,
            agent_version=self.agent.version,
            agents=task.blueprint.agents,
            **used,
            extra={} if self.recorded is None else self.recorded.extra,
            arm_digest=self.arm.digest,
            started_at=said.started_at,
            finished_at=finished_at,
            node=self.bench.node,
            sandbox_id=self.sandbox_id,
        )


def _error_type(error: BaseException | None) -> str:
    return "" if error is None else type(error).__name__


def _text(data: bytes) -> str:
    return clip(data.decode(errors="replace"), 500)
