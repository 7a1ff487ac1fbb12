"""One worker process of the local executor, seen from the driver."""

import asyncio
import contextlib
import os
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, STDOUT, Process

from rollout.errors import RolloutError
from rollout.executor.base import Coordinator, RunPlan
from rollout.executor.link import LinkServer
from rollout.executor.local_worker import STOP

TAIL_BYTES = 4096
"""How much of what a worker printed last is kept, to explain its death."""


class WorkerProcess:
    """Runs `rollout.executor.local_worker` and serves its calls until it ends.

    It has a process group of its own, so that a ^C in the terminal is the driver's alone to
    answer, and it ends by itself when the driver dies.
    """

    def __init__(self, name: str, share: float, coordinator: Coordinator, plan: RunPlan) -> None:
        self.name = name
        self._share = share
        self._server = LinkServer(coordinator, plan)
        self._process: Process | None = None
        self._tail = b""

    async def run(self) -> int:
        """Start it and wait for its end; the exit code, negative for a signal."""
        ours, theirs = zip(socket.socketpair(), socket.socketpair(), strict=True)
        try:
            self._process = await self._start(*(sock.fileno() for sock in theirs))
        except BaseException:
            for sock in ours:
                sock.close()
            raise
        finally:
            for sock in theirs:
                sock.close()
        serving = [asyncio.create_task(self._server.serve(sock)) for sock in ours]
        reading = asyncio.create_task(self._keep_tail(self._process))
        try:
            return await self._process.wait()
        finally:
            await self._end()
            await asyncio.gather(reading, *serving, return_exceptions=True)

    async def _start(self, calls_fd: int, beats_fd: int) -> Process:
        search = os.pathsep.join(entry for entry in sys.path if entry)
        try:
            return await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "rollout.executor.local_worker"),
                *(self.name, str(calls_fd), str(beats_fd), str(self._share), str(os.getpid())),
                stdin=DEVNULL,
                stdout=PIPE,
                stderr=STDOUT,
                pass_fds=(calls_fd, beats_fd),
                process_group=0,
                env={**os.environ, "PYTHONPATH": search},
            )
        except OSError as exc:
            raise RolloutError(f"worker {self.name} could not be started: {exc}") from exc

    async def _keep_tail(self, process: Process) -> None:
        assert process.stdout is not None
        while chunk := await process.stdout.read(65536):
            self._tail = (self._tail + chunk)[-TAIL_BYTES:]

    async def _end(self) -> None:
        """Make sure, whatever cut us off; its sandboxes are swept by the next engine to start."""
        assert self._process is not None
        if self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def stop(self) -> None:
        """Ask it to end at once, in order."""
        if self._process is not None and self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(STOP)

    @property
    def last_words(self) -> str:
        """The last line that it printed, if any."""
        lines = self._tail.decode(errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else ""
