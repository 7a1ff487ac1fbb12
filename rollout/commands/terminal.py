"""A process of a sandbox on this program's own terminal, or between its pipes.

On a terminal every key goes through as it is, ^C and ^D too: the sandbox's own terminal knows what
they mean. Whatever happens, this terminal is afterwards as it was.
"""

import asyncio
import os
import select
import signal
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rollout.errors import SandboxError
from rollout.sandbox.base import Process

STDIN, STDOUT, STDERR = 0, 1, 2
BROKEN_PIPE = 128 + signal.SIGPIPE
_CHUNK_BYTES = 64 << 10


def on_terminal() -> bool:
    """Whether a person sits there: both input and output are a terminal."""
    return os.isatty(STDIN) and os.isatty(STDOUT)


def terminal_size() -> tuple[int, int]:
    """Rows and columns; a terminal that tells none has 24 by 80."""
    with suppress(OSError):
        size = os.get_terminal_size(STDOUT)
        if size.lines and size.columns:
            return size.lines, size.columns
    return 24, 80


async def attach(process: Process, *, terminal: bool) -> int:
    """Pass input and output on until the process ends; its exit code."""
    if not terminal:
        return await _converse(process)
    with _raw(STDIN), _following_size(process):
        return await _converse(process)


async def _converse(process: Process) -> int:
    feeding = asyncio.create_task(_feed(process))
    try:
        async for stream, data in process:
            target = STDOUT if stream == "stdout" else STDERR
            await asyncio.to_thread(_write, target, data)
        return (await process.wait()).exit_code
    except OSError:
        # Nobody reads any more; what cannot be shown is not made either.
        process.close()
        return BROKEN_PIPE
    finally:
        feeding.cancel()
        await asyncio.wait({feeding})


async def _feed(process: Process) -> None:
    """All of the input, to its end; what stops it is told by the output's side."""
    with suppress(SandboxError):
        while data := await _read():
            await process.write_stdin(data)
        await process.close_stdin()


async def _read() -> bytes:
    """What there is to read now; nothing at the end."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    try:
        loop.add_reader(STDIN, _tell, ready)
    except OSError:
        ready.set_result(None)  # A plain file, which cannot be waited for, and need not be.
    try:
        await ready
        return os.read(STDIN, _CHUNK_BYTES)
    except OSError:
        return b""
    finally:
        with suppress(OSError):
            loop.remove_reader(STDIN)


def _tell(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def _write(target: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        try:
            left = left[os.write(target, left) :]
        except BlockingIOError:
            select.select([], [target], [])


@contextmanager
def _raw(terminal: int) -> Iterator[None]:
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal, termios.TCSANOW)
        yield
    finally:
        with suppress(termios.error):  # It has gone away.
            termios.tcsetattr(terminal, termios.TCSANOW, before)


@contextmanager
def _following_size(process: Process) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    tasks: set[asyncio.Task[None]] = set()

    def resize() -> None:
        task = asyncio.ensure_future(process.resize(*terminal_size()))
        tasks.add(task)
        task.add_done_callback(tasks.discard)

    loop.add_signal_handler(signal.SIGWINCH, resize)
    resize()  # It may have changed since the process was started.
    try:
        yield
    finally:
        loop.remove_signal_handler(signal.SIGWINCH)
