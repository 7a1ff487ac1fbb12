"""Drills: what a sandbox may use of the machine, one limit after the other."""

from rollout.errors import SandboxError
from rollout.sandbox.walls import Wall
from tests.security.drills.drill import (
    PATIENCE_S,
    PYTHON,
    Outcome,
    Stage,
    drill,
    judged,
    number,
    python,
    told,
)

# ---------------------------------------------------------------- processes

PIDS = 64
FORKS = """
import os, time
made = 0
try:
    while made < 200:
        if os.fork() == 0:
            time.sleep(60)
            os._exit(0)
        made += 1
except OSError as exc:
    print(exc)
print(made, flush=True)
"""
THREADS = """
import threading, time
made = 0
try:
    while made < 200:
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        made += 1
except RuntimeError as exc:
    print(exc)
print(made, flush=True)
__import__("os")._exit(0)
"""


@drill(Wall.PIDS)
async def bomb_of_processes(stage: Stage) -> Outcome:
    return await _count(stage, FORKS)


@drill(Wall.PIDS)
async def bomb_of_threads(stage: Stage) -> Outcome:
    return await _count(stage, THREADS)


async def _count(stage: Stage, code: str) -> Outcome:
    box = await stage.box(pids=PIDS)
    made = await python(box, code)
    await box.kill_all()
    return judged(number(made) >= 200, told(made))


# ---------------------------------------------------------------- memory

HELD_MB = 160
HOLD = f"data = bytearray({HELD_MB} << 20); data[::4096] = b'x' * len(data[::4096]); print('held')"
HOLD_TOGETHER = f"""
import os, time
parts = 8
for _ in range(parts):
    if os.fork() == 0:
        data = bytearray(({HELD_MB} << 20) // parts)
        data[::4096] = b"x" * len(data[::4096])
        os.write(1, b"x")
        time.sleep(1.5)
        os._exit(0)
held = sum(os.waitstatus_to_exitcode(os.wait()[1]) == 0 for _ in range(parts))
print(" held", held == parts)
"""


@drill(Wall.MEMORY)
async def hog_of_memory(stage: Stage) -> Outcome:
    box = await stage.box(memory_mb=64)
    result = await python(box, HOLD)
    return judged(b"held" in result.stdout, told(result))


@drill(Wall.MEMORY)
async def hogs_of_memory_together(stage: Stage) -> Outcome:
    box = await stage.box(memory_mb=64)
    result = await python(box, HOLD_TOGETHER)
    return judged(b"held True" in result.stdout, told(result))


# ---------------------------------------------------------------- cpu

CPU = 0.03
SPIN = """
read begun rest < /proc/uptime
for i in 1 2; do (while :; do :; done) & spinners="$spinners $!"; done
sleep 2
kill $spinners
wait
read ended rest < /proc/uptime
times > /tmp/times
echo $begun $ended $(tail -1 /tmp/times)
"""


@drill(Wall.CPU)
async def hogs_of_cpu(stage: Stage) -> Outcome:
    """What they got is a share of the time that went by; a busy machine only makes it less."""
    box = await stage.box(cpu=CPU)
    result = await box.exec(["sh", "-c", SPIN], timeout_s=PATIENCE_S)
    if not result.ok:
        raise SandboxError(told(result))
    begun, ended, *used = result.stdout.decode().split()
    used_s = sum(60 * float(text.split("m")[0]) + float(text.split("m")[1][:-1]) for text in used)
    share = used_s / (float(ended) - float(begun))
    return judged(share > 3 * CPU, f"{share:.1%} of a cpu")


# ---------------------------------------------------------------- disk

FILL = """
import os, sys
file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT)
for _ in range(40):
    os.write(file, bytes(1 << 20))
os.fsync(file)
print("all written")
"""
RESERVE = """
import os
os.posix_fallocate(os.open("/srv/big", os.O_WRONLY | os.O_CREAT), 0, 100 << 20)
print("all written")
"""
NAMES = "for n in range(4_000): open(f'/srv/{n}', 'w').close()\nprint('all written')"


async def fill(stage: Stage, code: str, *arguments: str, disk_mb: int = 16) -> Outcome:
    box = await stage.box(disk_mb=disk_mb, memory_mb=256)
    result = await box.exec([PYTHON, "-c", code, *arguments], timeout_s=PATIENCE_S)
    return judged(b"all written" in result.stdout, told(result))


@drill(Wall.DISK)
async def fill_the_disk(stage: Stage) -> Outcome:
    return await fill(stage, FILL, "/srv/big")


@drill(Wall.DISK)
async def fill_the_temporary_folder(stage: Stage) -> Outcome:
    return await fill(stage, FILL, "/tmp/big")


@drill(Wall.DISK)
async def fill_shared_memory(stage: Stage) -> Outcome:
    return await fill(stage, FILL, "/dev/shm/big")


@drill(Wall.DISK)
async def reserve_the_disk(stage: Stage) -> Outcome:
    return await fill(stage, RESERVE)


@drill(Wall.DISK)
async def fill_with_names(stage: Stage) -> Outcome:
    """Files without bytes: what runs out is names."""
    return await fill(stage, NAMES, disk_mb=1)
