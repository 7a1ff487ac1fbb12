"""What every engine must do, part 5: sandboxes that stand still and go on."""

import asyncio
import time

import pytest

from rollout.errors import SandboxError, SandboxLost
from rollout.sandbox.base import Image, Sandbox, SandboxSpec
from rollout.types import Tree
from tests.sandbox.harness import Bench, Sh, exists, shell_in

COUNT = "(while :; do echo x >> /srv/count; sleep 0.01; done) > /dev/null 2>&1 &"


@pytest.fixture
async def counting(box: Sandbox) -> Sandbox:
    """A sandbox in which a file grows while it runs."""
    await shell_in(box)(COUNT)
    await exists(box, "/srv/count")
    return box


async def count(box: Sandbox) -> int:
    return len(await box.read_file("/srv/count"))


async def grows(box: Sandbox) -> None:
    before = await count(box)
    async with asyncio.timeout(20):
        while await count(box) <= before:
            await asyncio.sleep(0.01)


async def kept_count(bench: Bench, box: Sandbox) -> int:
    """As a snapshot sees it, since nothing can be read in a suspended sandbox."""
    image = await box.snapshot()
    return await count(await bench.create(SandboxSpec(image=image)))


async def test_nothing_runs_until_it_is_resumed(bench: Bench, counting: Sandbox) -> None:
    await counting.suspend()
    await counting.suspend()
    before = await kept_count(bench, counting)
    await asyncio.sleep(0.5)
    assert await kept_count(bench, counting) == before > 0
    await counting.resume()
    await counting.resume()
    await grows(counting)


async def test_resuming_what_was_never_suspended(counting: Sandbox) -> None:
    await counting.resume()
    await grows(counting)


async def test_again_and_again(counting: Sandbox) -> None:
    for _ in range(20):
        await counting.suspend()
        await counting.resume()
    await grows(counting)


async def test_what_needs_a_running_sandbox_is_refused_at_once(box: Sandbox) -> None:
    await box.suspend()
    calls = (
        lambda: box.exec(["true"]),
        lambda: box.start(["true"]),
        lambda: box.read_file("/etc/passwd"),
        lambda: box.write_file("/tmp/x", b""),
        lambda: box.put_tree(Tree(), "/tmp"),
        lambda: box.get_tree("/tmp"),
        lambda: box.remove("/tmp/x"),
        lambda: box.kill_all(),
        lambda: box.listen(0),
        lambda: box.connect(80),
    )
    started = time.monotonic()
    for call in calls:
        with pytest.raises(SandboxError, match="suspended") as told:
            await call()
        assert not isinstance(told.value, SandboxLost)
    assert time.monotonic() - started < 1
    await box.resume()
    assert (await box.exec(["echo", "usable"])).stdout == b"usable\n"


async def test_a_call_under_way_costs_its_deadline_and_not_the_sandbox(
    box: Sandbox, sh: Sh
) -> None:
    running = asyncio.ensure_future(sh("sleep 0.5; echo done", timeout_s=1))
    process = await box.start(["sh", "-c", "sleep 0.5; echo done"], timeout_s=1)
    await asyncio.sleep(0.1)
    await box.suspend()
    started = time.monotonic()
    for waiting in (running, process.wait()):
        try:
            # Where only processes are held still and not their init, that one keeps the time.
            assert (await waiting).timed_out
        except SandboxError as told:
            assert "suspended" in str(told)  # noqa: PT017 - either end will do
            assert not isinstance(told, SandboxLost)  # noqa: PT017
    assert time.monotonic() - started < 6
    await box.resume()
    assert (await sh("echo usable")).stdout == b"usable\n"


async def test_a_call_under_way_goes_on_where_it_was(box: Sandbox) -> None:
    async with await box.start(["sh", "-c", "read word; echo got $word"]) as process:
        await box.suspend()
        await process.write_stdin(b"it\n")
        await asyncio.sleep(0.2)
        await box.resume()
        assert (await process.wait()).stdout == b"got it\n"


async def test_a_snapshot_leaves_it_suspended(bench: Bench, counting: Sandbox) -> None:
    await counting.suspend()
    images = await asyncio.gather(*(counting.snapshot() for _ in range(3)))
    with pytest.raises(SandboxError, match="suspended"):
        await counting.exec(["true"])
    sizes = {await count(await bench.create(SandboxSpec(image=image))) for image in images}
    assert len(sizes) == 1
    await counting.resume()
    await grows(counting)


async def test_snapshots_that_overlap_are_each_of_one_moment(bench: Bench, box: Sandbox) -> None:
    """Ten counters that go up together, with much to copy between them."""
    names = [f"/srv/counter{n}" for n in range(10)]
    await shell_in(box)(
        "for n in 0 1 2 3 4 5 6 7; do head -c 12000000 /dev/zero > /srv/big$n; done"
    )
    step = "; ".join(f"echo $i > {name}" for name in names)
    script = f"(i=0; while :; do i=$((i+1)); {step}; done) > /dev/null 2>&1 &"
    await shell_in(box)(script)
    await exists(box, names[-1])

    async def later(delay_s: float) -> Image:
        await asyncio.sleep(delay_s)
        return await box.snapshot()

    for image in await asyncio.gather(*(later(n * 0.03) for n in range(4))):
        child = await bench.create(SandboxSpec(image=image))
        seen = [int(await child.read_file(name) or b"0") for name in names]
        steady = [count for count in seen if count]
        assert len(steady) >= len(names) - 1, "one at most is being written"
        assert max(steady) - min(steady) <= 1, seen


async def test_snapshots_at_once_leave_it_running(bench: Bench, counting: Sandbox) -> None:
    await asyncio.gather(*(counting.snapshot() for _ in range(5)))
    await grows(counting)


async def test_forks_of_a_suspended_sandbox_run(bench: Bench, counting: Sandbox) -> None:
    await counting.suspend()
    (child,) = await counting.fork(1)
    bench.ending.push_async_callback(child.close)
    assert (await child.exec(["echo", "runs"])).stdout == b"runs\n"
    with pytest.raises(SandboxError, match="suspended"):
        await counting.exec(["true"])


async def test_it_can_end_as_an_image(bench: Bench, counting: Sandbox) -> None:
    await counting.suspend()
    child = await bench.create(SandboxSpec(image=await counting.end_as_image()))
    assert await count(child) > 0
    with pytest.raises(SandboxLost):
        await counting.resume()


async def test_it_can_be_closed(counting: Sandbox) -> None:
    waiting = await counting.start(["sleep", "60"])
    await counting.suspend()
    started = time.monotonic()
    await counting.close()
    assert time.monotonic() - started < 5
    with pytest.raises(SandboxLost):
        await waiting.wait()
    for call in (counting.suspend, counting.resume):
        with pytest.raises(SandboxLost):
            await call()
