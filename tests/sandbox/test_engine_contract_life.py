"""What every engine must do, part 3: images, snapshots, limits, and how sandboxes end."""

import asyncio
from dataclasses import fields, replace
from pathlib import Path

import pytest

from rollout.errors import BuildError, SandboxError, SandboxLost
from rollout.sandbox.base import Engine, Image, Sandbox, SandboxSpec
from rollout.sandbox.owner import remove_tree
from rollout.types import Blueprint, BuildStep, Resources, Tree, TreeEntry
from tests.sandbox.harness import Bench, Sh, lives, shell_in


async def text(box: Sandbox, path: str) -> str:
    return (await box.read_file(path)).decode()


def bare(image: Image) -> SandboxSpec:
    return SandboxSpec(image=image)


# ---------------------------------------------------------------- building


def put(text: str, dest: str = "/opt/tool") -> BuildStep:
    tree = Tree((TreeEntry("run", "file", 0o755, text.encode()),))
    return BuildStep(op="put", dest=dest, tree=tree)


@pytest.mark.feature("users")
async def test_build_steps_shape_the_sandbox(bench: Bench) -> None:
    steps = (
        put("#!/bin/sh\necho ran as $(id -un) in $(pwd) with $COLOR\n"),
        BuildStep(op="workdir", dest="/desk/here"),
        BuildStep(op="env", key="COLOR", value="blue"),
        BuildStep(op="user", value="nobody"),
    )
    box = await bench.sandbox(Blueprint(name="shaped", steps=steps))
    result = await box.exec(["/opt/tool/run"])
    assert result.stdout == b"ran as nobody in /desk/here with blue\n"
    over = await box.exec(["/opt/tool/run"], env={"COLOR": "red"}, cwd="/tmp", user="root")
    assert over.stdout == b"ran as root in /tmp with red\n"


@pytest.mark.feature("users")
async def test_the_blueprints_own_settings_win_over_the_images(bench: Bench) -> None:
    steps = (BuildStep(op="env", key="COLOR", value="blue"), BuildStep(op="workdir", dest="/a"))
    box = await bench.sandbox(
        Blueprint(steps=steps, env=(("COLOR", "green"),), workdir="/usr", user="nobody")
    )
    result = await shell_in(box)("echo $COLOR $(pwd) $(id -un)")
    assert result.stdout == b"green /usr nobody\n"


async def test_the_same_content_is_the_same_image(engine: Engine) -> None:
    first = await engine.build(Blueprint(name="one", steps=(put("a"),)))
    again = await engine.build(Blueprint(name="two", steps=(put("a"),), workdir="/tmp"))
    other = await engine.build(Blueprint(name="one", steps=(put("b"),)))
    assert first == again
    assert first.digest != other.digest
    assert first.engine == engine.name


async def test_builds_of_one_blueprint_at_once_agree(engine: Engine) -> None:
    blueprint = Blueprint(steps=(put("a"),))
    images = await asyncio.gather(*(engine.build(blueprint) for _ in range(5)))
    assert len(set(images)) == 1


async def test_a_command_of_a_build_leaves_its_files(bench: Bench) -> None:
    steps = (
        put("a"),
        BuildStep(op="env", key="COLOR", value="green"),
        BuildStep(op="workdir", dest="/job"),
        BuildStep(op="run", argv=("sh", "-c", "echo $COLOR > here; exit 0")),
    )
    box = await bench.sandbox(Blueprint(steps=steps))
    assert await box.read_file("/job/here") == b"green\n"
    wrong = BuildStep(op="run", argv=("sh", "-c", "echo so it is; exit 3"))
    with pytest.raises(BuildError, match=r"(?s)'wrong'.*step 5.*exit code 3.*so it is"):
        await bench.engine.build(Blueprint(name="wrong", steps=(*steps, wrong)))


async def test_a_broken_step_is_named(engine: Engine) -> None:
    steps = (put("a"), put("b", dest="/opt/tool/run/below"))
    with pytest.raises(BuildError, match=r"'broken'.*step 2"):
        await engine.build(Blueprint(name="broken", steps=steps))


async def test_an_unknown_base_is_named(engine: Engine) -> None:
    with pytest.raises(BuildError, match="no-such-base"):
        await engine.build(Blueprint(base="no-such-base"))


@pytest.mark.parametrize(
    ("base", "said"),
    [("rootfs:relative", "rootfs:relative"), ("rootfs:/no/such", "/no/such"), ("", "''")],
)
async def test_a_bad_base_is_told_with_the_blueprints_name(
    engine: Engine, base: str, said: str
) -> None:
    with pytest.raises(BuildError, match=f"blueprint 'mine'.*{said}"):
        await engine.build(Blueprint(name="mine", base=base))


