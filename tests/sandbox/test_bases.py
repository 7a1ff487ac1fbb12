"""Bases that are kept: a root of one's own out of a folder or an archive, and the host, frozen."""

import asyncio
import io
import os
import shutil
import socket
import stat
import struct
import sys
import tarfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from rollout.errors import BuildError
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.bases import parse_base
from rollout.sandbox.images import ImageStore
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.native_sandbox import NativeSandbox
from rollout.sandbox.rootfs import BaseLayers
from rollout.types import Blueprint, BuildStep
from tests.sandbox.harness import until_empty
from tests.sandbox.test_native import BLOCK, conf, leftovers, out

pytestmark = pytest.mark.native

BUSYBOX = Path("/bin/busybox")
LIMIT_BYTES, LIMIT_ENTRIES = 4 << 20, 50
PT_INTERP = 3
APPLETS = ("sh", "ls", "cat", "id", "stat", "mount", "sleep", "hostname", "whoami", "env", "head")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[NativeEngine]:
    made = NativeEngine(conf(tmp_path / "root", max_slots=2 * BLOCK))
    await made.start()
    yield made
    await made.close()
    await until_empty(lambda: leftovers(tmp_path / "root"), "left behind")


@pytest.fixture
def rootfs(tmp_path: Path) -> Path:
    """A folder with a shell and little else."""
    if not BUSYBOX.exists() or not _is_static(BUSYBOX.read_bytes()):
        pytest.skip("needs a static /bin/busybox: apt-get install busybox-static")
    folder = tmp_path / "rootfs"
    (folder / "bin").mkdir(parents=True)
    shutil.copy(BUSYBOX, folder / "bin/busybox")
    for name in APPLETS:
        (folder / "bin" / name).symlink_to("busybox")
    (folder / "srv").mkdir(mode=0o700)
    (folder / "srv/file").write_text("of the rootfs\n")
    os.chown(folder / "srv/file", 1000, 65_535)
    (folder / "srv/file").chmod(0o4755)
    os.link(folder / "srv/file", folder / "srv/same")
    (folder / "srv/out").symlink_to("/etc/passwd")
    return folder


def _is_static(elf: bytes) -> bool:
    offset, size, count = *struct.unpack_from("<Q", elf, 32), *struct.unpack_from("<HH", elf, 54)
    return all(
        struct.unpack_from("<I", elf, offset + n * size)[0] != PT_INTERP for n in range(count)
    )


async def box_on(engine: NativeEngine, base: str) -> NativeSandbox:
    blueprint = Blueprint(name="mine", base=base, steps=(BuildStep(op="workdir", dest="/app"),))
    image = await engine.build(blueprint)
    return await engine.create(SandboxSpec.for_blueprint(image, blueprint))


def bases_of(root_dir: Path) -> list[str]:
    """Layers of kept bases that the store counts as made."""
    made = root_dir.glob("base/*/layer.json")
    return sorted(path.parent.name for path in made if not path.parent.name.startswith("host-"))


# ---------------------------------------------------------------- a folder, an archive


async def is_a_whole_computer(box: NativeSandbox) -> None:
    """What the fixture put there, and what the engine added."""
    assert await out(
        box, "cd /srv; stat -c '%a %u:%g' file; cat same; head -n 1 out; [ file -ef same ]"
    ) == ("4755 1000:65535\nof the rootfs\nroot:x:0:0:root:/root:/bin/sh\n")
    assert await out(box, "stat -c %a /srv /tmp /root") == "700\n1777\n700\n"
    assert await out(box, "ls /usr /home 2>/dev/null; hostname; cat /etc/hostname; pwd") == (
        "sandbox\nsandbox\n/app\n"
    )
    assert "localhost sandbox" in await out(box, "cat /etc/hosts")
    assert await out(box, "whoami; echo x >/dev/null; ls /proc/self/fd >/tmp/x && echo up") == (
        "root\nup\n"
    )
    assert await out(box, "id -u; id -g", user="nobody") == "65534\n65534\n"
    overlays = await out(box, "mount -t overlay")
    assert overlays.count(" on / ") == 1
    assert " on /usr " not in overlays


