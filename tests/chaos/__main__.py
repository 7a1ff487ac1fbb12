"""Small sweeps made to fail, one after the other, for as long as asked.

python -m tests.chaos SECONDS                   local workers
python -m tests.chaos SECONDS --executor ray
python -m tests.chaos SECONDS --engine docker   its daemon is started anew as well
python -m tests.chaos 0 --seed 17               that one again
"""

import argparse
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.chaos.faults import FAULTS
from tests.chaos.run import chaos
from tests.chaos.shelves import Folder, Shelf, bucket, small_disk
from tests.private_daemon import private_daemon
from tests.s3_server import CREDENTIALS, s3_server

STORES = ("folder", "disk", "s3")


def main() -> int:
    """1 when any of them did not end exactly right; what is left of those stays to be looked at."""
    asked = _arguments()
    seed = int(time.time()) if asked.seed is None else asked.seed
    give_up_s, failed, made = time.monotonic() + asked.seconds, [], 0
    while True:
        made += 1
        if not _one(seed, asked.executor, asked.store or STORES[seed % len(STORES)], asked.engine):
            failed.append(seed)
        seed += 1
        if time.monotonic() > give_up_s or made == asked.runs:
            print(f"{made} sweeps on {asked.executor}, {len(failed)} of them wrong: {failed}")
            return 1 if failed else 0


def _one(seed: int, executor: str, store: str, engine: str) -> bool:
    folder, began_s = Path(tempfile.mkdtemp(prefix="chaos-")), time.monotonic()
    try:
        with ExitStack() as stack:
            shelf = stack.enter_context(shelf_of(store, folder))
            docker = engine == "docker"
            daemon = stack.enter_context(private_daemon()) if docker else None
            story = chaos(seed, executor, folder, shelf, daemon)
    except AssertionError:
        traceback.print_exc()
        print(f"seed {seed} on {store}: WRONG, see {folder}", flush=True)
        return False
    shutil.rmtree(folder)
    print(f"seed {seed} on {store}: {time.monotonic() - began_s:.0f} s, {story}", flush=True)
    return True


@contextmanager
def shelf_of(store: str, folder: Path) -> Iterator[Shelf]:
    """A shelf of this kind; the bucket's server is its own."""
    if store == "folder":
        yield Folder(folder / "runs")
    elif store == "disk":
        with small_disk(folder / "disk") as shelf:
            yield shelf
    else:
        os.environ.update(CREDENTIALS)
        with s3_server(folder / "moto") as endpoint, bucket(endpoint) as shelf_in_bucket:
            yield shelf_in_bucket


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("seconds", type=float, help="begin no other sweep after so long")
    parser.add_argument("--executor", choices=sorted(FAULTS), default="local")
    parser.add_argument("--engine", choices=("native", "docker"), default="native")
    parser.add_argument("--store", choices=STORES, help="all in turn, unless said")
    parser.add_argument("--seed", type=int, help="of the first sweep; the next has the next one")
    parser.add_argument("--runs", type=int, help="at most so many")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
