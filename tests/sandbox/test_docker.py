"""The Docker engine beyond the contract: bases, builds, containers, a daemon that fails."""

import asyncio
import gzip
import http.server
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from rollout.config import EngineConf
from rollout.errors import BuildError, SandboxError
from rollout.sandbox.base import SandboxSpec
from rollout.sandbox.docker import engine as engine_module
from rollout.sandbox.docker.calls import BREAKER_FAILURES, Calls
from rollout.sandbox.docker.daemon import Daemon, DaemonError, find_daemon
from rollout.sandbox.docker.engine import DockerEngine
from rollout.types import Blueprint, BuildStep, Dockerfile, Secret, Tree
from tests.conftest import DEBIAN
from tests.sandbox.conftest import running
from tests.sandbox.docker_daemon import left_in_daemon
from tests.sandbox.harness import Bench, exists, shell_in, until_empty
from tests.sandbox.test_oci import Made, entry, lowest, packed, write_folder

pytestmark = pytest.mark.docker
BUSYBOX = "rollout-test-busybox"
CAPABILITIES = "00000000800404fb"
"""Those that the native engine leaves."""


@pytest.fixture
async def bench(root_dir: Path) -> AsyncIterator[Bench]:
    async with running("docker", root_dir) as engine, AsyncExitStack() as ending:
        yield Bench(engine, ending)


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    made = find_daemon()
    yield made
    made.close()


def run(script: str, **more: object) -> BuildStep:
    return BuildStep(op="run", argv=("sh", "-c", script), **more)  # type: ignore[arg-type]


async def said(bench: Bench, blueprint: Blueprint, script: str) -> str:
    result = await shell_in(await bench.sandbox(blueprint))(script)
    assert result.ok, result
    return result.stdout.decode()


# ---------------------------------------------------------------- what a container is


@pytest.mark.parametrize("sudo", [False, True])
async def test_what_holds_its_processes(bench: Bench, daemon: Daemon, sudo: bool) -> None:
    box = await bench.sandbox(Blueprint(base=f"image:{DEBIAN}", sudo=sudo))
    status = (await box.exec(["cat", "/proc/self/status"])).stdout.decode()
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert f"{name}:\t{CAPABILITIES}\n" in status
    assert f"NoNewPrivs:\t{0 if sudo else 1}\n" in status
    assert "Seccomp:\t2\n" in status
    host = daemon.inspect(f"rollout-{box.id}")["HostConfig"]
    assert (host["NetworkMode"], host["LogConfig"]["Type"]) == ("none", "none")
    assert not host["Privileged"]
    assert not host["PortBindings"]
    assert {mount["Target"] for mount in host["Mounts"]} == {"/dev/.rollout", "/etc/hostname"}
    assert all(mount["ReadOnly"] for mount in host["Mounts"])


async def test_nothing_of_the_hosts_can_be_written_and_nobody_listens_to_it(bench: Bench) -> None:
    box = await bench.sandbox()
    sh = shell_in(box)
    for path in ("/dev/.rollout/box", "/dev/.rollout/new", "/etc/hostname"):
        assert not (await sh(f"echo x > {path}")).ok
    assert (await sh("ls /dev/.rollout")).stdout == b"box\nhostname\n"
    assert (await sh("ls -A /sys /dev/mqueue; cat /etc/hostname")).stdout == (
        b"/dev/mqueue:\n\n/sys:\nsandbox\n"
    )


async def test_a_small_limit_of_processes_holds_though_a_start_needs_more(bench: Bench) -> None:
    box = await bench.limited(pids=3)
    result = await shell_in(box)("for i in 1 2 3 4 5; do sleep 9 & done; wait -n", timeout_s=5)
    assert not result.ok
    assert await box.limits_hit() == ("pids",)


# ---------------------------------------------------------------- bases


async def test_an_image_by_name_by_id_and_by_what_it_was_pinned_to(
    bench: Bench, daemon: Daemon
) -> None:
    image_id = daemon.image_id(BUSYBOX)
    images = [
        await bench.engine.build(Blueprint(base=base))
        for base in (f"image:{BUSYBOX}", f"image:{BUSYBOX}:latest", f"image:{BUSYBOX}@{image_id}")
    ]
    assert {image.layers for image in images} == {(image_id,)}
    with pytest.raises(BuildError, match="has changed"):
        await bench.engine.build(Blueprint(base=f"image:{BUSYBOX}@sha256:{'0' * 64}"))


