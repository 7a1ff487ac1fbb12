"""The README's training loops run as printed."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from tests.dataset.test_tail import SIZE, Run, member

ROOT = Path(__file__).parents[2]


def printed(code: str, folder: Path) -> str:
    """What a program of its own prints, in which a warning is an error."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_loop_over_groups_runs_as_printed(tmp_path: Path) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "samples_of" in block)
    assert len(code.splitlines()) < 15
    run = Run(tmp_path / "runs" / "rft")
    run.store.put_if_absent("run.json", b"{}")
    for number in range(4):
        rows = (member(f"g{number}", n, reward=float(n == number % SIZE)) for n in range(SIZE))
        run.commit(*(replace(row, capture_level="tokens") for row in rows))
    run.log.finish({})
    said = printed(code, tmp_path)
    assert said.startswith("(1, 8192) 36 "), said


@pytest.mark.native
def test_the_loop_that_trains_while_it_runs_runs_as_printed(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (code,) = (block for block in blocks if "RolloutSource" in block)
    assert sum(map(bool, code.splitlines())) < 15
    said = printed(code, tmp_path)
    assert [line.split()[0] for line in said.splitlines()] == ["1", "2"]
