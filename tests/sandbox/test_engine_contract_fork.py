"""What every engine must do, part 7: forks, and how long what they share is kept."""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, suppress
from pathlib import Path

import pytest

from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox.base import Sandbox, SandboxSpec
from rollout.types import Blueprint, BuildStep, Resources, Tree
from tests.sandbox.conftest import SLOTS, running
from tests.sandbox.harness import Bench, lives, shell_in, until_empty

SCENE = """
set -e
mkdir -p /desk/deep /desk/closed
echo one > /desk/one
echo two > /desk/deep/two
ln -s deep/two /desk/link
ln -s /no/where /desk/dangling
chown user:user /desk/one
chown nobody:nogroup /desk/deep/two
chown -R user:user /desk/closed
chmod 750 /desk/closed
chmod 4755 /desk/one
rm /etc/hosts
"""
LOOK = """
for f in one deep/two closed; do stat -c '%n %U:%G %u:%g %a' /desk/$f; done
readlink /desk/link /desk/dangling
cat /desk/link /desk/one
ls /etc/hosts 2>/dev/null || echo no hosts
"""


async def said(box: Sandbox, script: str, **settings: str) -> str:
    result = await shell_in(box)(script, **settings)
    assert result.ok, (script, result)
    return result.stdout.decode()


async def forked(bench: Bench, box: Sandbox, count: int) -> list[Sandbox]:
    children = await box.fork(count)
    for child in children:
        bench.ending.push_async_callback(child.close)
    return children


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="an ordinary user has one uid")


@pytest.mark.feature("users")
async def test_children_have_the_files_of_their_parent(bench: Bench, box: Sandbox) -> None:
    await said(box, SCENE)
    seen = await said(box, LOOK)
    assert "/desk/deep/two nobody:nogroup 65534:65534 644\n" in seen
    assert seen.endswith("deep/two\n/no/where\ntwo\none\nno hosts\n")
    children = await forked(bench, box, 3)
    assert len({one.id for one in (box, *children)}) == 4
    for child in children:
        assert await said(child, LOOK) == seen


async def test_children_and_parent_go_separate_ways(bench: Bench, box: Sandbox) -> None:
    await said(box, "mkdir /desk; echo before > /desk/file; echo before > /desk/gone")
    children = await forked(bench, box, 3)
    await said(box, "echo parent > /desk/file; echo parent > /desk/late; rm /desk/gone")
    for number, child in enumerate(children):
        assert await said(child, "cat /desk/file /desk/gone; ls /desk") == (
            "before\nbefore\nfile\ngone\n"
        )
        await said(child, f"echo {number} > /desk/file; echo {number} > /desk/own{number}")
    for number, child in enumerate(children):
        assert (
            await said(child, "cat /desk/file; ls /desk") == f"{number}\nfile\ngone\nown{number}\n"
        )
    assert await said(box, "cat /desk/file; ls /desk") == "parent\nfile\nlate\n"


@pytest.mark.feature("users")
async def test_owners_still_own_their_files(bench: Bench, box: Sandbox) -> None:
    await said(box, SCENE)
    (child,) = await forked(bench, box, 1)
    assert await said(child, "echo more >> /desk/deep/two; cat /desk/deep/two", user="nobody") == (
        "two\nmore\n"
    )
    assert await said(child, "touch /desk/closed/new; ls /desk/closed", user="user") == "new\n"
    for script in ("echo x >> /desk/deep/two", "echo x > /desk/new"):
        assert not (await shell_in(child)(script, user="user")).ok
    assert not (await shell_in(child)("ls /desk/closed", user="nobody")).ok


@pytest.mark.feature("users")
async def test_grandchildren(bench: Bench, box: Sandbox) -> None:
    await said(box, SCENE)
    seen = await said(box, LOOK)
    generation = [box]
    for depth in range(4):
        generation = await forked(bench, generation[-1], 2)
        await said(generation[-1], f"echo {depth} >> /desk/depths; rm -f /srv/{depth}")
        await said(generation[0], "echo other > /desk/depths")
    assert await said(generation[-1], "cat /desk/depths") == "0\n1\n2\n3\n"
    assert await said(generation[-1], LOOK) == seen