async def test_an_image_that_is_nowhere_is_told_with_what_to_do(bench: Bench) -> None:
    with pytest.raises(BuildError, match=r"'mine'.*no-such-image.*docker load"):
        await bench.engine.build(Blueprint(name="mine", base="image:localhost:1/no-such-image"))


async def test_a_root_folder_and_a_saved_image(
    bench: Bench, daemon: Daemon, tmp_path: Path
) -> None:
    root = tmp_path / "root"
    (root / "bin").mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox, "busybox-static"
    shutil.copy(busybox, root / "bin/sh")
    assert await said(bench, Blueprint(base=f"rootfs:{root}"), "echo of a folder; cd /tmp") == (
        "of a folder\n"
    )
    daemon.save(daemon.image_id(BUSYBOX), tmp_path / "saved.tar")
    assert await said(bench, Blueprint(base=f"oci:{tmp_path}/saved.tar"), "echo saved") == "saved\n"


@pytest.mark.parametrize("form", ["folder", "tar"])
async def test_an_oci_layout(bench: Bench, tmp_path: Path, form: str) -> None:
    """Which the daemon may be too old to load."""
    upper = packed([entry("srv/.wh.gone"), entry("srv/new", b"new")])
    made = Made(layers=[lowest(), upper], pack=gzip.compress, config={"author": str(tmp_path)})
    path = write_folder(tmp_path / "layout", made.layout())
    if form == "tar":
        subprocess.run(["tar", "-C", path, "-cf", tmp_path / "layout.tar", "."], check=True)
        path = tmp_path / "layout.tar"
    look = "id -u; pwd; echo $A; cat /became/a"
    assert await said(bench, Blueprint(base=f"oci:{path}"), look) == (
        "7\n/made/here\none=two\na folder"
    )
    box = await bench.sandbox(Blueprint(base=f"oci:{path}", user="root"))
    assert (await box.get_tree("/srv")).files() == {"kept": b"kept", "same": b"kept", "new": b"new"}


# ---------------------------------------------------------------- builds

DOCKERFILE = f"""FROM {DEBIAN} AS first
ARG WORD=none
ENV COLOR=blue
WORKDIR /made
COPY file copied
RUN echo "$WORD $(id -u)" > word
HEALTHCHECK CMD true
FROM first AS second
RUN echo more >> word
"""


async def test_a_whole_dockerfile_with_context_arguments_and_target(bench: Bench) -> None:
    context = Tree.of({"file": "content\n"})
    wanted = Dockerfile(text=DOCKERFILE, context=context, args=(("WORD", "said"),), target="first")
    look = "pwd; cat copied word; echo $COLOR"
    assert await said(bench, Blueprint(dockerfile=wanted), look) == (
        "/made\ncontent\nsaid 0\nblue\n"
    )
    later = replace(wanted, target="second")
    assert (await said(bench, Blueprint(dockerfile=later), "cat word")) == "said 0\nmore\n"


async def test_a_dockerfile_that_fails_shows_the_end_of_its_log(
    bench: Bench, root_dir: Path
) -> None:
    text = f"FROM {DEBIAN}\nRUN echo nearly there && exit 3\n"
    with pytest.raises(BuildError, match=r"(?s)'broken'.*code: 3.*nearly there.*\.log"):
        await bench.engine.build(Blueprint(name="broken", dockerfile=Dockerfile(text=text)))
    assert any("nearly there" in log.read_text() for log in root_dir.glob("logs/*.log"))