async def test_folder(engine: NativeEngine, rootfs: Path) -> None:
    (rootfs / "dev").mkdir()
    os.mkfifo(rootfs / "dev/initctl")
    os.mknod(rootfs / "dev/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    box = await box_on(engine, f"rootfs:{rootfs}")
    await is_a_whole_computer(box)
    await out(box, "echo changed > /srv/file; rm /srv/out; echo new > /srv/new")
    assert (rootfs / "srv/file").read_text() == "of the rootfs\n"
    assert not (rootfs / "etc").exists()
    again = await box_on(engine, f"rootfs:{rootfs}")
    assert await out(again, "cat /srv/file; ls /srv") == "of the rootfs\nfile\nout\nsame\n"


@pytest.mark.parametrize("packed", ["", "gz", "xz", "bz2"])
async def test_archive(engine: NativeEngine, rootfs: Path, tmp_path: Path, packed: str) -> None:
    archive = tmp_path / "any.name"
    with tarfile.open(archive, f"w:{packed}") as made:
        made.add(rootfs, ".")
    await is_a_whole_computer(await box_on(engine, f"rootfs:{archive}"))


async def test_snapshot_on_a_rootfs(engine: NativeEngine, rootfs: Path) -> None:
    box = await box_on(engine, f"rootfs:{rootfs}")
    await out(box, "echo mine > /srv/new")
    fork = await engine.create(SandboxSpec(image=await box.end_as_image()))
    assert await out(fork, "cat /srv/new /srv/same") == "mine\nof the rootfs\n"


@pytest.mark.parametrize("kind", ["rootfs", "rootfs-linked"])
async def test_folder_by_a_link(
    engine: NativeEngine, rootfs: Path, tmp_path: Path, kind: str
) -> None:
    (rootfs / "dev").mkdir()
    (rootfs / "dev/kept").touch()
    (tmp_path / "current").symlink_to("rootfs")
    await is_a_whole_computer(await box_on(engine, f"{kind}:{tmp_path / 'current'}"))
    assert (rootfs / "dev/kept").exists()
    assert not (rootfs / "etc").exists()


async def test_folder_around_the_store(layers: BaseLayers, tmp_path: Path) -> None:
    with pytest.raises(BuildError, match=r"'mine'.*holds engine\.root_dir"):
        await layers.layer(parse_base(f"rootfs:{tmp_path}"), "mine")


async def test_what_the_rootfs_says_of_itself_is_kept_but_for_its_name(
    engine: NativeEngine, rootfs: Path
) -> None:
    (rootfs / "etc").mkdir()
    (rootfs / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nme:x:7:8::/home/me:/bin/sh\n")
    (rootfs / "etc/hosts").symlink_to("/host-is-never-written")
    (rootfs / "etc/resolv.conf").write_text("nameserver 192.0.2.1\n")
    (rootfs / "proc").symlink_to("/")
    (rootfs / "dev").symlink_to("/dev")
    box = await box_on(engine, f"rootfs:{rootfs}")
    assert await out(box, "id -u; id -g; env", user="me") == (
        "7\n8\n" + await out(box, "env", user="me")
    )
    assert await out(box, "cat /etc/resolv.conf; stat -c %F /proc /dev /etc/hosts") == (
        "directory\ndirectory\nregular file\n"
    )
    assert not Path("/host-is-never-written").exists()


async def test_another_content_is_another_image(engine: NativeEngine, rootfs: Path) -> None:
    blueprint = Blueprint(base=f"rootfs:{rootfs}")
    first = await engine.build(blueprint)
    assert (await engine.build(blueprint)).layers == first.layers
    (rootfs / "srv/file").write_text("of the RootFs\n")
    second = await engine.build(blueprint)
    assert second.layers != first.layers
    for image, text in ((first, "of the rootfs\n"), (second, "of the RootFs\n")):
        assert await out(await engine.create(SandboxSpec(image=image)), "cat /srv/file") == text


async def test_a_fingerprint_is_held_to(engine: NativeEngine, rootfs: Path) -> None:
    with pytest.raises(BuildError, match=r"'mine'.*now; it has changed since the run was planned"):
        await box_on(engine, f"rootfs:{rootfs}@sha256:{'0' * 64}")
    (name,) = (await engine.build(Blueprint(base=f"rootfs:{rootfs}"))).layers
    with pytest.raises(BuildError, match="now") as told:
        await box_on(engine, f"rootfs:{rootfs}@sha256:{'0' * 64}")
    digest = str(told.value).partition("holds sha256:")[2][:64]
    assert name.endswith(digest[:32])
    shutil.rmtree(rootfs)  # what is kept needs its source no more
    box = await box_on(engine, f"rootfs:{rootfs}@sha256:{digest}")
    assert await out(box, "cat /srv/file") == "of the rootfs\n"


async def test_linked_folder_shares_its_files(
    engine: NativeEngine, rootfs: Path, tmp_path: Path
) -> None:
    box = await box_on(engine, f"rootfs-linked:{rootfs}")
    await is_a_whole_computer(box)
    (name,) = bases_of(tmp_path / "root")
    kept = tmp_path / "root/base" / name / "root/srv/file"
    assert kept.samefile(rootfs / "srv/file")
    await out(box, "echo changed > /srv/file")
    assert (rootfs / "srv/file").read_text() == "of the rootfs\n"


@pytest.mark.parametrize("kind", ["rootfs", "rootfs-linked"])
async def test_a_folder_cannot_speak_to_the_overlay(
    engine: NativeEngine, rootfs: Path, tmp_path: Path, kind: str
) -> None:
    os.setxattr(rootfs / "srv", "trusted.overlay.redirect", b"/bin")
    os.setxattr(rootfs / "srv", "trusted.overlay.opaque", b"y")
    box = await box_on(engine, f"{kind}:{rootfs}")
    assert await out(box, "ls /srv") == "file\nout\nsame\n"
    (name,) = bases_of(tmp_path / "root")
    assert os.listxattr(tmp_path / "root/base" / name / "root/srv") == []


async def test_many_who_ask_at_once_make_it_once(
    engine: NativeEngine, rootfs: Path, tmp_path: Path
) -> None:
    other = NativeEngine(conf(tmp_path / "root", max_slots=2 * BLOCK))
    await other.start()
    try:
        boxes = await asyncio.gather(
            *(box_on(each, f"rootfs:{rootfs}") for each in (engine, other, engine, other))
        )
        assert [await out(box, "cat /srv/file") for box in boxes] == ["of the rootfs\n"] * 4
    finally:
        await other.close()
    assert len(bases_of(tmp_path / "root")) == 1


@pytest.mark.parametrize(
    ("base", "said"),
    [
        ("rootfs:relative", "path must be absolute"),
        ("rootfs:/no/such/folder", "/no/such/folder: No such file or directory"),
        ("rootfs:/dev/null", "neither a folder nor a tar archive"),
        ("rootfs:/etc/hostname", "no tar archive that can be read"),
        ("rootfs-linked:/etc/hostname", "only a folder can be linked"),
        ("rootfs", "is none of host, host-frozen"),
        ("frozen", "is none of host, host-frozen"),
    ],
)
async def test_bad_base(engine: NativeEngine, base: str, said: str) -> None:
    with pytest.raises(BuildError, match=f"blueprint 'mine': .*{said}"):
        await box_on(engine, base)


def _fifo(folder: Path) -> None:
    os.mkfifo(folder / "srv/bad")


def _device(folder: Path) -> None:
    os.mknod(folder / "srv/bad", stat.S_IFCHR | 0o666, os.makedev(1, 1))


def _whiteout(folder: Path) -> None:
    os.mknod(folder / "srv/bad", stat.S_IFCHR, os.makedev(0, 0))


def _socket(folder: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(folder / "srv/bad"))


def _stranger(folder: Path) -> None:
    (folder / "srv/bad").touch()
    os.chown(folder / "srv/bad", 65_536, 0)


def _linked_etc(folder: Path) -> None:
    (folder / "etc").symlink_to("/etc")


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (_fifo, "'srv/bad' is a fifo"),
        (_device, "'srv/bad' is a device"),
        (_whiteout, "'srv/bad' is a device"),
        (_socket, "'srv/bad' is a socket"),
        (_stranger, "'srv/bad' belongs to 65536:0"),
        (_linked_etc, "its /etc is no folder"),
    ],
)
async def test_folder_that_no_sandbox_may_have(
    engine: NativeEngine, tmp_path: Path, spoil: Callable[[Path], None], said: str
) -> None:
    folder = tmp_path / "rootfs"
    (folder / "srv").mkdir(parents=True)
    spoil(folder)
    with pytest.raises(BuildError, match=said):
        await box_on(engine, f"rootfs:{folder}")
    assert bases_of(tmp_path / "root") == []


