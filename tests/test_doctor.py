"""The doctor on the machine as it is, and on machines that allow less."""

import contextlib
import json
import os
import platform
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollout.doctor import kernel, limits
from rollout.doctor.base import Level, Wishes, fail, ok, warn
from rollout.doctor.examine import all_well, engine_can_run
from tests.everybody import python_of_everybody
from tests.sandbox.harness import needs_btrfs

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534
IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="gives up rights, so it must have them")


def doctor(
    *arguments: str,
    python: str = sys.executable,
    before: tuple[str, ...] = (),
    env: dict[str, str] | None = None,
    **more: Any,
) -> tuple[int, dict[str, dict[str, str]]]:
    """Run the doctor as a person would; its exit code and its findings by name."""
    command = [*before, python, "-W", "error", "-m", "rollout", "doctor", "--json", *arguments]
    path = os.pathsep.join([str(ROOT), *(p for p in sys.path if "site-packages" in p)])
    plain = {"PATH": os.environ["PATH"], "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        command,
        cwd="/",
        env=plain | (env or {}),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **more,
    )
    assert done.stderr == ""
    answer = json.loads(done.stdout)
    findings = {finding["name"]: finding for finding in answer["findings"]}
    in_the_way = {name for name, finding in findings.items() if finding["level"] == "fail"}
    assert done.returncode == bool(in_the_way)
    assert answer["native"] == (not in_the_way - {"store", "Ray cluster"})
    return done.returncode, findings


def levels(findings: dict[str, dict[str, str]]) -> dict[str, str]:
    return {name: finding["level"] for name, finding in findings.items()}


def traces(folder: Path) -> list[Path]:
    """What a doctor may have left behind."""
    groups = Path("/sys/fs/cgroup").glob("*/rollout/doctor-*")
    return [*folder.glob(".rollout-doctor-*"), *Path("/tmp").glob(".rollout-doctor-*"), *groups]


@pytest.mark.native
def test_as_root_everything_is_tried_and_nothing_is_left(tmp_path: Path) -> None:
    code, found = doctor("--root-dir", str(tmp_path / "engine"), "--store", str(tmp_path / "run"))
    needed = ["kernel", "rights", "namespaces", "user namespaces", "overlayfs", "id-mapped layers"]
    assert code == 0
    assert {found[name]["level"] for name in [*needed, "seccomp", "cgroup v2"]} == {"ok"}
    assert found["store"]["level"] == "ok"
    assert found["pids limit"]["seen"].startswith("a process was put under one in /sys/fs/cgroup")
    assert str(tmp_path) in found["overlayfs"]["seen"]
    assert not traces(tmp_path)
    assert not (tmp_path / "engine").exists()


@needs_root
def test_as_an_ordinary_user_it_says_what_is_missing(tmp_path: Path) -> None:
    code, found = doctor(
        python=python_of_everybody(NOBODY),
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )
    assert code == 1
    assert found["rights"]["seen"] == f"user {NOBODY}, not root"
    assert "sudo" in found["rights"]["change"]
    assert found["cgroup v2"]["level"] == "fail"
    assert "Permission denied" in found["cgroup v2"]["seen"]
    assert "run as root" in found["cgroup v2"]["change"]
    assert found["overlayfs"]["level"] == "fail"
    assert all(f["change"] for f in found.values() if f["level"] != "ok")
    assert not traces(tmp_path)


@needs_root
def test_an_ordinary_user_with_a_folder_of_its_own(tmp_path: Path) -> None:
    python = python_of_everybody(NOBODY)
    own = Path("/tmp") / f"rollout-doctor-test-{os.getpid()}"
    own.mkdir()
    try:
        os.chown(own, NOBODY, NOBODY)
        _, found = doctor(
            *("--root-dir", str(own), "--store", str(own / "run")),
            python=python,
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
        )
        assert found["store"]["level"] == "ok"
        assert [path.name for path in own.iterdir()] == ["run"]
    finally:
        shutil.rmtree(own)