async def test_commands_run_once_for_the_same_inputs(bench: Bench, root_dir: Path) -> None:
    """A number by chance tells whether it ran again."""
    steps = (
        BuildStep(op="env", key="COLOR", value="blue"),
        BuildStep(op="put", dest="/opt", tree=Tree.of({"a": root_dir.name})),
        run("echo $COLOR > /opt/color; cat /proc/sys/kernel/random/uuid > /opt/b"),
        BuildStep(op="workdir", dest="/opt"),
        run("pwd > c"),
    )
    blueprint = Blueprint(name="ran", base=f"image:{BUSYBOX}", steps=steps)
    images = await asyncio.gather(*(bench.engine.build(blueprint) for _ in range(3)))
    assert len(set(images)) == 1
    seen = await said(bench, blueprint, "cat color b c")
    assert seen.startswith("blue\n")
    assert seen.endswith("/opt\n")
    async with running("docker", root_dir) as other, AsyncExitStack() as ending:
        longer = replace(blueprint, steps=(*steps, run("echo d > d")))
        assert await said(Bench(other, ending), longer, "cat color b c d") == f"{seen}d\n"


async def test_a_command_that_fails_is_named(bench: Bench) -> None:
    steps = (run("true"), run("echo why; exit 7"))
    with pytest.raises(BuildError, match=r"(?s)'bad', step 2 of 2.*exit code 7.*why"):
        await bench.engine.build(Blueprint(name="bad", base=f"image:{BUSYBOX}", steps=steps))


async def test_the_hosts_network_is_the_builds_alone(bench: Bench) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        there = ("127.0.0.1", server.server_port)
        ask = f"import socket; socket.create_connection({there}, 5); print('reached')"
        steps = (BuildStep(op="run", argv=("python3", "-c", f"{ask}; open('/reached', 'w')")),)
        blueprint = Blueprint(base=f"image:{DEBIAN}", steps=steps, build_network="host")
        box = await bench.sandbox(blueprint)
        assert (await box.exec(["ls", "/reached"])).ok
        assert b"refused" in (await box.exec(["python3", "-c", ask])).stderr
        with pytest.raises(BuildError, match="refused"):
            await bench.engine.build(replace(blueprint, build_network="none"))
    finally:
        server.shutdown()
        server.server_close()


async def test_a_secret_is_there_for_one_command_and_nowhere_after(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, root_dir: Path
) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cret-of-the-worker")
    file, variable = Secret(id="token", required=True), Secret(id="token", env="TOKEN")
    new = BuildStep(op="put", dest="/", tree=Tree.of({"new": str(root_dir)}))
    read = run("wc -c < /run/secrets/token > /size; cat /run/secrets/token", secrets=(file,))
    told = run('echo "${#TOKEN}" >> /size', secrets=(variable,))
    blueprint = Blueprint(
        base=f"image:{BUSYBOX}", steps=(new, read, told), secrets=(("token", "MY_TOKEN"),)
    )
    box = await bench.sandbox(blueprint)
    assert (await box.read_file("/size")) == b"20\n20\n"
    assert not (await box.exec(["ls", "/run/secrets"])).ok
    assert b"s3cret" not in (await box.exec(["env"])).stdout
    logs = [log.read_text() for log in root_dir.glob("logs/*.log")]
    assert any("[secret]" in log for log in logs)
    assert not any("s3cret-of" in log for log in logs)
    keep = run("cp /run/secrets/token /kept", secrets=(file,))
    with pytest.raises(BuildError, match="value of a secret"):
        await bench.engine.build(replace(blueprint, steps=(keep,)))


async def test_a_long_row_of_snapshots_becomes_one_layer(
    bench: Bench, daemon: Daemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine_module, "MAX_LAYERS", 4)
    blueprint = Blueprint(base=f"image:{BUSYBOX}", workdir="/srv", user="user")
    box = await bench.sandbox(blueprint)
    for number in range(6):
        await box.write_file(f"/srv/{number}", b"x", user="user")
        await box.remove("/etc/hosts")
        image = await box.end_as_image()
        assert len(daemon.image(image.layers[-1])["RootFS"]["Layers"]) <= 5
        box = await bench.create(SandboxSpec.for_blueprint(image, blueprint))
    look = await shell_in(box)("echo *; stat -c %U *; ls /etc/hosts")
    assert look.stdout == b"0 1 2 3 4 5\n" + 6 * b"user\n"


# ---------------------------------------------------------------- daemons that fail


