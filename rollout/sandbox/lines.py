"""A helper process that is spoken to in lines: requests on its stdin, answers on its stdout.

Not asyncio's streams: a line there wakes a task that wakes the one who waits, and making a sandbox
is one line each way.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from rollout.errors import SandboxLost

END_TIMEOUT_S = 15.0
READ_BYTES = 1 << 16


class LineProcess:
    """`on_line` gets each answer without its newline, `on_end` is called once when it has ended.

    `name` is what errors call it.
    """

    def __init__(
        self, name: str, on_line: Callable[[str], None], on_end: Callable[[], None]
    ) -> None:
        self._name = name
        self._on_line = on_line
        self._on_end = on_end
        self._process: asyncio.subprocess.Process | None = None
        self._stdin = self._stdout = -1
        self._unsent = bytearray()
        self._is_full = False
        """Its stdin: the rest is sent when it has room."""
        self._partial = b""

    @property
    def alive(self) -> bool:
        """Whether it still answers."""
        return self._stdout >= 0

    @property
    def pid(self) -> int:
        if self._process is None:
            raise SandboxLost(f"{self._name} was not started")
        return self._process.pid

    async def start(self, argv: Sequence[str | Path]) -> None:
        self._unsent.clear()
        self._is_full = False
        self._partial = b""
        theirs_in, self._stdin = os.pipe2(os.O_CLOEXEC)
        self._stdout, theirs_out = os.pipe2(os.O_CLOEXEC)
        try:
            # A session of its own: ^C is for this process, which then ends the other in order.
            self._process = await asyncio.create_subprocess_exec(
                *argv, stdin=theirs_in, stdout=theirs_out, start_new_session=True, env={}
            )
        except BaseException:
            self._hang_up()
            raise
        finally:
            os.close(theirs_in)
            os.close(theirs_out)
        os.set_blocking(self._stdin, False)
        os.set_blocking(self._stdout, False)
        asyncio.get_running_loop().add_reader(self._stdout, self._read)

    def send(self, line: str) -> None:
        """Queue a line; SandboxLost if nobody is there to read it."""
        if not self.alive:
            raise SandboxLost(f"{self._name} has died")
        waiting = bool(self._unsent)
        self._unsent += line.encode() + b"\n"
        if not waiting:
            self._write()

    async def close(self) -> None:
        """End it by the end of its input, by force if it takes too long; idempotent."""
        process, self._process = self._process, None
        if process is None:
            return
        self._close_stdin()
        try:
            async with asyncio.timeout(END_TIMEOUT_S):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        if self.alive:
            self._read()  # what it said last
        self._hang_up()

    # ---------------------------------------------------------------- the two pipes

    def _read(self) -> None:
        while self.alive:
            try:
                data = os.read(self._stdout, READ_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._hang_up()
                return
            *lines, self._partial = (self._partial + data).split(b"\n")
            for line in lines:
                self._on_line(line.decode(errors="replace"))
            if len(data) < READ_BYTES:
                return

    def _write(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: os.write(self._stdin, self._unsent)]
        except BlockingIOError:
            self._is_full = True
            asyncio.get_running_loop().add_writer(self._stdin, self._write)
            return
        except OSError:
            self._unsent.clear()  # it has ended, which its stdout tells
        if self._is_full:
            self._is_full = False
            asyncio.get_running_loop().remove_writer(self._stdin)

    def _close_stdin(self) -> None:
        if self._stdin >= 0:
            asyncio.get_running_loop().remove_writer(self._stdin)
            os.close(self._stdin)
            self._stdin = -1

    def _hang_up(self) -> None:
        self._close_stdin()
        if self._stdout >= 0:
            asyncio.get_running_loop().remove_reader(self._stdout)
            os.close(self._stdout)
            self._stdout = -1
            self._on_end()