# ---------------------------------------------------------------- hostile archives


def entry(name: str, **more: Any) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    for key, value in more.items():
        setattr(made, key, value)
    return made


LINK = entry("link", type=tarfile.SYMTYPE, linkname="/")
UP = entry("up", type=tarfile.SYMTYPE, linkname="..")
FILE = entry("file")
HOSTILE: dict[str, tuple[list[tarfile.TarInfo], str]] = {
    "absolute": ([entry("/etc/x")], "entry '/etc/x': '/etc/x' is absolute"),
    "dots": ([entry("../x")], r"entry '\.\./x': .* no plain path"),
    "dots inside": ([entry("a/../../x")], "no plain path"),
    "write through a link": ([LINK, entry("link/tmp/x")], "entry 'link/tmp/x': 'link' above it"),
    "write through a link up": ([UP, entry("up/x")], "entry 'up/x': 'up' above it"),
    "folder through a link": ([LINK, entry("link/x", type=tarfile.DIRTYPE)], "'link' above it"),
    "a link made a folder": ([LINK, entry("link", type=tarfile.DIRTYPE)], "'link' above it"),
    "a link in a link's place": (
        [entry("d", type=tarfile.DIRTYPE), entry("d", type=tarfile.SYMTYPE, linkname="/")],
        "takes the place of a folder",
    ),
    "link through a link": (
        [LINK, entry("link/x", type=tarfile.SYMTYPE, linkname="y")],
        "'link' above it",
    ),
    "hard link out": (
        [entry("x", type=tarfile.LNKTYPE, linkname="/etc/shadow")],
        "entry 'x': it is a hard link out of the archive",
    ),
    "hard link up": (
        [entry("x", type=tarfile.LNKTYPE, linkname="../../etc/shadow")],
        "hard link out of the archive",
    ),
    "hard link through a link": (
        [LINK, entry("x", type=tarfile.LNKTYPE, linkname="link/etc/shadow")],
        "'link' above it",
    ),
    "hard link to nothing": ([entry("x", type=tarfile.LNKTYPE, linkname="y")], "not brought"),
    "hard link to a folder": (
        [entry("d", type=tarfile.DIRTYPE), entry("x", type=tarfile.LNKTYPE, linkname="d")],
        "which is no file",
    ),
    "hard link into dev": ([entry("x", type=tarfile.LNKTYPE, linkname="dev/sda")], "not brought"),
    "device": ([entry("x", type=tarfile.CHRTYPE, devmajor=1, devminor=1)], "it is a device"),
    "whiteout": ([entry("x", type=tarfile.CHRTYPE, devmajor=0, devminor=0)], "it is a device"),
    "block device": ([entry("x", type=tarfile.BLKTYPE, devmajor=8, devminor=0)], "a device"),
    "fifo": ([entry("x", type=tarfile.FIFOTYPE)], "it is a fifo"),
    "unknown type": ([entry("x", type=b"Z")], "unknown type"),
    "uid beyond": ([entry("x", uid=65_536)], "entry 'x': it belongs to 65536:0"),
    "gid beyond": ([entry("x", gid=1 << 31)], "it belongs to 0:2147483648"),
    "negative uid": ([entry("x", uid=-1)], "it belongs to -1:0"),
    "below a file": ([FILE, entry("file/x")], "'file' above it"),
    "too deep": ([entry("/".join("d" * 129))], "too deep"),
    "name too long": ([entry("n" * 256)], "too long"),
    "header bomb": ([entry("n" * (1 << 17))], r"a header of \d+ bytes"),
    "too many": ([entry(f"f{n}") for n in range(LIMIT_ENTRIES + 1)], "more than 50 names"),
    "too many folders": ([entry("/".join("d" * 60))], "more than 50 names"),
}