@needs_root
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv of util-linux")
def test_root_of_a_container_has_no_rights(tmp_path: Path) -> None:
    bare = ("setpriv", "--bounding-set=-sys_admin", "--inh-caps=-sys_admin")
    code, found = doctor("--root-dir", str(tmp_path), before=bare)
    assert code == 1
    assert found["rights"]["seen"] == "root without CAP_SYS_ADMIN: this is a container"
    for name in ("container masks", "namespaces", "overlayfs"):
        assert found[name]["level"] == "fail"
        assert "EPERM" in found[name]["seen"]
    assert "--privileged" in found["namespaces"]["change"]
    assert not traces(tmp_path)


@needs_root
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs unshare of util-linux")
def test_masks_of_an_outer_container_are_seen(tmp_path: Path) -> None:
    mask = 'mount --bind /dev/null /proc/version && mount -o ro --bind /sys/fs /sys/fs && exec "$@"'
    outer = ("unshare", "--mount", "sh", "-c", mask, "sh")
    _, found = doctor("--root-dir", str(tmp_path), before=outer)
    assert found["container masks"]["level"] in ("warn", "fail")
    assert "such as /proc/version" in found["container masks"]["seen"]


DENY_UNSHARE = """
import ctypes, os, struct, sys
number = {"x86_64": 272, "aarch64": 97}[os.uname().machine]
code = b"".join(struct.pack("HBBI", *line) for line in (
    (0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, 0x00050001), (0x06, 0, 0, 0x7FFF0000)))
buffer = ctypes.create_string_buffer(code)
program = struct.pack("HP", len(code) // 8, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, ctypes.c_char_p(program), 0, 0) == 0
os.execvp(sys.argv[1], sys.argv[1:])
"""


@needs_root
@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="numbers of calls")
def test_a_seccomp_filter_from_outside_is_seen(tmp_path: Path) -> None:
    outer = (sys.executable, "-c", DENY_UNSHARE)
    code, found = doctor("--root-dir", str(tmp_path), before=outer)
    assert code == 1
    assert "a seccomp filter from outside" in found["container masks"]["seen"]
    assert "EPERM" in found["namespaces"]["seen"]
    assert found["seccomp"]["level"] == "ok"


def test_a_store_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    code, found = doctor("--store", str(tmp_path / "file" / "run"))
    assert code == 1
    assert found["store"]["level"] == "fail"
    assert str(tmp_path / "file") in found["store"]["seen"]