async def test_frozen_host(bench: Bench, root_dir: Path) -> None:
    """As `host`, and once made it is there."""
    blueprint = Blueprint(base="host-frozen", steps=(put("a"),))
    if "host-frozen" not in bench.engine.bases:
        with pytest.raises(BuildError, match="host-frozen"):
            await bench.sandbox(blueprint)
        return
    try:
        box = await bench.sandbox(blueprint)
        assert (await shell_in(box)("cat /opt/tool/run; echo more >> /usr/new; ls /usr")).ok
        again = await bench.sandbox(blueprint)
        assert again.spec.image == box.spec.image
        assert not (await again.exec(["cat", "/usr/new"])).ok
    finally:
        for layer in root_dir.glob("base/host-frozen*"):
            remove_tree(layer)  # 150,000 names that pytest would keep


async def test_what_a_sandbox_writes_never_reaches_its_image(bench: Bench) -> None:
    blueprint = Blueprint(steps=(put("original"),))
    first = await bench.sandbox(blueprint)
    await first.write_file("/opt/tool/run", b"changed")
    await first.remove("/etc/hosts")
    second = await bench.sandbox(blueprint)
    assert await text(second, "/opt/tool/run") == "original"
    assert await text(second, "/etc/hosts")


# ---------------------------------------------------------------- apart from each other


async def test_sandboxes_on_one_image_are_independent(bench: Bench) -> None:
    one, two = await bench.sandbox(), await bench.sandbox()
    await one.write_file("/tmp/mine", b"one")
    with pytest.raises(FileNotFoundError):
        await two.read_file("/tmp/mine")
    await two.write_file("/tmp/mine", b"two")
    assert await text(one, "/tmp/mine") == "one"


async def test_sandboxes_see_only_their_own_processes(bench: Bench) -> None:
    one, two = await bench.sandbox(), await bench.sandbox()
    pid = (await shell_in(one)("sleep 60 & echo $!")).stdout.decode().strip()
    await two.kill_all()
    assert (await shell_in(two)("kill -9 -1")).exit_code in (0, 1)
    assert (await shell_in(one)(f"kill -0 {pid}")).ok


async def test_ids_are_unique(bench: Bench) -> None:
    boxes = await asyncio.gather(*(bench.sandbox() for _ in range(8)))
    assert len({box.id for box in boxes}) == 8


async def test_the_spec_is_kept(bench: Bench) -> None:
    image = await bench.engine.build(Blueprint())
    spec = SandboxSpec(image=image, env=(("A", "1"),), workdir="/tmp")
    box = await bench.create(spec)
    assert box.spec == spec


# ---------------------------------------------------------------- snapshots


async def test_a_snapshot_and_its_parent_go_separate_ways(bench: Bench, box: Sandbox) -> None:
    await box.write_file("/srv/file", b"before")
    await box.remove("/etc/hosts")
    image = await box.snapshot()
    await box.write_file("/srv/file", b"parent")
    await box.write_file("/srv/late", b"parent")
    child = await bench.create(bare(image))
    assert await text(child, "/srv/file") == "before"
    for path in ("/srv/late", "/etc/hosts"):
        with pytest.raises(FileNotFoundError):
            await child.read_file(path)
    await child.write_file("/srv/file", b"child")
    await child.write_file("/srv/born", b"child")
    assert await text(box, "/srv/file") == "parent"
    with pytest.raises(FileNotFoundError):
        await box.read_file("/srv/born")


@pytest.mark.feature("users")
async def test_a_snapshot_keeps_modes_owners_and_links(bench: Bench, box: Sandbox, sh: Sh) -> None:
    await sh(
        "cd /srv && echo x > f && chown nobody f && chmod 4750 f && ln -s f l && mkdir -m 700 d"
    )
    child = await bench.create(bare(await box.snapshot()))
    result = await shell_in(child)("cd /srv && stat -c '%a %U' f d && readlink l")
    assert result.stdout == b"4750 nobody\n700 root\nf\n"


async def test_a_snapshot_leaves_running_processes_alone(box: Sandbox, sh: Sh) -> None:
    pid = (await sh("sleep 60 & echo $!")).stdout.decode().strip()
    await box.snapshot()
    assert (await sh(f"kill -0 {pid}")).ok


