"""An end state goes into a file and comes back as it was; a file tampered with is refused."""

import asyncio
import gzip
import io
import os
import stat
import tarfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from rollout.config import EngineConf
from rollout.errors import SandboxError, TreeRefused
from rollout.sandbox.base import Engine, Image, SandboxSpec
from rollout.sandbox.export import export_layer
from rollout.sandbox.memory import MemoryEngine
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.restore import restore_layer
from rollout.types import Blueprint, BuildStep, Tree
from tests.sandbox.conftest import SLOTS, UIDS_EACH, running, uid_base
from tests.sandbox.harness import Bench, needs_btrfs, shell_in

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(os.geteuid() != 0, reason="end states are kept by root alone"),
]

LIMIT = 64 << 20
GIVEN = Blueprint(
    steps=(
        BuildStep(
            op="put",
            dest="/app",
            tree=Tree.of({"given": "1", "gone": "2", "old/kept": "3", "whole/a": "4"}),
        ),
    )
)
LEAVE = """
set -e
cd /app
echo mine > new; chown 1000:1001 new; chmod 4751 new; touch -d @1000000000 new
ln new twin; ln -s /etc/passwd link; ln -s nowhere dangling; mkfifo pipe; chmod 666 pipe
python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind("/app/sock")'
rm gone; mv old renamed; rm -r whole; mkdir whole; echo b > whole/b
mkdir -p /usr/local/deep/er; echo usr > /usr/local/deep/er/file; rm /usr/bin/yes
python3 -c 'import os; os.setxattr("/app/new", "user.note", b"\\x00\\xff")'
long=$(printf 'n%.0s' $(seq 200)); mkdir -p $long/$long; echo far > $long/$long/far
printf x > "$(printf 'bad\\377name\\n')"
dd if=/dev/zero of=/app/hole bs=1 count=1 seek=1000000 2>/dev/null
echo temporary > /tmp/t; echo gone > /dev/shm/s; mkdir empty; touch -d @1100000000 empty
"""
LOOK = """
cd /app
stat -c '%n %F %a %u:%g %s %h' given new twin link dangling pipe hole
stat -c '%n %F %a %u:%g' renamed whole empty .
stat -c '%n %Y' new empty
cat given new renamed/kept whole/b /usr/local/deep/er/file n*/n*/far /tmp/t; readlink link dangling
ls -a whole | cat; ls gone old sock whole/a /usr/bin/yes /dev/shm/s 2>&1
ls | grep -v sock | od -c | tail -3
python3 -c 'import os; print(os.getxattr("/app/new", "user.note"))'
"""


@pytest.fixture
async def other(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Bench]:
    """An engine of another root folder and other uids, as on another machine."""
    folder = tmp_path_factory.mktemp("other")
    conf = EngineConf(root_dir=str(folder), uid_base=uid_base() + SLOTS * UIDS_EACH, max_slots=64)
    engine = NativeEngine(conf)
    async with AsyncExitStack() as ending:
        ending.push_async_callback(engine.close)
        await engine.start()
        yield Bench(engine, ending)
    assert list(folder.glob("owners/*")) == []


@pytest.fixture
def kind() -> str:
    return "native"


async def exported(bench: Bench, script: str, limit: int = LIMIT) -> Path:
    box = await bench.sandbox(GIVEN)
    left = await shell_in(box)(script)
    assert left.ok, left.stderr
    image = await box.end_as_image()
    return await bench.engine.export_state(image, limit_bytes=limit, timeout_s=60)


async def restored(bench: Bench, state: Path) -> Image:
    below = await bench.engine.build(GIVEN)
    return await bench.engine.restore_state(below, state, limit_bytes=LIMIT)


SCRATCHES = ["disk", "tmpfs", pytest.param("btrfs", marks=needs_btrfs)]


@pytest.fixture(params=SCRATCHES)
async def writing(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Bench]:
    """An engine for each place where a sandbox may write."""
    async with running("native", tmp_path, request.param) as engine, AsyncExitStack() as ending:
        yield Bench(engine, ending)


