"""What only the native engine promises: the kernel's walls, limits, and that nothing is left."""

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from rollout.config import EngineConf
from rollout.errors import BuildError, SandboxError, SandboxLost
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.cgroups import Hierarchies
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.types import Blueprint, BuildStep, Resources, Tree
from tests.sandbox.conftest import uid_base
from tests.sandbox.harness import until_empty

pytestmark = pytest.mark.native

RANGE = 65_536
BLOCK = 64
KEPT_CAPABILITIES = "00000000800404fb"
EPERM, ENOSYS, EAFNOSUPPORT = 1, 38, 97


def conf(root_dir: Path, *, scratch: str = "auto", max_slots: int = BLOCK) -> EngineConf:
    """With uids no other test process uses meanwhile."""
    return EngineConf(
        root_dir=str(root_dir), uid_base=uid_base(), max_slots=max_slots, scratch=scratch
    )


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[NativeEngine]:
    made = NativeEngine(conf(tmp_path))
    await made.start()
    yield made
    await made.close()
    await until_empty(lambda: leftovers(tmp_path), "left behind")


def leftovers(root_dir: Path) -> list[str]:
    """Everything of this root folder's owners that the machine still has."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    processes = [
        f"process {process.pid}"
        for process in psutil.process_iter()
        if str(root_dir) in " ".join(_command(process))
    ]
    owners = {path.name for path in (root_dir / "owners").iterdir()}
    return [
        *processes,
        *(line for line in mounts if str(root_dir) in line),
        *(f"folder {name}" for name in owners),
        *(f"cgroup {name}" for name in Hierarchies.of_machine().owners() & owners),
    ]


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except (psutil.NoSuchProcess, psutil.ZombieProcess):
        return []


async def make(engine: NativeEngine, **more: object) -> NativeSandbox:
    image = await engine.build(Blueprint())
    return await engine.create(SandboxSpec(image=image, **more))  # type: ignore[arg-type]


async def out(box: NativeSandbox, script: str, **more: object) -> str:
    """What a script prints; it must succeed."""
    result = await box.exec(["sh", "-c", script], **more)  # type: ignore[arg-type]
    assert result.ok, (script, result)
    return result.stdout.decode()


async def python(box: NativeSandbox, code: str) -> str:
    result = await box.exec(["/usr/bin/python3", "-c", code])
    assert result.ok, result
    return result.stdout.decode().strip()


# ---------------------------------------------------------------- walls


async def test_host_is_not_visible(engine: NativeEngine, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("x")
    box = await make(engine)
    assert not (await box.exec(["cat", str(secret)])).ok
    assert await out(box, "ls -A /root /home/user /opt /srv /mnt /sys") == (
        "/home/user:\n\n/mnt:\n\n/opt:\n\n/root:\n\n/srv:\n\n/sys:\n"
    )
    assert set((await out(box, "cut -d: -f2 /etc/shadow")).split()) == {"*"}
    assert str(tmp_path) not in await out(box, "cat /proc/self/mountinfo /proc/self/cgroup")
    assert await out(box, "hostname; id -u; cat /etc/resolv.conf") == "sandbox\n0\n"


async def test_environment_of_the_host_stays_outside(engine: NativeEngine) -> None:
    names = set((await out(await make(engine), "env | cut -d= -f1")).split())
    assert names == {"HOME", "LANG", "PATH", "PWD", "USER"}


async def test_every_process_is_in_the_sandboxes_own_uid_range(engine: NativeEngine) -> None:
    first, second = await make(engine), await make(engine)
    assert first.uid_base != second.uid_base
    assert (first.uid_base - second.uid_base) % RANGE == 0
    for box in (first, second):
        status = Path(f"/proc/{box.init_pid}/status").read_text()
        assert f"Uid:\t{box.uid_base}\t{box.uid_base}" in status
    await out(first, "touch /f && chown 1000:1000 /f && su user -c true")
    assert await out(first, "stat -c %u:%g /f /usr /etc/passwd") == "1000:1000\n0:0\n0:0\n"


WATCH_NULL = """
import ctypes, os, select
libc = ctypes.CDLL(None)
watch = libc.inotify_init1(0)
assert libc.inotify_add_watch(watch, b"/dev/null", 0xfff) >= 0
open("/tmp/watching", "w").close()
input()
print(bool(select.select([watch], [], [], 0)[0]))
"""


async def test_neighbours_share_no_device_file(engine: NativeEngine) -> None:
    """A lock on a file, and a watch of it, reach all who have the same file open."""
    one, two = await make(engine), await make(engine)
    await out(one, "flock /dev/null sleep 1000 >/dev/null 2>&1 &")
    await out(one, "until flock -n /dev/null true; [ $? = 1 ]; do sleep 0.01; done")
    assert await out(two, "flock -n /dev/null echo free") == "free\n"
    await two.write_file("/tmp/watch.py", WATCH_NULL.encode())
    async with await two.start(["python3", "/tmp/watch.py"]) as watcher:
        await until_there(two, "/tmp/watching")
        await one.exec(["sh", "-c", "echo secret > /dev/null"])
        await watcher.write_stdin(b"\n")
        assert (await watcher.wait()).stdout == b"False\n"
    async with await two.start(["python3", "/tmp/watch.py"]) as watcher:
        await two.exec(["sh", "-c", "sleep 0.2; echo mine > /dev/null"])
        await watcher.write_stdin(b"\n")
        assert (await watcher.wait()).stdout == b"True\n"


async def test_neighbours_do_not_see_each_other(engine: NativeEngine) -> None:
    first, second = await make(engine), await make(engine)
    await out(first, "echo mine > /tmp/mine; setsid sleep 1000 >/dev/null 2>&1 &")
    listen = (
        "import socket,time; s=socket.socket(socket.AF_UNIX); s.bind(chr(0)+'mine'); s.listen(); "
        "open('/tmp/up','w'); time.sleep(1000)"
    )
    await out(first, f'/usr/bin/python3 -c "{listen}" >/dev/null 2>&1 &')
    await until_there(first, "/tmp/up")
    connect = "import socket; print(socket.socket(socket.AF_UNIX).connect_ex(chr(0)+'mine'))"
    assert await python(first, connect) == "0"
    assert await python(second, connect) == "111"
    assert await out(second, "ls -A /tmp") == ""
    assert "sleep" in await out(first, "cat /proc/*/comm 2>/dev/null; true")
    assert "sleep" not in await out(second, "cat /proc/*/comm 2>/dev/null; true")


async def test_every_sandbox_has_a_network_of_its_own(engine: NativeEngine) -> None:
    """Those made ahead and those made with the sandbox alike, more than are ever made ahead."""
    boxes = await asyncio.gather(*(make(engine) for _ in range(20)))
    names = [await out(box, "readlink /proc/self/ns/net") for box in boxes]
    assert len(set(names)) == 20
    host = str(Path("/proc/self/ns/net").readlink())
    assert host not in {name.strip() for name in names}
    serve = "import socket; s = socket.create_server(('127.0.0.1', 80)); print(s.getsockname()[1])"
    assert {await python(box, serve) for box in boxes} == {"80"}
    await asyncio.gather(*(box.close() for box in boxes))


async def until_there(box: NativeSandbox, path: str) -> None:
    async with asyncio.timeout(20):
        while not (await box.exec(["test", "-e", path])).ok:
            await asyncio.sleep(0.01)


@pytest.mark.parametrize(
    "command",
    [
        "mount -t tmpfs none /mnt",
        "mount --bind /tmp /mnt",
        "unshare -U true",
        "unshare -m true",
        "unshare -n true",
        "nsenter -t 1 -m true",
        "mknod /tmp/disk b 8 0",
        "hostname other",
        "dmesg",
        "echo x > /proc/sys/kernel/core_pattern",
        "echo 1 > /proc/sys/net/ipv4/ip_forward",
        "echo 1 > /proc/sys/user/max_user_namespaces",
        "touch /dev/x",
        "ls /proc/1/root/",
        "cat /proc/1/environ",
    ],
)
async def test_refused(engine: NativeEngine, command: str) -> None:
    assert not (await (await make(engine)).exec(["sh", "-c", command])).ok


SYSTEM_CALLS = """
import ctypes, platform
x86 = platform.machine() == "x86_64"
calls = {
    "bpf": ((321, 280), (0, 0, 0)),
    "keyctl": ((250, 219), (0, -3, 0)),
    "io_uring_setup": ((425, 425), (1, 0)),
    "userfaultfd": ((323, 282), (1,)),
    "perf_event_open": ((298, 241), (0, 0, 0, 0, 0)),
    "clone3": ((435, 435), (0, 0)),
    "clone(NEWUSER)": ((56, 220), (0x10000000, 0, 0, 0, 0)),
    "unknown": ((1000, 1000), ()),
    "socket(AF_ALG)": ((41, 198), (38, 5, 0)),
    "socket(AF_VSOCK)": ((41, 198), (40, 1, 0)),
    "ptrace(TRACEME)": ((101, 117), (0, 0, 0, 0)),
    "landlock_create_ruleset": ((444, 444), (0, 0, 1)),
}
libc = ctypes.CDLL(None, use_errno=True)
for name, (numbers, arguments) in calls.items():
    ctypes.set_errno(0)
    libc.syscall(numbers[0 if x86 else 1], *(ctypes.c_long(a) for a in arguments))
    print(name, ctypes.get_errno(), sep="=")
