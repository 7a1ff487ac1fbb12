"""The built-in agent in a real sandbox, and what it makes of whatever a model may answer."""

import json
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import pytest

from rollout.agents.bash import LEFT_OUT, NUDGES, Bash
from rollout.agents.workshell import WorkShell
from rollout.aio import Deadline
from rollout.errors import AgentError, ModelError
from rollout.gateway.base import CallRefused, ModelCall, ModelReply
from rollout.sandbox.base import Sandbox
from rollout.sandbox.native import NativeEngine
from rollout.transcript import Transcript
from rollout.types import Message, StopReason, Task, ToolCall
from tests.sandbox.test_native import conf, make

pytestmark = pytest.mark.native

TASK = Task(id="one", instruction="make a file")


class Replies:
    """A model that says one thing after the other; an error is raised in its place."""

    name = "replies"

    def __init__(self, *replies: Message | Exception) -> None:
        self._replies = list(replies)
        self.calls: list[ModelCall] = []

    async def complete(self, call: ModelCall) -> ModelReply:
        self.calls.append(call)
        reply = self._replies.pop(0)
        if isinstance(reply, Exception):
            raise reply
        return ModelReply(message=reply, finish_reason="stop")

    def listen(self, sandbox: Sandbox, port: int = 0) -> AbstractAsyncContextManager[int]:
        raise NotImplementedError

    @property
    def shown(self) -> str:
        """The last thing the model was told."""
        return self.calls[-1].messages[-1].content


def says(text: str) -> Message:
    return Message(role="assistant", content=text)


def runs(*commands: Any, tool: str = "bash") -> Message:
    calls = tuple(
        ToolCall(id=f"c{n}", name=tool, arguments=json.dumps({"command": command}))
        for n, command in enumerate(commands)
    )
    return Message(role="assistant", tool_calls=calls)


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Sandbox]:
    engine = NativeEngine(conf(tmp_path))
    await engine.start()
    try:
        yield await make(engine)
    finally:
        await engine.close()


def transcript() -> Transcript:
    return Transcript(lambda name: None)


async def work(
    box: Sandbox, model: Replies, record: Transcript | None = None, **settings: Any
) -> StopReason:
    agent = Bash(**settings)
    return await agent.run(TASK, box, model, Deadline.after(60), record or transcript())


async def test_it_runs_what_the_model_asks_until_it_asks_no_more(box: Sandbox) -> None:
    model = Replies(runs("echo hello > /tmp/made; cat /tmp/made"), says("It is there."))
    assert await work(box, model) is StopReason.COMPLETED
    assert await box.read_file("/tmp/made") == b"hello\n"
    first, second = model.calls
    assert [m.role for m in first.messages] == ["system", "user"]
    assert first.messages[1].content == TASK.instruction
    assert first.tools
    assert model.shown == "hello\n[exit code 0]"
    assert second.messages[-1].tool_call_id == "c0"


async def test_folder_and_variables_last_from_command_to_command(box: Sandbox) -> None:
    model = Replies(
        runs("mkdir -p '/tmp/a b' && cd '/tmp/a b' && export X=\"it's \n me\" Y=1; z=2"),
        runs('pwd; printf %s "$X"; echo "[$z]"; unset Y; exit 7'),
        runs('echo "$Y-$X"; pwd; cd /nowhere'),
        runs("sleep 9", "pwd"),
        says("done"),
    )
    assert await work(box, model, command_timeout_s=1) is StopReason.COMPLETED
    shown = [call.messages[-1].content for call in model.calls]
    assert shown[2] == "/tmp/a b\nit's \n me[]\n[exit code 7]"
    assert shown[3].startswith("-it's \n me\n/tmp/a b\n")
    assert model.calls[4].messages[-2].content == "[ended after 1 s, its time limit]"
    assert shown[4] == "/tmp/a b\n[exit code 0]"
    left = await box.exec(["sh", "-c", "ls -a /tmp"])
    assert b".shell-" not in left.stdout


async def test_without_bash_it_works_in_sh(box: Sandbox) -> None:
    await box.exec(["sh", "-c", "rm -f /usr/bin/bash"])
    async with WorkShell(box, user="") as shell:
        assert (await shell.run("cd /tmp; export A=b", timeout_s=5)).ok
        assert (await shell.run('echo "$PWD $A"', timeout_s=5)).stdout == b"/tmp b\n"