async def test_an_end_state_comes_back_as_it_was(writing: Bench, other: Bench) -> None:
    bench = writing
    box = await bench.sandbox(GIVEN)
    left = await shell_in(box)(LEAVE)
    assert left.ok, left.stderr
    image = await box.end_as_image()
    state = await bench.engine.export_state(image, limit_bytes=LIMIT, timeout_s=60)
    spec = SandboxSpec.for_blueprint(image, GIVEN)
    before = await shell_in(await bench.create(spec))(LOOK)
    again = await restored(other, state)
    after = await shell_in(await other.create(SandboxSpec.for_blueprint(again, GIVEN)))(LOOK)
    seen = after.stdout.decode(errors="replace")
    for line in (
        "new regular file 4751 1000:1001 5 2",
        "hole regular file 644 0:0 1000001 1",
        "new 1000000000",
        "empty 1100000000",
        "ls: cannot access 'sock'",
        "ls: cannot access '/usr/bin/yes'",
        "ls: cannot access 'whole/a'",
        r"b'\x00\xff'",
    ):
        assert line in seen, seen
    wanted = [line for line in before.stdout.splitlines() if b"sock" not in line]
    assert [line for line in after.stdout.splitlines() if b"sock" not in line] == wanted


async def test_the_file_is_one_that_tar_reads(bench: Bench) -> None:
    state = await exported(bench, LEAVE)
    with tarfile.open(state) as archive:
        names = {os.fsencode(member.name): member for member in archive}
    assert names[b"root/app/new"].uid == 1000
    assert names[b"root/app/gone"].type == tarfile.CHRTYPE
    assert names[b"root/app/twin"].linkname == "root/app/new"
    assert names[b"root/app/" + b"n" * 200 + b"/" + b"n" * 200 + b"/far"].size == 4
    assert names[b"usr/local/deep/er/file"].size == 4
    assert not [name for name in names if name.startswith((b"root/dev", b"root/app/sock"))]


async def test_capabilities_stay_good_in_another_range_of_uids(tmp_path: Path) -> None:
    """Of a program that may bind low ports: of the first range before, of the other after."""
    layer, state, made = tmp_path / "layer", tmp_path / "state", tmp_path / "made"
    program = layer / "root" / "program"
    program.parent.mkdir(parents=True)
    made.mkdir()
    program.write_bytes(b"x")
    head = (0x03000001).to_bytes(4, "little") + (1 << 10).to_bytes(4, "little") + bytes(12)
    os.setxattr(program, "security.capability", head + (70_000).to_bytes(4, "little"))
    for path in (layer / "root", program):
        os.chown(path, 70_000, 70_000)
    os.setxattr(program, "security.capability", head + (70_000).to_bytes(4, "little"))
    limits = {"limit_bytes": LIMIT, "timeout_s": 10}
    await export_layer({"root": layer / "root"}, 70_000, state, **limits)  # type: ignore[arg-type]
    restore_layer(state, made, 900_000, limit_bytes=LIMIT)
    value = os.getxattr(made / "root" / "program", "security.capability")
    assert value == head + (900_000).to_bytes(4, "little")


@pytest.mark.parametrize(
    ("script", "limit", "why"),
    [
        ("head -c 2000000 /dev/zero > /app/big", 1 << 20, "more than 1 MB"),
        ("truncate -s 1T /app/sparse", LIMIT, "more than 64 MB"),
        (
            "cd /app; for n in $(seq 150); do mkdir d; cd d; done",
            LIMIT,
            "more than 128 levels",
        ),
    ],
)
async def test_what_is_too_much_is_refused_and_leaves_no_file(
    bench: Bench, tmp_path: Path, script: str, limit: int, why: str
) -> None:
    with pytest.raises(TreeRefused, match=why):
        await exported(bench, script, limit)
    assert list(tmp_path.glob("owners/*/*.tar.gz")) == []


async def test_what_takes_too_long_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    with pytest.raises(TreeRefused, match="in time"):
        await export_layer(
            {"root": tmp_path / "root"},
            0,
            tmp_path / "state",
            limit_bytes=LIMIT,
            timeout_s=0,
        )
    assert not (tmp_path / "state").exists()


