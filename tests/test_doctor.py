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
from rollout.sandbox.init.build import binary
from tests.everybody import packages_and, python_of_everybody
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


LOST = {"rights", "cpu limit", "memory limit", "disk limits"}
"""What an ordinary user does without."""


@pytest.fixture
def own() -> Iterator[Path]:
    """A folder of that user's."""
    folder = Path(tempfile.mkdtemp(prefix="rollout-doctor-test-", dir="/tmp"))
    os.chown(folder, NOBODY, NOBODY)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def doctor_of(
    uid: int, *arguments: str, before: tuple[str, ...] = (), home: str = "/nonexistent"
) -> tuple[int, dict[str, dict[str, str]]]:
    """The doctor of another user; `before` is run as root and becomes that user itself."""
    who: dict[str, Any] = {} if before else {"user": uid, "group": uid, "extra_groups": []}
    python = python_of_everybody(uid)
    return doctor(*arguments, python=python, before=before, env={"HOME": home}, **who)


START = """
import asyncio, os, sys
from rollout.config import EngineConf
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.native import NativeEngine
from rollout.types import Blueprint

async def start():
    engine = NativeEngine(EngineConf(root_dir=sys.argv[1]) if sys.argv[1:] else EngineConf())
    await engine.start()
    try:
        blueprint = Blueprint()
        spec = SandboxSpec.for_blueprint(await engine.build(blueprint), blueprint)
        box = await engine.create(spec)
        print((await box.exec(["id", "-u"])).stdout.decode().strip(), *sorted(engine.limits))
        await box.close()
    finally:
        await engine.close()

asyncio.run(start())
"""


def engine_of(
    uid: int, *arguments: str, before: tuple[str, ...] = (), home: str = "/nonexistent"
) -> "subprocess.CompletedProcess[str]":
    """The engine itself, really started as that user."""
    binary()  # in this checkout only its owner can build it
    who: dict[str, Any] = {} if before else {"user": uid, "group": uid, "extra_groups": []}
    return subprocess.run(
        [*before, python_of_everybody(uid), "-c", START, *arguments],
        cwd="/",
        env={
            "PATH": os.environ["PATH"],
            "PYTHONPATH": packages_and(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "HOME": home,
        },
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        **who,
    )


@needs_root
def test_an_ordinary_user_can_and_is_told_what_is_lost(own: Path) -> None:
    store = own / "run"
    code, found = doctor_of(
        NOBODY, *("--root-dir", str(own / "e"), "--sandboxes", "1", "--store", str(store))
    )
    assert code == 0
    for name in LOST:
        assert found[name]["level"] == "warn"
        assert "run as root" in found[name]["change"]
    assert "one user" in found["rights"]["seen"]
    assert "tmpfs only" in found["disk limits"]["seen"]
    assert "RLIMIT_NPROC" in found["pids limit"]["seen"]
    assert str(own / "e") in found["overlayfs"]["seen"]
    assert "id-mapped layers" not in found
    assert [path.name for path in own.iterdir()] == ["run"]
    done = engine_of(NOBODY, str(own / "e"))
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["0", "disk", "pids"]
    assert not traces(own)


@needs_root
def test_the_folder_looked_at_is_below_the_users_home(own: Path) -> None:
    code, found = doctor_of(NOBODY, home=str(own))
    assert code == 0
    assert f"{own}/.local/share/rollout" in found["overlayfs"]["seen"]
    assert engine_of(NOBODY, home=str(own)).returncode == 0
    assert (own / ".local/share/rollout").is_dir()


@needs_root
def test_an_ordinary_user_without_a_folder_cannot(tmp_path: Path) -> None:
    code, found = doctor_of(NOBODY)
    assert code == 1
    assert found["overlayfs"]["level"] == "fail"
    assert "/nonexistent/.local/share/rollout" in found["overlayfs"]["seen"]
    assert "engine.root_dir" in found["overlayfs"]["change"]
    assert all(f["change"] for f in found.values() if f["level"] != "ok")
    assert engine_of(NOBODY).returncode != 0
    assert not traces(tmp_path)


WITHOUT_USER_NAMESPACES = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
(ready, made), (go, mapped) = os.pipe(), os.pipe()
child = os.fork()
if child:
    os.read(ready, 1)
    for name in ("uid_map", "gid_map"):
        with open(f"/proc/{child}/{name}", "w") as file:
            file.write("0 0 4294967295")
    os.write(mapped, b"!")
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
assert libc.unshare(0x10000000) == 0
os.write(made, b"!")
os.read(go, 1)
with open("/proc/sys/user/max_user_namespaces", "w") as file:
    file.write("0")
os.setgroups([]); os.setgid(int(sys.argv[1])); os.setuid(int(sys.argv[1]))
os.execvp(sys.argv[2], sys.argv[2:])
"""
"""Forbidden only below a user namespace of its own, so that the machine's other users have them."""


@needs_root
def test_where_users_have_no_namespaces_it_names_the_sysctl(own: Path) -> None:
    before = (sys.executable, "-c", WITHOUT_USER_NAMESPACES, str(NOBODY))
    code, found = doctor_of(NOBODY, "--root-dir", str(own), before=before)
    assert code == 1
    assert found["rights"]["seen"].startswith(f"user {NOBODY}, not root")
    for name in ("namespaces", "user namespaces"):
        assert found[name]["level"] == "fail"
        assert "ENOSPC" in found[name]["seen"]
        assert found[name]["change"] == "`sysctl -w user.max_user_namespaces=100000`"
    done = engine_of(NOBODY, str(own), before=before)
    assert done.returncode != 0
    assert "user.max_user_namespaces" in done.stderr


@pytest.mark.parametrize(
    ("knob", "value", "change"),
    [
        ("kernel/apparmor_restrict_unprivileged_userns", "1", "=0`"),
        ("kernel/unprivileged_userns_clone", "0", "=1`"),
        ("user/max_user_namespaces", "0", "=100000`"),
    ],
)
def test_each_switch_over_user_namespaces_is_known(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, knob: str, value: str, change: str
) -> None:
    fake_sysctls(tmp_path, {knob: value})
    monkeypatch.setattr(kernel, "_SYS", tmp_path)
    monkeypatch.setattr(kernel, "is_ordinary_user", lambda: True)
    assert f"`sysctl -w {knob.replace('/', '.')}{change}" in kernel._userns_advice()


def fake_sysctls(folder: Path, values: dict[str, str]) -> None:
    for name, value in values.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(f"{value}\n")


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
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, contextlib.suppress(OSError):
                    if connection.recv(4096):
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
    ("answer", "seen"),
    [
        (b"HTTP/1.1 500 No\r\nContent-Length: 2\r\n\r\n{}", "no Docker daemon answers"),
        (b'HTTP/1.1 200 OK\r\nContent-Length: 23\r\n\r\n{"Version": "20.10.24"}', "no Docker"),
        (b"not http at all\r\n\r\n", "not http at all"),
        (b"", "timed out"),
    ],
    ids=["failing", "half", "no-http", "hanging"],
)
def test_docker_fails_or_hangs(tmp_path: Path, answer: bytes, seen: str) -> None:
    path = tmp_path / "d.sock"
    with daemon(path, answer):
        _, found = doctor(env={"DOCKER_HOST": f"unix://{path}"})
    assert found["Docker"]["level"] == "warn"
    assert seen in found["Docker"]["seen"]