async def test_a_runtime_that_is_not_there_is_refused_with_those_that_are(tmp_path: Path) -> None:
    engine = DockerEngine(EngineConf(runtime="warp", root_dir=str(tmp_path)))
    with pytest.raises(SandboxError, match=r"engine.runtime: .*'warp'; it has .*runc"):
        await engine.start()


async def test_without_a_daemon_it_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nothing")
    engine = DockerEngine(EngineConf(root_dir=str(tmp_path)))
    with pytest.raises(SandboxError, match=r"nothing: No such file.*make docker"):
        await engine.start()
    assert engine.limits == frozenset()
    await engine.close()


async def test_a_daemon_that_hangs_costs_a_deadline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/deaf")
    monkeypatch.setattr(engine_module, "PING_TIMEOUT_S", 0.3)
    with socket.socket(socket.AF_UNIX) as deaf:
        deaf.bind(str(tmp_path / "deaf"))
        deaf.listen()
        engine = DockerEngine(EngineConf(root_dir=str(tmp_path / "root")))
        with pytest.raises(SandboxError, match="no answer within"):
            await engine.start()
        deaf.shutdown(socket.SHUT_RDWR)


def failing(times: int, *, may_pass: bool) -> "list[DaemonError]":
    errors = []
    for _ in range(times):
        error = DaemonError("busy")
        error.may_pass = may_pass
        errors.append(error)
    return errors


async def test_what_may_pass_is_tried_again_and_a_refusal_is_not() -> None:
    calls = Calls(pause_s=0.001)

    def pop(errors: "list[DaemonError]") -> str:
        if errors:
            raise errors.pop()
        return "done"

    busy, refused = failing(2, may_pass=True), failing(2, may_pass=False)
    assert await calls.again(lambda: pop(busy)) == "done"
    with pytest.raises(DaemonError):
        await calls.again(lambda: pop(refused))
    assert len(refused) == 1
    calls.close()


async def test_after_a_row_of_failures_nobody_asks_for_a_while() -> None:
    calls = Calls(pause_s=0.001, breaker_pause_s=0.2)
    errors = failing(BREAKER_FAILURES, may_pass=True)

    def fail() -> None:
        raise errors.pop()

    for _ in range(BREAKER_FAILURES):
        calls.check_well()
        with pytest.raises(DaemonError):
            await calls.run(fail)
    with pytest.raises(DaemonError, match="unwell"):
        calls.check_well()
    await asyncio.sleep(0.3)
    calls.check_well()
    await calls.run(lambda: None)
    calls.check_well()
    calls.close()


# ---------------------------------------------------------------- workers that die


async def test_what_a_killed_worker_left_goes_at_the_next_start(root_dir: Path) -> None:
    before = {path.name for path in root_dir.glob("owners/*")}
    worker = subprocess.Popen(
        [sys.executable, "-m", "tests.sandbox.docker_owner", str(root_dir)],
        stdout=subprocess.PIPE,
    )
    assert worker.stdout is not None
    with worker:
        owner = worker.stdout.readline().decode().strip()
        worker.kill()
    assert owner not in before
    assert len(left_in_daemon([owner])) == 3, "two sandboxes and a snapshot"
    async with running("docker", root_dir):
        await until_empty(lambda: left_in_daemon([owner]), "left behind")
        assert not (root_dir / "owners" / owner).exists()


async def test_what_was_done_though_the_answer_was_lost_is_done(
    bench: Bench, daemon: Daemon
) -> None:
    box = await bench.sandbox()
    daemon.pause(f"rollout-{box.id}")
    await box.suspend()  # as when the first try of it is not heard of
    daemon.unpause(f"rollout-{box.id}")
    await box.resume()
    assert (await box.exec(["true"])).ok


async def test_a_container_that_somebody_removes_is_lost_and_told(
    bench: Bench, daemon: Daemon
) -> None:
    box, other = await bench.sandbox(), await bench.sandbox()
    waiting = asyncio.ensure_future(shell_in(box)("echo > /tmp/up; sleep 60"))
    await exists(box, "/tmp/up")
    await asyncio.to_thread(daemon.remove, f"rollout-{box.id}")
    with pytest.raises(SandboxError, match=box.id):
        await waiting
    await box.close()
    assert (await other.exec(["true"])).ok
