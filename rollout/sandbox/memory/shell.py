"""Runs the tree of a shell script as one process and its children."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable, Mapping

from rollout.sandbox.memory import execute, expand, redirects
from rollout.sandbox.memory.arithmetic import ArithmeticFault, evaluate
from rollout.sandbox.memory.conditions import ConditionFault, holds
from rollout.sandbox.memory.control import (
    ON_EXIT,
    ExitShell,
    LeaveLoop,
    ReturnFromFunction,
    stays,
)
from rollout.sandbox.memory.parser import parse
from rollout.sandbox.memory.process import Process, describe, to_text
from rollout.sandbox.memory.streams import Pipe, Sink, Stream
from rollout.sandbox.memory.syntax import (
    AndOr,
    ArithmeticCommand,
    Case,
    Command,
    Conditional,
    For,
    Function,
    Group,
    If,
    Loop,
    Pipeline,
    Redirect,
    Sequence,
    Simple,
    Word,
)
from rollout.sandbox.memory.variables import Variables
from rollout.sandbox.memory.words import ShellSyntaxError

Builtin = Callable[["Shell", list[str]], Awaitable[int]]

CAPTURE_LIMIT_BYTES = 64 << 20
"""Of one command substitution."""
MAX_CALLS_DEEP = 100


class Shell(Variables):
    """One shell process. A subshell is a copy of it in a process of its own."""

    def __init__(
        self,
        process: Process,
        builtins: Mapping[str, Builtin],
        name: str = "sh",
        positional: Iterable[str] = (),
    ) -> None:
        super().__init__(process, name, positional)
        self.builtins = builtins
        self.functions: dict[str, Command] = {}
        self.traps: dict[int, str] = {}
        self.jobs: dict[int, Process] = {}
        self._unchecked = 0
        """How many enclosing conditions keep `set -e` from acting."""
        self._calls_deep = 0

    # ------------------------------------------------------------ life

    async def run_script(self, script: str) -> int:
        """Run `script` to its end, its EXIT trap included."""
        return await self._to_the_end(lambda: self.evaluate(script))

    async def evaluate(self, script: str) -> int:
        try:
            tree = parse(script)
        except ShellSyntaxError as exc:
            await self.complain(f"Syntax error: {exc}")
            raise ExitShell(2) from exc
        return await self.run(tree)

    async def _to_the_end(self, body: Callable[[], Awaitable[int]]) -> int:
        code = await self._ending(body)
        action = self.traps.pop(ON_EXIT, "")
        if action:
            self.status = code

            async def on_exit() -> int:
                await self.evaluate(action)
                return code

            code = await self._ending(on_exit)
        return code

    async def _ending(self, body: Callable[[], Awaitable[int]]) -> int:
        try:
            return await body()
        except ExitShell as exc:
            return exc.code
        except (ReturnFromFunction, LeaveLoop):
            return self.status
        except (expand.UnsetParameter, ArithmeticFault) as exc:
            await self.complain(str(exc))
            return 2
        except RecursionError:
            await self.complain("nested too deeply")
            return 2

    def _fork(
        self, body: Callable[["Shell"], Awaitable[int]], fds: Mapping[int, Stream] | None = None
    ) -> Process:
        """A child process that runs `body` in a copy of this shell as it is now."""
        copy = Shell.__new__(Shell)
        copy.__dict__.update(self.__dict__)
        copy.positional = list(self.positional)
        copy.variables = dict(self.variables)
        copy.exported = set(self.exported)
        copy.functions = dict(self.functions)
        copy.local_scopes = [dict(scope) for scope in self.local_scopes]
        copy.options = set(self.options)
        copy.traps = {number: action for number, action in self.traps.items() if not action}
        copy.jobs = {}

        async def main(process: Process) -> int:
            copy.process = process
            return await copy._to_the_end(lambda: body(copy))

        return self._spawn(main, fds)

    def _spawn(
        self,
        main: Callable[[Process], Awaitable[int]],
        fds: Mapping[int, Stream] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> Process:
        return self.process.machine.spawn(main, parent=self.process, fds=fds, env=env)

    async def complain(self, text: str) -> None:
        await self.process.complain(text, self.name)

    async def take_signals(self) -> None:
        """Run the traps of signals that came since the last command."""
        while self.process.pending:
            action = self.traps.get(self.process.pending.popleft(), "")
            status = self.status
            await self.evaluate(action)
            self.status = status

    async def capture(self, body: Sequence) -> str:
        """What `body` prints, without the newlines at its end."""
        sink = Sink(CAPTURE_LIMIT_BYTES)
        child = self._fork(lambda shell: shell.run(body), {**self.process.fds, 1: sink})
        self.status = await child.wait()
        return to_text(sink.take().replace(b"\0", b"")).rstrip("\n")

    # ------------------------------------------------------------ lists and pipelines

    async def run(self, sequence: Sequence) -> int:
        for chain, background in sequence.items:
            if background:
                self._start_in_background(chain)
                self.status = 0
            else:
                await self._and_or(chain)
        return self.status

    def _start_in_background(self, chain: AndOr) -> None:
        quiet = self.process.open("/dev/null")
        job = self._fork(
            lambda shell: shell._and_or(chain, last=True), {**self.process.fds, 0: quiet}
        )
        self.jobs[job.pid] = job
        self.last_background = job.pid

    async def _and_or(self, chain: AndOr, *, last: bool = False) -> int:
        last = last and not chain.rest
        await self._checked_pipeline(chain.first, checked=not chain.rest, last=last)
        for index, (op, pipeline) in enumerate(chain.rest, start=1):
            if (self.status == 0) == (op == "&&"):
                await self._checked_pipeline(pipeline, checked=index == len(chain.rest))
        return self.status

    async def _checked_pipeline(
        self, pipeline: Pipeline, *, checked: bool, last: bool = False
    ) -> None:
        """Run it; a failure ends the shell under `set -e` unless something looks at the status."""
        checked = checked and not pipeline.negate
        self._unchecked += not checked
        try:
            if len(pipeline.commands) == 1:
                self.status = await self._command(pipeline.commands[0], last=last)
            else:
                self.status = await self._piped(pipeline)
        finally:
            self._unchecked -= not checked
        if pipeline.negate:
            self.status = int(self.status == 0)
        if self.status and checked and not self._unchecked and "e" in self.options:
            plain = isinstance(pipeline.commands[-1], Simple | Conditional | ArithmeticCommand)
            forked = isinstance(pipeline.commands[-1], Group) and pipeline.commands[-1].fork
            if plain or forked or len(pipeline.commands) > 1:
                raise ExitShell(self.status)

    async def _piped(self, pipeline: Pipeline) -> int:
        stages: list[Process] = []
        entry: Stream | None = None
        for index, command in enumerate(pipeline.commands):
            fds = dict(self.process.fds)
            if entry is not None:
                fds[0] = entry
            if index + 1 < len(pipeline.commands):
                entry, fds[1] = Pipe().ends()
            stages.append(self._fork(_stage(command), fds))
        codes = [await stage.wait() for stage in stages]
        await self.take_signals()
        failed = [code for code in codes if code]
        return failed[-1] if failed and "pipefail" in self.options else codes[-1]

    # ------------------------------------------------------------ commands

    async def _command(self, command: Command, *, last: bool = False) -> int:
        """The status of one command. `last`: nothing follows it in this process."""
        if isinstance(command, Simple):
            return await self._simple(command, last)
        if isinstance(command, Function):
            self.functions[command.name] = command.body
            return 0
        try:
            async with redirects.redirected(self, self.process, command.redirects):
                return await self._compound(command)
        except redirects.CannotRedirect as exc:
            await self.complain(str(exc))
            return 2

    async def _compound(self, command: Command) -> int:
        match command:
            case If():
                return await self._if(command)
            case Loop():
                return await self._loop(command)
            case For():
                return await self._for(command)
            case Case():
                return await self._case(command)
            case Group(body=body, fork=False):
                return await self.run(body)
            case Group(body=body):
                child = self._fork(lambda shell: shell.run(body))
                return await self._foreground(child)
            case Conditional():
                return await self._conditional(command)
            case ArithmeticCommand():
                await asyncio.sleep(0)
                return int(not self._number(await expand.text(self, command.word)))
        raise AssertionError(f"no such command: {command}")

    async def _holds(self, test: Sequence) -> bool:
        self._unchecked += 1
        try:
            return await self.run(test) == 0
        finally:
            self._unchecked -= 1

    async def _if(self, command: If) -> int:
        for test, body in command.branches:
            if await self._holds(test):
                return await self.run(body)
        return 0 if command.otherwise is None else await self.run(command.otherwise)

    async def _loop(self, command: Loop) -> int:
        status = 0
        while await self._holds(command.test) != command.until:
            try:
                status = await self.run(command.body)
            except LeaveLoop as leave:
                status = 0
                if not stays(leave):
                    break
        return status

    async def _for(self, command: For) -> int:
        status = 0
        values = self.positional[:]
        if command.words is not None:
            values = await expand.fields(self, command.words)
        for value in values:
            self.put(command.name, value)
            try:
                status = await self.run(command.body)
            except LeaveLoop as leave:
                status = 0
                if not stays(leave):
                    break
        return status

    async def _case(self, command: Case) -> int:
        subject = await expand.text(self, command.word)
        for patterns, body in command.branches:
            for pattern in patterns:
                if re.fullmatch(await expand.pattern(self, pattern), subject):
                    self.status = 0
                    return await self.run(body)
        return 0

    async def _conditional(self, command: Conditional) -> int:
        await asyncio.sleep(0)
        words: list[str] = []
        for index, word in enumerate(command.words):
            previous = words[-1] if index else ""
            expanding = expand.pattern if previous in ("=", "==", "!=") else expand.text
            words.append(await expanding(self, word))
        try:
            return int(not holds(self.process, words, patterns=True))
        except ConditionFault as exc:
            await self.complain(str(exc))
            return 2

    def _number(self, text: str) -> int:
        return evaluate(text, lambda name: self.get(name) or "", self.put)

    # ------------------------------------------------------------ simple commands

    async def _simple(self, command: Simple, last: bool) -> int:
        await asyncio.sleep(0)
        await self.take_signals()
        before, self.status = self.status, 0
        try:
            words = await self._with_status(before, command.words)
            if "x" in self.options and words:
                await self.process.write(f"+ {' '.join(words)}\n", 2)
            if words[:1] == ["exec"]:
                return await self._replace(words[1:], command.redirects)
            async with redirects.redirected(self, self.process, command.redirects):
                return await self._dispatch(command, words, last)
        except redirects.CannotRedirect as exc:
            await self.complain(str(exc))
            return 2
        except BlockingIOError:
            await self.complain("Cannot fork")
            raise ExitShell(2) from None

    async def _with_status(self, status: int, words: tuple[Word, ...]) -> list[str]:
        """Expand while `$?` still tells of the command before."""
        self.status = status
        return await expand.fields(self, words)

    async def _dispatch(self, command: Simple, words: list[str], last: bool) -> int:
        if not words:
            self.status = 0
            for name, word in command.assigns:
                self.put(name, await expand.text(self, word))
            return self.status
        assigned = {name: await expand.text(self, word) for name, word in command.assigns}
        function = self.functions.get(words[0])
        builtin = self.builtins.get(words[0])
        if function is None and builtin is None:
            return await self.external(words, assigned, last=last)
        kept = {name: self.variables.get(name) for name in assigned}
        self.variables.update(assigned)
        try:
            if function is not None:
                return await self._call(function, words)
            assert builtin is not None
            return await self.call_builtin(builtin, words)
        finally:
            self.restore(kept)

    async def call_builtin(self, builtin: Builtin, words: list[str]) -> int:
        try:
            return await builtin(self, words)
        except (BrokenPipeError, BlockingIOError):
            raise
        except OSError as exc:
            await self.complain(f"{words[0]}: {describe(exc)}")
            return 1
        except (IndexError, ValueError) as exc:
            await self.complain(f"{words[0]}: bad arguments {words[1:]}: {exc}")
            return 2

    async def external(
        self, words: list[str], assigned: Mapping[str, str], *, last: bool = False
    ) -> int:
        """Run a program: in a child, or in this very process if it has nothing else to do."""
        env = {**self.environment(), **assigned}
        if last and ON_EXIT not in self.traps:
            self.process.env = env
            return await execute.run(self.process, words, shell="sh")
        child = self._spawn(lambda process: execute.run(process, words, shell="sh"), env=env)
        return await self._foreground(child)

    async def _foreground(self, child: Process) -> int:
        code = await child.wait()
        await self.take_signals()
        return code

    async def _call(self, body: Command, words: list[str]) -> int:
        if self._calls_deep >= MAX_CALLS_DEEP:
            raise RecursionError
        outer, self.positional = self.positional, words[1:]
        self.local_scopes.append({})
        self._calls_deep += 1
        try:
            return await self._command(body)
        except ReturnFromFunction as exc:
            return exc.code
        finally:
            self._calls_deep -= 1
            self.positional = outer
            self.restore(self.local_scopes.pop())

    async def _replace(self, words: list[str], changes: tuple[Redirect, ...]) -> int:
        """`exec`: redirections stay, and a program takes this process over."""
        for redirect in changes:
            await redirects.apply(self, self.process, redirect)
        if not words:
            return 0
        self.process.env = self.environment()
        self.traps.clear()
        raise ExitShell(await execute.run(self.process, words, shell="sh"))


def _stage(command: Command) -> Callable[[Shell], Awaitable[int]]:
    return lambda shell: shell._command(command, last=True)
