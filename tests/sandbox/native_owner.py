"""A process that owns native sandboxes until it is killed: run by tests that kill it.

One of them is suspended and has forks, which are as easy to end as others.

Prints `ready <owner> <uid base> <launcher pid>` and then waits for ever.
"""

import asyncio
import sys

from rollout.config import EngineConf
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.native import NativeEngine
from rollout.types import Blueprint, Resources


async def own(root_dir: str, uid_base: int, memory_cgroups: str, disk_mb: int | None) -> None:
    conf = EngineConf(
        root_dir=root_dir, uid_base=uid_base, max_slots=256, memory_cgroups=memory_cgroups
    )
    engine = NativeEngine(conf)
    await engine.start()
    image = await engine.build(Blueprint())
    limits = Resources(cpu=1, memory_mb=256, disk_mb=disk_mb, pids=64)
    first = await engine.create(SandboxSpec(image=image, resources=limits))
    await engine.create(SandboxSpec(image=image))
    await first.exec(["sh", "-c", "setsid sleep 1000 >/dev/null 2>&1 & echo mine > /tmp/mine"])
    await first.fork(2)
    await first.suspend()
    print("ready", first.id, first.uid_base, first.init_pid, flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    disk_mb = int(sys.argv[4]) if sys.argv[4:] else None
    asyncio.run(own(sys.argv[1], int(sys.argv[2]), sys.argv[3], disk_mb))