async def test_ending_as_an_image_keeps_files_and_ends_processes(
    bench: Bench, box: Sandbox
) -> None:
    await shell_in(box)(
        "cd /srv; (while :; do echo x >> running; sleep 0.01; done) & echo a > file"
    )
    image = await box.end_as_image()
    child = await bench.create(bare(image))
    assert await text(child, "/srv/file") == "a\n"
    size = (await child.exec(["wc", "-c", "/srv/running"])).stdout
    await asyncio.sleep(0.1)
    assert (await child.exec(["wc", "-c", "/srv/running"])).stdout == size


async def test_an_ended_sandbox_is_lost(box: Sandbox) -> None:
    await box.end_as_image()
    await assert_lost(box)
    await box.close()


@pytest.mark.feature("users")
async def test_images_keep_the_settings_of_their_parent(bench: Bench) -> None:
    steps = (
        BuildStep(op="workdir", dest="/desk"),
        BuildStep(op="env", key="COLOR", value="blue"),
        BuildStep(op="user", value="nobody"),
    )
    box = await bench.sandbox(Blueprint(steps=steps))
    child = await bench.create(bare(await box.end_as_image()))
    result = await shell_in(child)("echo $(pwd) $COLOR $(id -un)")
    assert result.stdout == b"/desk blue nobody\n"


async def test_forks_of_forks(bench: Bench, box: Sandbox) -> None:
    current = box
    for depth in range(3):
        await current.write_file(f"/srv/{depth}", b"%d" % depth)
        await current.write_file("/srv/last", b"%d" % depth)
        image = await current.end_as_image()
        one, current = await bench.create(bare(image)), await bench.create(bare(image))
        await one.write_file("/srv/last", b"other")
    assert [await text(current, f"/srv/{depth}") for depth in range(3)] == ["0", "1", "2"]
    assert await text(current, "/srv/last") == "2"


async def test_a_discarded_image_makes_no_more_sandboxes(bench: Bench, box: Sandbox) -> None:
    image = await box.snapshot()
    await bench.engine.discard(image)
    with pytest.raises(SandboxError):
        await bench.engine.create(bare(image))
    assert (await bench.sandbox()).id


async def test_an_image_of_another_engine_is_refused(engine: Engine) -> None:
    image = await engine.build(Blueprint())
    for stranger in (
        replace(image, engine="other"),
        replace(image, digest="0" * 64, layers=("none",)),
    ):
        with pytest.raises(SandboxError):
            await engine.create(bare(stranger))


# ---------------------------------------------------------------- limits


async def test_only_limits_that_hold_are_claimed(bench: Bench) -> None:
    free = await bench.sandbox()
    assert free.limits_enforced == ()
    assert (await free.limit_reasons(), free.alerts, free.out_of_memory) == ({}, (), False)
    box = await bench.limited(cpu=1, memory_mb=256, disk_mb=64, pids=64)
    assert set(box.limits_enforced) <= bench.engine.limits
    assert bench.engine.limits <= {"cpu", "memory", "pids", "disk"}
    only = await bench.limited(pids=64)
    assert set(only.limits_enforced) == {"pids"} & bench.engine.limits


async def test_the_pids_limit_stops_a_fork_bomb(bench: Bench) -> None:
    box = await bench.limited(pids=32)
    if "pids" not in bench.engine.limits:
        assert box.limits_enforced == ()
        return
    script = (
        "for i in 1 2 3 4 5 6 7 8 9 10; do (for j in 1 2 3 4 5 6 7 8; do sleep 60 & done) & done"
    )
    await shell_in(box)(f"{script}; wait", timeout_s=1)
    reasons = await box.limit_reasons()
    assert tuple(reasons) == await box.limits_hit()
    if "users" in bench.engine.features:  # of an ordinary user the kernel counts no refusals
        assert "32" in reasons["pids"]
    await box.kill_all()
    assert (await shell_in(box)("echo usable")).stdout == b"usable\n"


async def test_a_pids_limit_is_of_one_sandbox(bench: Bench) -> None:
    one, two = await bench.limited(pids=16), await bench.limited(pids=16)
    await shell_in(one)("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 60 & done", timeout_s=5)
    result = await shell_in(two)("for i in 1 2 3 4 5 6 7 8 9 10; do sleep 60 & done; echo all")
    assert result.stdout == b"all\n"
    assert await two.limits_hit() == ()


