"""`compact` and `gc` as people call them, on a small run made by the real log and writer."""

import asyncio
from pathlib import Path

import pytest

from rollout.commands import compact, gc
from rollout.dataset.reader import open_dataset
from rollout.errors import ConfigError
from tests.small_run import write_small_run

LEFT = f"artifacts/{'0' * 32}/1-1/left"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    asyncio.run(write_small_run(tmp_path / "small"))
    return tmp_path / "small"


def test_compact_tells_what_became_of_the_parts(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = open_dataset(str(run)).scan()
    assert compact.main([str(run)]) == 0
    assert "1 parts became 1" in " ".join(capsys.readouterr().out.split())
    assert open_dataset(str(run)).scan().equals(before)


def test_gc_lists_and_then_removes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = run / LEFT
    left.parent.mkdir(parents=True)
    left.touch()
    assert gc.main([str(run), "dry_run=true"]) == 0
    assert LEFT in capsys.readouterr().out
    assert left.exists()
    assert gc.main([str(run)]) == 0
    assert not left.exists()
    assert open_dataset(str(run)).scan().num_rows == 12


@pytest.mark.parametrize(
    ("verb", "words", "said"),
    [
        (compact, [], "takes one run"),
        (compact, ["smal"], "did you mean small"),
        (compact, ["small", "target_mb=none"], "target_mb"),
        (gc, ["small", "dryrun=true"], "dry_run"),
        (gc, ["small", "dry_run=yes"], "true or false"),
    ],
)
def test_a_slip_is_one_clear_error(
    run: Path, verb: object, words: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=said):
        verb.main([*words, f"store.uri={run.parent}"])
