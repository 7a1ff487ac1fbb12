"""Every engine holds what it declares to hold, and every probe gets out where its wall is missing.

All probes (inside, tests/security/probes) and drills (from outside, tests/security/drills) are done
in sandboxes as they are shipped, for each way to run an engine, and in ones that lack just the
walls that they try. The second kind comes from a launcher compiled for this test
(rollout/sandbox/init/weaken.c). What this machine's kernel lacks altogether cannot be shown to be
held back; such a probe is skipped the second time, with a reason.
"""

import os
import re
from pathlib import Path

import pytest

from rollout.errors import SandboxError
from rollout.sandbox.init import build
from rollout.sandbox.walls import TRIES, WALLS, Wall
from tests.sandbox.conftest import left_behind
from tests.sandbox.harness import until_empty
from tests.security.examine import DOCKER, NATIVE, Survey, conf
from tests.security.matrix import (
    ALL,
    BROKEN,
    OPEN,
    UNSHOWN,
    declared_table,
    is_as_declared,
    of_wall,
    status,
)
from tests.security.probes.table import ABSENT, ESCAPED, REFUSED
from tests.security.survey import survey
from tests.security.weakened import DEFINE, WeakenedEngine, running_weakened

pytestmark = [pytest.mark.native, pytest.mark.timeout(900)]

README = (Path(__file__).parent.parent.parent / "README.md").read_text()
LEAST_SHOWN = 190
"""Escapes that any machine must be able to show."""
MODES = list(WALLS)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="as root alone")


@pytest.fixture(scope="module")
def surveys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Survey, Survey]:
    return survey(tmp_path_factory.mktemp("matrix"))


@pytest.fixture
def shipped(surveys: tuple[Survey, Survey]) -> Survey:
    return surveys[0]


@pytest.fixture
def weak(surveys: tuple[Survey, Survey]) -> Survey:
    return surveys[1]


def found_in(survey: Survey, mode: str) -> dict[str, tuple[str, str]]:
    if mode not in survey:
        pytest.skip(f"{mode}: not as this user, or not on this machine")
    return survey[mode]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("mode", MODES)
def test_it_is_held_back_as_declared(shipped: Survey, mode: str, name: str) -> None:
    found = found_in(shipped, mode)
    assert is_as_declared(found, mode, name), found.get(name, "no answer")


@pytest.mark.parametrize("mode", MODES)
def test_no_wall_is_kept_secret(shipped: Survey, mode: str) -> None:
    """What is not declared does let something through."""
    found = found_in(shipped, mode)
    for wall in set(Wall) - WALLS[mode]:
        assert OPEN in {status(found, mode, name) for name in of_wall(wall)}, wall


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("mode", [NATIVE, DOCKER])
def test_it_gets_out_where_the_wall_is_missing(weak: Survey, mode: str, name: str) -> None:
    outcome, seen = found_in(weak, mode).get(name, (BROKEN, "no answer"))
    if outcome == ABSENT:
        pytest.skip(f"this machine cannot show it: {seen}")
    if name in UNSHOWN.get(mode, {}) and outcome != BROKEN:
        pytest.skip(f"{mode} cannot show it: {UNSHOWN[mode][name]}")
    assert outcome == ESCAPED, f"{outcome}: {seen}"


@needs_root
def test_most_ways_out_are_shown(weak: Survey) -> None:
    for found in weak.values():
        shown = [name for name, (outcome, _) in found.items() if outcome == ESCAPED]
        assert len(shown) >= LEAST_SHOWN


@pytest.mark.parametrize("answer", [{}, {ALL[0]: ("", "")}, {ALL[0]: ("fine", "")}])
def test_no_answer_or_an_unknown_one_is_not_held_back(answer: dict[str, tuple[str, str]]) -> None:
    for mode in MODES:
        assert not is_as_declared(answer, mode, ALL[0])
    assert is_as_declared({ALL[0]: (REFUSED, "")}, MODES[0], ALL[0])


def test_the_readme_shows_what_is_declared() -> None:
    assert set(TRIES) == set(Wall)
    assert all(of_wall(wall) for wall in Wall)
    assert declared_table() in README
    (told,) = re.findall(r"(\d+) ways to get at something", README)
    assert int(told) == len(ALL)


@needs_root
async def test_a_launcher_as_shipped_leaves_no_wall_out(tmp_path: Path) -> None:
    (tmp_path / "secret").touch()
    assert DEFINE.encode() not in build.binary().read_bytes()
    engine = WeakenedEngine(conf(tmp_path / "root"))
    async with running_weakened(engine, build.binary(), tmp_path):
        with pytest.raises(SandboxError, match="unknown field or too many of it: 'weaken'"):
            await engine.without("caps")


@needs_root
async def test_nothing_is_left_behind(surveys: tuple[Survey, Survey], tmp_path: Path) -> None:
    await until_empty(lambda: left_behind(tmp_path.parent, set()), "left behind")
