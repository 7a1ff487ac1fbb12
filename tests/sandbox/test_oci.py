"""Bases that are images of others: layers, whiteouts, settings, and what nobody may hand us."""

import gzip
import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rollout.errors import BuildError, ConfigError
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.base_settings import base_setting
from rollout.sandbox.bases import parse_base
from rollout.sandbox.native import NativeEngine
from rollout.sandbox.oci import _own_platform
from rollout.sandbox.survey import source_digest
from rollout.types import Blueprint
from tests.sandbox.harness import until_empty
from tests.sandbox.test_native import conf, leftovers, out

pytestmark = pytest.mark.native

BUSYBOX = Path("/bin/busybox")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[NativeEngine]:
    made = NativeEngine(conf(tmp_path / "root"))
    await made.start()
    yield made
    await made.close()
    await until_empty(lambda: leftovers(tmp_path / "root"), "left behind")


# ---------------------------------------------------------------- images as tests make them


def entry(name: str, data: bytes = b"", **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.mode, info.size = 0o755, len(data)
    for key, value in more.items():
        setattr(info, key, value)
    return info, data


def folder(name: str, **more: Any) -> tuple[tarfile.TarInfo, bytes]:
    return entry(name, type=tarfile.DIRTYPE, **more)


def packed(entries: Sequence[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    with io.BytesIO() as file:
        with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for info, data in entries:
                archive.addfile(info, io.BytesIO(data))
        return file.getvalue()


def sha(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


LINKS = ("sh", "cat", "ls", "stat", "id", "env", "find", "sort", "sha256sum", "xargs")


def lowest() -> bytes:
    links = [entry(f"bin/{name}", type=tarfile.SYMTYPE, linkname="busybox") for name in LINKS]
    return packed(
        [
            folder("bin"),
            entry("bin/busybox", BUSYBOX.read_bytes()),
            *links,
            folder("etc"),
            entry("etc/passwd", b"root:x:0:0::/root:/bin/sh\njoe:x:7:8::/home:/bin/sh\n"),
            folder("srv", mode=0o700, uid=7, gid=65_535),
            entry("srv/gone", b"gone"),
            entry("srv/kept", b"kept", mode=0o4711, uid=7),
            entry("srv/same", type=tarfile.LNKTYPE, linkname="srv/kept"),
            entry("hidden/below", b"below"),
            entry("emptied/below", b"below"),
            entry("became/a", b"a folder"),
            entry("dev/null", b"covered"),
        ]
    )


UPPER = packed(
    [
        entry("srv/.wh.gone"),
        entry("hidden/.wh..wh..opq"),
        entry("hidden/above", b"above"),
        entry(".wh.emptied"),
        entry("emptied/above", b"above"),
        entry(".wh.became"),
        entry("srv/.wh..wh.plnk"),
        entry("srv/.wh.not-there"),
    ]
)
TOP = packed([entry("became", b"a file"), entry("srv/new", b"new")])
CONFIG = {"Env": ["PATH=/bin", "A=one=two", "EMPTY="], "WorkingDir": "/made/here", "User": "joe:9"}


@dataclass
class Made:
    """An image in the making; tests change what they want to be wrong."""

    layers: list[bytes] = field(default_factory=lambda: [lowest(), UPPER, TOP])
    config: dict[str, Any] = field(default_factory=dict)
    pack: Callable[[bytes], bytes] = lambda data: data

    def config_bytes(self) -> bytes:
        system, _, architecture = _own_platform().partition("/")
        return json.dumps(
            {
                "os": system,
                "architecture": architecture,
                "config": CONFIG,
                "rootfs": {"type": "layers", "diff_ids": [f"sha256:{sha(x)}" for x in self.layers]},
                **self.config,
            }
        ).encode()

    def saved(self) -> dict[str, bytes]:
        """As `docker save` writes it."""
        config = self.config_bytes()
        files = {f"{n}/layer.tar": layer for n, layer in enumerate(self.layers)}
        manifest = [{"Config": f"{sha(config)}.json", "Layers": list(files), "RepoTags": None}]
        return {
            **files,
            f"{sha(config)}.json": config,
            "manifest.json": json.dumps(manifest).encode(),
        }

    def layout(self) -> dict[str, bytes]:
        blobs: dict[str, bytes] = {}

        def add(data: bytes, **more: Any) -> dict[str, Any]:
            blobs[f"blobs/sha256/{sha(data)}"] = data
            return {"digest": f"sha256:{sha(data)}", "size": len(data), **more}

        manifest = {
            "config": add(self.config_bytes()),
            "layers": [add(self.pack(layer)) for layer in self.layers],
        }
        other = {"os": "unknown", "architecture": "unknown"}
        inner = {
            "manifests": [
                add(json.dumps(manifest).encode()),
                add(b"{}", platform=other),
            ]
        }
        index = {"manifests": [add(json.dumps(inner).encode())]}
        return {**blobs, "oci-layout": b"{}", "index.json": json.dumps(index).encode()}


def write_folder(path: Path, files: Mapping[str, bytes]) -> Path:
    for name, data in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)
    return path


def write_tar(path: Path, files: Mapping[str, bytes]) -> Path:
    data = packed([entry(name, data) for name, data in files.items()])
    path.write_bytes(gzip.compress(data, 1) if path.suffix == ".gz" else data)
    return path


def images(tmp_path: Path) -> dict[str, Path]:
    squeezed = Made(pack=lambda data: gzip.compress(data, 1))
    return {
        "saved": write_tar(tmp_path / "saved.tar", Made().saved()),
        "layout": write_folder(tmp_path / "layout", squeezed.layout()),
        "layout.tar.gz": write_tar(tmp_path / "layout.tar.gz", Made().layout()),
    }


LOOK = """
[ /srv/kept -ef /srv/same ] || echo two files
find /srv /hidden /emptied /became | sort | xargs stat -c '%A %u:%g %n'
cat /became /etc/passwd /hidden/above
"""
SHOWN = """\
-rwxr-xr-x 0:0 /became
drwxr-xr-x 0:0 /emptied
-rwxr-xr-x 0:0 /emptied/above
drwxr-xr-x 0:0 /hidden
-rwxr-xr-x 0:0 /hidden/above
drwxr-xr-x 0:0 /srv
-rws--x--x 7:0 /srv/kept
-rwxr-xr-x 0:0 /srv/new
-rws--x--x 7:0 /srv/same
a fileroot:x:0:0::/root:/bin/sh
joe:x:7:8::/home:/bin/sh
above"""


@pytest.mark.parametrize("kind", ["saved", "layout", "layout.tar.gz"])
async def test_an_image_is_a_computer(engine: NativeEngine, tmp_path: Path, kind: str) -> None:
    blueprint = Blueprint(base=f"oci:{images(tmp_path)[kind]}")
    image = await engine.build(blueprint)
    box = await engine.create(SandboxSpec.for_blueprint(image, blueprint))
    assert await out(box, LOOK, user="root") == SHOWN
    assert await out(box, "echo $A; id -u; id -g; pwd; env | grep -c EMPTY=") == (
        "one=two\n7\n9\n/made/here\n1\n"
    )
    assert "localhost sandbox" in await out(box, "cat /etc/hosts")
    assert await out(box, "ls /dev/null; cat /etc/hostname; stat -c %a /tmp /root") == (
        "/dev/null\nsandbox\n1777\n700\n"
    )
    await box.close()


async def test_images_share_layers_and_are_read_once(engine: NativeEngine, tmp_path: Path) -> None:
    first = images(tmp_path)["saved"]
    other = write_tar(tmp_path / "other.tar", Made(layers=[lowest(), TOP]).saved())
    one, two = [await engine.build(Blueprint(base=f"oci:{path}")) for path in (first, other)]
    assert one.layers[0] == two.layers[0]
    assert len(one.layers) == 4
    digest = source_digest(parse_base(f"oci:{first}"))
    first.unlink()
    again = await engine.build(Blueprint(base=f"oci:{first}@sha256:{digest}"))
    assert (again.layers, again.env) == (one.layers, one.env)
    with pytest.raises(BuildError, match="No such file"):
        await engine.build(Blueprint(base=f"oci:{first}"))
    with pytest.raises(BuildError, match=r"does not hold sha256:f+; it has changed since"):
        await engine.build(Blueprint(base=f"oci:{other}@sha256:{'f' * 64}"))


async def test_what_an_image_says_is_known_before_it_is_made(tmp_path: Path) -> None:
    for path in images(tmp_path).values():
        setting = base_setting(f"oci:{path}")
        assert dict(setting.env) == {"PATH": "/bin", "A": "one=two", "EMPTY": ""}
        assert (setting.workdir, setting.user) == ("/made/here", "joe:9")
    with pytest.raises(ConfigError, match=r"base oci:/no/such: .*No such file"):
        base_setting("oci:/no/such")


# ---------------------------------------------------------------- what nobody may hand us


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        (entry("../x"), r"'\.\./x'.*no plain path below the root"),
        (entry("/x"), "is absolute"),
        (entry("a/.wh..."), r"'a/\.wh\.\.\.': it takes nothing away"),
        (entry(".wh..wh..opq"), "it hides all that lies below the layer"),
        (entry("x", type=tarfile.LNKTYPE, linkname="../../etc/shadow"), "hard link out"),
        (entry("x", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "it is a device"),
        (entry("x", type=tarfile.CHRTYPE, devmajor=0, devminor=0), "it is a device"),
        (entry("x", uid=65_536), "it belongs to 65536:0"),
    ],
)
async def test_a_hostile_layer(
    engine: NativeEngine, tmp_path: Path, bad: tuple[tarfile.TarInfo, bytes], said: str
) -> None:
    layers = [lowest(), packed([entry("link", type=tarfile.SYMTYPE, linkname="/"), bad])]
    path = write_tar(tmp_path / "bad.tar", Made(layers=layers).saved())
    with pytest.raises(BuildError, match=said):
        await engine.build(Blueprint(base=f"oci:{path}"))


async def test_a_layer_cannot_write_through_a_link(engine: NativeEngine, tmp_path: Path) -> None:
    for name in ("link/x", "link/.wh.x"):
        link = entry("link", type=tarfile.SYMTYPE, linkname="/srv")
        made = Made(layers=[lowest(), packed([link, entry(name, b"x")])])
        path = write_tar(tmp_path / "bad.tar", made.saved())
        with pytest.raises(BuildError, match="'link' above it is no folder, or a link"):
            await engine.build(Blueprint(base=f"oci:{path}"))


def _replaced(old: str, new: str) -> Callable[[dict[str, bytes]], None]:
    def change(files: dict[str, bytes]) -> None:
        files["manifest.json"] = files["manifest.json"].replace(old.encode(), new.encode())

    return change


def _without_layer(files: dict[str, bytes]) -> None:
    del files["1/layer.tar"]


def _other_layer(files: dict[str, bytes]) -> None:
    files["1/layer.tar"] = TOP


def _two(files: dict[str, bytes]) -> None:
    files["manifest.json"] = json.dumps(2 * json.loads(files["manifest.json"])).encode()


def _nothing(files: dict[str, bytes]) -> None:
    del files["manifest.json"]


def _deep(files: dict[str, bytes]) -> None:
    files["manifest.json"] = b"[" * 100_000


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (_without_layer, "cannot be read as an image|No such file"),
        (_other_layer, r"its content is not sha256:\w+, as the image says"),
        (_two, "it holds 2 images; one is needed"),
        (_nothing, "it is no OCI layout or saved image"),
        (_deep, "cannot be read as an image"),
        (_replaced("0/layer.tar", "../../../etc/shadow"), "leads out of it"),
        (_replaced("0/layer.tar", "/etc/shadow"), "names no file in it"),
        (_replaced(".json", ".jsno"), "No such file"),
    ],
)
async def test_a_saved_image_that_is_wrong(
    engine: NativeEngine, tmp_path: Path, change: Callable[[dict[str, bytes]], None], said: str
) -> None:
    files = Made().saved()
    change(files)
    path = write_tar(tmp_path / "bad.tar", files)
    with pytest.raises(BuildError, match=f"blueprint 'host': .*(?:{said})"):
        await engine.build(Blueprint(base=f"oci:{path}"))
    assert not list((tmp_path / "root/base").glob("oci-*.json"))


