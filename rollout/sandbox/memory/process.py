"""Processes as asyncio tasks: groups, signals, descriptors, a table with a limit.

A signal's default action cancels the task. A machine can stand still as a whole; stopping and
continuing one process is not modelled.
"""

import asyncio
import errno
import os
import signal
import types
from collections import deque
from collections.abc import Awaitable, Callable, Generator, Mapping
from contextlib import suppress
from typing import Any

from rollout.sandbox.memory.files import READ, FileSystem, Node, Special, Who, error
from rollout.sandbox.memory.streams import CHUNK_BYTES, Pipe, Stream, open_stream

Main = Callable[["Process"], Awaitable[int]]
Program = Callable[["Process", list[str]], Awaitable[int]]

HARMLESS = frozenset(
    {
        signal.SIGCHLD,
        signal.SIGCONT,
        signal.SIGURG,
        signal.SIGWINCH,
        signal.SIGSTOP,
        signal.SIGTSTP,
        signal.SIGTTIN,
        signal.SIGTTOU,
    }
)
_INHERITED = {"/dev/stdin": 0, "/dev/stdout": 1, "/dev/stderr": 2}
LAST_SIGNAL = 64
FIRST_PID = 2
"""1 is init, which is no process here but counts against the limit as one."""


class Machine:
    """The processes of one sandbox and the tree they share."""

    def __init__(
        self,
        files: FileSystem,
        programs: Mapping[str, "Program"],
        max_processes: int | None = None,
    ) -> None:
        self.files = files
        self.programs = programs
        self.table: dict[int, Process] = {}
        self.pids_hit = False
        self._max_processes = max_processes
        self._next_pid = FIRST_PID
        self._fifos: dict[int, tuple[Node, Pipe]] = {}
        self._going = asyncio.Event()
        self._going.set()

    @property
    def frozen(self) -> bool:
        return not self._going.is_set()

    def freeze(self, frozen: bool) -> None:
        """No process makes a step while it is frozen; SIGKILL works."""
        if frozen:
            self._going.clear()
        else:
            self._going.set()

    async def going(self) -> None:
        await self._going.wait()

    def spawn(
        self,
        main: Main,
        *,
        parent: "Process | None" = None,
        who: Who | None = None,
        env: Mapping[str, str] | None = None,
        cwd: str = "/",
        fds: Mapping[int, Stream] | None = None,
    ) -> "Process":
        """Start a process; what is not given is the parent's. EAGAIN at the limit."""
        if self._max_processes is not None and len(self.table) + 1 >= self._max_processes:
            self.pids_hit = True
            raise error(errno.EAGAIN)
        process = Process(self, self._next_pid, parent)
        self._next_pid += 1
        if parent is None:
            process.cwd = cwd
        process.who = who or process.who
        process.env = dict(env) if env is not None else process.env
        for number, stream in (parent.fds if fds is None and parent else fds or {}).items():
            process.fds[number] = stream.hold()
        self.table[process.pid] = process
        process.run(main)
        return process

    def group(self, pgid: int) -> "list[Process]":
        return [process for process in self.table.values() if process.pgid == pgid]

    async def kill(self, processes: "list[Process]") -> None:
        """SIGKILL all of them and wait until they are gone."""
        for process in processes:
            process.signal(signal.SIGKILL)
        for process in processes:
            await process.wait()

    async def kill_all(self) -> None:
        while self.table:
            await self.kill(list(self.table.values()))

    def fifo(self, node: Special) -> Pipe:
        """The bytes in flight of a named pipe."""
        _, pipe = self._fifos.setdefault(id(node), (node, Pipe()))
        return pipe


