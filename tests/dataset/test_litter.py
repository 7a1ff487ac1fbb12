"""What `gc` may remove: what kills left and nothing names, and never anything else."""

from dataclasses import replace
from pathlib import Path

from rollout.dataset.litter import litter
from rollout.types import Artifact
from tests.dataset.examples import a_row, put_rows
from tests.dataset.test_tail import Run, member

ID = "0" * 32
KEPT = f"artifacts/{ID}/1-1-00000000/nonce"
LEFT = f"artifacts/{ID}/1-1-11111111/nonce"
FOREIGN = [f"artifacts/{ID}/notes.txt", "artifacts/readme", "trajectories/mine.parquet", "x/y"]


def filled(root: Path) -> tuple[Run, str]:
    """A run with a row that names an artifact, and one of everything that lies about."""
    run = Run(root)
    kept = Artifact(name="nonce", uri=KEPT, sha256="", bytes=1)
    run.commit(replace(member("a", 0), artifacts=(kept,)), member("a", 1))
    for path in (KEPT, LEFT, *FOREIGN):
        run.store.put_if_absent(path, b"x")
    orphan = put_rows(run.store, a_row("never"), epoch=run.log.epoch, number=99)
    return run, orphan.parts[0].path


def test_of_a_finished_run_all_that_nothing_names(tmp_path: Path) -> None:
    run, _ = filled(tmp_path)
    run.log.finish({})
    assert litter(run.dataset()) == [LEFT]


def test_what_a_run_at_work_may_still_name_is_spared(tmp_path: Path) -> None:
    run, orphan = filled(tmp_path)
    assert litter(run.dataset()) == []
    run.log.announce()
    assert litter(run.dataset()) == [LEFT, orphan]
    for path in litter(run.dataset()):
        run.store.delete(path)
    assert [row.spec.trajectory_id for row in run.dataset().tail()] == ["a-0", "a-1"]
    assert all(run.store.get(path) == b"x" for path in (KEPT, *FOREIGN))


def test_an_artifact_that_is_no_longer_named_goes(tmp_path: Path) -> None:
    run, _ = filled(tmp_path)
    run.log.retract(["a-0"])
    run.log.finish({})
    assert litter(run.dataset()) == [KEPT, LEFT]
