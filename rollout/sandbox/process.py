"""A process of a sandbox: for the whole of its output, or as a stream to talk to."""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from types import TracebackType
from typing import Self

from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox import wire
from rollout.sandbox.base import OUTPUT_LIMIT_BYTES, ExecResult
from rollout.sandbox.connections import Connections
from rollout.sandbox.link import GRACE_S, Link, ok_or_error, unexpected

STREAMS = {int(wire.Out.STDOUT): "stdout", int(wire.Out.STDERR): "stderr"}
SIGNAL_TIMEOUT_S = 10.0
_HELD_BYTES = 1 << 20
_HELD_CHUNKS = 4096
"""An init may send a byte in each frame; what a chunk costs beside its bytes is bounded, too."""
START_TIMEOUT_S = 10.0
"""How long an init may take to say that a process runs, however long that may run."""
_STDOUT, _STDERR = STREAMS
_EXIT, _ERROR, _STARTED = int(wire.Out.EXIT), int(wire.Out.ERROR), int(wire.Out.STARTED)


class Output:
    """All a process says, up to its end and within what the host asked for."""

    __slots__ = ("_limit_bytes", "_seen", "exit")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        # Joined as they come: frames of a byte each would cost fifty times what they hold.
        self._seen = {_STDOUT: bytearray(), _STDERR: bytearray()}
        self.exit: wire.Exit | None = None

    def on_frame(self, kind: int, payload: bytes) -> bool:
        if kind == _EXIT:
            self.exit = wire.read_exit(payload)
            return True
        if kind == _ERROR:
            raise SandboxError(wire.read_failure(payload).text)
        if kind not in self._seen or not payload:
            raise unexpected(kind, payload)
        self._seen[kind] += payload
        if len(self._seen[kind]) > self._limit_bytes:
            raise SandboxError(f"init sent more output than the {self._limit_bytes} bytes allowed")
        return False

    def result(self, duration_s: float) -> ExecResult:
        assert self.exit is not None
        return ExecResult(
            exit_code=self.exit.code,
            stdout=bytes(self._seen[_STDOUT]),
            stderr=bytes(self._seen[_STDERR]),
            truncated=self.exit.truncated,
            timed_out=self.exit.timed_out,
            duration_s=duration_s,
        )


def timeout_ms(timeout_s: float) -> int:
    """Whole milliseconds for the wire, where 0 would mean no timeout at all."""
    return max(1, int(min(timeout_s, 4_000_000.0) * 1000))


def stdin_frames(stdin: bytes) -> Iterable[bytes]:
    yield from wire.frames(wire.In.STDIN, stdin)
    yield wire.frame(wire.In.STDIN_EOF)


async def run_process(
    socket_path: str,
    connections: Connections,
    argv: Sequence[str | bytes],
    *,
    stdin: bytes,
    env: Mapping[str, str],
    cwd: str,
    user: str,
    timeout_s: float,
    output_limit_bytes: int,
) -> ExecResult:
    """One process from start to end. Cancelled, it hangs up, which kills the process's group."""
    started = time.perf_counter()
    request = wire.exec_request(
        argv,
        env=env,
        cwd=cwd,
        user=user,
        timeout_ms=timeout_ms(timeout_s),
        output_limit_bytes=output_limit_bytes,
        flags=wire.ExecFlag.STDIN if stdin else wire.ExecFlag.KEEP,
    )
    output = Output(output_limit_bytes)
    link = Link(f"exec {argv[0]!r}", output.on_frame, deadline_s=timeout_s + GRACE_S)
    try:
        if stdin:
            await link.start(socket_path, request, stdin_frames(stdin))
        else:
            await link.start(socket_path, request, connection=connections.take(socket_path))
        await link.finished()
    except BaseException:
        link.close()
        raise
    if stdin:
        link.close()
    elif (connection := link.hand_over()) is not None:
        connections.keep(socket_path, connection)
    return output.result(time.perf_counter() - started)


