"""Drills: who is behind a sandbox, what outlives its deadline, and what is found after release."""

import asyncio
import os
from contextlib import suppress
from pathlib import Path

import psutil

from rollout.errors import SandboxError
from rollout.sandbox.base import Sandbox
from rollout.sandbox.walls import Wall
from tests.security.drills.drill import (
    PATIENCE_S,
    Outcome,
    Stage,
    drill,
    judged,
    python,
    told,
)
from tests.security.host import SECRET

STUBBORN = "trap '' TERM INT HUP QUIT; echo $$ > /tmp/pid; while :; do sleep 0.1; done"
WAYS_OUT_OF_A_GROUP = {
    "setsid": f"setsid sh -c '{STUBBORN.replace(chr(39), chr(34))}' & sleep 60",
    "double fork": f"(setsid sh -c '{STUBBORN.replace(chr(39), chr(34))}' &) & sleep 60",
}
COUNT = 0


def marker() -> str:
    """A number of seconds that no other program on the machine sleeps."""
    global COUNT
    COUNT += 1
    return f"98{os.getpid()}.{COUNT}"


def processes_with(mark: str) -> list[psutil.Process]:
    """Of the host, but for those that only start one inside."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.cmdline()[-1:] == [mark]:
                found.append(process)
    return found


async def settled(mark: str, count: int) -> int:
    """How many there are once there are `count`, or when patience is at its end."""
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while len(processes_with(mark)) != count:
                await asyncio.sleep(0.05)
    return len(processes_with(mark))


@drill(Wall.UIDS)
async def user_behind_root(stage: Stage) -> Outcome:
    """Who root of a sandbox is on the host: neither root nor whoever runs the engine."""
    box, mark = await stage.box("userns"), marker()
    async with await box.start(["sleep", mark]):
        if await settled(mark, 1) != 1:
            raise SandboxError("its process is not seen from the host")
        uids = set(processes_with(mark)[0].uids())
    return judged(bool(uids & {0, os.geteuid()}), uids)


@drill(Wall.INHERITED)
async def environment_of_init_from_the_host(stage: Stage) -> Outcome:
    """What the host sees of it; from inside it may only be hidden."""
    box, mark = await stage.box("environment"), marker()
    async with await box.start(["sleep", mark]):
        if await settled(mark, 1) != 1:
            raise SandboxError("its process is not seen from the host")
        init = psutil.Process(processes_with(mark)[0].ppid())
        text = Path(f"/proc/{init.pid}/environ").read_text()
    return judged(SECRET in text, text)


# ---------------------------------------------------------------- deadlines


async def alive(box: Sandbox) -> bool:
    """Whether the one that wrote /tmp/pid is there, given the time that its end takes."""
    pid = (await box.read_file("/tmp/pid")).decode().strip()
    for _ in range(50):
        if not (await box.exec(["sh", "-c", f"kill -0 {pid}"])).ok:
            return False
        await asyncio.sleep(0.02)
    return True


async def written(box: Sandbox) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(FileNotFoundError):
                if await box.read_file("/tmp/pid"):
                    return
            await asyncio.sleep(0.02)


@drill(Wall.DEADLINES)
async def outlive_a_deadline_by_ignoring_signals(stage: Stage) -> Outcome:
    box = await stage.box()
    async with await box.start(["sh", "-c", STUBBORN], timeout_s=60 if stage.weak else 1) as it:
        await written(box)
        if not stage.weak:
            await it.wait()
        return judged(await alive(box), "looked for its number")


@drill(Wall.DEADLINES)
async def outlive_a_deadline_by_standing_still(stage: Stage) -> Outcome:
    box = await stage.box()
    still = "echo $$ > /tmp/pid; kill -STOP $$"
    async with await box.start(["sh", "-c", still], timeout_s=60 if stage.weak else 1) as it:
        await written(box)
        if not stage.weak:
            await it.wait()
        return judged(await alive(box), "looked for its number")


async def leave_the_group(stage: Stage, way: str) -> Outcome:
    """Who has left its group outlives the deadline of a program, and not `kill_all`, which is how
    a rollout ends what its agent has started."""
    box = await stage.box()
    result = await box.exec(["sh", "-c", WAYS_OUT_OF_A_GROUP[way]], timeout_s=1)
    await written(box)
    if not stage.weak:
        await box.kill_all()
    return judged(await alive(box), told(result))


@drill(Wall.DEADLINES)
async def outlive_a_deadline_in_a_session_of_its_own(stage: Stage) -> Outcome:
    return await leave_the_group(stage, "setsid")


@drill(Wall.DEADLINES)
async def outlive_a_deadline_by_a_double_fork(stage: Stage) -> Outcome:
    return await leave_the_group(stage, "double fork")


# ---------------------------------------------------------------- after release


async def release(stage: Stage, box: Sandbox) -> None:
    if not stage.weak:
        await box.close()


@drill(Wall.LEFTOVERS)
async def processes_after_release(stage: Stage) -> Outcome:
    box, mark = await stage.box(), marker()
    daemon = f"trap '' TERM; (setsid sleep {mark} >/dev/null 2>&1 &) & sleep 0.1"
    await box.exec(["sh", "-c", daemon])
    if await settled(mark, 1) != 1:
        raise SandboxError("its process is not seen from the host")
    await release(stage, box)
    count = await settled(mark, 1 if stage.weak else 0)
    return judged(count > 0, f"{count} processes")


@drill(Wall.LEFTOVERS)
async def files_after_release(stage: Stage) -> Outcome:
    box, mark = await stage.box(), marker()
    await box.write_file(f"/srv/deep/er/{mark}", b"x")
    return await _look_after_release(stage, box, mark)


@drill(Wall.LEFTOVERS)
async def mounts_and_groups_after_release(stage: Stage) -> Outcome:
    box = await stage.box()
    return await _look_after_release(stage, box, box.id)


async def _look_after_release(stage: Stage, box: Sandbox, name: str) -> Outcome:
    """What of that name is on the host, once what is going away has had its time."""
    places = await stage.places_of(box)
    await release(stage, box)
    with suppress(TimeoutError):
        async with asyncio.timeout(PATIENCE_S):
            while not stage.weak and stage.names(places, name):
                await asyncio.sleep(0.1)
    found = stage.names(places, name)
    return judged(bool(found), found)


PLANT = """
import ctypes, os, pathlib
for path in ("/tmp/x", "/root/.bashrc", "/etc/profile", "/usr/bin/planted", "/dev/shm/x",
             "/etc/ld.so.preload", "/var/spool/x", "/run/x"):
    pathlib.Path(path).parent.mkdir(parents=True, exist_ok=True)
    open(path, "a").write("planted by the one before")
ctypes.CDLL(None).shmget(7777, 4096, 0o1666)
"""
LOOK = """
import ctypes, os
found = [path for path in ("/tmp/x", "/root/.bashrc", "/etc/profile", "/usr/bin/planted",
         "/dev/shm/x", "/etc/ld.so.preload", "/var/spool/x", "/run/x")
         if os.path.exists(path) and "planted by" in open(path).read()]
if ctypes.CDLL(None).shmget(7777, 0, 0) >= 0:
    found.append("shared memory")
print(found)
"""


@drill(Wall.LEFTOVERS)
async def traces_in_the_next_sandbox(stage: Stage) -> Outcome:
    """Of files, of the base too, and of memory: what the next on the same image finds."""
    box = await stage.box()
    planted = await python(box, PLANT)
    if not planted.ok:
        raise SandboxError(told(planted))
    await release(stage, box)
    following = box if stage.weak else await stage.box()
    seen = await python(following, LOOK)
    if not seen.ok:
        raise SandboxError(told(seen))
    return judged(seen.stdout.strip() != b"[]", told(seen))
