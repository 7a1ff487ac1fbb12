"""Builds with commands: layers that are used again, secrets, the host's network, other machines."""

import asyncio
import base64
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from rollout.config import EngineConf
from rollout.errors import BuildError, SandboxError
from rollout.sandbox.base import Image, Objects, SandboxSpec
from rollout.sandbox.build_log import HEAD_BYTES, TAIL_BYTES, BuildLog
from rollout.sandbox.build_secrets import MASK, Masked, traces
from rollout.sandbox.native import NativeEngine
from rollout.types import Blueprint, BuildStep, Secret, Tree
from tests.sandbox.conftest import uid_base
from tests.sandbox.harness import until_empty
from tests.sandbox.test_native import leftovers, out

pytestmark = pytest.mark.native

VALUE = "correct horse battery staple"
VARIABLE = "ROLLOUT_TEST_TOKEN"


@asynccontextmanager
async def running(
    root: Path, objects: Objects | None = None, *, uids: int = 0, alone: bool = True
) -> AsyncIterator[NativeEngine]:
    conf = EngineConf(root_dir=str(root), uid_base=uid_base() + uids, max_slots=64)
    engine = NativeEngine(conf, objects=objects)
    await engine.start()
    try:
        yield engine
    finally:
        await engine.close()
    if alone:
        await until_empty(lambda: leftovers(root), "left behind")


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[NativeEngine]:
    async with running(tmp_path / "root") as made:
        yield made


def run(script: str, **more: object) -> BuildStep:
    return BuildStep(op="run", argv=("sh", "-c", script), **more)  # type: ignore[arg-type]


def blueprint(*steps: BuildStep, **more: object) -> Blueprint:
    return Blueprint(name="mine", steps=steps, **more)  # type: ignore[arg-type]


async def seen(engine: NativeEngine, image: Image, script: str) -> str:
    box = await engine.create(SandboxSpec(image=image))
    try:
        return await out(box, script)
    finally:
        await box.close()


# ---------------------------------------------------------------- layers


async def test_a_changed_last_step_uses_the_layers_before_it(engine: NativeEngine) -> None:
    first = run("cat /proc/sys/kernel/random/uuid > /once")
    files = BuildStep(op="put", dest="/app", tree=Tree.of({"a": "A"}))
    one = await engine.build(blueprint(first, files, run("echo 1 > /last")))
    two = await engine.build(blueprint(first, files, run("echo 2 > /last")))
    again = await engine.build(blueprint(first, files, run("echo 1 > /last")))
    assert one.layers[:-1] == two.layers[:-1]
    assert one.layers == again.layers
    assert one.layers[-1] != two.layers[-1]
    assert one.digest != two.digest
    look = "cat /once /app/a /last"
    assert (await seen(engine, one, look))[:-2] == (await seen(engine, two, look))[:-2]


async def test_a_command_starts_as_the_steps_before_it_say(engine: NativeEngine) -> None:
    image = await engine.build(
        blueprint(
            BuildStep(op="env", key="A", value="of env"),
            BuildStep(op="env", key="B", value="of env"),
            BuildStep(op="workdir", dest="/srv/here", owner="nobody"),
            BuildStep(op="user", value="nobody"),
            run("echo $A, $B in $PWD as $(id -un) > told", env=(("B", "of the step"),)),
            run("echo $B >> told; exit 0; cat"),
            BuildStep(op="user", value="root"),
        )
    )
    assert await seen(engine, image, "cat /srv/here/told; stat -c %U /srv/here/told") == (
        "of env, of the step in /srv/here as nobody\nof env\nnobody\n"
    )
    assert (image.env, image.workdir, image.user) == (
        (("A", "of env"), ("B", "of env")),
        "/srv/here",
        "root",
    )


async def test_what_a_command_said_is_told_and_kept(engine: NativeEngine, tmp_path: Path) -> None:
    with pytest.raises(BuildError) as told:
        await engine.build(blueprint(run("echo begun; seq 300000; echo wrong >&2; exit 3")))
    assert "blueprint 'mine', step 1 of 1 (run sh -c" in str(told.value)
    assert "exit code 3" in str(told.value)
    assert "299999" in str(told.value)
    (log,) = (tmp_path / "root/logs").iterdir()
    kept = log.read_text()
    assert kept.startswith("begun\n1\n")
    assert "wrong\n" in kept[-200:]
    assert len(kept) < HEAD_BYTES + 2 * TAIL_BYTES
    assert list((tmp_path / "root").glob("images/*/layer.json")) == []