async def test_processes_are_not_copied(bench: Bench, box: Sandbox) -> None:
    used = "i=0; while [ $i -lt 50 ]; do (true); i=$((i+1)); done"  # numbers a child gets too
    pid = (await said(box, f"{used}; sleep 60 > /dev/null 2>&1 & echo $!")).strip()
    (child,) = await forked(bench, box, 1)
    assert await lives(box, pid)
    assert not await lives(child, pid)


@pytest.mark.feature("users")
async def test_children_are_of_their_parents_spec(bench: Bench) -> None:
    blueprint = Blueprint(env=(("A", "1"),), workdir="/tmp", user="nobody")
    box = await bench.sandbox(blueprint)
    (child,) = await forked(bench, box, 1)
    assert await said(child, "echo $A $(pwd) $(id -un)") == "1 /tmp nobody\n"
    limited = await bench.limited(pids=64)
    (child,) = await forked(bench, limited, 1)
    assert child.spec.resources == Resources(pids=64)
    assert child.limits_enforced == limited.limits_enforced


async def test_a_disk_limit_is_of_each_childs_own_writes(small_disks: Bench) -> None:
    box = await small_disks.limited(disk_mb=16)
    await said(box, "head -c 10000000 /dev/zero > /srv/big")
    for child in await forked(small_disks, box, 2):
        assert child.limits_enforced == ("disk",)
        await said(child, "head -c 10000000 /dev/zero > /srv/more")
        assert await child.limits_hit() == ()
        assert not (await shell_in(child)("head -c 10000000 /dev/zero > /srv/most")).ok
        assert await child.limits_hit() == ("disk",)
    assert await box.limits_hit() == ()


async def test_the_parent_may_go_first(bench: Bench, box: Sandbox) -> None:
    await said(box, "echo kept > /srv/file")
    one, two = await forked(bench, box, 2)
    await box.close()
    await one.close()
    (three,) = await forked(bench, two, 1)
    await two.close()
    assert await said(three, "cat /srv/file; echo more > /srv/file; cat /srv/file") == (
        "kept\nmore\n"
    )


async def test_an_image_of_a_child_outlives_all_of_them(bench: Bench, box: Sandbox) -> None:
    await said(box, "echo parent > /srv/parent")
    one, two = await forked(bench, box, 2)
    await said(one, "echo child > /srv/child")
    ended, snapshot = await one.end_as_image(), await two.snapshot()
    for gone in (box, two):
        await gone.close()
    late = await bench.create(SandboxSpec(image=ended))
    assert await said(late, "cat /srv/parent /srv/child") == "parent\nchild\n"
    late = await bench.create(SandboxSpec(image=snapshot))
    assert await said(late, "cat /srv/parent; ls /srv") == "parent\nparent\n"


async def test_a_discarded_image_lasts_as_long_as_sandboxes_stand_on_it(
    bench: Bench, box: Sandbox
) -> None:
    await said(box, "echo kept > /srv/file")
    image = await box.snapshot()
    child = await bench.create(SandboxSpec(image=image))
    await bench.engine.discard(image)
    await bench.engine.discard(image)
    with pytest.raises(SandboxError):
        await bench.create(SandboxSpec(image=image))
    assert await said(child, "cat /srv/file; echo more >> /srv/file") == "kept\n"
    (grandchild,) = await forked(bench, child, 1)
    await child.close()
    assert await said(grandchild, "cat /srv/file") == "kept\nmore\n"


@pytest.mark.parametrize("count", [0, -1])
async def test_no_children_is_a_mistake(box: Sandbox, count: int) -> None:
    with pytest.raises(SandboxError, match="at least one"):
        await box.fork(count)


async def test_a_closed_sandbox_has_no_children(box: Sandbox) -> None:
    await box.close()
    with pytest.raises(SandboxLost):
        await box.fork(1)


