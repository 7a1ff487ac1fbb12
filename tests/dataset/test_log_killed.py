"""kill -9 of a real writing process at any moment leaves a dataset that opens and goes on."""

import hashlib
import itertools
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from rollout.dataset.log import CommitLog
from rollout.dataset.reader import open_dataset
from rollout.dataset.store import LocalStore
from tests.dataset.examples import ids_of

WRITE_FOR_EVER = """
import itertools, sys
from rollout.dataset.log import CommitLog
from rollout.dataset.store import LocalStore
from tests.dataset.examples import a_row, put_rows

store = LocalStore(sys.argv[1])
log = CommitLog(store, "to be killed")
epoch = log.announce()
for number in itertools.count():
    rows = [a_row(f"{epoch}-{number}-{index}") for index in range(3)]
    log.commit([put_rows(store, *rows, epoch=epoch, number=number)], {})
    if number == 0:
        print("ready", flush=True)  # only now all is imported, which takes longer than to a kill
    if number % 3 == 2:
        log.retract([f"{epoch}-{number}-1"])
"""


def write_and_kill(folder: Path, after_s: float) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", WRITE_FOR_EVER, str(folder)],
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout
    try:
        assert child.stdout.readline() == b"ready\n"
        time.sleep(after_s)
        assert child.poll() is None
    finally:
        child.kill()
        assert child.wait() == -signal.SIGKILL
        child.stdout.close()


def test_kill_at_any_moment(tmp_path: Path) -> None:
    chance = random.Random(7)
    folder = tmp_path / "run"
    for kill in itertools.count():
        write_and_kill(folder, after_s=chance.uniform(0.02, 0.15))
        with open_dataset(str(folder)) as dataset:
            state = dataset.state
            assert state.epoch == kill + 1
            for path in folder.rglob("*.parquet"):
                digest = hashlib.sha256(path.read_bytes()).hexdigest()
                assert path.stem.endswith(digest[:8]), "a torn part"
            assert sorted(ids_of(dataset.scan())) == sorted(state.accepted)
        if kill >= 4 and len(state.accepted) > 5:
            break  # on a busy machine it takes more kills until so much was written

    log = CommitLog(LocalStore(folder), "cleans up")
    log.announce()
    log.finish({})
    found = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.parquet"))
    assert found == sorted(log.state.parts)
    assert not list((folder / "_tmp").iterdir())