@contextlib.contextmanager
def daemon(path: Path, answer: bytes) -> Iterator[None]:
    """A Docker daemon as far as the doctor looks at one; without an answer it hangs."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    connection.recv(4096)
                    connection.sendall(answer)
                    connection.recv(1)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    ("answer", "level", "seen"),
    [
        (b'HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{"Version": "20.10.24"}', "ok", "20.10.24"),
        (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}", "warn", "not with its version"),
        (b"not http at all\r\n\r\n", "warn", "BadStatusLine"),
        (b"", "warn", "timed out"),
    ],
    ids=["well", "failing", "no-http", "hanging"],
)
def test_docker_answers_fails_or_hangs(
    tmp_path: Path, answer: bytes, level: str, seen: str
) -> None:
    path = tmp_path / "d.sock"
    with daemon(path, answer):
        _, found = doctor(env={"DOCKER_HOST": f"unix://{path}"})
    assert found["Docker"]["level"] == level
    assert seen in found["Docker"]["seen"]


def test_limits_are_measured_against_what_is_wanted() -> None:
    findings = {f.name: f for f in limits.check(Wishes(root_dir="/", sandboxes=10_000_000))}
    assert findings["kernel.pid_max"].level is Level.WARN
    assert findings["kernel.pid_max"].change.startswith("`sysctl -w kernel.pid_max=")
    assert findings["user.max_net_namespaces"].change.startswith("`sysctl -w user.max_net")
    assert findings["disk space"].level is Level.WARN
    modest = {f.name: f for f in limits.check(Wishes(root_dir="/", sandboxes=1))}
    assert modest["user.max_*_namespaces"].level is Level.OK


def test_disk_limits_are_told_with_what_they_lack(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("rollout.sandbox.volume.MKFS", "mkfs.not-there")
    found = limits._disk_limits(dev=tmp_path)
    assert found.level is Level.WARN
    assert "by tmpfs" in found.seen
    assert "apt-get install btrfs-progs" in found.seen
    assert "modprobe loop" in found.seen


@needs_btrfs
def test_disk_limits_of_a_whole_machine_are_held_by_btrfs() -> None:
    found = limits._disk_limits()
    assert found.level is Level.OK
    assert "btrfs" in found.seen


def test_a_trial_that_does_not_exist_is_a_failed_trial() -> None:
    tried = kernel.attempt("no-such-trial")
    assert not tried.ok
    assert "no-such-trial" in tried.seen


def test_only_a_failure_stands_in_the_way() -> None:
    findings = [ok("a", "fine"), warn("b", "less", "more")]
    assert all_well(findings)
    findings.append(fail("store", "gone", "buy one"))
    assert not all_well(findings)
    assert engine_can_run(findings)
    assert not engine_can_run([*findings, fail("seccomp", "gone", "buy one")])


CLUSTER = """
import ray, sys
context = ray.init(resources=json.loads(sys.argv[1]), num_cpus=1, include_dashboard=False,
    object_store_memory=80 << 20, _temp_dir=sys.argv[2], _node_ip_address="127.0.0.1")
print(context.address_info["gcs_address"], flush=True)
sys.stdin.read()
ray.shutdown()
"""


@contextlib.contextmanager
def cluster(resources: dict[str, float], **settings: str) -> Iterator[tuple[str, dict[str, str]]]:
    """A Ray of its own; its address, and the environment that lets one in."""
    env = {
        "PATH": os.environ["PATH"],
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        **settings,
    }
    with tempfile.TemporaryDirectory(prefix="rd-", dir="/tmp") as folder:
        started = subprocess.Popen(
            [sys.executable, "-c", "import json" + CLUSTER, json.dumps(resources), folder],
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            assert started.stdout is not None
            yield started.stdout.readline().strip(), env
        finally:
            started.communicate(timeout=60)


@pytest.mark.ray
def test_a_cluster_is_asked_for_its_sandbox_hosts_and_its_memory_monitor() -> None:
    with cluster({"sandbox_host": 1}) as (address, env):
        _, found = doctor("--ray-address", address, env=env)
    assert "1 nodes may hold sandboxes" in found["Ray cluster"]["seen"]
    assert found["Ray's memory monitor"]["level"] == "warn"
    assert "RAY_memory_monitor_refresh_ms=0" in found["Ray's memory monitor"]["change"]


@pytest.mark.ray
def test_a_cluster_without_sandbox_hosts_fails() -> None:
    with cluster({}) as (address, env):
        code, found = doctor("--ray-address", address, env=env)
    assert code == 1
    assert "has no node that may hold sandboxes" in found["Ray cluster"]["seen"]


def test_a_cluster_that_is_not_there_fails() -> None:
    code, found = doctor("--ray-address", "127.0.0.1:1")
    assert code == 1
    assert "nothing answers at 127.0.0.1:1" in found["Ray cluster"]["seen"]


def test_people_get_lines_with_what_to_change(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rollout", "doctor", "--sandboxes", "10000000"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert "→ `sysctl -w kernel.pid_max=" in done.stdout
    assert "\x1b" not in done.stdout
    last = done.stdout.splitlines()[-1]
    assert last.startswith("the native engine can") == (done.returncode in (0, 1))