async def test_what_it_starts_in_the_background_lives_on(box: Sandbox) -> None:
    model = Replies(
        runs("sleep 50 & echo $! > /tmp/pid"), runs("kill -0 $(cat /tmp/pid)"), says("")
    )
    await work(box, model)
    assert model.shown == "[exit code 0]"


async def test_long_output_is_shown_by_its_ends_and_kept_whole(box: Sandbox) -> None:
    record = transcript()
    model = Replies(runs("seq 9999"), says("so many"))
    await work(box, model, record, output_chars=100)
    assert model.shown.startswith("1\n2\n")
    assert "9999\n[exit code 0]" in model.shown
    assert len(model.shown) < 200
    assert record.artifacts["output-1.txt"].count(b"\n") == 9999


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("no json", "arguments must be"),
        ('["x"]', "arguments must be"),
        ('{"command": 3}', "must be a string"),
        ('{"command": "a\\u0000b"}', "no NUL"),
        ("[" * 100_000, "arguments must be"),
        (json.dumps({"command": "x" * 130_000}), "at most"),
        ('{"command": "echo \\ud800"}', "?\n[exit code 0]"),
    ],
)
async def test_arguments_that_make_no_command_are_told_to_the_model(
    box: Sandbox, arguments: str, told: str
) -> None:
    call = ToolCall(id="c", name="bash", arguments=arguments)
    model = Replies(Message(role="assistant", tool_calls=(call,)), says(""))
    assert await work(box, model) is StopReason.COMPLETED
    assert told in model.shown


async def test_another_tool_than_there_is_is_told_to_the_model(box: Sandbox) -> None:
    model = Replies(runs("ls", tool="python"), says(""))
    await work(box, model)
    assert "no tool 'python'" in model.shown


async def test_fenced_commands_for_models_without_tools(box: Sandbox) -> None:
    model = Replies(
        says("I look.\n```bash\ncd /tmp\npwd\n```\nand see"),
        says("I think."),
        says("```bash\na\n```\n```sh\nb\n```"),
        says("It is DONE"),
    )
    assert await work(box, model, tools="fenced") is StopReason.COMPLETED
    told = [call.messages[-1].content for call in model.calls[1:]]
    assert told[0] == "/tmp\n[exit code 0]"
    assert "no command" in told[1]
    assert "exactly one" in told[2]
    assert not model.calls[0].tools
    assert {message.role for message in model.calls[-1].messages[1:]} == {"user", "assistant"}


async def test_a_model_that_never_gives_a_command_is_taken_at_its_word(box: Sandbox) -> None:
    model = Replies(*[says("hm")] * (NUDGES + 1))
    assert await work(box, model, tools="fenced") is StopReason.COMPLETED


async def test_turns_and_time_end_it(box: Sandbox) -> None:
    assert await work(box, Replies(*[runs("true")] * 3), max_turns=3) is StopReason.MAX_TURNS
    late = await Bash().run(TASK, box, Replies(), Deadline.after(0), transcript())
    assert late is StopReason.TIMEOUT


async def test_older_output_makes_room_once_the_context_is_full(box: Sandbox) -> None:
    full = CallRefused("too long", kind="context_overflow")
    model = Replies(runs("seq 999"), runs("seq 888"), full, says("short now"))
    assert await work(box, model) is StopReason.COMPLETED
    outputs = [m.content for m in model.calls[-1].messages if m.role == "tool"]
    assert outputs[0] == LEFT_OUT
    assert "888" in outputs[1]
    model = Replies(runs("seq 999"), full, full)
    assert await work(box, model) is StopReason.CONTEXT_OVERFLOW


async def test_what_no_call_carried_is_still_on_record(box: Sandbox) -> None:
    record = transcript()
    with pytest.raises(ModelError, match="down"):
        await work(box, Replies(runs("echo last"), ModelError("down")), record)
    assert [m.content for m in record.messages] == ["last\n[exit code 0]"]


async def test_it_needs_a_model(box: Sandbox) -> None:
    with pytest.raises(AgentError, match="needs a model"):
        await Bash().run(TASK, box, None, Deadline.after(9), transcript())