class Process:
    """One running program. Leader of its own group when it has no parent."""

    def __init__(self, machine: Machine, pid: int, parent: "Process | None") -> None:
        self.machine = machine
        self.pid = pid
        self.ppid = parent.pid if parent else 0
        self.pgid: int = parent.pgid if parent else pid
        self.who: Who = parent.who if parent else Who()
        self.env: dict[str, str] = dict(parent.env) if parent else {}
        self.cwd: str = parent.cwd if parent else "/"
        self.argv: list[str] = parent.argv if parent else []
        self.fds: dict[int, Stream] = {}
        self.ignored: set[int] = set(parent.ignored) if parent else set()
        self.caught: set[int] = set()
        """Signals that a trap of this process handles; they wait in `pending`."""
        self.pending: deque[int] = deque()
        self.exit_code: int | None = None
        self._deadly = 0
        """The signal that ended it, or is about to."""
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._task: asyncio.Task[int] | None = None

    @property
    def files(self) -> FileSystem:
        return self.machine.files

    # ------------------------------------------------------------ life

    def run(self, main: Main) -> None:
        self._task = asyncio.create_task(self._live(main), name=f"memory-pid-{self.pid}")
        self._task.add_done_callback(self._end)

    async def _live(self, main: Main) -> int:
        try:
            return await self._in_steps(main(self))
        except BrokenPipeError:
            return 128 + signal.SIGPIPE
        except OSError as exc:
            with suppress(OSError):
                await self.complain(exc)
            return 1

    @types.coroutine
    def _in_steps(self, work: Awaitable[int]) -> Generator[Any, None, int]:
        """Await `work`, but between two of its steps wait while the machine is frozen."""
        steps = work.__await__()
        error: BaseException | None = None
        while True:
            while self.machine.frozen and self._deadly != signal.SIGKILL:
                try:
                    yield from self.machine.going().__await__()
                except asyncio.CancelledError as exc:
                    error = exc
            try:
                waiting = steps.send(None) if error is None else steps.throw(error)
            except StopIteration as end:
                return int(end.value)
            error = None
            try:
                yield waiting
            except BaseException as exc:  # noqa: BLE001 - whatever it is, it is for `work`
                error = exc

    def _end(self, task: asyncio.Task[int]) -> None:
        if task.cancelled():
            self.exit_code = 128 + (self._deadly or signal.SIGKILL)
        elif (exc := task.exception()) is not None:
            self.exit_code = 128 + signal.SIGSEGV
            self._report_crash(exc)
        else:
            self.exit_code = task.result() & 0xFF
        for stream in self.fds.values():
            stream.release()
        self.fds.clear()
        self.machine.table.pop(self.pid, None)
        for process in self.machine.table.values():
            if process.ppid == self.pid:
                process.ppid = 1
        self._ended.set()

    def _report_crash(self, exc: BaseException) -> None:
        context = {"message": f"program {self.argv[:1]} crashed", "exception": exc}
        asyncio.get_running_loop().call_exception_handler(context)

    async def wait(self) -> int:
        await self._ended.wait()
        assert self.exit_code is not None
        return self.exit_code

    # ------------------------------------------------------------ signals

    def signal(self, number: int) -> None:
        """Deliver it: ignored, handed to a trap, or the end of the process."""
        if number == 0 or self.exit_code is not None:
            return
        if number != signal.SIGKILL:
            if number in self.ignored:
                return
            if number in self.caught:
                self.pending.append(number)
                self._changed.set()
                return
            if number in HARMLESS:
                return
        self._deadly = number
        if self._task is not None:
            self._task.cancel()

    async def wait_or_signal(self, other: "Process") -> bool:
        """Wait for `other` to end; False if a trapped signal came first."""
        self._changed.clear()
        if self.pending:
            return False
        ended = asyncio.ensure_future(other.wait())
        changed = asyncio.ensure_future(self._changed.wait())
        try:
            await asyncio.wait({ended, changed}, return_when=asyncio.FIRST_COMPLETED)
            return ended.done()
        finally:
            ended.cancel()
            changed.cancel()

    # ------------------------------------------------------------ input and output

    def stream(self, number: int) -> Stream:
        if number not in self.fds:
            raise error(errno.EBADF, str(number))
        return self.fds[number]

    async def read_all(self, number: int = 0) -> bytes:
        stream, chunks = self.stream(number), list[bytes]()
        while chunk := await stream.read(CHUNK_BYTES):
            chunks.append(chunk)
        return b"".join(chunks)

    async def write(self, data: bytes | str, number: int = 1) -> None:
        await self.stream(number).write(to_bytes(data))

    async def complain(self, problem: OSError | str, name: str = "") -> None:
        """One line on stderr, as a program of this name would print it."""
        name = name or (self.argv[0].rpartition("/")[2] if self.argv else "sh")
        text = describe(problem) if isinstance(problem, OSError) else problem
        if 2 in self.fds:
            await self.write(f"{name}: {text}\n", 2)

    def open(
        self, path: str, *, write: bool = False, append: bool = False, truncate: bool = False
    ) -> Stream:
        """Open by name with this process's rights; writing makes the file."""
        inherited = _INHERITED.get(path)
        if inherited is not None:
            return self.stream(inherited)
        node = self.files.open_file(
            path, cwd=self.cwd, who=self.who, write=write, create=write, truncate=truncate
        )
        if isinstance(node, Special) and node.kind == "fifo":
            reader, writer = self.machine.fifo(node).ends()
            return writer if write else reader
        return open_stream(self.files, node, append=append)

    async def read_path(self, path: str) -> bytes:
        """A whole file, or stdin for `-`."""
        if path == "-":
            return await self.read_all()
        stream = self.open(path).hold()
        chunks = []
        try:
            while chunk := await stream.read(CHUNK_BYTES):
                chunks.append(chunk)
        finally:
            stream.release()
        return b"".join(chunks)

    async def write_path(self, path: str, data: bytes) -> None:
        stream = self.open(path, write=True, truncate=True).hold()
        try:
            await stream.write(data)
        finally:
            stream.release()

    def node(self, path: str, *, follow: bool = True) -> Node:
        return self.files.node(path, cwd=self.cwd, who=self.who, follow=follow)

    def may(self, node: Node, wanted: int = READ) -> bool:
        try:
            self.files.allow(node, self.who, wanted)
        except PermissionError:
            return False
        return True


def describe(problem: OSError) -> str:
    reason = problem.strerror or str(problem)
    return f"{problem.filename}: {reason}" if problem.filename else reason


def to_bytes(text: bytes | str) -> bytes:
    return text if isinstance(text, bytes) else os.fsencode(text)


def to_text(data: bytes | bytearray) -> str:
    """Any bytes as text that `to_bytes` turns back into the same bytes."""
    return os.fsdecode(bytes(data))
