"""Agents without a model, on the memory engine."""

import json
from collections.abc import AsyncIterator

import pytest

from rollout.agents.base import Agent
from rollout.agents.nop import Nop
from rollout.agents.oracle import Oracle
from rollout.agents.script import ARGUMENT_LIMIT_BYTES, Script
from rollout.aio import Deadline
from rollout.errors import AgentError, ConfigError, SandboxLost
from rollout.sandbox.base import Sandbox, SandboxSpec
from rollout.sandbox.memory import MemoryEngine
from rollout.transcript import Transcript
from rollout.types import Blueprint, BuildStep, StopReason, Task, Tree

BLUEPRINT = Blueprint(steps=(BuildStep(op="workdir", dest="/app"),))


@pytest.fixture
async def box() -> AsyncIterator[Sandbox]:
    engine = MemoryEngine()
    await engine.start()
    try:
        yield await engine.create(
            SandboxSpec.for_blueprint(await engine.build(BLUEPRINT), BLUEPRINT)
        )
    finally:
        await engine.close()


def task(solve: str = "", **settings: object) -> Task:
    solution = Tree.of({"solve.sh": solve, "answer.txt": "42\n"}) if solve else Tree()
    given: dict[str, object] = {"id": "t", "instruction": "Do it.", "solution": solution}
    return Task(**{**given, **settings})  # type: ignore[arg-type]


async def run(
    agent: Agent, work: Task, box: Sandbox, seconds: float = 20.0
) -> tuple[StopReason, Transcript]:
    record = Transcript(lambda name: None)
    return await agent.run(work, box, None, Deadline.after(seconds), record), record


async def test_nop_reads_and_ends(box: Sandbox) -> None:
    stop, record = await run(Nop(), task(), box)
    assert stop is StopReason.COMPLETED
    assert [(m.role, m.content) for m in record.messages] == [("user", "Do it.")]
    assert [(s.source, s.message_start, s.message_end) for s in record.steps] == [("user", 0, 1)]


class TestOracle:
    async def test_runs_the_solution_and_records_it(self, box: Sandbox) -> None:
        solve = '#!/bin/sh\ncat /solution/answer.txt > out\necho "said $WORD"\n'
        stop, record = await run(Oracle(), task(solve, solution_env=(("WORD", "hi"),)), box)
        assert stop is StopReason.COMPLETED
        assert await box.read_file("/app/out") == b"42\n"
        asked, called, told = record.messages
        assert asked.role == "user"
        assert json.loads(called.tool_calls[0].arguments) == {"command": "/solution/solve.sh"}
        assert (told.role, told.content) == ("tool", "said hi\n")
        assert told.tool_call_id == called.tool_calls[0].id
        assert [(s.source, s.message_start, s.message_end) for s in record.steps] == [
            ("user", 0, 1),
            ("agent", 1, 3),
        ]

    async def test_what_lay_at_solution_is_gone(self, box: Sandbox) -> None:
        await box.write_file("/solution/answer.sh", b"old")
        await run(Oracle(), task("#!/bin/sh\ntrue\n"), box)
        with pytest.raises(FileNotFoundError):
            await box.read_file("/solution/answer.sh")

    async def test_runs_as_the_agents_user(self, box: Sandbox) -> None:
        work = task("#!/bin/sh\nid -u > /tmp/who\n", agent_user="nobody")
        await run(Oracle(), work, box)
        assert (await box.read_file("/tmp/who")).strip() == b"65534"

    async def test_a_failing_solution_is_the_agents_error_and_on_record(self, box: Sandbox) -> None:
        record = Transcript(lambda name: None)
        work = task("#!/bin/sh\necho before\nexit 3\n")
        with pytest.raises(AgentError, match="exit code 3; it printed: before"):
            await Oracle().run(work, box, None, Deadline.after(20), record)
        assert record.messages[-1].content == "before\n\n[exit code 3]"
        assert record.steps[-1].error == "[exit code 3]"

    async def test_a_missing_solution_is_known_before(self, box: Sandbox) -> None:
        assert Oracle().problems(task("true")) is None
        assert "task t: it has no solution/solve.sh" in str(Oracle().problems(task()))
        with pytest.raises(AgentError, match=r"no solution/solve\.sh"):
            await run(Oracle(), task(), box)


class TestScript:
    async def test_sees_the_task(self, box: Sandbox) -> None:
        script = 'echo "$TASK_ID|$TASK_INSTRUCTION|$TASK_SPLIT|$TASK_METADATA" > seen; pwd'
        work = task(split="dev", metadata='{"level": 1}')
        stop, record = await run(Script(script=script), work, box)
        assert stop is StopReason.COMPLETED
        assert await box.read_file("/app/seen") == b't|Do it.|dev|{"level": 1}\n'
        assert record.messages[-1].content == "/app\n"

    async def test_is_cut_off_by_the_deadline(self, box: Sandbox) -> None:
        stop, record = await run(Script(script="echo begun; sleep 30"), task(), box, seconds=0.3)
        assert stop is StopReason.TIMEOUT
        assert record.messages[-1].content.startswith("begun\n")
        assert "cut off by the deadline" in record.messages[-1].content

    async def test_is_cut_off_by_its_own_limit(self, box: Sandbox) -> None:
        stop, _ = await run(Script(script="sleep 30", timeout_s=0.2), task(), box)
        assert stop is StopReason.TIMEOUT

    async def test_does_not_start_past_the_deadline(self, box: Sandbox) -> None:
        stop, record = await run(Script(script="touch /app/x"), task(), box, seconds=0.0)
        assert stop is StopReason.TIMEOUT
        assert len(record.messages) == 1
        assert (await box.get_tree("/app")).entries == ()

    async def test_long_output_keeps_head_and_tail(self, box: Sandbox) -> None:
        script = "echo head; i=0; while [ $i -lt 3000 ]; do echo line $i; i=$((i+1)); done"
        _, record = await run(Script(script=script), task(), box)
        told = record.messages[-1].content
        assert len(told) < 17_000
        assert told.startswith("head\n")
        assert told.endswith("line 2999\n")
        assert "characters left out" in told

    async def test_a_lost_sandbox_is_not_the_agents_error(self, box: Sandbox) -> None:
        await box.close()
        with pytest.raises(SandboxLost):
            await run(Script(script="true"), task(), box)

    def test_wrong_settings(self) -> None:
        with pytest.raises(ConfigError, match=r"agent\.script: is empty"):
            Script(script=" ")
        with pytest.raises(ConfigError, match=r"agent\.script: is longer"):
            Script(script="x" * (ARGUMENT_LIMIT_BYTES + 1))

    def test_too_long_fields_are_known_before(self) -> None:
        assert Script(script="true").problems(task()) is None
        long = task(instruction="x" * (ARGUMENT_LIMIT_BYTES + 1))
        assert "its instruction is too long" in str(Script(script="true").problems(long))
