"""A process that makes and ends native sandboxes without end: run by tests that kill it.

Prints a line for each that it made, used and ended, and `lost` for each whose launcher was killed.
"""

import asyncio
import sys

from rollout.config import EngineConf
from rollout.errors import SandboxLost
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.native import NativeEngine
from rollout.types import Blueprint, Resources

AT_ONCE = 4


async def cycle(engine: NativeEngine, spec: SandboxSpec) -> None:
    while True:
        try:
            box = await engine.create(spec)
            try:
                await box.exec(["sh", "-c", "echo x > /usr/x"])
            finally:
                await box.close()
        except SandboxLost:
            print("lost", flush=True)
        else:
            print(box.id, flush=True)


async def main(root_dir: str, uid_base: int) -> None:
    engine = NativeEngine(EngineConf(root_dir=root_dir, uid_base=uid_base, max_slots=64))
    await engine.start()
    image = await engine.build(Blueprint())
    spec = SandboxSpec(image=image, resources=Resources(memory_mb=256, pids=64))
    await asyncio.gather(*(cycle(engine, spec) for _ in range(AT_ONCE)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