async def test_a_canceled_export_leaves_no_file(tmp_path: Path) -> None:
    root, state = tmp_path / "root", tmp_path / "state"
    root.mkdir()
    with (root / "large").open("wb") as file:
        file.truncate(3 << 30)
    work = asyncio.create_task(
        export_layer({"root": root}, 0, state, limit_bytes=4 << 30, timeout_s=60)
    )
    while not state.exists():
        await asyncio.sleep(0.01)
    work.cancel()
    async with asyncio.timeout(10):
        with pytest.raises(asyncio.CancelledError):
            await work
    assert not state.exists()


@pytest.mark.parametrize("make", ["device", "foreign"])
async def test_no_device_and_no_file_of_another_user_goes_out(tmp_path: Path, make: str) -> None:
    root = tmp_path / "root"
    root.mkdir()
    if make == "device":
        os.mknod(root / "mem", stat.S_IFCHR | 0o600, os.makedev(1, 1))
    else:
        (root / "file").touch()
        os.chown(root / "file", 70_000, 0)
    why = {"device": "is a device", "foreign": "host's user 70000"}[make]
    limits = {"limit_bytes": LIMIT, "timeout_s": 10}
    with pytest.raises(TreeRefused, match=why):
        await export_layer({"root": root}, 0, tmp_path / "state", **limits)  # type: ignore[arg-type]


async def test_an_engine_without_files_says_so(tmp_path: Path) -> None:
    engine: Engine = MemoryEngine()
    await engine.start()
    image = await engine.build(Blueprint())
    with pytest.raises(TreeRefused, match="engine=native"):
        await engine.export_state(image, limit_bytes=1, timeout_s=1)
    await engine.close()


# ---------------------------------------------------------------- hostile files


def member(name: str, kind: bytes = tarfile.DIRTYPE, **settings: object) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, 0o755
    for key, value in settings.items():
        setattr(info, key, value)
    return info


def packed(*members: tarfile.TarInfo, data: bytes = b"") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member("root"))
        for info in members:
            if info.isreg():
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if info.isreg() else None)
    return out.getvalue()


FILE, LINK, HARD = tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
OUTSIDE = "../../../outside"
"""A folder beside the layers, as seen from the root folder of one."""
OUT = member("root/out", LINK, linkname=OUTSIDE)
HOSTILE = {
    "parent": [member("root/../../evil", FILE)],
    "dots at the end": [member("root/..")],
    "absolute": [member("/etc/evil", FILE)],
    "elsewhere": [member("layer.json", FILE)],
    "dot": [member("root/./x", FILE)],
    "no part": [member("root//x", FILE)],
    "nul": [member("root/x", FILE, pax_headers={"path": "root/x\0y"})],
    "shared memory": [member("root/dev")],
    "through a link": [OUT, member("root/out/evil", FILE)],
    "folder through a link": [OUT, member("root/out/evil")],
    "over a link": [OUT, member("root/out", FILE)],
    "over a file": [member("root/x", FILE), member("root/x", FILE)],
    "folder twice": [member("root")],
    "below a file": [member("root/x", FILE), member("root/x/y", FILE)],
    "before its folder": [member("root/x/y", FILE)],
    "hard link out": [member("root/x", HARD, linkname=f"{OUTSIDE}/passwd")],
    "hard link absolute": [member("root/x", HARD, linkname="/etc/passwd")],
    "hard link through a link": [OUT, member("root/x", HARD, linkname="root/out/passwd")],
    "hard link to a link": [OUT, member("root/x", HARD, linkname="root/out")],
    "hard link to a folder": [member("root/d"), member("root/x", HARD, linkname="root/d")],
    "top is a link": [member("usr", LINK, linkname="/usr")],
    "top is a file": [member("usr", FILE)],
    "memory device": [member("root/mem", tarfile.CHRTYPE, devmajor=1, devminor=1)],
    "disk": [member("root/sda", tarfile.BLKTYPE, devmajor=8, devminor=0)],
    "empty link": [member("root/x", LINK, linkname="")],
    "owner below": [member("root/x", FILE, pax_headers={}, uid=-1)],
    "owner beyond": [member("root/x", FILE, uid=65_536)],
    "group beyond": [member("root/x", FILE, gid=70_000)],
    "long part": [member("root/" + "x" * 256, FILE)],
    "long name": [member("root" + "/x" * 2_100, FILE)],
    "redirect up": [
        member("root/x", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/../../etc"})
    ],
    "redirect below": [
        member("root/x", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "a/b"})
    ],
    "half a file": [
        member("root/x", FILE, pax_headers={"SCHILY.xattr.trusted.overlay.metacopy": ""})
    ],
    "capability of all": [
        member("root/x", FILE, pax_headers={"SCHILY.xattr.security.capability": "\1" * 20})
    ],
    "access list": [
        member("root/x", FILE, pax_headers={"SCHILY.xattr.system.posix_acl_access": "x"})
    ],
    "unknown record": [member("root/x", FILE, pax_headers={"comment": "x"})],
    "sparse": [member("root/x", FILE, pax_headers={"GNU.sparse.size": "1000"})],
    "long records": [member("root/x", FILE, pax_headers={"SCHILY.xattr.user.a": "x" * 300_000})],
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(tmp_path: Path, name: str) -> None:
    refuse(tmp_path, packed(*HOSTILE[name]))


def refuse(tmp_path: Path, state: bytes, limit: int = LIMIT) -> None:
    (tmp_path / "state").write_bytes(state)
    target = tmp_path / "layers" / "one"
    target.mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "passwd").touch()
    with pytest.raises(TreeRefused):
        restore_layer(tmp_path / "state", target, 500_000, limit_bytes=limit)
    assert not list(tmp_path.rglob("evil"))
    assert (tmp_path / "outside" / "passwd").stat().st_nlink == 1
    assert {path.name for path in target.iterdir()} <= {"root", "usr"}
    assert not Path("/etc/evil").exists()


