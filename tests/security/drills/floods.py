"""Drills: output, terminals and logs, more than anybody would take."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

from rollout.errors import SandboxError
from rollout.sandbox.walls import Wall
from tests.security.drills.drill import MIB, PYTHON, Outcome, Stage, drill, judged, python, told

CAP = 64 << 10
TERMINAL_HOLDS = 2 * MIB
"""The 1 MiB of the host's end, and what pipes and sockets hold."""
COUNTED = """
import os
counter, line, written = os.open("/tmp/written", 66), b"y" * 1023 + b"\\n", 0
while True:
    written += os.write(1, line)
    os.pwrite(counter, written.to_bytes(8, "little"), 0)
"""
LOGS = """
import os
line = b"a line for the log of somebody else\\n" * 1000
places = ["/proc/1/fd/1", "/proc/1/fd/2", "/dev/console", "/dev/kmsg", "/dev/log", "/var/log/mine"]
for place in places:
    try:
        file = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_NONBLOCK)
        for _ in range(1000):
            os.write(file, line)
        os.fsync(file)
    except OSError:
        pass
for _ in range(1000):
    os.write(1, line)
"""


@drill(Wall.OUTPUT)
async def flood_of_output(stage: Stage) -> Outcome:
    cap = 8 * MIB if stage.weak else CAP
    box = await stage.box()
    flood = ["sh", "-c", "yes & yes >&2"]
    result = await box.exec(flood, output_limit_bytes=cap, timeout_s=1)
    got = max(len(result.stdout), len(result.stderr))
    return judged(got > CAP or not result.truncated, f"{got} bytes")


@drill(Wall.OUTPUT)
async def flood_of_a_terminal(stage: Stage) -> Outcome:
    """Nobody takes it: what gets out of the sandbox is little, and the flood waits."""
    box = await stage.box()
    async with await box.start([PYTHON, "-c", COUNTED], pty=True) as flood:
        taken = 0
        while stage.weak and taken < 3 * TERMINAL_HOLDS:
            taken += len((await anext(flood))[1])
        await asyncio.sleep(1.5)
        written = int.from_bytes(await box.read_file("/tmp/written"), "little")
    return judged(written > 2 * TERMINAL_HOLDS, f"{written} bytes written")


@drill(Wall.OUTPUT, alone=True)
async def flood_of_logs(stage: Stage) -> Outcome:
    """To all that could be a log of the host's. What stays is a file of the sandbox's own, for
    which its disk limit is there."""
    box = await stage.box(disk_mb=8)
    before = size_of(stage.places)
    result = await python(box, LOGS, output_limit_bytes=CAP)
    if not result.truncated:
        raise SandboxError(told(result))
    grown = size_of(stage.places) - before
    return judged(grown > 20 * MIB, f"{grown >> 20} MiB more on the host")


def size_of(places: tuple[Path, ...]) -> int:
    total = 0
    for place in places:
        for top, _, files in os.walk(place):
            for name in files:
                with suppress(OSError):
                    total += Path(top, name).lstat().st_blocks * 512
    return total
