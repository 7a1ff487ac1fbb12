"""The program of a worker process: `python -m rollout.executor.local_worker`, started by `local`.

Arguments: its name, the descriptors of its two links, its share of the machine, its parent's pid.
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

EXIT_ERROR = 1
"""It failed and has told the coordinator why."""
EXIT_CONFIG = 2
"""It cannot work here, and another try would not help."""


def main(argv: list[str]) -> int:
    name, calls_fd, beats_fd, share, parent = argv
    _end_with(int(parent))
    calls, beats = socket.socket(fileno=int(calls_fd)), socket.socket(fileno=int(beats_fd))
    try:
        asyncio.run(_work(name, calls, beats, float(share)))
    except ConfigError:
        return EXIT_CONFIG
    except RolloutError:
        return EXIT_ERROR
    return 0


def _end_with(parent: int) -> None:
    """Ask the kernel for SIGTERM at the parent's death: enough for closing in order."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(EXIT_ERROR)


async def _work(name: str, calls: socket.socket, beats: socket.socket, share: float) -> None:
    client = await LinkClient.connect(calls)
    try:
        plan = await client.plan()
        node = socket.gethostname()
        collect_rarely()
        worker = Worker(plan, name, node, client, BeatClient(beats), share=share)
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, worker.stop)
        await worker.run()
    finally:
        await client.close()
        beats.close()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
