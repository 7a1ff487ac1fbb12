"""A driver of its own to be killed: `python -m tests.executor.drive KIND ROOT`."""

import asyncio
import sys
from pathlib import Path

from rollout.executor.local import LocalExecutor
from rollout.executor.ray import RayExecutor
from tests.executor.plans import gated_plan


async def main(kind: str, root: Path) -> None:
    executor = LocalExecutor() if kind == "local" else RayExecutor()
    async for _ in executor.run(gated_plan(root)):
        pass


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2])))