def test_a_fine_file_is_not_refused(tmp_path: Path) -> None:
    """What the hostile ones are made of, without what is hostile about them."""
    fine = packed(
        OUT,
        member("root/x", FILE, uid=7),
        member("root/y", HARD, linkname="root/x"),
        member("root/white", tarfile.CHRTYPE),
        member("root/d", pax_headers={"SCHILY.xattr.trusted.overlay.redirect": "/a/b"}),
        data=b"content",
    )
    (tmp_path / "state").write_bytes(fine)
    (tmp_path / "layer").mkdir()
    restore_layer(tmp_path / "state", tmp_path / "layer", 500_000, limit_bytes=LIMIT)
    root = tmp_path / "layer" / "root"
    assert (root / "y").read_bytes() == b"content"
    assert (root / "x").stat().st_uid == 500_007
    assert str((root / "out").readlink()) == OUTSIDE
    assert os.lstat(root / "white").st_rdev == 0
    assert os.getxattr(root / "d", "trusted.overlay.redirect") == b"/a/b"


@pytest.mark.parametrize(
    "state",
    [
        b"",
        b"no gzip at all",
        gzip.compress(b""),
        gzip.compress(bytes(100)),
        gzip.compress(b"x" * 512),
        gzip.compress(bytes(1024)),
        packed(member("root/x", FILE), data=b"x" * 2000)[:-40],
        packed()[:40],
        packed()[:-12] + bytes(12),
    ],
    ids=["empty", "text", "nothing", "short", "no tar", "no root", "cut", "cut early", "bad sum"],
)
def test_a_damaged_file_is_refused(tmp_path: Path, state: bytes) -> None:
    refuse(tmp_path, state)


def test_bombs_are_cut_off(tmp_path: Path) -> None:
    refuse(tmp_path, packed(member("root/x", FILE), data=bytes(3 << 20)), limit=1 << 20)


def test_a_size_that_is_not_there_is_refused_before_it_is_written(tmp_path: Path) -> None:
    info = member("root/x", FILE)
    info.size = LIMIT
    block = member("root").tobuf(tarfile.USTAR_FORMAT) + info.tobuf(tarfile.USTAR_FORMAT)
    refuse(tmp_path, gzip.compress(block + bytes(1 << 20)), limit=LIMIT - 1)


async def test_a_refused_state_leaves_no_layer(bench: Bench, tmp_path: Path) -> None:
    state = tmp_path / "hostile"
    state.write_bytes(packed(*HOSTILE["parent"]))
    with pytest.raises(SandboxError):
        await restored(bench, state)
    assert list(tmp_path.glob("owners/*/layers/*")) == []
