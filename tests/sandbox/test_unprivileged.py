"""The native engine of a real second user: the contract, and what is different.

As root, this file runs itself and the contract suite again as that user. What is below
`as_that_user` is for that run alone.
"""

import asyncio
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

import rollout
from rollout.config import EngineConf
from rollout.errors import BuildError, SandboxError
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.init.build import binary
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.sandbox.unprivileged import folder_of_user
from rollout.types import Blueprint, BuildStep, Resources, Secret
from tests.everybody import Somebody
from tests.sandbox.harness import Bench, exists, shell_in, until_empty

IS_ROOT = os.geteuid() == 0
UID = 54_321
CONTRACT_TIMEOUT_S = 600

as_root = pytest.mark.skipif(not IS_ROOT, reason="becomes another user")
as_that_user = pytest.mark.skipif(IS_ROOT, reason="run by the tests above, as another user")


@pytest.fixture(scope="module")
def somebody() -> Iterator[Somebody]:
    binary()  # in the copy it cannot be built without a compiler's temporary files
    home = Path(tempfile.mkdtemp(prefix="rollout-somebody-"))
    try:
        yield Somebody.with_copy(UID, home)
    finally:
        shutil.rmtree(home)


def run_tests(somebody: Somebody, *arguments: str) -> int:
    """How many passed; none failed."""
    options = ("-q", "-p", "no:cacheprovider", f"--basetemp={somebody.home}/tests")
    done = somebody.run("-m", "pytest", *options, *arguments, timeout_s=CONTRACT_TIMEOUT_S)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed, done.stdout
    return int(passed[1])


@as_root
@pytest.mark.long
def test_the_contract_holds_for_another_user(somebody: Somebody) -> None:
    files = sorted(Path(__file__).parent.glob("test_engine_contract*.py"))
    names = [f"tests/sandbox/{file.name}" for file in files]
    assert run_tests(somebody, *names, "-k", "native") > 120
    left = [p for p in psutil.process_iter(["uids"]) if p.info["uids"].real == UID]
    assert left == []


@as_root
def test_what_is_different_holds_for_another_user(somebody: Somebody) -> None:
    assert run_tests(somebody, f"tests/sandbox/{Path(__file__).name}") >= 7


# ---------------------------------------------------------------- as that user


@pytest.fixture
def kind() -> str:
    return "native"


@as_that_user
async def test_it_has_one_user_and_says_what_it_can_limit(bench: Bench) -> None:
    engine = bench.engine
    assert engine.limits == {"pids", "disk"}
    assert "users" not in engine.features
    box = await bench.sandbox()
    sh = shell_in(box)
    assert (await sh("id -u; cat /proc/self/uid_map")).stdout.split() == [b"0", b"0", b"0", b"1"]
    assert isinstance(box, NativeSandbox)
    uid = os.geteuid()
    assert f"Uid:\t{uid}\t{uid}" in Path(f"/proc/{box.init_pid}/status").read_text()
    with pytest.raises(SandboxError, match="user"):
        await sh("true", user="nobody")


@as_that_user
async def test_processes_are_limited_for_each_sandbox_alone(bench: Bench) -> None:
    box, other = await bench.limited(pids=20), await bench.limited(pids=20)
    assert box.limits_enforced == ("pids",)
    many = "for i in $(seq 40); do sleep 30 & done; wait"
    refused = await shell_in(box)(many, timeout_s=5)
    assert b"fork" in refused.stderr.lower()
    assert (await shell_in(other)("sleep 0 & wait; echo fine")).stdout == b"fine\n"


@as_that_user
async def test_the_hosts_usr_can_be_added_to_and_taken_from(bench: Bench) -> None:
    sh = shell_in(await bench.sandbox())
    made = await sh(
        "echo '#!/bin/sh\necho mine' > /usr/bin/mine && chmod +x /usr/bin/mine && mine && "
        "rm /usr/bin/env && mkdir /usr/lib/here && mv /usr/lib/here /usr/lib/there"
    )
    assert made.stdout == b"mine\n", made.stderr
    assert Path("/usr/bin/env").exists()
    assert not Path("/usr/lib/there").exists()