class Process:
    """A live process: iterate it for `("stdout" | "stderr", bytes)`, then ask `wait`.

    What is not taken is held up to 1 MiB; then its pipes are no longer read, and it waits. Leaving
    the `async with` block, or `close`, hangs up: the process group is killed if it still runs.
    """

    def __init__(
        self,
        doing: str,
        *,
        timeout_s: float,
        output_limit_bytes: int | None,
        telling: Callable[[], AbstractAsyncContextManager[None]] = nullcontext,
    ) -> None:
        """`telling` may say more about an error that leaves it."""
        self._doing = doing
        self._telling = telling
        self._limit_bytes = output_limit_bytes
        self._link = Link(doing, self._on_frame, deadline_s=timeout_s + GRACE_S)
        self._link.on_end(self._over)
        self._chunks: deque[tuple[str, bytes]] = deque()
        self._held_bytes = 0
        self._seen = {_STDOUT: 0, _STDERR: 0}
        self._news: asyncio.Future[None] | None = None
        self._exit: wire.Exit | None = None
        self._socket_path = ""
        self._started_s = time.perf_counter()
        self._ended_s = 0.0
        self.pid = 0
        """Its number inside the sandbox."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    async def begin(self, socket_path: str, request: bytes) -> None:
        """Wait until it runs; SandboxError if its user or folder is missing."""
        self._socket_path = socket_path
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._link.start(socket_path, request)
                while not self.pid and not self._link.over:
                    await self._wait_for_news()
            if not self.pid:
                await self._link.finished()
        except TimeoutError as exc:
            self.close()
            raise SandboxLost(
                f"{self._doing}: no answer from its init within {START_TIMEOUT_S:g} s"
            ) from exc
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Hang up; idempotent."""
        self._link.fail(SandboxError(f"{self._doing}: hung up before its end"))
        self._link.close()

    # -- in

    async def write_stdin(self, data: bytes) -> None:
        """Send `data`, waiting while the process does not read. Dropped once it has ended."""
        for piece in wire.frames(wire.In.STDIN, data):
            self._link.send(piece)
            await self._link.drain()

    async def close_stdin(self) -> None:
        """The end of its input; on a terminal, what ^D does."""
        self._link.send(wire.frame(wire.In.STDIN_EOF))
        await self._link.drain()

    async def resize(self, rows: int, cols: int) -> None:
        """Tell a process with a terminal the new size of its window; else nothing happens."""
        self._link.send(wire.resize(rows, cols))

    async def signal(self, number: int) -> None:
        """Send a signal to its process group; nothing happens once it has ended."""
        request = wire.signal_request(self.pid, number)
        doing = f"signal {number} to {self._doing}"
        if self._link.over:
            return
        async with self._telling(), Link(doing, ok_or_error, deadline_s=SIGNAL_TIMEOUT_S) as link:
            await link.start(self._socket_path, request)
            await link.finished()

    # -- out

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, bytes]:
        while not self._chunks:
            if self._link.over:
                async with self._telling():
                    await self._link.finished()
                raise StopAsyncIteration
            await self._wait_for_news()
        stream, data = self._chunks.popleft()
        self._held_bytes -= len(data)
        if not self._holds_much:
            self._link.resume()
        return stream, data

    async def wait(self) -> ExecResult:
        """Wait for its end. The result holds what was not iterated, up to 1 MiB a stream."""
        rest = {"stdout": bytearray(), "stderr": bytearray()}
        truncated = False
        async for stream, data in self:
            room = OUTPUT_LIMIT_BYTES - len(rest[stream])
            rest[stream] += data[:room]
            truncated = truncated or len(data) > room
        assert self._exit is not None
        return ExecResult(
            exit_code=self._exit.code,
            stdout=bytes(rest["stdout"]),
            stderr=bytes(rest["stderr"]),
            truncated=truncated or self._exit.truncated,
            timed_out=self._exit.timed_out,
            duration_s=self._ended_s - self._started_s,
        )

    def _on_frame(self, kind: int, payload: bytes) -> bool:
        if kind == _EXIT:
            if not self.pid:
                raise SandboxError("init says that it ended before it was started")
            self._exit = wire.read_exit(payload)
            self._ended_s = time.perf_counter()
            return True
        if kind == _ERROR:
            raise SandboxError(wire.read_failure(payload).text)
        if kind == _STARTED and not self.pid:
            self.pid = wire.read_started(payload)
        elif kind in STREAMS and payload:
            self._take(kind, payload)
        else:
            raise unexpected(kind, payload)
        self._tell()
        return False

    def _take(self, kind: int, payload: bytes) -> None:
        self._seen[kind] += len(payload)
        if self._limit_bytes is not None and self._seen[kind] > self._limit_bytes:
            raise SandboxError(f"init sent more output than the {self._limit_bytes} bytes allowed")
        self._chunks.append((STREAMS[kind], payload))
        self._held_bytes += len(payload)
        if self._holds_much:
            self._link.pause()

    def _over(self) -> None:
        self._link.close()
        self._tell()

    @property
    def _holds_much(self) -> bool:
        return self._held_bytes >= _HELD_BYTES or len(self._chunks) >= _HELD_CHUNKS

    async def _wait_for_news(self) -> None:
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        await asyncio.shield(self._news)

    def _tell(self) -> None:
        if self._news is not None:
            if not self._news.done():
                self._news.set_result(None)
            self._news = None
