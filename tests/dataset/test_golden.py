"""Runs written by earlier versions open for ever; what a newer one wrote is refused by name.

`golden/` has one run for each version of the schema, as that version wrote it: never made anew.
"""

import json
import shutil
from pathlib import Path

import pytest

from rollout.dataset.reader import open_dataset
from rollout.dataset.schema import SCHEMA_VERSION, TRAJECTORIES
from rollout.errors import StoreError
from tests.small_run import trajectories

GOLDEN = sorted((Path(__file__).parent / "golden").iterdir())


def test_the_present_version_has_its_run() -> None:
    assert [path.name for path in GOLDEN][-1] == f"schema-{SCHEMA_VERSION}"


@pytest.mark.parametrize("run", GOLDEN, ids=lambda path: path.name)
def test_an_older_run_opens_with_all_that_it_says(run: Path) -> None:
    with open_dataset(str(run)) as dataset:
        assert dataset.scan().schema.equals(TRAJECTORIES)
        assert list(dataset.trajectories()) == list(trajectories("schema-2", 1))
        assert [row.spec.sample for row in dataset.tail()] == [0, 1] * 6
        assert [group.complete for group in dataset.groups()] == [True] * 6
        assert dataset.state.finished


def newer(run: Path, name: str, **changes: object) -> None:
    file = run / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("run.json", {"schema_version": SCHEMA_VERSION + 1}, "use the newer rollout"),
        ("_log/00000000000000000003.json", {"version": 2}, "a newer rollout wrote it"),
        ("_log/00000000000000000003.json", {"kind": "vacuum"}, "which this version lacks"),
    ],
)
def test_a_newer_run_is_refused_by_name(
    tmp_path: Path, name: str, changes: dict[str, object], said: str
) -> None:
    run = tmp_path / "run"
    shutil.copytree(GOLDEN[-1], run)
    newer(run, name, **changes)
    with pytest.raises(StoreError, match=said), open_dataset(str(run)) as dataset:
        assert dataset.run
