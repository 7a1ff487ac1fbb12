"""One object store in a folder and on S3: same ids, checked content, hostile archives refused."""

import asyncio
import io
import itertools
import lzma
import os
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rollout.config import ObjectsConf, StoreConf
from rollout.errors import BuildError, ConfigError, TreeRefused
from rollout.objects.store import ObjectStore
from rollout.objects.unpack import tree_of
from rollout.objects.where import open_objects, settle
from rollout.types import Tree
from tests.forked import Forked
from tests.s3_server import BUCKET

_prefixes = itertools.count()


def opened(uri: str, root_dir: Path, endpoint_url: str | None = None) -> ObjectStore:
    return open_objects(ObjectsConf(uri=uri, endpoint_url=endpoint_url), root_dir=str(root_dir))


@pytest.fixture
def local(tmp_path: Path) -> ObjectStore:
    return opened(str(tmp_path / "objects"), tmp_path / "local-root")


@pytest.fixture(params=["local", pytest.param("s3", marks=pytest.mark.s3)])
def objects(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "local":
        yield request.getfixturevalue("local")
        return
    uri = f"s3://{BUCKET}/objects/{next(_prefixes)}"
    store = opened(uri, tmp_path / "root", request.getfixturevalue("s3_endpoint"))
    yield store
    store.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "app"
    (made / "bin").mkdir(parents=True)
    (made / "bin/run").write_bytes(b"#!/bin/sh\n")
    (made / "bin/run").chmod(0o755)
    (made / "ünïcode").write_text("x")
    (made / "empty").mkdir()
    (made / "link").symlink_to("bin/run")
    return made


# ---------------------------------------------------------------- what goes in comes out


async def test_a_folder_comes_out_as_it_went_in(objects: ObjectStore, folder: Path) -> None:
    tree = await objects.tree(objects.put_path(folder))
    found = {
        entry.path: (entry.kind, entry.mode, entry.data, entry.target) for entry in tree.entries
    }
    assert found == {
        "bin": ("dir", 0o755, b"", ""),
        "bin/run": ("file", 0o755, b"#!/bin/sh\n", ""),
        "empty": ("dir", 0o755, b"", ""),
        "link": ("link", 0o777, b"", "bin/run"),
        "ünïcode": ("file", 0o644, b"x", ""),
    }


async def test_a_file_is_a_blob_and_every_kind_of_tar_a_folder(
    objects: ObjectStore, tmp_path: Path
) -> None:
    plain = tar_of([(tarfile.TarInfo("a"), b"1")])
    assert (await objects.tree(objects.put_bytes(b"hello"))).files() == {"blob": b"hello"}
    assert (await objects.tree(objects.put_bytes(b""))).files() == {"blob": b""}
    assert (await objects.tree(objects.put_bytes(b"\x1f\x8bno gzip"))).files() == {
        "blob": b"\x1f\x8bno gzip"
    }
    for packed in (plain, lzma.compress(plain), gzipped(plain)):
        assert (await objects.tree(objects.put_bytes(packed))).files() == {"a": b"1"}
    copy = tmp_path / "copy"
    objects.get(objects.put_bytes(plain), copy)
    assert copy.read_bytes() == plain


@pytest.mark.s3
def test_the_same_folder_has_one_id_on_every_machine_and_in_every_store(
    local: ObjectStore, s3_endpoint: str, folder: Path, tmp_path: Path
) -> None:
    first = local.put_path(folder)
    other = tmp_path / "elsewhere" / "other name"
    other.parent.mkdir()
    subprocess.run(["cp", "-r", folder, other], check=True)  # other times, other order on disk
    os.utime(other / "ünïcode", (1, 1))
    if os.geteuid() == 0:
        os.chown(other / "ünïcode", 12345, 12345)
    s3 = opened(f"s3://{BUCKET}/objects/{next(_prefixes)}", tmp_path / "root", s3_endpoint)
    assert s3.put_path(other) == first
    (other / "ünïcode").chmod(0o600)
    assert s3.put_path(other) != first
    s3.close()


def test_a_tree_by_value_and_the_folder_it_makes_are_one_object(
    local: ObjectStore, tmp_path: Path
) -> None:
    tree = Tree.of({"a-b": b"1", "a": b"2"})
    for path, data in tree.files().items():
        (tmp_path / "t").mkdir(exist_ok=True)
        (tmp_path / "t" / path).write_bytes(data)
        (tmp_path / "t" / path).chmod(0o644)
    (tmp_path / "t").chmod(0o755)
    assert local.put_tree(tree) == local.put_path(tmp_path / "t")


def test_what_is_in_the_store_can_be_listed_and_found_by_its_first_letters(
    objects: ObjectStore, folder: Path
) -> None:
    put = {objects.put_path(folder), objects.put_bytes(b"x", "x.bin")}
    assert {info.id for info in objects.infos()} == put
    assert {(info.name, info.kind) for info in objects.infos()} == {
        ("app", "tar"),
        ("x.bin", "blob"),
    }
    one = sorted(put)[0]
    assert objects.full_id(one[7:27]) == objects.full_id(one) == one
    for wrong in ("sha256:" + "0" * 64, "../x", ""):
        with pytest.raises(ConfigError):
            objects.full_id(wrong)


# ---------------------------------------------------------------- what is not what it should be


async def test_missing_and_damaged_objects_are_told_apart(
    local: ObjectStore, tmp_path: Path
) -> None:
    missing = f"sha256:{'0' * 64}"
    with pytest.raises(BuildError, match="is not in"):
        await local.tree(missing)
    good = local.put_bytes(b"good")
    Path(local.uri, good.replace(":", "/")).write_bytes(b"evil")
    with pytest.raises(BuildError, match="is another one"):
        await local.tree(good)
    with pytest.raises(BuildError, match="no object id"):
        await local.tree("sha256:../../etc/passwd")


@pytest.mark.s3
async def test_a_copy_on_this_machine_is_checked_and_the_folder_of_copies_stays_small(
    s3_endpoint: str, tmp_path: Path
) -> None:
    conf = ObjectsConf(
        uri=f"s3://{BUCKET}/objects/{next(_prefixes)}", endpoint_url=s3_endpoint, cache_mb=1
    )
    store = open_objects(conf, root_dir=str(tmp_path))
    ids = [store.put_bytes(bytes([n]) * 600_000) for n in range(4)]
    for object_id in ids:
        store.read_tree(object_id)
    copies = list((tmp_path / "objects").iterdir())
    assert [copy.name for copy in copies] == [ids[-1].removeprefix("sha256:")]
    copies[0].write_bytes(b"damaged on disk")
    with pytest.raises(BuildError):
        store.read_tree(ids[-1])
    assert store.read_tree(ids[-1]).size_bytes == 600_000  # fetched again
    store.close()


def tar_of(members: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for member, data in members:
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return file.getvalue()


def gzipped(data: bytes) -> bytes:
    return subprocess.run(["gzip", "-c"], input=data, capture_output=True, check=True).stdout


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, link
    return info


HOSTILE = {
    "dots": [(member("../x"), b"")],
    "inner dots": [(member("a/../../x"), b"")],
    "absolute": [(member("/etc/x"), b"")],
    "device": [(member("null", tarfile.CHRTYPE), b"")],
    "fifo": [(member("pipe", tarfile.FIFOTYPE), b"")],
    "link out": [(member("a", tarfile.SYMTYPE, "../../etc/passwd"), b"")],
    "absolute link": [(member("a", tarfile.SYMTYPE, "/etc/passwd"), b"")],
    "hard link out": [(member("a", tarfile.LNKTYPE, "/etc/shadow"), b"")],
    "hard link to nothing": [(member("a", tarfile.LNKTYPE, "b"), b"")],
    "below a link": [(member("a", tarfile.SYMTYPE, "b"), b""), (member("a/x"), b"x")],
    "below a file": [(member("a"), b""), (member("a/x"), b"x")],
}


@pytest.mark.parametrize("name", HOSTILE)
async def test_hostile_archives_are_refused(local: ObjectStore, name: str) -> None:
    object_id = local.put_bytes(tar_of(HOSTILE[name]))
    with pytest.raises(BuildError, match=object_id):
        await local.tree(object_id)


async def test_bombs_are_refused_before_they_are_in_memory(local: ObjectStore) -> None:
    zeros = member("zeros")
    zeros.size = 1 << 42
    claimed = local.put_bytes(zeros.tobuf())
    with pytest.raises(BuildError, match="limit of bytes"):
        await local.tree(claimed)
    long_name = local.put_bytes(tar_of([(member("x" * 200_000), b"")]))
    with pytest.raises(BuildError, match="header"):
        await local.tree(long_name)
    first = (member("a"), bytes(600_000))
    again = [(member(f"b{n}", tarfile.LNKTYPE, "a"), b"") for n in range(9)]
    with pytest.raises(TreeRefused, match="limit of bytes"):
        tree_of(io.BytesIO(gzipped(tar_of([first, *again]))), limit_bytes=1 << 20)
    many = [(member(f"b{n}"), b"") for n in range(9)]
    with pytest.raises(TreeRefused, match="more than 8 names"):
        tree_of(io.BytesIO(tar_of(many)), limit_entries=8)


@pytest.mark.parametrize("bad", ["fifo", "link", "missing"])
def test_what_cannot_be_mounted_is_not_put(local: ObjectStore, tmp_path: Path, bad: str) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if bad == "fifo":
        os.mkfifo(folder / "pipe")
    elif bad == "link":
        (folder / "link").symlink_to("/etc/passwd")
    else:
        folder.rmdir()
    with pytest.raises(ConfigError, match=str(folder)):
        local.put_path(folder)
    assert local.infos() == []


# ---------------------------------------------------------------- what engines share


async def test_the_first_to_share_a_name_wins(objects: ObjectStore, tmp_path: Path) -> None:
    first, second, target = tmp_path / "1", tmp_path / "2", tmp_path / "3"
    first.write_bytes(b"first" * 100_000)
    second.write_bytes(b"second")
    assert not await objects.fetch("layers/x.tar.gz", target)
    await objects.share("layers/x.tar.gz", first)
    await objects.share("layers/x.tar.gz", second)
    assert await objects.fetch("layers/x.tar.gz", target)
    assert target.read_bytes() == first.read_bytes()
    kept = await objects.keep("made/y", Tree.of({"a": b"1"}))
    assert (
        await objects.keep("made/y", Tree.of({"a": b"2"})) == kept == await objects.made("made/y")
    )


async def test_a_crowd_reads_an_object_once(objects: ObjectStore, folder: Path) -> None:
    object_id = objects.put_path(folder)
    trees = await asyncio.gather(*(objects.tree(object_id) for _ in range(50)))
    assert all(tree is trees[0] for tree in trees)


def test_without_a_place_of_their_own_objects_are_beside_the_runs(tmp_path: Path) -> None:
    store = StoreConf(uri="s3://bucket/runs/", endpoint_url="http://127.0.0.1:1", region="x")
    found = settle(ObjectsConf(), store)
    assert (found.uri, found.endpoint_url) == ("s3://bucket/runs/_objects", "http://127.0.0.1:1")
    own = settle(ObjectsConf(uri=str(tmp_path / "o")), store)
    assert (own.uri, own.endpoint_url) == (str(tmp_path / "o"), None)


# ---------------------------------------------------------------- the command line


Command = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def objects_command(forked: Forked) -> Command:
    def command(*words: str, cwd: Path) -> "subprocess.CompletedProcess[str]":
        return forked.said(["objects", *words], cwd=cwd)

    return command


def test_put_list_show_and_get(tmp_path: Path, objects_command: Command, folder: Path) -> None:
    put = objects_command("put", "app", cwd=tmp_path)
    object_id = put.stdout.strip()
    assert (put.returncode, put.stderr, object_id[:7]) == (0, "", "sha256:")
    assert object_id in objects_command("list", cwd=tmp_path).stdout
    shown = objects_command("show", object_id[:15], cwd=tmp_path).stdout
    assert "0755" in shown
    assert "link -> bin/run" in shown
    assert objects_command("get", object_id, "app.tar", cwd=tmp_path).returncode == 0
    with tarfile.open(tmp_path / "app.tar") as archive:
        assert "./bin/run" in archive.getnames() or "bin/run" in archive.getnames()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["putt", "x"], 'did you mean "put"'),
        (["put", "missing"], "missing: there is no such file or folder"),
        (["show", "f" * 64], "holds no object"),
        (["put", "x", "objects.urix=y"], 'did you mean "objects.uri"'),
        (["list", "objects.uri=gs://b/x"], "objects.uri"),
    ],
)
def test_slips_are_one_line_and_exit_2(
    tmp_path: Path, objects_command: Command, words: list[str], said: str
) -> None:
    done = objects_command(*words, cwd=tmp_path)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
