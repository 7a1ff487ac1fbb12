"""Disk limits on a btrfs volume: they hold, what was written can be kept, and nothing is left."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import psutil
import pytest

from rollout.config import EngineConf
from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox import volume
from rollout.sandbox.base import Image, SandboxSpec
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.sandbox.rooms import MOST
from rollout.types import Blueprint, BuildStep, Resources, Tree
from tests.census import loop_devices
from tests.sandbox.conftest import uid_base
from tests.sandbox.harness import PATIENCE_S, needs_btrfs, until_empty

pytestmark = [pytest.mark.native, needs_btrfs]

MB = 1 << 20
ENOTTY = 25


class Disks:
    """One engine whose sandboxes are closed with it."""

    def __init__(self, root_dir: Path, **settings: object) -> None:
        self.root_dir = root_dir
        self.engine = NativeEngine(
            EngineConf(root_dir=str(root_dir), uid_base=uid_base(), max_slots=64, **settings)  # type: ignore[arg-type]
        )

    async def __aenter__(self) -> "Disks":
        await self.engine.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.engine.close()
        await until_empty(lambda: left(self.root_dir), "left behind")

    async def box(self, disk_mb: int | None = None, image: Image | None = None) -> NativeSandbox:
        image = image or await self.engine.build(Blueprint())
        return await self.engine.create(
            SandboxSpec(image=image, resources=Resources(disk_mb=disk_mb))
        )

    @property
    def launcher_pid(self) -> int:
        assert self.engine._launcher is not None
        return self.engine._launcher.pid

    @property
    def volume(self) -> Path:
        """Where this process sees it."""
        made = self.engine._scratches.volume
        assert made is not None
        return made.root

    def subvolumes(self) -> list[Path]:
        """Of sandboxes and layers; what the engine makes ahead is its own."""
        return [path for path in self.volume.iterdir() if not path.name.startswith("r")]

    def qgroups(self) -> list[str]:
        """Of subvolumes that exist or are still being taken apart, rooms among them."""
        made = self.engine._scratches.volume
        assert made is not None
        return sorted(path.name for path in made._qgroups.glob("0_*") if path.name != "0_5")


@pytest.fixture
async def disks(tmp_path: Path) -> AsyncIterator[Disks]:
    async with Disks(tmp_path, volume_mb=2_048) as made:
        yield made


def left(root_dir: Path) -> list[str]:
    """Loop devices, mounts and files that stand for sandboxes of this root folder."""
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    return [
        *loop_devices(root_dir),
        *(line for line in mounts if f"{root_dir}/" in line),
        *map(str, (root_dir / "owners").glob("*")),
        *map(str, root_dir.rglob("*.btrfs")),
    ]


async def out(box: NativeSandbox, script: str, **settings: object) -> str:
    """What a script prints; it must succeed."""
    result = await box.exec(["sh", "-c", script], **settings)  # type: ignore[arg-type]
    assert result.ok, (script, result)
    return result.stdout.decode()


async def refused(box: NativeSandbox, script: str, **settings: object) -> None:
    """The kernel must refuse the script the space."""
    result = await box.exec(["sh", "-c", script], **settings)  # type: ignore[arg-type]
    assert b"Disk quota exceeded" in result.stderr, (script, result)


def fill(path: str, mb: int) -> str:
    return f"head -c {mb * MB} /dev/zero > {path}"


# ---------------------------------------------------------------- the limit


async def test_a_writer_is_stopped_at_the_limit_and_goes_on_after_deleting(disks: Disks) -> None:
    box, neighbour = await disks.box(16), await disks.box(16)
    assert box.limits_enforced == ("disk",)
    assert await box.limits_hit() == ()
    await refused(box, fill("/srv/big", 40))
    assert 15 * MB < int(await out(box, "stat -c %s /srv/big")) <= 16 * MB
    used, allowed = box.disk_usage() or (0, 0)
    assert 15 * MB < used <= allowed == 16 * MB
    assert await box.limit_reasons() == {"disk": "was full; 16 of 16 MiB are used now"}
    await out(neighbour, fill("/srv/mine", 8))
    assert await neighbour.limits_hit() == ()
    await out(box, "rm /srv/big && " + fill("/srv/again", 8))


async def test_every_place_and_every_user_counts(disks: Disks) -> None:
    box = await disks.box(16)
    await out(box, fill("/tmp/a", 4))
    await out(box, fill("/dev/shm/b", 4), user="user")
    await out(box, fill("/usr/share/c", 4))
    await refused(box, fill("/root/d", 4))
    await refused(box, fill("/tmp/e", 4), user="user")


async def test_files_without_bytes_count_too(disks: Disks) -> None:
    box = await disks.box(2)
    code = "import itertools\nfor n in itertools.count(): open(f'/tmp/{n}', 'w').close()"
    result = await box.exec(["/usr/bin/python3", "-c", code])
    assert b"Disk quota exceeded" in result.stderr
    assert await box.limits_hit() == ("disk",)


async def test_the_limit_cannot_be_lifted_or_passed_from_inside(disks: Disks) -> None:
    box = await disks.box(16)
    subvolume, limit = 0x5000940E, 0x8030942B  # BTRFS_IOC_SUBVOL_CREATE, BTRFS_IOC_QGROUP_LIMIT
    code = (
        "import fcntl, os\n"
        "for folder in ('/', '/tmp', '/dev/shm', '/usr'):\n"
        f"  for request in ({subvolume}, {limit}):\n"
        "    try: fcntl.ioctl(os.open(folder, 0), request, bytearray(4096))\n"
        "    except OSError as exc: print(exc.errno)\n"
    )
    result = await box.exec(["/usr/bin/python3", "-c", code])
    assert result.stdout.split() == [str(ENOTTY).encode()] * 8
    await refused(box, "ulimit -f unlimited; " + fill("/srv/big", 40))


async def test_a_limit_that_was_hit_is_told_after_all_is_deleted(disks: Disks) -> None:
    box = await disks.box(16)
    await refused(box, fill("/srv/big", 40) + "; rm /srv/big; exit 1")
    await asyncio.sleep(7)
    used, _ = box.disk_usage() or (0, 0)
    assert used < MB
    assert await box.limit_reasons() == {"disk": "was full; 0 of 16 MiB are used now"}


async def test_no_limit_no_volume(disks: Disks) -> None:
    box = await disks.box()
    assert box.disk_usage() is None
    assert box.limits_enforced == ()
    assert disks.engine._scratches.volume is None
    assert loop_devices(disks.root_dir) == []


async def test_a_volume_too_small_for_all_is_full_and_not_broken(tmp_path: Path) -> None:
    async with Disks(tmp_path, volume_mb=256) as disks:
        greedy, other = await disks.box(1_000), await disks.box(1_000)
        result = await greedy.exec(["sh", "-c", fill("/srv/big", 400)])
        assert b"No space left on device" in result.stderr
        await greedy.close()
        async with asyncio.timeout(PATIENCE_S):
            while not (await other.exec(["sh", "-c", fill("/srv/mine", 50)])).ok:
                await asyncio.sleep(0.5)


# ---------------------------------------------------------------- what is kept of a sandbox


CHANGES = (
    "mkdir /d && echo root > /d/root && echo user > /d/user && chown 1000:1000 /d/user && "
    "echo deep > /d/suid && chmod 4755 /d/suid && ln -s root /d/link && rm /usr/bin/id && "
    "rm -r /home/user && mkdir -p /usr/new && echo shm > /dev/shm/x"
)
SEEN = (
    "cat /d/root /d/user /d/link; stat -c %u:%g:%a /d/root /d/user /d/suid; ls -A /dev/shm /home; "
    "ls -d /usr/new; test ! -e /usr/bin/id && echo no id"
)
EXPECTED = (
    "root\nuser\nroot\n0:0:644\n1000:1000:644\n0:0:4755\n/dev/shm:\n\n/home:\n/usr/new\nno id\n"
)


@pytest.mark.parametrize("fork_mb", [None, 16], ids=["on-disk", "on-the-volume"])
@pytest.mark.parametrize("parent_mb", [None, 16], ids=["of-disk", "of-the-volume"])
async def test_forks_find_what_was_written(
    disks: Disks, parent_mb: int | None, fork_mb: int | None
) -> None:
    box = await disks.box(parent_mb)
    await out(box, CHANGES)
    snapshot = await box.snapshot()
    await out(box, "echo later > /d/root; touch /d/later")
    fork = await disks.box(fork_mb, snapshot)
    assert fork.uid_base != box.uid_base
    assert await out(fork, SEEN) == EXPECTED
    await out(fork, "echo mine >> /d/user; rm /d/link; mkdir /d/sub")
    end = await fork.end_as_image()
    with pytest.raises(SandboxLost):
        await fork.exec(["true"])
    grandchild = await disks.box(parent_mb, end)
    assert await out(grandchild, "cat /d/user; ls /d") == "user\nmine\nroot\nsub\nsuid\nuser\n"
    assert await out(box, "cat /d/root; ls /d") == "later\nlater\nlink\nroot\nsuid\nuser\n"
    again = await disks.box(fork_mb, snapshot)
    assert await out(again, SEEN) == EXPECTED


async def test_a_fork_has_a_limit_of_its_own(disks: Disks) -> None:
    box = await disks.box(16)
    await out(box, fill("/srv/a", 12))
    fork = await disks.box(16, await box.end_as_image())
    used, _ = fork.disk_usage() or (0, 0)
    assert used < MB
    await out(fork, fill("/srv/b", 12))
    await refused(fork, fill("/srv/c", 12))
    assert await out(fork, "stat -c %s /srv/a /srv/b") == f"{12 * MB}\n{12 * MB}\n"


async def test_a_full_sandbox_can_be_kept(disks: Disks) -> None:
    box = await disks.box(16)
    await refused(box, fill("/srv/big", 40))
    snapshot = await box.snapshot()
    end = await box.end_as_image()
    for image in (snapshot, end):
        fork = await disks.box(32, image)
        assert int(await out(fork, "stat -c %s /srv/big")) > 15 * MB
        await out(fork, "echo more >> /srv/big")


async def test_a_snapshot_stays_on_the_account_of_its_sandbox(disks: Disks) -> None:
    box = await disks.box(16)
    await out(box, fill("/srv/a", 12))
    snapshot = await box.snapshot()
    await out(box, "rm /srv/a")
    await refused(box, fill("/srv/b", 12))
    await out(box, "rm /srv/b")
    await disks.engine.discard(snapshot)
    async with asyncio.timeout(PATIENCE_S):
        while not (await box.exec(["sh", "-c", fill("/srv/b", 12)])).ok:
            await asyncio.sleep(0.5)


async def test_fork_shares_what_was_written(disks: Disks) -> None:
    box = await disks.box(16)
    await out(box, fill("/srv/a", 10))
    forks = await box.fork(4)
    for number, fork in enumerate(forks):
        assert fork.limits_enforced == ("disk",)
        await fork.write_file("/srv/n", b"%d" % number)
    assert [await fork.read_file("/srv/n") for fork in forks] == [b"0", b"1", b"2", b"3"]
    assert used_bytes(disks) < 20 * MB
    for each in (box, *forks):
        await each.close()
    await until_empty(disks.subvolumes, "subvolumes left")


async def test_a_chain_longer_than_overlays_may_be(disks: Disks) -> None:
    image = None
    for number in range(70):
        box = await disks.box(16, image)
        await out(box, f"echo {number} > /srv/{number}; rm -f /srv/{number - 2}")
        image = await box.end_as_image()
    box = await disks.box(16, image)
    assert await out(box, "cat /srv/*; ls /usr/bin/env") == "68\n69\n/usr/bin/env\n"


async def test_what_is_built_outlives_the_volume(tmp_path: Path) -> None:
    blueprint = Blueprint(
        steps=(BuildStep(op="put", dest="/app", tree=Tree.of({"a": "built"}), owner="user"),)
    )
    for _ in range(2):
        async with Disks(tmp_path, scratch="btrfs", volume_mb=512) as disks:
            box = await disks.box(image=await disks.engine.build(blueprint))
            assert await out(box, "cat /app/a; stat -c %U /app/a") == "builtuser\n"
            assert "mnt/v" in await out(box, "cat /proc/self/mountinfo")
            assert box.limits_enforced == ()


# ---------------------------------------------------------------- nothing is left


async def test_many_cycles_leave_the_volume_as_it_was(disks: Disks) -> None:
    await (await disks.box(16)).close()
    await until_empty(disks.qgroups, "not taken apart")
    before = used_bytes(disks)
    for cycle in range(50):
        box = await disks.box(16)
        await out(box, fill("/srv/a", 2) + "; mkdir /srv/d; touch /srv/d/1 /srv/d/2")
        if cycle % 5 == 0:
            snapshot = await box.snapshot()
            fork = await disks.box(16, snapshot)
            await out(fork, "echo x >> /srv/a")
            async with AsyncExitStack() as ending:
                ending.push_async_callback(disks.engine.discard, await fork.end_as_image())
                ending.push_async_callback(disks.engine.discard, snapshot)
        await box.close()
    await until_empty(disks.subvolumes, "subvolumes left")
    await until_empty(lambda: disks.qgroups()[MOST:], "not taken apart")
    assert used_bytes(disks) <= before + MB * (1 + MOST // 4)


def used_bytes(disks: Disks) -> int:
    space = os.statvfs(disks.volume)
    return (space.f_blocks - space.f_bfree) * space.f_frsize


async def test_a_cancelled_create_leaves_no_subvolume(disks: Disks) -> None:
    box = await disks.box(16)
    for pause_s in (0.0, 0.0005, 0.001, 0.002):
        making = asyncio.create_task(disks.box(16))
        await asyncio.sleep(pause_s)
        making.cancel()
        await asyncio.gather(making, return_exceptions=True)
        if not making.cancelled():
            await making.result().close()
    await box.close()
    await until_empty(disks.subvolumes, "subvolumes left")


async def test_a_killed_launcher_takes_its_volume_and_its_layers_along(disks: Disks) -> None:
    box = await disks.box(16)
    await out(box, fill("/srv/a", 4))
    image = await box.snapshot()
    (loop,) = loop_devices(disks.root_dir)
    os.kill(disks.launcher_pid, signal.SIGKILL)
    # Its sandboxes end when the kernel gets to it, not within the kill.
    await until_empty(lambda: psutil.pid_exists(box.init_pid), "still there")
    with pytest.raises(SandboxLost):
        await out(box, "true")
    await until_empty(lambda: loop_devices(disks.root_dir), f"still there: {loop}")
    assert box.disk_usage() is None
    with pytest.raises(SandboxError, match="gone"):
        await disks.box(16, image)
    with pytest.raises(SandboxError, match="gone"):
        await disks.box(None, image)
    await disks.engine.discard(image)
    fresh = await disks.box(16)
    await refused(fresh, fill("/srv/a", 40))
    assert len(loop_devices(disks.root_dir)) == 1


async def test_a_killed_owner_leaves_no_device_and_no_mount(tmp_path: Path) -> None:
    owner = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.sandbox.native_owner", str(tmp_path), str(uid_base()), "each", "64"),
        stdout=asyncio.subprocess.PIPE,
    )
    assert owner.stdout is not None
    assert (await owner.stdout.readline()).startswith(b"ready")
    assert len(loop_devices(tmp_path)) == 1
    assert list(tmp_path.rglob("*.btrfs")) == []
    launchers = [
        child for child in psutil.Process(owner.pid).children() if "launch" in child.cmdline()
    ]
    for process in (*launchers, psutil.Process(owner.pid)):
        process.kill()
    await owner.wait()
    await until_empty(lambda: loop_devices(tmp_path), "not gone by itself")
    async with Disks(tmp_path):
        assert len(list((tmp_path / "owners").iterdir())) == 1


# ---------------------------------------------------------------- machines that cannot


async def test_without_btrfs_a_tmpfs_holds_the_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(volume, "MKFS", "mkfs.not-there")
    async with Disks(tmp_path) as disks:
        for _ in range(2):
            box = await disks.box(16)
            assert box.limits_enforced == ("disk",)
            result = await box.exec(["sh", "-c", fill("/srv/big", 40)])
            assert b"No space left" in result.stderr
            assert await box.limits_hit() == ("disk",)
            assert box.disk_usage() == (16 * MB, 16 * MB)
    assert caplog.text.count("install btrfs-progs") == 1


async def test_btrfs_asked_for_by_name_is_not_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume, "MKFS", "mkfs.not-there")
    engine = NativeEngine(EngineConf(root_dir=str(tmp_path), scratch="btrfs"))
    with pytest.raises(SandboxError, match=r"engine\.scratch=btrfs.*install btrfs-progs"):
        await engine.start()
    assert left(tmp_path) == []


async def test_a_disk_almost_full_takes_no_more_limited_sandboxes(tmp_path: Path) -> None:
    async with Disks(tmp_path, volume_reserve_mb=1 << 40) as disks:
        with pytest.raises(SandboxError, match=r"engine\.volume_reserve_mb"):
            await disks.box(16)
        assert await out(await disks.box(), "echo fine") == "fine\n"


async def test_an_image_too_small_is_refused_by_its_size(tmp_path: Path) -> None:
    async with Disks(tmp_path, volume_mb=16) as disks:
        with pytest.raises(SandboxError, match=r"needs 256 MB and would get 16.*volume_mb"):
            await disks.box(16)


async def test_unknown_scratch_is_refused_with_what_is_possible(tmp_path: Path) -> None:
    engine = NativeEngine(EngineConf(root_dir=str(tmp_path), scratch="xfs"))
    with pytest.raises(SandboxError, match="'xfs'; possible: auto, disk, btrfs, tmpfs"):
        await engine.start()


@pytest.fixture
def small_host(tmp_path: Path) -> Iterator[Path]:
    """A root folder on a disk of 300 MB."""
    folder = tmp_path / "host"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "none", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


async def test_a_host_disk_that_fills_up_below_does_no_lasting_harm(small_host: Path) -> None:
    settings = {"volume_mb": 1_024, "volume_reserve_mb": 64}
    async with Disks(small_host, **settings) as disks:
        greedy, other = await disks.box(1_000), await disks.box(1_000)
        await greedy.exec(["sh", "-c", "head -c 500000000 /dev/urandom > /srv/x; sync"])
        with pytest.raises(SandboxError, match="MB are free"):
            await disks.box(16)
        await greedy.close()
        box = await soon(disks)
        assert await out(box, "echo fine > /srv/y && cat /srv/y") == "fine\n"
        # The kernel may have given the volume up; then all on it are lost, and told so.
        with suppress(SandboxLost):
            assert await out(other, "echo fine > /srv/y && cat /srv/y") == "fine\n"


async def soon(disks: Disks) -> NativeSandbox:
    """A sandbox as soon as there is space again."""
    async with asyncio.timeout(3 * PATIENCE_S):
        while True:
            with suppress(SandboxError):
                return await disks.box(16)
            await asyncio.sleep(0.2)


async def test_a_volume_the_kernel_gave_up_is_replaced(
    disks: Disks, caplog: pytest.LogCaptureFixture
) -> None:
    box = await disks.box(16)
    image = await box.snapshot()
    lost = loop_devices(disks.root_dir)
    remount_read_only(disks)
    with pytest.raises(SandboxError, match="gone"):
        await disks.box(16, image)
    fresh = await disks.box(16)
    await refused(fresh, fill("/srv/a", 40))
    assert caplog.text.count("the btrfs image failed") == 1
    with pytest.raises(SandboxLost):
        await box.exec(["true"])
    await until_empty(lambda: set(lost) & set(loop_devices(disks.root_dir)), "the old one stays")
    assert await out(fresh, "echo fine") == "fine\n"


def remount_read_only(disks: Disks) -> None:
    """What btrfs does to itself when it cannot write its own trees."""
    owner = next((disks.root_dir / "owners").iterdir())
    inside = ("nsenter", f"--target={disks.launcher_pid}", "--mount")
    remount = ("mount", "-i", "-o", "remount,ro", str(owner / "mnt" / "v"))
    subprocess.run([*inside, *remount], check=True)