"""


async def test_system_calls(engine: NativeEngine) -> None:
    answers = dict(
        line.rsplit("=", 1) for line in (await python(await make(engine), SYSTEM_CALLS)).split("\n")
    )
    landlock = int(answers.pop("landlock_create_ruleset"))
    assert landlock != EPERM
    assert {name: int(error) for name, error in answers.items()} == {
        "bpf": EPERM,
        "keyctl": EPERM,
        "io_uring_setup": EPERM,
        "userfaultfd": EPERM,
        "perf_event_open": EPERM,
        "clone3": ENOSYS,
        "clone(NEWUSER)": EPERM,
        "unknown": ENOSYS,
        "socket(AF_ALG)": EAFNOSUPPORT,
        "socket(AF_VSOCK)": EAFNOSUPPORT,
        "ptrace(TRACEME)": 0,
    }


async def test_privileges_are_cut_and_sudo_lifts_only_one(engine: NativeEngine) -> None:
    fields = "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | cut -f2"
    status = await out(await make(engine), fields)
    assert status.split() == [KEPT_CAPABILITIES, KEPT_CAPABILITIES, "1", "2"]
    with_sudo = await make(engine, sudo=True)
    assert (await out(with_sudo, fields)).split() == [KEPT_CAPABILITIES] * 2 + ["0", "2"]
    script = "cp /usr/bin/id /tmp/id && chmod 4755 /tmp/id"
    await out(with_sudo, script)
    assert "euid=0(root)" in await out(with_sudo, "/tmp/id", user="user")
    plain = await make(engine)
    await out(plain, script)
    assert "euid" not in await out(plain, "/tmp/id", user="user")


async def test_loopback_and_low_ports(engine: NativeEngine) -> None:
    code = (
        "import socket; s=socket.socket(); s.bind(('127.0.0.1', 80)); s.listen(); "
        "print(socket.create_connection(('localhost', 80)) is not None, "
        "[name for _, name in socket.if_nameindex()])"
    )
    assert await python(await make(engine), code) == "True ['lo']"


async def test_terminals_and_shared_memory(engine: NativeEngine) -> None:
    code = (
        "import os, multiprocessing.shared_memory as m; a, b = os.openpty(); print(os.ttyname(b)); "
        "s = m.SharedMemory(create=True, size=99); s.close(); s.unlink()"
    )
    assert await python(await make(engine), code) == "/dev/pts/0"


# ---------------------------------------------------------------- limits

HOG = "import time; a = bytearray(400 << 20); a[::4096] = b'x' * len(a[::4096]); print('lived')"


async def test_memory_limit(engine: NativeEngine) -> None:
    if "memory" not in engine.limits:
        pytest.skip("this machine has no memory controller")
    box = await make(engine, resources=Resources(memory_mb=128))
    assert box.limits_enforced == ("memory",)
    assert await box.limits_hit() == ()
    result = await box.exec(["/usr/bin/python3", "-c", HOG])
    assert result.exit_code == 128 + signal.SIGKILL
    assert await box.limits_hit() == ("memory",)
    assert await out(box, "echo still here") == "still here\n"
    await box.close()
    assert await box.limits_hit() == ("memory",)


async def test_pids_limit(engine: NativeEngine) -> None:
    if "pids" not in engine.limits:
        pytest.skip("this machine has no pids controller")
    box = await make(engine, resources=Resources(pids=20))
    fork = "i=0; while [ $i -lt 60 ]; do sleep 1000 & i=$((i+1)); done; wait"
    result = await box.exec(["sh", "-c", fork], timeout_s=3)
    assert b"ork" in result.stderr
    assert await box.limits_hit() == ("pids",)
    await box.kill_all()
    assert await out(box, "echo still here") == "still here\n"


async def test_cpu_limit(engine: NativeEngine) -> None:
    if "cpu" not in engine.limits:
        pytest.skip("this machine has no cpu controller")
    box = await make(engine, resources=Resources(cpu=0.25))
    before = psutil.Process(box.init_pid).cpu_times()
    spin = "i=0; while :; do i=$((i+1)); done"
    assert (await box.exec(["sh", "-c", spin], timeout_s=2)).timed_out
    after = psutil.Process(box.init_pid).cpu_times()
    used_s = sum(after[:4]) - sum(before[:4])
    assert used_s < 1.5
    assert box.limits_enforced == ("cpu",)


async def test_disk_limit_on_tmpfs(tmp_path: Path) -> None:
    engine = NativeEngine(conf(tmp_path, scratch="tmpfs"))
    await engine.start()
    try:
        assert "disk" in engine.limits
        box = await make(engine, resources=Resources(disk_mb=16))
        assert box.limits_enforced == ("disk",)
        full = await box.exec(["sh", "-c", "head -c 30000000 /dev/zero > /big"])
        assert b"No space" in full.stderr
        assert await box.limits_hit() == ("disk",)
        await box.remove("/big")
        await box.write_file("/kept", b"kept")
        snapshot = await box.snapshot()
        assert await box.read_file("/kept") == b"kept"
        end = await box.end_as_image()
        for image in (snapshot, end):
            fork = await engine.create(SandboxSpec(image=image))
            assert await fork.read_file("/kept") == b"kept"
    finally:
        await engine.close()
    assert leftovers(tmp_path) == []


USE_UP = """
import ctypes, errno, os, platform
libc = ctypes.CDLL(None, use_errno=True)
mq_open = 240 if platform.machine() == "x86_64" else 180
queues = watchers = 0
while libc.syscall(mq_open, b"q%d" % queues, os.O_CREAT | os.O_RDWR, 0o600, None) >= 0:
    queues += 1