@pytest.mark.docker
def test_docker_answers_and_tells_what_it_can_limit() -> None:
    _, found = doctor()
    assert found["Docker"]["level"] == "ok"
    assert "runtimes" in found["Docker"]["seen"]
    assert "pids" in found["Docker"]["seen"]


def test_limits_are_measured_against_what_is_wanted() -> None:
    findings = {f.name: f for f in limits.check(Wishes(root_dir="/", sandboxes=10_000_000))}
    assert findings["kernel.pid_max"].level is Level.WARN
    assert findings["kernel.pid_max"].change.startswith("`sysctl -w kernel.pid_max=")
    assert findings["user.max_net_namespaces"].change.startswith("`sysctl -w user.max_net")
    assert findings["disk space"].level is Level.WARN
    modest = {f.name: f for f in limits.check(Wishes(root_dir="/", sandboxes=1))}
    assert modest["user.max_*_namespaces"].level is Level.OK


KNOBS = {
    "kernel/pid_max": 50_000,
    "kernel/threads-max": 50_000,
    "kernel/pty/max": 7_024,
    "kernel/pty/reserve": 1_024,
    "fs/file-max": 768_000,
    "fs/inotify/max_user_instances": 64,
    "fs/inotify/max_user_watches": 8_192,
    **{f"user/max_{kind}_namespaces": 7_024 for kind in limits.NAMESPACES},
}
"""Just enough, or about so, for 6,000 sandboxes."""


@pytest.mark.parametrize("low", [None, *sorted(set(KNOBS) - {"kernel/pty/reserve"})])
def test_each_sysctl_that_is_too_low_is_told_with_the_command(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, low: str | None
) -> None:
    wanted = Wishes(root_dir="/", sandboxes=6_000)
    fake_sysctls(tmp_path, {name: str(value) for name, value in KNOBS.items()})
    if low:
        (tmp_path / low).write_text("10\n")
    monkeypatch.setattr(limits, "_SYS", tmp_path)
    monkeypatch.setattr(limits, "is_ordinary_user", lambda: False)
    told = [f for f in limits.check(wanted) if f.level is not Level.OK and "sysctl" in f.change]
    assert [f.name for f in told] == ([low.replace("/", ".")] if low else [])
    for finding in told:
        name, _, value = finding.change.strip("`").removeprefix("sysctl -w ").partition("=")
        (tmp_path / name.replace(".", "/")).write_text(value)
    assert not [f for f in limits.check(wanted) if "sysctl" in f.change]


@pytest.mark.parametrize(
    ("sandboxes", "free_mb", "level", "change"),
    [
        (6_000, 3_400, Level.OK, ""),
        (6_000, 3_300, Level.WARN, "engine.memory_cgroups=group"),
        (6_000, 2_100, Level.WARN, "ask for fewer"),
        (100, 45, Level.OK, ""),
    ],
)
def test_memory_is_reckoned_with_and_without_limits(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    sandboxes: int,
    free_mb: int,
    level: Level,
    change: str,
) -> None:
    monkeypatch.setattr(limits, "is_ordinary_user", lambda: False)
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 9999999 kB\nMemAvailable: {free_mb * 1024} kB\n")
    found = limits._memory(sandboxes, meminfo)
    assert found.level is level
    assert change in found.change
    assert "idle sandboxes need about" in found.seen


def test_sandboxes_of_a_user_share_what_the_user_has(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    fake_sysctls(tmp_path, {name: str(value) for name, value in KNOBS.items()})
    monkeypatch.setattr(limits, "_SYS", tmp_path)
    monkeypatch.setattr(limits, "is_ordinary_user", lambda: True)
    findings = {f.name: f for f in limits.check(Wishes(root_dir="/", sandboxes=6_000))}
    instances = findings["fs.inotify.max_user_instances"]
    assert instances.change == "`sysctl -w fs.inotify.max_user_instances=12000`"
    assert "user's processes" in findings
    assert "memory limit" not in findings["memory"].seen


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
