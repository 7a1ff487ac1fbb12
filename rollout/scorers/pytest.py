"""pytest over the task's tests, judged by its own report of each test."""

import posixpath
import secrets
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from rollout.aio import Deadline
from rollout.errors import ConfigError, SandboxError, SandboxLost, ScoreError
from rollout.sandbox.base import Sandbox
from rollout.scorers.base import Verdict
from rollout.scorers.verdicts import TESTS, no_verdict, printed, put_tests, run_to_end
from rollout.transcript import clip
from rollout.types import Score, Task

MODES = ("fraction", "all")
REPORT_LIMIT_BYTES = 8 << 20
SHOWN = 20
NO_PYTEST = 97
START = f"""
import sys
sys.path.pop(0)
try:
    import pytest
except ImportError:
    sys.exit({NO_PYTEST})
sys.path.append(sys.argv.pop(1))
sys.exit(pytest.main(sys.argv[1:]))
"""
"""The working folder comes last: a file of the agent's that is called pytest.py is not pytest."""
SETTINGS = ("pytest.ini", ".pytest.ini", "pyproject.toml", "tox.ini", "setup.cfg")


@dataclass(frozen=True, slots=True)
class Told:
    """One test of a report."""

    id: str
    """`folder.module.Class::name`, as the report has it."""
    passed: bool
    how: str
    """`passed | failed | error | skipped`."""


class Pytest:
    """Reward by the tests that passed: their share, or with `mode: all` 1 where every one did.

    Skipped and expected failures are no passes. What `expected` names must be among them: a test
    that did not run has not passed. The report lies in a folder with a name that is made up for
    it; code under test that runs in pytest's own process could still find it, so what an agent
    wrote is best run by the tests in a process of its own.
    """

    def __init__(
        self,
        *,
        paths: Sequence[str] = (TESTS,),
        mode: str = "fraction",
        expected: Sequence[str] = (),
        python: str = "python3",
        args: Sequence[str] = (),
        name: str = "pytest",
    ) -> None:
        """
        paths: files or folders of the sandbox; the task's tests are at /tests.
        expected: ids as pytest prints them, relative to /tests: `test_x.py::TestA::test_b[1]`.
        python: who has pytest.
        """
        if mode not in MODES:
            raise ConfigError(f"scorer.mode: {mode!r} is none of {', '.join(MODES)}")
        if wrong := [each for each in expected if "::" not in each]:
            raise ConfigError(f"scorer.expected: {wrong[0]!r} is no id of a test, FILE::TEST")
        self._paths, self._mode, self._name = tuple(paths), mode, name
        self._expected = tuple(as_reported(each) for each in expected)
        self._python, self._args = python, tuple(args)

    def problems(self, task: Task) -> str | None:
        """Why the task cannot be scored this way, known before anything runs."""
        if self._paths == (TESTS,) and not task.tests.entries:
            return f"task {task.id}: it brings no tests; set scorer.paths"
        return None

    async def score(self, task: Task, sandbox: Sandbox, deadline: Deadline) -> Verdict:
        folder = f"/tmp/report-{secrets.token_hex(16)}"
        workdir = sandbox.spec.workdir or sandbox.spec.image.workdir
        settings = () if _has_settings(task) else ("-c", "/dev/null")
        report = f"{folder}/report.xml"
        asked = ("-p", "no:cacheprovider", "--rootdir", TESTS, *settings, *self._args)
        with no_verdict(task):
            await put_tests(task, sandbox)
            run = await run_to_end(
                task,
                sandbox,
                [self._python, "-c", START, workdir, *asked, f"--junitxml={report}", *self._paths],
                env={"PYTHONDONTWRITEBYTECODE": "1", **dict(task.verifier.env)},
                shown=f"pytest {' '.join(self._paths)}",
                deadline=deadline,
            )
            if run.result.exit_code == NO_PYTEST:
                raise ScoreError(f"task {task.id}: {self._python} of the sandbox has no pytest")
            tests = await self._report(task, sandbox, report, run.output)
            await sandbox.remove(folder)
        reward, why = self._judge(tests)
        return Verdict(
            reward=reward,
            scores=(Score(name=self._name, value=reward),),
            output=f"{why}\n{run.output}",
            integrity=run.signs,
        )

    async def _report(
        self, task: Task, sandbox: Sandbox, path: str, output: str
    ) -> tuple[Told, ...]:
        try:
            return read_report(await sandbox.read_file(path, limit_bytes=REPORT_LIMIT_BYTES))
        except FileNotFoundError:
            why = "pytest left no report"
        except SandboxLost:
            raise
        except (SandboxError, ValueError) as exc:
            why = f"pytest's report cannot be read: {exc}"
        raise ScoreError(f"task {task.id}: {why}; {printed(output)}")

    def _judge(self, tests: tuple[Told, ...]) -> tuple[float, str]:
        passed = {test.id for test in tests if test.passed} - {
            test.id for test in tests if not test.passed
        }
        wanted = set(self._expected) or {test.id for test in tests if test.how != "skipped"}
        lacking = sorted(wanted - passed)
        if not wanted:
            return 0.0, "no test ran"
        share = (len(wanted) - len(lacking)) / len(wanted)
        told = f"{len(wanted) - len(lacking)} of {len(wanted)} passed"
        if lacking:
            told += f"; not: {clip(', '.join(lacking[:SHOWN]), 2_000)}"
        return share if self._mode == "fraction" else float(not lacking), told


def _has_settings(task: Task) -> bool:
    """Of pytest, among its tests: else what it finds in folders above is not read."""
    return any(name in SETTINGS for name in task.tests.files())


def as_reported(test_id: str) -> str:
    """`a/test_x.py::TestA::test_b[1]` as a report names it: `a.test_x.TestA::test_b[1]`."""
    file, *inner = test_id.split("::", test_id.partition("[")[0].count("::"))
    module = posixpath.normpath(str(PurePosixPath(file).with_suffix(""))).replace("/", ".")
    return f"{'.'.join([module, *inner[:-1]])}::{inner[-1]}"


def read_report(data: bytes) -> tuple[Told, ...]:
    """The tests of a JUnit XML file; ValueError for what is none.

    Whoever wrote it is not trusted: declarations, in which entities grow without end, are refused.
    """
    text = data.decode()
    if "<!doctype" in text.lower() or "<!entity" in text.lower():
        raise ValueError("it has a document type")
    try:
        root = ET.fromstring(text)  # without declarations nothing can grow
    except ET.ParseError as exc:
        raise ValueError(f"it is no XML: {exc}") from exc
    return tuple(_told(case) for case in root.iter("testcase"))


def _told(case: ET.Element) -> Told:
    kinds = {child.tag for child in case}
    how = next((kind for kind in ("error", "failure", "skipped") if kind in kinds), "passed")
    name = f"{case.get('classname', '')}::{case.get('name', '')}"
    return Told(name, how == "passed", "failed" if how == "failure" else how)