assert ctypes.get_errno() in (errno.EMFILE, errno.ENOSPC)
while libc.inotify_init1(0) >= 0:
    watchers += 1
print(queues > 0, watchers, flush=True)
input()
"""


async def test_what_one_uses_up_the_others_still_have(engine: NativeEngine) -> None:
    """Message queues and inotify instances are counted by user, and each sandbox is one."""
    boxes = [await make(engine) for _ in range(4)]
    for box in boxes:
        await box.write_file("/tmp/use-up.py", USE_UP.encode())
        keep = (
            "mkfifo /tmp/in; sleep 1000 > /tmp/in & python3 /tmp/use-up.py < /tmp/in > /tmp/seen &"
        )
        await out(box, f"({keep}) >/dev/null 2>&1")
        async with asyncio.timeout(20):
            while not (seen := await out(box, "cat /tmp/seen; true")):
                await asyncio.sleep(0.02)
        assert seen == "True 64\n"


async def test_a_limit_that_does_not_hold_is_not_claimed(tmp_path: Path) -> None:
    engine = NativeEngine(conf(tmp_path, scratch="disk"))
    await engine.start()
    try:
        assert "disk" not in engine.limits
        box = await make(engine, resources=Resources(disk_mb=100))
        assert box.limits_enforced == ()
        assert box.disk_usage() is None
    finally:
        await engine.close()


# ---------------------------------------------------------------- files, images, forks


async def test_usr_is_writable_and_the_hosts_is_untouched(engine: NativeEngine) -> None:
    before = Path("/usr/bin/env").stat()
    box = await make(engine)
    await out(box, "echo x >> /usr/bin/env && rm /usr/bin/id && mkdir /usr/lib/new")
    await out(box, "mv /usr/share /usr/moved && test -d /usr/moved && ! test -e /usr/share")
    assert Path("/usr/bin/env").stat() == before
    assert not Path("/usr/lib/new").exists()
    assert Path("/usr/bin/id").exists()
    assert not (await box.exec(["id"])).ok


async def test_forks_of_forks_over_different_uid_ranges(engine: NativeEngine) -> None:
    box = await make(engine)
    await out(box, "mkdir /d && echo 0 > /d/n && chown 1000:1000 /d/n && rm /usr/bin/id")
    boxes = [box]
    for generation in range(1, 5):
        image = await boxes[-1].snapshot()
        boxes.append(await engine.create(SandboxSpec(image=image)))
        assert boxes[-1].uid_base not in {box.uid_base for box in boxes[:-1]}
        await out(boxes[-1], f"echo {generation} >> /d/n; rm /etc/hosts 2>/dev/null || true")
    assert await out(boxes[-1], "cat /d/n; stat -c %u:%g /d/n /d") == (
        "0\n1\n2\n3\n4\n1000:1000\n0:0\n"
    )
    assert not (await boxes[-1].exec(["ls", "/usr/bin/id"])).ok
    assert not (await boxes[2].exec(["ls", "/etc/hosts"])).ok
    assert await out(box, "cat /d/n") == "0\n"


async def test_end_as_image_takes_over_the_range_it_ended_in(engine: NativeEngine) -> None:
    box = await make(engine)
    await box.write_file("/f", b"1")
    await out(box, "setsid sleep 1000 >/dev/null 2>&1 &")
    image = await box.end_as_image()
    with pytest.raises(SandboxLost, match=box.id):
        await box.exec(["true"])
    fork = await engine.create(SandboxSpec(image=image))
    assert fork.uid_base == box.uid_base
    assert await fork.read_file("/f") == b"1"
    assert "sleep" not in await out(fork, "cat /proc/*/comm 2>/dev/null; true")
    await fork.close()
    await engine.discard(image)
    with pytest.raises(SandboxError, match="gone"):
        await engine.create(SandboxSpec(image=image))


async def test_snapshot_leaves_the_sandbox_running(engine: NativeEngine) -> None:
    box = await make(engine)
    await out(box, "(while :; do echo x >> /tick; sleep 0.01; done) >/dev/null 2>&1 &")
    await until_there(box, "/tick")
    image = await box.snapshot()
    then = len(await box.read_file("/tick"))
    async with asyncio.timeout(20):
        while len(await box.read_file("/tick")) == then:
            await asyncio.sleep(0.02)
    fork = await engine.create(SandboxSpec(image=image))
    assert 0 < len(await fork.read_file("/tick")) <= then


async def test_images_are_built_once_and_outlive_their_engine(tmp_path: Path) -> None:
    blueprint = Blueprint(
        steps=(
            BuildStep(op="put", dest="/app", tree=Tree.of({"a.txt": "hello"}), owner="user"),
            BuildStep(op="env", key="GREETING", value="hi"),
            BuildStep(op="workdir", dest="/app"),
        )
    )
    shared = conf(tmp_path, max_slots=2 * BLOCK)
    first, second = NativeEngine(shared), NativeEngine(shared)
    try:
        await asyncio.gather(first.start(), second.start())
        images = await asyncio.gather(*(e.build(blueprint) for e in (first, second, first)))
        assert images[0] == images[1] == images[2]
        assert len(list((tmp_path / "images").glob("*/layer.json"))) == 1
        await first.close()
        box = await second.create(SandboxSpec(image=images[0]))
        assert await out(box, "cat a.txt; echo $GREETING; stat -c %U a.txt; pwd") == (
            "hellohi\nuser\n/app\n"
        )
    finally:
        await first.close()
        await second.close()
    assert leftovers(tmp_path) == []


async def test_unknown_base_is_refused_by_name(engine: NativeEngine) -> None:
    with pytest.raises(BuildError, match=r"'python:3\.11' is none of host, host-frozen"):
        await engine.build(Blueprint(base="python:3.11"))


async def test_engines_at_once_never_share_a_range(tmp_path: Path) -> None:
    shared = conf(tmp_path, max_slots=2 * BLOCK)
    first, second = NativeEngine(shared), NativeEngine(shared)
    try:
        await first.start()
        await second.start()
        boxes = [await make(engine) for engine in (first, second, first, second)]
        assert len({box.uid_base for box in boxes}) == 4
        assert len({box.id for box in boxes}) == 4
    finally:
        await first.close()
        await second.close()


# ---------------------------------------------------------------- nothing is left


async def test_what_could_not_be_made_leaves_nothing(engine: NativeEngine, tmp_path: Path) -> None:
    box = await make(engine)
    image = await box.snapshot()
    shutil.rmtree(tmp_path / image.layers[-1] / "root")
    with pytest.raises(SandboxError, match=r"open layer .*root.*No such file"):
        await engine.create(SandboxSpec(image=image, resources=Resources(pids=9)))
    (owner,) = (tmp_path / "owners").iterdir()
    await until_empty(lambda: set((owner / "b").iterdir()) ^ {owner / "b" / box.id}, "left behind")
    assert (await box.exec(["true"])).ok


async def test_cancelled_create_leaves_nothing(engine: NativeEngine, tmp_path: Path) -> None:
    cancelled = 0
    for pause_s in (0.0, 0.0002, 0.0004, 0.0008, 0.0012):
        making = asyncio.create_task(make(engine))
        await asyncio.sleep(pause_s)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        cancelled += making.cancelled()
        if not making.cancelled():
            await making.result().close()
    assert cancelled >= 2
    (owner,) = (tmp_path / "owners").iterdir()
    await until_empty(lambda: list((owner / "b").iterdir()), "left behind")


async def test_deep_trees_and_links_are_removed_without_following(
    engine: NativeEngine, tmp_path: Path
) -> None:
    outside = tmp_path / "outside"
    outside.write_text("kept")
    box = await make(engine)
    await python(
        box,
        "import os\nos.mkdir('/deep'); os.chdir('/deep')\n"
        f"os.symlink({str(tmp_path)!r}, 'link')\n"
        "for _ in range(5000): os.mkdir('d'); os.chdir('d')",
    )
    await box.close()
    (owner,) = (tmp_path / "owners").iterdir()
    await until_empty(lambda: list((owner / "b").iterdir()), "still there")
    assert outside.read_text() == "kept"


async def test_killed_launcher_costs_its_sandboxes_and_no_more(
    engine: NativeEngine, tmp_path: Path
) -> None:
    box = await make(engine)
    other = await make(engine)
    running = asyncio.create_task(box.exec(["sleep", "1000"], timeout_s=1000))
    await asyncio.sleep(0.1)
    (launcher,) = [
        process for process in psutil.Process().children() if "launch" in _command(process)
    ]
    launcher.kill()
    with pytest.raises(SandboxLost, match=box.id):
        await running
    await until_empty(lambda: psutil.pid_exists(other.init_pid), "still there")
    with pytest.raises(SandboxLost, match=other.id):
        await other.exec(["true"])
    await box.close()
    await box.close()
    again = await make(engine)
    assert await out(again, "echo up") == "up\n"
    await until_empty(lambda: psutil.pid_exists(box.init_pid), "still there")


async def test_killed_clearer_is_started_again(engine: NativeEngine, tmp_path: Path) -> None:
    def clearers() -> list[psutil.Process]:
        return [each for each in psutil.Process().children() if "clear" in _command(each)]

    box = await make(engine)
    await until_empty(lambda: not clearers(), "no clearer yet")
    (clearer,) = clearers()
    clearer.kill()
    clearer.wait()
    await asyncio.sleep(0.05)
    await out(box, "mkdir -p /a/b && echo x > /a/b/c")
    await box.close()
    (owner,) = (tmp_path / "owners").iterdir()
    await until_empty(lambda: list((owner / "b").iterdir()), "still there")


async def test_sandbox_whose_init_dies_is_lost_with_the_reason(engine: NativeEngine) -> None:
    box = await make(engine)
    os.kill(box.init_pid, signal.SIGKILL)
    await until_empty(lambda: psutil.pid_exists(box.init_pid), "still there")
    with pytest.raises(SandboxLost, match=f"{box.id}.*SIGKILL"):
        await box.exec(["true"])
    await box.close()
    await box.close()


@pytest.mark.parametrize("memory", ["each", "group"])
async def test_killed_owner_leaves_nothing_after_the_next_start(
    tmp_path: Path, memory: str
) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.sandbox.native_owner", str(tmp_path), str(uid_base()), memory),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert owner.stdout is not None
    ready, name, first_uid, init_pid = (await owner.stdout.readline()).decode().split()
    assert ready == "ready"
    (launcher,) = [p for p in psutil.Process(owner.pid).children() if "launch" in p.cmdline()]
    launcher.suspend()  # so that it cannot end its sandboxes in order
    os.kill(owner.pid, signal.SIGKILL)
    await owner.wait()
    assert psutil.pid_exists(int(init_pid))
    engine = NativeEngine(conf(tmp_path))
    await engine.start()
    try:
        (living,) = (tmp_path / "owners").iterdir()
        assert not name.startswith(living.name)
        assert Hierarchies.of_machine().owners() & {name.rsplit("-", 1)[0]} == set()
        await until_empty(lambda: _in_range(int(first_uid)), "processes of the dead owner")
    finally:
        await engine.close()
    assert leftovers(tmp_path) == []


def _in_range(first_uid: int) -> list[int]:
    found = []
    for process in psutil.process_iter():
        try:
            if first_uid <= process.uids().real < first_uid + RANGE:
                found.append(process.pid)
        except psutil.NoSuchProcess:
            continue
    return found


async def test_closed_engine_refuses(tmp_path: Path) -> None:
    engine = NativeEngine(conf(tmp_path))
    with pytest.raises(SandboxError, match="not started"):
        await engine.build(Blueprint())
    await engine.start()
    image = await engine.build(Blueprint())
    await engine.close()
    await engine.close()
    with pytest.raises(SandboxError, match="closed"):
        await engine.create(SandboxSpec(image=image))
