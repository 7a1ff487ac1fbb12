"""What others read is what was committed: by the log at any time, by a bare glob after the end."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.fs as pafs
import pytest

from rollout.dataset.log import CommitLog
from rollout.dataset.reader import RolloutDataset, open_dataset
from rollout.dataset.run import begin
from rollout.dataset.store import LocalStore, Store
from rollout.errors import StoreError
from rollout.types import Outcome
from tests.dataset.examples import a_row, ids_of, put_rows

REWARDS = {"a": 1.0, "b": 0.0, "c": 0.5, "d": None, "e": 1.0, "f": 0.25}


def fill(store: Store, format: str = "parquet") -> CommitLog:
    """Six rows of two workers in two commits, one unscored, and a part that no commit names."""
    begin(store, {"name": "run"}, {})
    log = CommitLog(store, "coordinator")
    log.announce()
    log.plan({"default": {"digest": "1"}}, {"task": "2"}, 6)
    rows = [
        a_row(n, reward=r, outcome=Outcome.OK if r is not None else Outcome.SANDBOX_LOST)
        for n, r in REWARDS.items()
    ]
    first = put_rows(store, *rows[:3], worker="w0001", format=format)
    second = put_rows(store, *rows[3:], worker="w0002", format=format)
    log.commit([first], {})
    log.commit([second], {})
    put_rows(store, a_row("orphan"), number=7, format=format)
    return log


def mean(rewards: dict[str, float | None]) -> float:
    known = [reward for reward in rewards.values() if reward is not None]
    return sum(known) / len(known)


def with_pyarrow(folder: Path) -> tuple[int, float]:
    table = pads.dataset(folder, partitioning="hive").to_table()
    return table.num_rows, pc.mean(table["reward"]).as_py()


def with_polars(folder: Path) -> tuple[int, float]:
    frame = polars.scan_parquet(folder / "**" / "*.parquet", hive_partitioning=True).collect()
    assert frame["writer"].dtype == polars.String
    return frame.height, frame["reward"].mean()


def with_duckdb(folder: Path) -> tuple[int, float]:
    with duckdb.connect() as connection:
        glob = f"read_parquet('{folder}/**/*.parquet', hive_partitioning = true)"
        row = connection.execute(f"select count(*), avg(reward) from {glob}").fetchone()
    assert row
    return row


LOAD_WITH_DATASETS = """
import json, sys
from datasets import load_dataset
from datasets.utils import disable_progress_bars
disable_progress_bars()
rows = load_dataset("parquet", data_dir=sys.argv[1], cache_dir=sys.argv[2], split="train")
rewards = [reward for reward in rows["reward"] if reward is not None]
print(json.dumps([len(rows), sum(rewards) / len(rewards)]))
"""


def with_datasets(folder: Path) -> tuple[int, float]:
    cache = folder.parent.parent / "hf-cache"
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", LOAD_WITH_DATASETS, str(folder), str(cache / folder.parent.name)],
        env=os.environ | offline,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    count, average = json.loads(done.stdout)
    return count, average


@pytest.mark.parametrize("read", [with_pyarrow, with_polars, with_duckdb, with_datasets])
def test_a_bare_folder_is_exact_after_the_end(
    tmp_path: Path, read: Callable[[Path], tuple[int, float]]
) -> None:
    for retracted in ([], ["b", "d"]):
        root = tmp_path / f"run{len(retracted)}"
        log = fill(LocalStore(root))
        log.retract(retracted)
        log.finish({})
        left = {name: reward for name, reward in REWARDS.items() if name not in retracted}
        count, average = read(root / "trajectories")
        assert (count, average) == (len(left), pytest.approx(mean(left)))


def test_arrow_parts_are_read_as_they_are(tmp_path: Path) -> None:
    log = fill(LocalStore(tmp_path / "run"), format="arrow")
    log.retract(["b"])
    log.finish({})
    table = pads.dataset(tmp_path / "run/trajectories", format="ipc", partitioning="hive")
    assert sorted(ids_of(table.to_table())) == ["a", "c", "d", "e", "f"]
    with open_dataset(str(tmp_path / "run")) as dataset:
        assert sorted(ids_of(dataset.scan())) == ["a", "c", "d", "e", "f"]


@pytest.mark.s3
def test_pyarrow_reads_a_bare_prefix_on_s3(s3_store: Store, s3_endpoint: str) -> None:
    log = fill(s3_store)
    log.retract(["b"])
    log.finish({})
    s3 = pafs.S3FileSystem(
        endpoint_override=s3_endpoint,
        access_key="testing",
        secret_key="testing",
        region="us-east-1",
    )
    folder = s3_store.uri.removeprefix("s3://") + "/trajectories"
    table = pads.dataset(folder, filesystem=s3, partitioning="hive").to_table()
    assert sorted(ids_of(table)) == ["a", "c", "d", "e", "f"]


# ---------------------------------------------------------------- open_dataset


def test_the_log_is_exact_before_the_end(store: Store) -> None:
    log = fill(store)
    dataset = RolloutDataset(store)
    assert ids_of(dataset.scan()) == list("abcdef")
    assert dataset.finished_ids() == frozenset("abcdef")
    log.commit([put_rows(store, a_row("g"), number=2)], {})
    assert ids_of(dataset.scan()) == list("abcdefg")


def test_scan_takes_columns_and_a_filter(store: Store) -> None:
    fill(store)
    table = RolloutDataset(store).scan(["trajectory_id"], filter=pc.field("reward") == 1.0)
    assert table.to_pydict() == {"trajectory_id": ["a", "e"]}
    assert RolloutDataset(store).scan(table="sequences").num_rows == 0
    with pytest.raises(StoreError, match="no table 'rows'; there are trajectories and sequences"):
        RolloutDataset(store).scan(table="rows")


def test_one_trajectory(store: Store) -> None:
    fill(store)
    assert RolloutDataset(store).trajectory("c") == a_row("c", reward=0.5)
    with pytest.raises(StoreError, match="holds no trajectory 'orphan'"):
        RolloutDataset(store).trajectory("orphan")


def test_files_are_names_that_others_can_open(local_store: LocalStore) -> None:
    fill(local_store)
    files = RolloutDataset(local_store).files()
    assert sorted(polars.read_parquet(files)["trajectory_id"]) == list("abcdef")


@pytest.mark.s3
def test_files_on_s3_are_uris(s3_store: Store) -> None:
    log = fill(s3_store)
    files = RolloutDataset(s3_store).files()
    assert files == [f"{s3_store.uri}/{path}" for path in log.state.parts]
    assert all(name.startswith("s3://") for name in files)


def test_a_snapshot_does_not_move(store: Store) -> None:
    log = fill(store)
    dataset = RolloutDataset(store)
    then, now = dataset.snapshot(3), dataset.snapshot()
    log.retract(["a"])
    log.commit([put_rows(store, a_row("g"), number=2)], {})
    assert ids_of(then.scan()) == ["a", "b", "c"]
    assert ids_of(now.scan()) == list("abcdef")
    assert (then.state.seq, now.state.seq, dataset.state.seq) == (3, 4, 6)
    with pytest.raises(StoreError, match="no log entry 99; the last one is 6"):
        dataset.snapshot(99)


def test_a_snapshot_whose_part_is_gone_says_so(store: Store) -> None:
    log = fill(store)
    snapshot = RolloutDataset(store).snapshot()
    log.retract(["a"])
    log.finish({})
    with pytest.raises(StoreError, match="retracted after this snapshot"):
        snapshot.scan()
    assert ids_of(RolloutDataset(store).scan()) == list("defbc")


def test_a_part_that_is_damaged_is_named(local_store: LocalStore) -> None:
    log = fill(local_store)
    path = next(iter(log.state.parts))
    (local_store.root / path).write_bytes(b"not parquet")
    with pytest.raises(StoreError, match=f"{path} cannot be read"):
        RolloutDataset(local_store).scan()


def test_no_run_there_names_those_that_are_near(tmp_path: Path) -> None:
    for name in ("quickstart", "harbor"):
        begin(LocalStore(tmp_path / name), {}, {})
    with pytest.raises(StoreError, match=r"no run at .*quikstart: did you mean quickstart\?"):
        open_dataset(str(tmp_path / "quikstart"))
    with pytest.raises(StoreError, match="folder of 2 runs; name one of them: harbor, quickstart"):
        open_dataset(str(tmp_path))
    with pytest.raises(StoreError, match="holds no runs"):
        open_dataset(str(tmp_path / "no" / "such"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["harbor", "quickstart"]


@pytest.mark.s3
def test_no_run_there_on_s3(s3_endpoint: str) -> None:
    with pytest.raises(StoreError, match=r"no run at s3://rollout-tests/none: check store\.uri"):
        open_dataset("s3://rollout-tests/none", endpoint_url=s3_endpoint)


def test_a_dataset_tells_what_it_is(local_store: LocalStore) -> None:
    log = fill(local_store)
    log.finish({})
    assert repr(RolloutDataset(local_store)) == (
        f"<RolloutDataset {local_store.uri}: 6 of 6 rows (1 arms × 1 tasks × 6 samples) in 2 parts "
        "at log entry 5, finished>"
    )