def write_tar(path: Path, entries: list[tarfile.TarInfo], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as made:  # type: ignore[call-overload]
        for each in entries:
            made.addfile(each, io.BytesIO(bytes(each.size)))
    return path


@pytest.fixture
def layers(tmp_path: Path) -> BaseLayers:
    """Of no engine, with limits that are soon reached."""
    (tmp_path / "root/owner").mkdir(parents=True)
    return BaseLayers(
        ImageStore(tmp_path / "root"),
        tmp_path / "root/owner",
        "base/host-0",
        limit_bytes=LIMIT_BYTES,
        limit_entries=LIMIT_ENTRIES,
        usr=tmp_path / "usr",
    )


async def refused(layers: BaseLayers, archive: Path, said: str) -> None:
    """Nothing of it is kept, and nothing came to lie outside."""
    beside = sorted(path.name for path in archive.parent.iterdir())
    with pytest.raises(BuildError, match=f"'mine'.*{archive.name}.*{said}"):
        await layers.layer(parse_base(f"rootfs:{archive}"), "mine")
    assert bases_of(archive.parent / "root") == []
    assert list((archive.parent / "root/owner").iterdir()) == []
    assert sorted(path.name for path in archive.parent.iterdir()) == beside
    assert not Path("/tmp/x").exists()


@pytest.mark.parametrize("trick", HOSTILE)
async def test_hostile_archive(layers: BaseLayers, tmp_path: Path, trick: str) -> None:
    entries, said = HOSTILE[trick]
    await refused(layers, write_tar(tmp_path / "bad.tar", entries), said)


@pytest.mark.parametrize("packed", ["w", "w:gz", "w:xz", "w:bz2"])
async def test_bomb(layers: BaseLayers, tmp_path: Path, packed: str) -> None:
    bomb = write_tar(tmp_path / "bad.tar", [entry("big", size=LIMIT_BYTES + 1)], packed)
    await refused(layers, bomb, f"entry 'big': it holds more than {LIMIT_BYTES} bytes")


async def test_skipped_content_counts_too(layers: BaseLayers, tmp_path: Path) -> None:
    bomb = write_tar(tmp_path / "bad.tar", [entry("dev/big", size=LIMIT_BYTES), FILE], "w:gz")
    await refused(layers, bomb, f"it holds more than {LIMIT_BYTES} bytes")


async def test_sparse_file(layers: BaseLayers, tmp_path: Path) -> None:
    (tmp_path / "hole").touch()
    os.truncate(tmp_path / "hole", 1 << 40)
    command = ["tar", "--sparse", "-C", str(tmp_path), "-cf", str(tmp_path / "bad.tar"), "hole"]
    assert await (await asyncio.create_subprocess_exec(*command)).wait() == 0
    await refused(layers, tmp_path / "bad.tar", "entry 'hole': it is a sparse file")


@pytest.mark.parametrize("packed", ["w", "w:gz", "w:xz"])
@pytest.mark.parametrize("share", [0.2, 0.5, 0.9])
async def test_archive_cut_short(
    layers: BaseLayers, tmp_path: Path, packed: str, share: float
) -> None:
    path = tmp_path / "bad.tar"
    with tarfile.open(path, packed) as made:  # type: ignore[call-overload]
        for number in range(3):
            made.addfile(entry(f"f{number}", size=100_000), io.BytesIO(os.urandom(100_000)))
    os.truncate(path, int(path.stat().st_size * share))
    await refused(layers, path, "no tar archive|ends in the middle|damaged")


@pytest.mark.parametrize("at", [0, 512 * 3])
async def test_archive_with_a_broken_header(layers: BaseLayers, tmp_path: Path, at: int) -> None:
    path = write_tar(tmp_path / "bad.tar", [entry("a", size=1000), FILE])
    damaged = bytearray(path.read_bytes())
    damaged[at : at + 8] = b"\xff" * 8
    path.write_bytes(damaged)
    await refused(layers, path, "no tar archive|damaged")


async def test_negative_size_does_not_go_in_circles(layers: BaseLayers, tmp_path: Path) -> None:
    path = tmp_path / "bad.tar"
    header = bytearray(entry("a").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\xff" * 10 + b"\xfc\x00"  # -1024
    header[148:156] = b" " * 8
    header[148:156] = f"{sum(header[:512]):06o}\0 ".encode()
    path.write_bytes(bytes(header[:512]) + bytes(1024))
    await refused(layers, path, "unknown type|point backwards")


async def test_harmless_oddities_are_kept(layers: BaseLayers, tmp_path: Path) -> None:
    """Names twice, entries without their folders, links anywhere: all read inside the sandbox."""
    entries = [
        entry("./"),
        entry("./a//b/file", mode=0o6711, uid=65_535, gid=12, mtime=1000),
        entry("a/b/again", type=tarfile.LNKTYPE, linkname="./a/b/file"),
        entry("a/b/file", mode=0o600, mtime=2000),
        entry("a/passwd", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        entry("a/\udcff\u00e9", pax_headers={"mtime": "nan"}),
        entry("d", type=tarfile.DIRTYPE, mode=0o1000, mtime=3000),
        entry("d/below"),
    ]
    write_tar(tmp_path / "odd.tar", entries)
    name = await layers.layer(parse_base(f"rootfs:{tmp_path / 'odd.tar'}"), "mine")
    root = tmp_path / "root" / name / "root"
    found = (root / "a/b/again").lstat()
    assert (found.st_mode & 0o7777, found.st_uid, found.st_gid) == (0o6711, 65_535, 12)
    assert found.st_mtime == 1000
    assert (root / "a/b/file").lstat().st_mode & 0o7777 == 0o600
    assert (root / "a/passwd").readlink() == Path("/etc/passwd")
    assert (root / "a/\udcff\u00e9").exists()
    assert ((root / "d").lstat().st_mode & 0o7777, (root / "d").lstat().st_mtime) == (0o1000, 3000)
    assert (root / "a").lstat().st_mode & 0o7777 == 0o755


# ---------------------------------------------------------------- killed in the middle


async def test_kill_in_the_middle_leaves_no_half_layer(rootfs: Path, tmp_path: Path) -> None:
    archive = tmp_path / "slow.tar.xz"
    with tarfile.open(archive, "w:xz", preset=0) as made:
        made.add(rootfs, ".")
        made.addfile(entry("zeros", size=1 << 30), _Zeros())  # type: ignore[arg-type]
    script = (
        "import asyncio, sys\n"
        "from rollout.config import EngineConf\n"
        "from rollout.sandbox.native import NativeEngine\n"
        "from rollout.types import Blueprint\n"
        "async def main():\n"
        "    engine = NativeEngine(EngineConf(root_dir=sys.argv[1], uid_base=int(sys.argv[2])))\n"
        "    await engine.start()\n"
        "    await engine.build(Blueprint(base='rootfs:' + sys.argv[3]))\n"
        "asyncio.run(main())\n"
    )
    root_dir = tmp_path / "root"
    arguments = (str(root_dir), str(conf(root_dir).uid_base), str(archive))
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", script, *arguments, cwd=Path(__file__).parents[2]
    )
    await until_empty(
        lambda: not any(root_dir.glob("owners/*/layers/b*/root/bin/sh")), "it did not begin"
    )
    children = psutil.Process(owner.pid).children(recursive=True)
    assert any("unpack.py" in " ".join(child.cmdline()) for child in children)
    owner.kill()
    await owner.wait()
    await until_empty(lambda: [p for p in children if p.is_running()], "processes left behind")
    assert bases_of(root_dir) == []
    engine = NativeEngine(conf(root_dir))
    await engine.start()
    try:
        assert len(list((root_dir / "owners").iterdir())) == 1
        box = await box_on(engine, f"rootfs:{archive}")
        assert await out(box, "cat /srv/file; stat -c %s /zeros") == "of the rootfs\n1073741824\n"
    finally:
        await engine.close()
    assert leftovers(root_dir) == []


class _Zeros(io.RawIOBase):
    def read(self, size: int = -1) -> bytes:
        return bytes(size)


async def test_cancelled_unpacking_stops(tmp_path: Path, rootfs: Path) -> None:
    archive = tmp_path / "slow.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=1) as made:
        made.addfile(entry("zeros", size=1 << 30), _Zeros())  # type: ignore[arg-type]
    (tmp_path / "owner").mkdir()
    layers = BaseLayers(ImageStore(tmp_path), tmp_path / "owner", "base/host-0")
    asking = asyncio.create_task(layers.layer(parse_base(f"rootfs:{archive}"), "mine"))
    await until_empty(lambda: not list(tmp_path.glob("owner/*/root/zeros")), "it did not begin")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert list((tmp_path / "owner").iterdir()) == []
    assert [p for p in psutil.Process().children() if "unpack.py" in " ".join(p.cmdline())] == []


# ---------------------------------------------------------------- the host, frozen


@pytest.fixture
def usr(tmp_path: Path) -> Path:
    """Stands for the host's, which is too large and not ours to change."""
    (tmp_path / "usr/bin").mkdir(parents=True)
    (tmp_path / "usr/bin/tool").write_text("old")
    (tmp_path / "usr/bin/link").symlink_to("tool")
    return tmp_path / "usr"


def upgrade(usr: Path) -> None:
    """As package managers do it: a new file takes the name of the old one."""
    (usr / "bin/tool.new").write_text("new")
    (usr / "bin/tool.new").rename(usr / "bin/tool")
    (usr / "bin/more").touch()


async def test_frozen_host_does_not_see_upgrades(
    layers: BaseLayers, usr: Path, tmp_path: Path
) -> None:
    name = await layers.layer(parse_base("host-frozen"), "mine")
    frozen = tmp_path / "root" / name / "root/usr"
    assert (frozen / "bin/tool").samefile(usr / "bin/tool")
    upgrade(usr)
    assert (frozen / "bin/tool").read_text() == "old"
    assert sorted(path.name for path in (frozen / "bin").iterdir()) == ["link", "tool"]
    assert await layers.layer(parse_base("host-frozen"), "mine") == name


async def test_next_engine_freezes_anew_or_keeps_to_a_fingerprint(
    layers: BaseLayers, usr: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    old = await layers.layer(parse_base("host-frozen"), "mine")
    pinned = next(word for word in caplog.text.split() if "@sha256:" in word)
    upgrade(usr)

    def next_engine() -> BaseLayers:
        store = ImageStore(tmp_path / "root")
        return BaseLayers(store, tmp_path / "root/owner", "base/host-0", usr=usr)

    assert await next_engine().layer(parse_base("host-frozen"), "mine") != old
    assert await next_engine().layer(parse_base(pinned), "mine") == old
    shutil.rmtree(tmp_path / "root" / old)
    with pytest.raises(BuildError, match="this machine's /usr holds sha256:"):
        await next_engine().layer(parse_base(pinned), "mine")


async def test_frozen_host_on_another_file_system_is_a_copy(
    usr: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root_dir = Path("/dev/shm") / f"rollout-test-{os.getpid()}"
    if not root_dir.parent.is_dir() or root_dir.parent.stat().st_dev == usr.stat().st_dev:
        pytest.skip("needs /dev/shm as a file system of its own")
    (root_dir / "owner").mkdir(parents=True)
    try:
        layers = BaseLayers(ImageStore(root_dir), root_dir / "owner", "base/host-0", usr=usr)
        name = await layers.layer(parse_base("host-frozen"), "mine")
        kept = root_dir / name / "root/usr/bin/tool"
        assert kept.read_text() == "old"
        assert kept.stat().st_nlink == 1
        assert f"copying 3 names and 0 MB of {usr}" in caplog.text
    finally:
        shutil.rmtree(root_dir)