async def test_the_disk_limit_stops_a_writer(small_disks: Bench) -> None:
    box = await small_disks.limited(disk_mb=16)
    assert box.limits_enforced == ("disk",)
    result = await shell_in(box)("head -c 40000000 /dev/zero > /srv/big")
    assert result.exit_code != 0
    assert "disk" in await box.limits_hit()
    size = int((await shell_in(box)("wc -c < /srv/big")).stdout)
    assert 0 < size <= 16 << 20
    assert (await shell_in(box)("rm /srv/big && echo small > /srv/small")).ok


async def test_the_memory_limit_stops_a_hog(bench: Bench) -> None:
    box = await bench.limited(memory_mb=64)
    if "memory" not in bench.engine.limits:
        assert box.limits_enforced == ()
        return
    result = await shell_in(box)("head -c 300000000 /dev/zero | tail -n 1 | wc -c", timeout_s=30)
    assert result.stdout.strip() != b"300000000"
    assert await box.limits_hit() == ("memory",)
    assert (await shell_in(box)("echo usable")).stdout == b"usable\n"


# ---------------------------------------------------------------- the end


async def assert_lost(box: Sandbox) -> None:
    calls = (
        lambda: box.exec(["true"]),
        lambda: box.read_file("/etc/passwd"),
        lambda: box.write_file("/tmp/x", b""),
        lambda: box.put_tree(Tree(), "/tmp"),
        lambda: box.get_tree("/tmp"),
        lambda: box.remove("/tmp/x"),
        lambda: box.kill_all(),
        lambda: box.snapshot(),
        lambda: box.end_as_image(),
        lambda: box.start(["true"]),
        lambda: box.listen(0),
        lambda: box.connect(80),
        lambda: box.fork(1),
        lambda: box.suspend(),
        lambda: box.resume(),
    )
    for call in calls:
        with pytest.raises(SandboxLost):
            await call()


async def test_a_closed_sandbox_is_lost_and_closing_is_idempotent(box: Sandbox) -> None:
    await box.close()
    await box.close()
    await assert_lost(box)


async def test_closing_ends_a_running_exec(box: Sandbox, sh: Sh) -> None:
    running = asyncio.ensure_future(sh("sleep 60"))
    await asyncio.sleep(0.2)
    await box.close()
    with pytest.raises(SandboxLost):
        await running


async def test_closing_one_leaves_the_others(bench: Bench) -> None:
    one, two = await bench.sandbox(), await bench.sandbox()
    pid = (await shell_in(two)("sleep 60 & echo $!")).stdout.decode().strip()
    await one.close()
    await asyncio.sleep(0.2)
    assert await lives(two, pid)


async def test_closing_the_engine_ends_its_sandboxes(engine: Engine) -> None:
    boxes = [await engine.create(bare(await engine.build(Blueprint()))) for _ in range(3)]
    await shell_in(boxes[0])("sleep 60 & sleep 60 & true")
    await engine.close()
    await engine.close()
    for box in boxes:
        with pytest.raises(SandboxLost):
            await box.exec(["true"])


async def test_a_cancelled_create_leaves_nothing(engine: Engine) -> None:
    image = await engine.build(Blueprint())
    for _ in range(5):
        task = asyncio.ensure_future(engine.create(bare(image)))
        await asyncio.sleep(0)
        task.cancel()
        try:
            box = await task
        except asyncio.CancelledError:
            continue
        await box.close()


# ---------------------------------------------------------------- fingerprints


CHANGED: dict[str, object] = {
    "image": Image(engine="x", digest="other"),
    "env": (("A", "2"),),
    "workdir": "/elsewhere",
    "user": "someone",
    "resources": Resources(pids=7),
    "network": "public",
    "allowed_hosts": ("packages.example",),
    "sudo": True,
    "launch": (BuildStep(op="run", argv=("true",)),),
    "ready": "true",
}


@pytest.mark.parametrize("name", [field.name for field in fields(SandboxSpec)])
def test_every_field_of_a_spec_is_in_its_fingerprint(name: str) -> None:
    spec = SandboxSpec(image=Image(engine="x", digest="d"))
    assert spec.fingerprint == SandboxSpec(image=Image(engine="x", digest="d")).fingerprint
    assert replace(spec, **{name: CHANGED[name]}).fingerprint != spec.fingerprint


@pytest.mark.parametrize("name", [field.name for field in fields(Resources)])
def test_every_limit_is_in_the_fingerprint(name: str) -> None:
    image = Image(engine="x", digest="d")
    limited = SandboxSpec(image=image, resources=Resources(**{name: 3}))
    assert limited.fingerprint != SandboxSpec(image=image).fingerprint
