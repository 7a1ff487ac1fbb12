"""The pytest scorer, with a real pytest in a real sandbox."""

from collections.abc import AsyncIterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

from rollout.aio import Deadline
from rollout.config import EngineConf
from rollout.errors import ConfigError, ScoreError
from rollout.sandbox.base import Sandbox, SandboxSpec
from rollout.sandbox.native import NativeEngine
from rollout.scorers.base import Verdict
from rollout.scorers.pytest import Pytest, as_reported, read_report
from rollout.types import Blueprint, BuildStep, Task, Tree, Verifier

BLUEPRINT = Blueprint(steps=(BuildStep(op="workdir", dest="/app"),))
PACKAGES = ("pytest", "pluggy", "iniconfig", "packaging", "pygments")
HOME = "/opt/pytest"
TESTS = {
    "test_sum.py": """
import pytest
from calc import add

def test_small(): assert add(1, 2) == 3

@pytest.mark.parametrize("n", [0, 10, 20])
def test_more(n): assert add(n, n) == 2 * n

class TestSigns:
    def test_minus(self): assert add(-1, -2) == -3
""",
}
GOOD, BAD = "def add(a, b): return a + b\n", "def add(a, b): return a + abs(b)\n"


@pytest.fixture
async def box(tmp_path: Path) -> AsyncIterator[Sandbox]:
    engine = NativeEngine(EngineConf(root_dir=str(tmp_path / "engine")))
    await engine.start()
    try:
        made = await engine.create(
            SandboxSpec.for_blueprint(await engine.build(BLUEPRINT), BLUEPRINT)
        )
        await made.put_tree(pytest_itself(), HOME)
        yield made
    finally:
        await engine.close()


def pytest_itself() -> Tree:
    """The one that runs this: all of it is Python."""
    files = {}
    for name in PACKAGES:
        for path in distribution(name).files or ():
            if ".." not in path.parts and "__pycache__" not in path.parts:
                files[str(path)] = Path(str(path.locate())).read_bytes()
    return Tree.of(files)


def task(tests: dict[str, str] = TESTS, **env: str) -> Task:
    verifier = Verifier(env=tuple({"PYTHONPATH": HOME, **env}.items()))
    return Task(id="t", instruction="x", tests=Tree.of(tests), verifier=verifier)


async def judged(box: Sandbox, calc: str, work: Task | None = None, **settings: Any) -> Verdict:
    await box.write_file("/app/calc.py", calc.encode())
    settings = {"python": "/usr/bin/python3", **settings}
    return await Pytest(**settings).score(work or task(), box, Deadline.after(120))


pytestmark = pytest.mark.native


async def test_the_share_that_passed_or_all(box: Sandbox) -> None:
    assert (await judged(box, GOOD)).reward == 1.0
    verdict = await judged(box, BAD)
    assert verdict.reward == pytest.approx(4 / 5)
    assert "4 of 5 passed; not: test_sum.TestSigns::test_minus" in verdict.output
    assert (await judged(box, BAD, mode="all")).reward == 0.0
    assert (await judged(box, GOOD, mode="all")).reward == 1.0


async def test_only_what_is_expected_counts_and_it_must_have_run(box: Sandbox) -> None:
    expected = ["test_sum.py::TestSigns::test_minus", "test_sum.py::test_more[10]"]
    assert (await judged(box, BAD, expected=expected)).reward == 0.5
    gone = [*expected, "test_sum.py::test_gone", "other.py::test_x"]
    verdict = await judged(box, GOOD, expected=gone)
    assert verdict.reward == 0.5
    assert "not: other::test_x, test_sum::test_gone" in verdict.output


async def test_what_is_skipped_or_expected_to_fail_has_not_passed(box: Sandbox) -> None:
    tests = """
import pytest
def test_good(): pass
@pytest.mark.skip
def test_skipped(): pass
@pytest.mark.xfail
def test_xfail(): assert False
"""
    work = task({"test_a.py": tests})
    expected = [f"test_a.py::test_{name}" for name in ("good", "skipped", "xfail")]
    assert (await judged(box, "", work, expected=expected)).reward == pytest.approx(1 / 3)
    assert (await judged(box, "", work)).reward == 1.0


async def test_code_that_cannot_be_imported_scores_nothing(box: Sandbox) -> None:
    assert (await judged(box, "raise ValueError")).reward == 0.0


async def test_no_tests_is_nothing_and_no_pytest_no_verdict(box: Sandbox) -> None:
    verdict = await judged(box, "", task({"test_a.py": "x = 1"}))
    assert (verdict.reward, verdict.output.splitlines()[0]) == (0.0, "no test ran")
    with pytest.raises(ScoreError, match="has no pytest"):
        await judged(box, GOOD, task(PYTHONPATH="/nowhere"))
    with pytest.raises(ScoreError, match="left no report"):
        await judged(box, GOOD, args=["--no-such-option"])


async def test_planted_files_do_not_stand_in_for_the_real_ones(box: Sandbox) -> None:
    await box.put_tree(
        Tree.of(
            {
                "pytest.py": "raise SystemExit(0)",
                "json.py": "raise SystemExit(0)",
                "conftest.py": "def pytest_collection_modifyitems(items): items.clear()",
                "pytest.ini": "[pytest]\naddopts = --collect-only",
                "report.xml": "<testsuite><testcase classname='x' name='y'/></testsuite>",
            }
        ),
        "/app",
    )
    await box.write_file("/pytest.ini", b"[pytest]\naddopts = --collect-only")
    await box.write_file("/tests/conftest.py", b"raise SystemExit(0)")
    assert (await judged(box, BAD)).reward == pytest.approx(4 / 5)


BOMB = (
    '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;&a;&a;">]>'
    "<testsuite><testcase classname='x' name='&b;'/></testsuite>"
)


@pytest.mark.parametrize(
    ("report", "said"),
    [
        (BOMB.encode(), "document type"),
        (BOMB.replace("DOCTYPE", "doctype").encode(), "document type"),
        (BOMB.encode("utf-16"), "utf-8"),
        (b"<testsuite>", "no XML"),
        (b"", "no XML"),
    ],
)
def test_a_hostile_report_is_none(report: bytes, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_report(report)


def test_a_test_that_passed_and_failed_has_failed() -> None:
    case = "<testcase classname='a' name='b'>{}</testcase>"
    xml = f"<x>{case.format('')}{case.format('<failure/>')}</x>"
    assert Pytest()._judge(read_report(xml.encode()))[0] == 0.0


@pytest.mark.parametrize(
    ("test_id", "reported"),
    [
        ("test_x.py::test_a", "test_x::test_a"),
        ("a/b/test_x.py::TestA::test_b[1]", "a.b.test_x.TestA::test_b[1]"),
        ("test_x.py::test_b[x::y]", "test_x::test_b[x::y]"),
        ("./test_x.py::test_a", "test_x::test_a"),
    ],
)
def test_ids_as_a_report_names_them(test_id: str, reported: str) -> None:
    assert as_reported(test_id) == reported


@pytest.mark.parametrize(
    ("settings", "said"), [({"mode": "some"}, "scorer.mode"), ({"expected": ["x"]}, "no id")]
)
def test_settings_that_cannot_be_are_told(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Pytest(**settings)