@as_that_user
async def test_a_build_has_secrets_and_no_network_of_the_host(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ROLLOUT_TEST_TOKEN", "12345678")
    script = "wc -c < /run/secrets/token > /counted; touch /run/secrets/token"
    step = BuildStep(op="run", argv=("sh", "-c", script), secrets=(Secret(id="token"),))
    given = Blueprint(steps=(step,), secrets=(("token", "ROLLOUT_TEST_TOKEN"),))
    sh = shell_in(await bench.sandbox(given))
    assert (await sh("cat /counted; ls /run/secrets")).stdout == b"8\n"
    with pytest.raises(BuildError, match="build_network=host needs root"):
        await bench.engine.build(replace(given, build_network="host"))


@as_that_user
async def test_nothing_of_it_is_reachable_from_another_sandbox(bench: Bench) -> None:
    """They are the same user on the host, so only namespaces are between them."""
    one, two = await bench.sandbox(), await bench.sandbox()
    await shell_in(one)("echo secret > /root/secret; sleep 100 & echo $! > /pid")
    seen = await shell_in(two)("cat /root/secret; kill -9 -1; ls /proc | grep -c '^[0-9]'")
    assert b"secret\n" not in seen.stdout
    assert (await shell_in(one)("kill -0 $(cat /pid) && echo alive")).stdout == b"alive\n"


@as_that_user
async def test_files_that_deny_everything_are_removed(bench: Bench, root_dir: Path) -> None:
    box = await bench.sandbox()
    await shell_in(box)("mkdir -p /a/b/c && echo x > /a/b/c/d && chmod 000 /a/b/c/d /a/b/c /a/b /a")
    copy = await box.snapshot()
    await box.close()
    await bench.engine.discard(copy)
    (owner,) = (root_dir / "owners").iterdir()
    await until_empty(lambda: list((owner / "b").iterdir()), "left behind")
    assert list((owner / "layers").iterdir()) == []


@as_that_user
async def test_a_limit_it_cannot_hold_is_refused(root_dir: Path) -> None:
    conf = EngineConf(root_dir=str(root_dir))
    with pytest.raises(SandboxError, match="memory"):
        async with rollout.sandbox("host", engine=conf, memory_mb=512):
            pass
    async with rollout.sandbox("host", engine=conf, pids=30, disk_mb=64) as box:
        assert set(box.limits_enforced) == {"pids", "disk"}


@as_that_user
def test_its_folder_is_below_its_home(monkeypatch: pytest.MonkeyPatch) -> None:
    usual = EngineConf.root_dir
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert folder_of_user(usual, usual) == Path("/data/rollout")
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert folder_of_user(usual, usual) == Path("/home/me/.local/share/rollout")
    assert folder_of_user("/elsewhere", usual) == Path("/elsewhere")


@as_that_user
async def test_kill_9_leaves_nothing_after_the_next_start(root_dir: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.sandbox.native_owner", str(root_dir), "0", "each"),
        stdout=subprocess.PIPE,
    )
    assert owner.stdout is not None
    ready, _, _, init_pid = (await owner.stdout.readline()).decode().split()[:4]
    assert ready == "ready"
    os.kill(owner.pid, signal.SIGKILL)
    await owner.wait()
    await until_empty(lambda: psutil.pid_exists(int(init_pid)), "its sandbox")
    engine = NativeEngine(EngineConf(root_dir=str(root_dir)))
    await engine.start()
    try:
        assert len(list((root_dir / "owners").iterdir())) == 1
        box = await engine.create(await _spec(engine))
        await box.start(["sh", "-c", "touch /here; sleep 60"])
        await exists(box, "/here")
    finally:
        await engine.close()
    assert list((root_dir / "owners").iterdir()) == []


async def _spec(engine: NativeEngine) -> SandboxSpec:
    blueprint = Blueprint(resources=Resources(pids=10))
    return SandboxSpec.for_blueprint(await engine.build(blueprint), blueprint)
