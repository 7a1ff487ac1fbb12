"""What baking saves: launches of one computer, its mounts put each time or in the image.

    python benchmarks/launch.py [--files 2000] [--launches 20]

Both on the native engine of this machine, in turns within one process; it prints the median time
from asking for a sandbox to having it, and the ratio.
"""

import argparse
import asyncio
import statistics
import tempfile
import time
from pathlib import Path

from rollout.baking import into_image
from rollout.config import EngineConf, ObjectsConf
from rollout.library import running_engine
from rollout.objects.where import open_objects
from rollout.recipes import blueprint_of
from rollout.sandbox.base import Engine, Objects
from rollout.sandbox.launching import launch
from rollout.sandbox.made import make_spec
from rollout.types import Blueprint, Tree


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--files", type=int, default=2_000)
    parser.add_argument("--launches", type=int, default=20)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="rollout-launch-") as folder:
        times_s = asyncio.run(measure(Path(folder), asked.files, asked.launches))
    (late_s, baked_s) = (statistics.median(each) for each in times_s)
    print(f"{asked.files} files of 1 KB, {asked.launches} launches of each, medians")
    print(f"mounted at launch  {late_s * 1000:8.1f} ms")
    print(f"baked              {baked_s * 1000:8.1f} ms")
    print(f"ratio              {late_s / baked_s:8.1f}")


async def measure(folder: Path, files: int, launches: int) -> tuple[list[float], list[float]]:
    """Seconds of each launch: mounted, baked."""
    where = ObjectsConf(uri=str(folder / "objects"))
    conf = EngineConf(root_dir=str(folder / "engine"))
    objects = open_objects(where, root_dir=conf.root_dir)
    tree = Tree.of({f"d{n % 50}/f{n}": "x" * 1024 for n in range(files)})
    mount = {"kind": "object", "id": objects.put_tree(tree), "dest": "/opt/mounted"}
    blueprint = blueprint_of("host", objects=where, mounts=[mount])
    times_s: tuple[list[float], list[float]] = ([], [])
    async with running_engine(conf, objects) as engine:
        both = (blueprint, into_image(blueprint))
        for each in both:
            await timed(engine, each, objects)
        for _ in range(launches):
            for each, taken_s in zip(both, times_s, strict=True):
                taken_s.append(await timed(engine, each, objects))
    return times_s


async def timed(engine: Engine, blueprint: Blueprint, objects: Objects) -> float:
    began_s = time.perf_counter()
    box = await engine.create(await make_spec(engine, blueprint, objects))
    await launch(box, objects)
    took_s = time.perf_counter() - began_s
    await box.close()
    return took_s


if __name__ == "__main__":
    main()
