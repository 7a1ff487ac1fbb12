"""The program of a worker process: `python -m rollout.executor.local_worker`, started by `local`.

Arguments: its name, the descriptors of its two links, its share of the machine, its parent's pid.
SIGTERM, as from a machine that is to be taken away, drains it; STOP ends it at once, in order.
"""

import asyncio
import ctypes
import os
import signal
import socket
import sys

from rollout.aio import collect_rarely
from rollout.errors import ConfigError, RolloutError
from rollout.executor.link import BeatClient, LinkClient
from rollout.executor.worker import Worker

PR_SET_PDEATHSIG = 1
STOP = signal.SIGUSR1

EXIT_ERROR = 1
"""It failed and has told the coordinator why."""
EXIT_CONFIG = 2
"""It cannot work here, and another try would not help."""
EXIT_DRAINED = 3
"""It was told to end and did, in order; the run may go on without it."""


def main(argv: list[str]) -> int:
    name, calls_fd, beats_fd, share, parent = argv
    _end_with(int(parent))
    calls, beats = socket.socket(fileno=int(calls_fd)), socket.socket(fileno=int(beats_fd))
    try:
        drained = asyncio.run(_work(name, calls, beats, float(share)))
    except ConfigError:
        return EXIT_CONFIG
    except RolloutError:
        return EXIT_ERROR
    return EXIT_DRAINED if drained else 0


def _end_with(parent: int) -> None:
    """Ask the kernel for STOP at the parent's death: enough for closing in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, STOP, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(EXIT_ERROR)


async def _work(name: str, calls: socket.socket, beats: socket.socket, share: float) -> bool:
    """Until nothing is left, or it is told to end; whether it was."""
    client = await LinkClient.connect(calls)
    try:
        plan = await client.plan()
        node = socket.gethostname()
        collect_rarely()
        worker = Worker(plan, name, node, client, BeatClient(beats), share=share)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, worker.drain)
        loop.add_signal_handler(STOP, worker.stop)
        await worker.run()
        return worker.drained
    finally:
        await client.close()
        beats.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
