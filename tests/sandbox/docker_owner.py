"""A worker to be killed: two sandboxes and a snapshot, then its owner's name; then it waits."""

import asyncio
import sys
from pathlib import Path

from rollout.config import EngineConf
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.docker.engine import DockerEngine
from rollout.types import Blueprint


async def main(root_dir: str) -> None:
    engine = DockerEngine(EngineConf(root_dir=root_dir), owner="killed")
    await engine.start()
    image = await engine.build(Blueprint(base="image:rollout-test-busybox"))
    boxes = [await engine.create(SandboxSpec(image=image)) for _ in range(2)]
    await boxes[0].snapshot()
    print(boxes[0].id.rpartition("-")[0], flush=True)
    await asyncio.sleep(600)


if __name__ == "__main__":
    asyncio.run(main(str(Path(sys.argv[1]))))