async def test_a_link_out_of_a_layout_is_not_followed(engine: NativeEngine, tmp_path: Path) -> None:
    path = write_folder(tmp_path / "layout", Made().saved())
    (path / "0/layer.tar").unlink()
    (path / "0/layer.tar").symlink_to("../../secret")
    shutil.copy(path / "2/layer.tar", tmp_path / "secret")
    with pytest.raises(BuildError, match="leads out of it"):
        await engine.build(Blueprint(base=f"oci:{path}"))


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"architecture": "s390x"}, "it is for linux/s390x; this machine is"),
        ({"rootfs": {"diff_ids": []}}, "do not agree on its 3 layers"),
        ({"rootfs": {"diff_ids": ["md5:0"] * 3}}, "'md5:0' is no digest of the form sha256:"),
        ({"config": {"WorkingDir": "here"}}, "its WorkingDir 'here' or User 'root' cannot be used"),
        ({"config": {"Env": {"A": "b"}}}, "its Env is no list of texts"),
    ],
)
async def test_a_config_that_is_wrong(
    engine: NativeEngine, tmp_path: Path, config: dict[str, Any], said: str
) -> None:
    path = write_folder(tmp_path / "bad", Made(config=config).layout())
    with pytest.raises(BuildError, match=said):
        await engine.build(Blueprint(base=f"oci:{path}"))


async def test_a_blob_that_is_not_what_its_name_says(engine: NativeEngine, tmp_path: Path) -> None:
    path = write_folder(tmp_path / "bad", Made().layout())
    blob = path / f"blobs/sha256/{sha(TOP)}"
    blob.write_bytes(UPPER)
    with pytest.raises(BuildError, match="is not what its name says"):
        await engine.build(Blueprint(base=f"oci:{path}"))
