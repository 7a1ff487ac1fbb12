"""One sweep that is made to fail, from beginning to end."""

import asyncio
from pathlib import Path

from rollout.config import EngineConf
from rollout.executor.engines import make_engine
from tests.census import Place, census, difference, place
from tests.chaos.faults import faults_of
from tests.chaos.shelves import Shelf
from tests.chaos.sweep import Sweep
from tests.private_daemon import PrivateDaemon


def chaos(
    seed: int, executor: str, folder: Path, shelf: Shelf, daemon: PrivateDaemon | None = None
) -> str:
    """AssertionError unless it ends exactly right and leaves nothing; what was done to it."""
    with place() as here:
        before = census(here)
        sweep = Sweep(seed, executor, folder, here, shelf, daemon=daemon)
        sweep.suffer(faults_of(sweep))
        sweep.check()
        asyncio.run(sweep_up(here, sweep.engine))
        left = difference(before, here)
        if daemon is not None and (containers := daemon.left()):
            left["containers and images"] = containers
        assert not left, f"left behind: {left}; {sweep.told()}"
    return "; ".join(sweep.story)


async def sweep_up(here: Place, kind: str = "native") -> None:
    """What the last start left is taken away by the next engine to start here."""
    engine = make_engine(EngineConf(kind=kind, root_dir=str(here.root_dir)), "chaos", None)
    try:
        await engine.start()
    finally:
        await engine.close()