PACKAGE = r"""
mkdir -p p/DEBIAN p/usr/bin
printf 'Package: greeter\nVersion: 1\nArchitecture: all\nMaintainer: me <me@localhost>\n' \
    > p/DEBIAN/control
printf 'Description: says hello\n' >> p/DEBIAN/control
printf '#!/bin/sh\necho hello\n' > p/usr/bin/greet
chmod 755 p/usr/bin/greet
dpkg-deb --build --root-owner-group p greeter.deb
rm -r p
"""


@pytest.mark.tools
async def test_apt_get_installs_while_an_image_is_built(engine: NativeEngine) -> None:
    if not (shutil.which("apt-get") and shutil.which("dpkg-deb")):
        pytest.skip("this host has no apt-get")
    image = await engine.build(
        blueprint(
            BuildStep(op="workdir", dest="/packages"),
            run(PACKAGE),
            run("DEBIAN_FRONTEND=noninteractive apt-get install -y /packages/greeter.deb"),
        )
    )
    told = await seen(engine, image, "greet; dpkg-query -W -f '${Status}' greeter; ls /packages")
    assert told == "hello\ninstall ok installedgreeter.deb\n"


async def test_builders_wait_for_one(tmp_path: Path) -> None:
    made = blueprint(run("cat /proc/sys/kernel/random/uuid > /once; sleep 0.3"))
    root = tmp_path / "root"
    async with running(root) as one, running(root, uids=1 << 26, alone=False) as two:
        images = await asyncio.gather(*(each.build(made) for each in (one, two, one, two)))
        told = [await seen(one, image, "cat /once") for image in images]
    assert len(set(told)) == 1
    assert len(list(root.glob("images/*/layer.json"))) == 1


# ---------------------------------------------------------------- secrets


def with_secret(script: str, **more: object) -> Blueprint:
    secret = Secret(id="token", required=True, **more)  # type: ignore[arg-type]
    return blueprint(
        run(script, secrets=(secret,)),
        run("env; cat /run/secrets/token /root/token; exit 0"),
        secrets=(("token", VARIABLE),),
    )


