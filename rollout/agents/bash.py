"""The built-in agent: a model, one tool, and a loop. It works from this side of the sandbox.

    ask the model ▶ run the command it gives ▶ show it the output ▶ … until it gives none

Models that call tools are given one, `bash`. For others, `tools=fenced`: the command stands in a
fenced block of the reply, and the reply that ends the work says DONE instead.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from rollout.agents.base import Model, Recorder
from rollout.agents.skills import described, mounts_of
from rollout.agents.workshell import WorkShell
from rollout.aio import Deadline
from rollout.errors import AgentError
from rollout.gateway.base import CallRefused, ModelCall, ModelReply
from rollout.sandbox.base import ExecResult, Sandbox
from rollout.transcript import clip
from rollout.types import Message, StopReason, Task

SYSTEM = """\
You work on a task in a Linux computer of your own. {how}
Each command runs in a new process; working folder and exported variables are kept between them.
There is no terminal: nothing may ask for input. Long output is shown by its head and tail.
What counts is the state you leave in the computer, not what you say. {end}"""
NATIVE = (
    "Use the tool `bash` to run commands.",
    "When the task is done, answer without calling the tool.",
)
FENCED = (
    "Answer with what you mean to do and exactly one command, between lines of ```bash and ```.",
    "When the task is done, answer with the word DONE and no command.",
)
TOOL = {
    "type": "function",
    "function": {
        "name": "bash",
        "description": "Run a command in the shell; its output and exit code are the result.",
        "parameters": {
            "type": "object",
            "properties": {"command": {"type": "string", "description": "for bash -c"}},
            "required": ["command"],
        },
    },
}
SKILLS = "Skills, each a file to read before you do what it is for:"
BLOCK = re.compile(r"```(?:bash|sh|shell)\s*\n(.*?)\n?```", re.DOTALL)
DONE = re.compile(r"\bDONE\b")
NUDGE = "There was no command in that. Give one in a ```bash block, or DONE when the task is done."
NUDGES = 3
"""In a row; a model that still gives no command is taken at its word."""
COMMAND_LIMIT_BYTES = 120_000
"""The kernel takes no argument of 128 KiB or more."""
LEFT_OUT = "[output left out, to make room]"


@dataclass(frozen=True, slots=True)
class Command:
    """What the model wants run; `trouble` in its place where that cannot be read."""

    call_id: str
    text: str
    trouble: str = ""


class Bash:
    """Asks the model and does as it says, until it is done or its turns or time are over."""

    name = "bash"
    version = "1"
    needs_model = True
    features = ("programs",)

    def __init__(
        self,
        *,
        system: str | None = None,
        tools: str = "native",
        max_turns: int = 100,
        command_timeout_s: float = 120.0,
        output_chars: int = 10_000,
        skills: list[str] | None = None,
    ) -> None:
        """
        system: the system prompt; null: the one above. `{how}` and `{end}` stand for how the model
        is to run a command and how to end.
        tools: `native`, by the API's own tool calls, or `fenced`, by blocks in the text.
        max_turns: model calls.
        command_timeout_s: of one command; the model is told.
        output_chars: more output of a command is shown by its head and tail; all of it is kept as
        an artifact.
        skills: folders of this machine with a SKILL.md; the model is told what each is for, and
        reads it with a command when it needs it.
        """
        if tools not in ("native", "fenced"):
            raise AgentError(f"agent.tools: {tools!r} is none of native, fenced")
        self._how, self._end = NATIVE if tools == "native" else FENCED
        self._system = (system or SYSTEM).replace("{how}", self._how).replace("{end}", self._end)
        self._native = tools == "native"
        self._max_turns = max_turns
        self._command_timeout_s = command_timeout_s
        self._output_chars = output_chars
        self._skills = list(skills or [])

    def mounts(self) -> Sequence[Mapping[str, Any]]:
        """What the blueprint of its tasks must mount, as in `blueprint.mounts`."""
        return mounts_of(self._skills)

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason:
        """AgentError without a model; what the gateway refuses becomes the reason to stop."""
        if model is None:
            raise AgentError("agent bash: needs a model")
        async with WorkShell(sandbox, user=task.agent_user) as shell:
            talk = _Talk(self, model, shell, deadline, record)
            return await talk.hold(task.instruction, await described(self._skills, sandbox))


class _Talk:
    """One rollout of it."""

    def __init__(
        self, agent: Bash, model: Model, shell: WorkShell, deadline: Deadline, record: Recorder
    ) -> None:
        self._agent, self._model, self._shell = agent, model, shell
        self._deadline, self._record = deadline, record
        self._messages: list[Message] = []
        self._told = 0
        """Of the messages, how many the model has seen."""
        self._commands = 0

    async def hold(self, instruction: str, skills: str) -> StopReason:
        system = self._agent._system
        self._messages = [
            Message(role="system", content=f"{system}\n\n{SKILLS}\n{skills}" if skills else system),
            Message(role="user", content=instruction),
        ]
        try:
            return await self._loop()
        finally:
            for message in self._messages[self._told :]:
                self._record.message(message)  # what no call has carried to the record

    async def _loop(self) -> StopReason:
        nudges = 0
        for _ in range(self._agent._max_turns):
            if self._deadline.passed:
                return StopReason.TIMEOUT
            reply = await self._ask()
            if reply is None:
                return StopReason.CONTEXT_OVERFLOW
            commands = list(self._commands_of(reply.message))
            if not commands:
                said_so = self._agent._native or DONE.search(reply.message.content)
                if said_so or nudges == NUDGES:
                    return StopReason.COMPLETED
                nudges += 1
                self._messages.append(Message(role="user", content=NUDGE))
                continue
            nudges = 0
            for command in commands:
                self._messages.append(await self._observe(command))
        return StopReason.MAX_TURNS

    # ---------------------------------------------------------------- the model

    async def _ask(self) -> ModelReply | None:
        """The reply; None where the conversation does not fit even without its older output."""
        while True:
            try:
                reply = await self._model.complete(self._call())
            except CallRefused as exc:
                if exc.kind != "context_overflow":
                    raise
                if not self._make_room():
                    return None
                continue
            self._messages.append(reply.message)
            self._told = len(self._messages)
            return reply

    def _call(self) -> ModelCall:
        return ModelCall(
            dialect="direct",
            model=self._model.name,
            messages=tuple(self._messages),
            tools=(TOOL,) if self._agent._native else (),
        )

    def _make_room(self) -> bool:
        """Leave out the older half of what commands printed; False where there is none left."""
        printed = [
            at
            for at, message in enumerate(self._messages[2:], start=2)
            if message.role in ("tool", "user") and len(message.content) > 4 * len(LEFT_OUT)
        ]
        for at in printed[: (len(printed) + 1) // 2]:
            self._messages[at] = replace(self._messages[at], content=LEFT_OUT)
        return bool(printed)

    # ---------------------------------------------------------------- its commands

    def _commands_of(self, message: Message) -> Iterator[Command]:
        if not self._agent._native:
            blocks = BLOCK.findall(message.content)
            if len(blocks) == 1:
                yield Command("", blocks[0])
            elif blocks:
                yield Command("", "", f"There were {len(blocks)} commands; give exactly one.")
            return
        for call in message.tool_calls:
            yield _command_of(call.id, call.name, call.arguments)

    async def _observe(self, command: Command) -> Message:
        """Run it, and say what came of it."""
        said = command.trouble or await self._run(command.text)
        if self._agent._native:
            return Message(role="tool", tool_call_id=command.call_id, content=said)
        return Message(role="user", content=said)

    async def _run(self, text: str) -> str:
        if len(text.encode(errors="replace")) > COMMAND_LIMIT_BYTES or "\0" in text:
            return f"Not run: a command has at most {COMMAND_LIMIT_BYTES} bytes, and no NUL."
        limit_s = min(self._agent._command_timeout_s, max(0.1, self._deadline.left_s))
        result = await self._shell.run(text, timeout_s=limit_s)
        self._commands += 1
        return self._shown(result, limit_s)

    def _shown(self, result: ExecResult, limit_s: float) -> str:
        text = result.stdout.decode(errors="replace")
        if len(text) > self._agent._output_chars:
            self._record.artifact(f"output-{self._commands}.txt", result.stdout)
        ending = f"[exit code {result.exit_code}]"
        if result.timed_out:
            ending = f"[ended after {limit_s:g} s, its time limit]"
        return f"{clip(text, self._agent._output_chars).rstrip()}\n{ending}".lstrip("\n")


def _command_of(call_id: str, name: str, arguments: str) -> Command:
    if name != "bash":
        return Command(call_id, "", f"There is no tool {name!r}; the one there is is bash.")
    try:
        read = json.loads(arguments)
        command = read["command"]
    except (ValueError, TypeError, KeyError, RecursionError):
        return Command(call_id, "", 'Not run: the arguments must be {"command": "…"}.')
    if not isinstance(command, str):
        return Command(call_id, "", "Not run: the command must be a string.")
    return Command(call_id, command)
