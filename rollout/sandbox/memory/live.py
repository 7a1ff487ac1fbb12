"""A process of the in-process engine to talk to, as `base.Process` has it."""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rollout.aio import shielded
from rollout.errors import SandboxError
from rollout.sandbox.base import OUTPUT_LIMIT_BYTES, ExecResult
from rollout.sandbox.memory.process import LAST_SIGNAL, Process
from rollout.sandbox.memory.streams import Pipe, Stream

_HELD_BYTES = 1 << 20


class Held:
    """What a process said and nobody has taken yet. Full, it makes the writer wait."""

    def __init__(self) -> None:
        self._chunks: deque[tuple[str, bytes]] = deque()
        self._size_bytes = 0
        self._changed = asyncio.Event()
        self._over = False
        self.truncated = False

    async def put(self, stream: str, data: bytes) -> None:
        while self._size_bytes >= _HELD_BYTES and not self._over:
            await self._changed.wait()
        if data and not self._over:
            self._chunks.append((stream, data))
            self._size_bytes += len(data)
            self._wake()
        await asyncio.sleep(0)

    def end(self) -> None:
        """From now on what is written goes nowhere."""
        self._over = True
        self._wake()

    async def take(self) -> tuple[str, bytes] | None:
        """The next piece; None after the last."""
        while not self._chunks:
            if self._over:
                return None
            await self._changed.wait()
        stream, data = self._chunks.popleft()
        self._size_bytes -= len(data)
        self._wake()
        return stream, data

    def _wake(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()


class Outlet(Stream):
    """A process's stdout or stderr."""

    def __init__(self, held: Held, name: str, limit_bytes: int | None) -> None:
        super().__init__()
        self._held = held
        self._name = name
        self._left_bytes = limit_bytes

    async def write(self, data: bytes) -> None:
        if self._left_bytes is not None:
            self._held.truncated = self._held.truncated or len(data) > self._left_bytes
            data = data[: self._left_bytes]
            self._left_bytes -= len(data)
        await self._held.put(self._name, data)


class LiveProcess:
    """See `base.Process`. `check` raises what has happened to its sandbox."""

    def __init__(
        self, limit_bytes: int | None, *, timeout_s: float, check: Callable[[], None]
    ) -> None:
        self._held = Held()
        stdin, self._stdin = Pipe().ends()
        self._stdin.hold()
        self.streams = (
            stdin,
            Outlet(self._held, "stdout", limit_bytes),
            Outlet(self._held, "stderr", limit_bytes),
        )
        self._timeout_s = timeout_s
        self._check = check
        self._error: SandboxError | None = None
        self._timed_out = False
        self._duration_s = 0.0
        self._stdin_open = True
        self._process: Process | None = None
        self._watch: asyncio.Task[None] | None = None

    def begin(self, process: Process) -> None:
        self._process = process
        self._watch = asyncio.create_task(self._to_the_end(process))

    async def _to_the_end(self, process: Process) -> None:
        started_s = time.monotonic()
        try:
            async with asyncio.timeout(self._timeout_s):
                await process.wait()
        except TimeoutError:
            self._timed_out = True
            if process.machine.frozen:
                self._error = SandboxError(f"process {self.pid}: its sandbox is suspended")
            await shielded(process.machine.kill(process.machine.group(process.pgid)))
            await process.wait()
        finally:
            self._duration_s = time.monotonic() - started_s
            try:
                self._check()
            except SandboxError as exc:
                self._error = self._error or exc
            self._shut_stdin()
            self._held.end()

    @property
    def pid(self) -> int:
        return 0 if self._process is None else self._process.pid

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._process is not None and self._process.exit_code is None:
            self._error = SandboxError(f"process {self.pid}: hung up before its end")
            for process in self._process.machine.group(self._process.pgid):
                process.signal(9)
            self._held.end()

    # ------------------------------------------------------------ in

    async def write_stdin(self, data: bytes) -> None:
        if self._stdin_open:
            try:
                await self._stdin.write(data)
            except BrokenPipeError:
                self._shut_stdin()

    async def close_stdin(self) -> None:
        self._shut_stdin()

    def _shut_stdin(self) -> None:
        if self._stdin_open:
            self._stdin_open = False
            self._stdin.release()

    async def resize(self, rows: int, cols: int) -> None:
        """No process here has a terminal."""

    async def signal(self, number: int) -> None:
        if not 1 <= number <= LAST_SIGNAL:
            raise SandboxError(f"{number} is no signal")
        if self._process is not None and self._process.exit_code is None:
            for process in self._process.machine.group(self._process.pgid):
                process.signal(number)

    # ------------------------------------------------------------ out

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        taken = await self._held.take()
        if taken is not None:
            return taken
        if self._error is not None:
            raise self._error
        raise StopAsyncIteration

    async def wait(self) -> ExecResult:
        rest = {"stdout": bytearray(), "stderr": bytearray()}
        truncated = False
        async for stream, data in self:
            room = OUTPUT_LIMIT_BYTES - len(rest[stream])
            rest[stream] += data[:room]
            truncated = truncated or len(data) > room
        assert self._process is not None
        assert self._process.exit_code is not None
        return ExecResult(
            exit_code=self._process.exit_code,
            stdout=bytes(rest["stdout"]),
            stderr=bytes(rest["stderr"]),
            truncated=truncated or self._held.truncated,
            timed_out=self._timed_out,
            duration_s=self._duration_s,
        )