async def test_closing_the_engine_ends_children_too(bench: Bench, box: Sandbox) -> None:
    children = await forked(bench, box, 3)
    await bench.engine.close()
    for child in children:
        with pytest.raises(SandboxLost):
            await child.exec(["true"])


# ---------------------------------------------------------------- what lies on disk


@pytest.fixture
async def native(tmp_path: Path) -> AsyncIterator[Bench]:
    async with running("native", tmp_path) as engine, AsyncExitStack() as ending:
        yield Bench(engine, ending)


def layers(root_dir: Path) -> list[str]:
    return [path.name for path in root_dir.glob("owners/*/layers/*")]


@pytest.mark.native
async def test_the_shared_layer_goes_with_the_last_who_stands_on_it(
    native: Bench, tmp_path: Path
) -> None:
    box = await native.sandbox()
    await said(box, "echo kept > /srv/file")
    children = await forked(native, box, 3)
    assert len(layers(tmp_path)) == 1
    (grandchild,) = await forked(native, children[0], 1)
    assert len(layers(tmp_path)) == 2
    for closed in (box, *children):
        assert len(layers(tmp_path)) == 2
        await closed.close()
    assert await said(grandchild, "cat /srv/file") == "kept\n"
    assert len(layers(tmp_path)) == 2
    await grandchild.close()
    assert layers(tmp_path) == []


@pytest.mark.native
@as_root
async def test_forks_are_of_uid_ranges_of_their_own(native: Bench, tmp_path: Path) -> None:
    box = await native.sandbox()
    await said(box, SCENE)
    family = [box, *await forked(native, box, 3)]
    owners = [Path(f"/proc/{one.init_pid}").stat().st_uid for one in family]  # type: ignore[attr-defined]
    assert len(set(owners)) == 4


@pytest.mark.native
@as_root
async def test_all_are_made_or_none(native: Bench, tmp_path: Path) -> None:
    box = await native.sandbox()
    await said(box, "echo kept > /srv/file")
    with pytest.raises(SandboxError, match="uid ranges"):
        await box.fork(SLOTS)
    assert layers(tmp_path) == []
    await until_empty(lambda: list(tmp_path.glob("owners/*/b/*"))[1:], "sandboxes left behind")
    children = await forked(native, box, 8)
    assert await said(children[-1], "cat /srv/file") == "kept\n"


@pytest.mark.native
@pytest.mark.parametrize("after_s", [0.0, 0.005, 0.01, 0.02, 0.03, 0.05])
async def test_a_cancelled_fork_leaves_nothing(
    native: Bench, tmp_path: Path, after_s: float
) -> None:
    box = await native.sandbox()
    await said(box, "echo kept > /srv/file")
    forking = asyncio.ensure_future(box.fork(40))
    await asyncio.sleep(after_s)
    forking.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.gather(*(child.close() for child in await forking))
    await until_empty(lambda: layers(tmp_path), "layers left behind")
    await until_empty(lambda: list(tmp_path.glob("owners/*/b/*"))[1:], "sandboxes left behind")
    assert await said(box, "cat /srv/file") == "kept\n"


@pytest.mark.native
async def test_layers_go_with_their_images(native: Bench, tmp_path: Path) -> None:
    step = BuildStep(op="put", dest="/opt", tree=Tree.of({"tool": "x"}))
    box = await native.sandbox(Blueprint(steps=(step,)))
    assert layers(tmp_path) == [], "a built image's layer is kept elsewhere"
    below = await box.snapshot()
    above = await (await native.create(SandboxSpec(image=below))).end_as_image()
    await native.engine.discard(below)
    assert len(layers(tmp_path)) == 2
    assert await said(await native.create(SandboxSpec(image=above)), "cat /opt/tool") == "x"
    await native.engine.discard(above)
    assert len(layers(tmp_path)) == 2, "a sandbox stands on both"
    await native.ending.aclose()
    assert layers(tmp_path) == []
    assert await said(await native.sandbox(Blueprint(steps=(step,))), "cat /opt/tool") == "x"
