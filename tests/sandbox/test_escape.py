"""Ways out of a sandbox, each known to work where the wall that it tries is missing.

Every probe of tests/sandbox/escape runs in a sandbox as it is shipped, where it must be refused,
and in one that lacks just the walls it names, where it must succeed. The second kind comes from a
launcher compiled for this test (rollout/sandbox/init/weaken.c). What this machine's kernel lacks
altogether cannot be shown to be held back; such a probe is skipped the second time, with a reason.
"""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from rollout.config import EngineConf
from rollout.errors import SandboxError
from rollout.sandbox.init import build
from rollout.sandbox.native_sandbox import NativeSandbox
from tests.sandbox.conftest import left_behind, uid_base
from tests.sandbox.escape.table import ABSENT, ESCAPED, PROBES, REFUSED
from tests.sandbox.harness import until_empty
from tests.sandbox.weakened import (
    DEFINE,
    SECRET,
    WeakenedEngine,
    host_with_secrets,
    running_weakened,
)

pytestmark = pytest.mark.native

RANGE = 65_536
SOURCES = Path(__file__).parent / "escape"
INSIDE = "/tmp/probes"
LEAST_SHOWN = 120
"""Escapes that any machine must be able to show."""

Results = dict[str, tuple[str, str]]


class Findings:
    """What all probes came to, from all sandboxes."""

    def __init__(self) -> None:
        self.strict: Results = {}
        self.with_sudo: Results = {}
        self.weakened: Results = {}
        self.uids: dict[str, set[int]] = {}
        self.own_range = range(0)
        self.environments: dict[str, bytes] = {}


def conf(root_dir: Path, first_slot: int) -> EngineConf:
    return EngineConf(
        root_dir=str(root_dir), uid_base=uid_base() + first_slot * RANGE, max_slots=64
    )


@pytest.fixture(scope="module")
def findings(tmp_path_factory: pytest.TempPathFactory) -> Findings:
    folder = tmp_path_factory.mktemp("escape")
    found = Findings()
    with host_with_secrets(folder) as facts:
        asyncio.run(look(folder, facts, found))
    return found


async def look(folder: Path, facts: dict[str, Any], found: Findings) -> None:
    shipped = WeakenedEngine(conf(folder / "strict", 0))
    async with running_weakened(shipped, build.binary(), folder):
        box, neighbour = await shipped.without(""), await shipped.without("")
        facts |= {"neighbour_pid": neighbour.init_pid}
        found.own_range = range(box.uid_base, box.uid_base + RANGE)
        found.strict = await attempt(box, list(PROBES), facts)
        found.with_sudo = await attempt(await shipped.without("", sudo=True), list(PROBES), facts)
        found.uids["strict"] = uids_of(box)
        found.environments["strict"] = Path(f"/proc/{box.init_pid}/environ").read_bytes()
    weak = WeakenedEngine(conf(folder / "weak", 0))
    async with running_weakened(weak, build.build(folder / "box", DEFINE), folder):
        neighbour = await weak.without("")
        facts |= {"neighbour_pid": neighbour.init_pid}
        for walls in {probe.without for probe in PROBES.values()}:
            names = [probe.name for probe in PROBES.values() if probe.without == walls]
            box = await weak.without(",".join(sorted(walls)))
            found.weakened |= await attempt(box, names, facts)
            found.uids[" ".join(sorted(walls))] = uids_of(box)
            await box.close()
        box = await weak.without("environment")
        found.environments["weakened"] = Path(f"/proc/{box.init_pid}/environ").read_bytes()
    for root in (folder / "strict", folder / "weak"):
        await until_empty(lambda root=root: left_behind(root, set()), "left behind")


async def attempt(box: NativeSandbox, names: list[str], facts: dict[str, Any]) -> Results:
    for source in SOURCES.glob("*.py"):
        await box.write_file(f"{INSIDE}/tests/sandbox/escape/{source.name}", source.read_bytes())
    result = await box.exec(
        ["/usr/bin/python3", "-m", "tests.sandbox.escape"],
        cwd=INSIDE,
        stdin=json.dumps({"probes": names, "facts": facts}).encode(),
        timeout_s=120,
    )
    assert result.ok, (box.spec, result.stderr.decode())
    return {name: (outcome, seen) for name, (outcome, seen) in json.loads(result.stdout).items()}


def uids_of(box: NativeSandbox) -> set[int]:
    """All four of its init, as the host has them."""
    status = Path(f"/proc/{box.init_pid}/status").read_text()
    return {int(uid) for uid in status.partition("Uid:")[2].split("\n")[0].split()}


@pytest.mark.parametrize("name", sorted(PROBES))
def test_no_way_out(findings: Findings, name: str) -> None:
    outcome, seen = findings.strict[name]
    assert outcome in (REFUSED, ABSENT), f"{outcome}: {seen}"


@pytest.mark.parametrize("name", sorted(PROBES))
def test_a_way_out_without_the_wall(findings: Findings, name: str) -> None:
    outcome, seen = findings.weakened[name]
    if outcome == ABSENT:
        pytest.skip(f"this machine cannot show it: {seen}")
    assert outcome == ESCAPED, f"{outcome}: {seen}"


def test_most_ways_out_are_shown(findings: Findings) -> None:
    shown = [name for name, (outcome, _) in findings.weakened.items() if outcome == ESCAPED]
    assert len(shown) >= LEAST_SHOWN


def test_sudo_lifts_no_other_wall(findings: Findings) -> None:
    out = {name for name, (outcome, _) in findings.with_sudo.items() if outcome == ESCAPED}
    assert out == {name for name, probe in PROBES.items() if probe.without == {"no_new_privs"}}


def test_uids_of_the_host(findings: Findings) -> None:
    assert findings.uids["strict"] <= set(findings.own_range)
    assert findings.uids["userns"] == {0}


def test_init_has_nothing_of_the_launchers_environment(findings: Findings) -> None:
    assert findings.environments["strict"] == b""
    assert SECRET.encode() in findings.environments["weakened"]


async def test_a_launcher_as_shipped_leaves_no_wall_out(tmp_path: Path) -> None:
    assert DEFINE.encode() not in build.binary().read_bytes()
    engine = WeakenedEngine(conf(tmp_path / "root", 0))
    async with running_weakened(engine, build.binary(), tmp_path):
        with pytest.raises(SandboxError, match="unknown field or too many of it: 'weaken'"):
            await engine.without("caps")