@pytest.fixture
def value(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv(VARIABLE, VALUE)
    return VALUE


@pytest.mark.parametrize(
    ("script", "more"),
    [
        ("cat /run/secrets/token; cut -c -7 /run/secrets/token > /app", {}),
        ("cat /root/token; base64 /root/token; cut -c -7 /root/token > /app; chmod 644 /root/token",
         {"target": "/root/token"}),
        ("rm /run/secrets/token; echo 'correct' > /app", {}),
        ("echo $TOKEN; echo $TOKEN >&2; echo $TOKEN | cut -c -7 > /app", {"env": "TOKEN"}),
    ],
)  # fmt: skip
async def test_a_secret_is_there_for_its_command_alone(
    engine: NativeEngine, tmp_path: Path, value: str, script: str, more: dict[str, str]
) -> None:
    image = await engine.build(with_secret(script, **more))
    assert await seen(engine, image, "cat /app") == "correct\n"
    assert await seen(engine, image, "cat /run/secrets/token /root/token 2>/dev/null; env") != ""
    encoded = base64.b64encode(value.encode()).rstrip(b"=")[:-1]
    for path in (*tmp_path.glob("root/images/**/*"), *tmp_path.glob("root/logs/*")):
        if path.is_file() and not path.is_symlink():
            assert value.encode() not in path.read_bytes(), path
            assert encoded not in path.read_bytes(), path


@pytest.mark.parametrize(
    "script",
    [
        "cp /run/secrets/token /srv/copy",
        "mkdir -p /srv/deep && (printf 12345; cat /run/secrets/token) | base64 > /srv/deep/copy",
        'touch "/srv/$(cat /run/secrets/token)"',
        'ln -s "$(cat /run/secrets/token)" /srv/copy',
        "ln /run/secrets/token /srv/copy",
        "cp /run/secrets/token /usr/share/copy",
    ],
)
async def test_a_layer_with_a_secret_is_refused(
    engine: NativeEngine, tmp_path: Path, value: str, script: str
) -> None:
    with pytest.raises(BuildError) as told:
        await engine.build(with_secret(script))
    assert "step 1 of 2: '/s" in str(told.value)
    assert "holds the value of a secret" in str(told.value)
    assert value not in str(told.value)
    assert list((tmp_path / "root").glob("images/*/layer.json")) == []


async def test_a_failed_command_does_not_tell_its_secret(engine: NativeEngine, value: str) -> None:
    with pytest.raises(BuildError) as told:
        await engine.build(with_secret("echo it is; cat /run/secrets/token; false"))
    assert value not in str(told.value)
    assert f"it is\n{MASK.decode()}" in str(told.value)


async def test_a_secret_that_is_lacking(engine: NativeEngine) -> None:
    with pytest.raises(BuildError, match=f"'token' is required, and {VARIABLE} is not set"):
        await engine.build(with_secret("true"))
    optional = run("ls /run/secrets > /app 2>&1; exit 0", secrets=(Secret(id="token"),))
    image = await engine.build(blueprint(optional))
    assert "No such file" in await seen(engine, image, "cat /app")


async def test_a_secret_cannot_be_anywhere(engine: NativeEngine, value: str) -> None:
    for target in ("/usr/lib/token", "/bin/token", "/etc/../etc/token"):
        with pytest.raises(BuildError, match="nothing can be mounted at"):
            await engine.build(with_secret("true", target=target))


@pytest.mark.parametrize("size", [1, 2, 7, 64])
def test_output_is_masked_in_whatever_pieces_it_comes(size: int) -> None:
    said = f"a {VALUE} b {base64.b64encode(VALUE.encode()).decode()} correct horse".encode()
    masked = Masked(traces([VALUE]))
    pieces = [masked.feed(said[at : at + size]) for at in range(0, len(said), size)]
    told = b"".join([*pieces, masked.rest()])
    assert VALUE.encode() not in told
    assert told.startswith(b"a [secret] b [secret]")
    assert told.endswith(b" correct horse")


def test_a_log_of_any_length_has_its_end(tmp_path: Path) -> None:
    log = BuildLog(tmp_path / "logs/log")
    for number in range(40):
        log.write("stdout", f"{number:02}".encode() * (64 << 10))
    assert log.finish().endswith("3939")
    assert (tmp_path / "logs/log").stat().st_size < HEAD_BYTES + 2 * TAIL_BYTES


# ---------------------------------------------------------------- the host's network


@pytest.fixture
async def listener() -> AsyncIterator[int]:
    """The port of a server on the host's 127.0.0.1."""

    async def greet(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"of the host\n")
        writer.close()

    async with await asyncio.start_server(greet, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_a_build_reaches_the_host_only_where_it_may(
    engine: NativeEngine, listener: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:long-password@index.example/simple")
    script = (
        f"(exec 3<>/dev/tcp/127.0.0.1/{listener} && cat <&3) >/heard 2>/dev/null;"
        "cat /etc/resolv.conf >/resolv; env | sort >/env; echo $PIP_INDEX_URL;"
        "cat $SSL_CERT_FILE | wc -c >/bundle; exit 0"
    )
    step = BuildStep(op="run", argv=("bash", "-c", script))
    alone = await engine.build(blueprint(step))
    assert await seen(engine, alone, "cat /heard /resolv; grep -c PIP_INDEX /env; exit 0") == "0\n"
    image = await engine.build(blueprint(step, build_network="host"))
    assert await seen(engine, image, "cat /heard") == "of the host\n"
    assert await seen(engine, image, "cat /resolv") == Path("/etc/resolv.conf").read_text()
    assert "index.example" in await seen(engine, image, "cat /env")
    left = "cat /etc/resolv.conf; ls -A /etc/apt/sources.list.d; ls /run | grep rollout; exit 0"
    assert await seen(engine, image, left) == ""
    logs = [path.read_text() for path in Path(engine._root_dir / "logs").iterdir()]
    assert not any("long-password" in text for text in logs)
    assert any("https://user:[secret]@index.example" in text for text in logs)


POWERLESS = """
import errno, socket, sys
def refused(what, *codes):
    try:
        what()
    except OSError as exc:
        if exc.errno in codes:
            return
        raise
    sys.exit(f"not refused: {what}")
abstract = sys.argv[1]
refused(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1), errno.EPERM)
refused(lambda: socket.create_server(("127.0.0.1", 81)), errno.EACCES)
refused(lambda: open("/proc/sys/net/ipv4/ip_forward", "w"), errno.EACCES)
if abstract:
    refused(lambda: socket.socket(socket.AF_UNIX).connect(chr(0) + abstract), errno.EPERM)
"""


async def test_a_build_has_no_power_over_the_network_of_the_host(engine: NativeEngine) -> None:
    if int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()) <= 81:
        pytest.skip("anybody may take port 81 on this machine")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("\0rollout-test-abstract")
        server.listen()
        version = tuple(int(part) for part in _release().split("-")[0].split(".")[:2])
        told = "rollout-test-abstract" if version >= (6, 12) else ""
        step = BuildStep(op="run", argv=("python3", "-c", POWERLESS, told))
        await engine.build(blueprint(step, build_network="host"))


def _release() -> str:
    return Path("/proc/sys/kernel/osrelease").read_text()


async def test_no_agent_gets_the_network_of_the_host(engine: NativeEngine) -> None:
    image = await engine.build(Blueprint())
    with pytest.raises(SandboxError, match="network 'host'"):
        await engine.create(SandboxSpec(image=image, network="host"))


# ---------------------------------------------------------------- other machines


class Folder:
    """Objects in a folder, the least that engines ask of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def tree(self, object_id: str) -> Tree:
        raise BuildError(f"no object {object_id}")

    async def fetch(self, name: str, target: Path) -> bool:
        if not (self.folder / name).exists():
            return False
        await asyncio.to_thread(shutil.copyfile, self.folder / name, target)
        return True

    async def share(self, name: str, source: Path) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(shutil.copyfile, source, self.folder / name)


LEAVE = """
cat /proc/sys/kernel/random/uuid > /once; mkdir -p /srv/deep; echo deep > /srv/deep/file
ln /once /same; ln -s once /link; chown nobody /srv/deep; chmod 4711 /srv/deep/file; rm /gone
"""
LOOK = """
cat /once /more /srv/deep/file /link; stat -c '%a %U %h' /once /srv/deep /srv/deep/file; ls /gone
"""


async def two_machines(
    tmp_path: Path, between: Callable[[Path], object] = lambda shared: None
) -> tuple[str, str]:
    """What an image shows on a first machine, and on a second that has its objects."""
    root = tmp_path / "rootfs"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in ("sh", "cat", "mkdir", "ln", "chown", "chmod", "rm", "stat", "ls"):
        (root / "bin" / name).symlink_to("busybox")
    (root / "gone").write_text("")
    made = blueprint(run(LEAVE), run("echo more > /more"), base=f"rootfs:{root}")
    told = []
    for number in range(2):
        objects = Folder(tmp_path / "shared")
        async with running(tmp_path / f"{number}", objects, uids=number << 26) as engine:
            image = await engine.build(made)
            told.append(await seen(engine, image, f"exec 2>&1; {LOOK} exit 0"))
        if not number:
            between(tmp_path / "shared")
    return told[0], told[1]


async def test_a_layer_is_built_once_for_all_machines(tmp_path: Path) -> None:
    one, two = await two_machines(tmp_path)
    assert one == two
    assert "more\ndeep\n" in one
    assert "644 root 2\n755 nobody 2\n4711 root 1\n" in one


async def test_a_damaged_shared_layer_is_built_again(tmp_path: Path) -> None:
    def damage(shared: Path) -> None:
        for file in shared.rglob("*"):
            if file.is_file():
                file.write_bytes(file.read_bytes()[:-30])

    one, two = await two_machines(tmp_path, damage)
    assert one.splitlines()[0] != two.splitlines()[0]
    assert one.splitlines()[1:3] == two.splitlines()[1:3]
