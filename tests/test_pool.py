"""Warm spares, admission and the breaker, on real sandboxes of the memory engine."""

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from rollout.capacity import Capacity
from rollout.config import PoolConf
from rollout.errors import SandboxError
from rollout.pool import WarmPool
from rollout.sandbox.base import Image, Sandbox, SandboxSpec
from rollout.sandbox.memory import MemoryEngine
from rollout.types import Blueprint, BuildStep, Resources, Tree

MACHINE = Capacity(cpu=2, memory_mb=1000, disk_mb=10_000, pids=10_000)
EXACT = PoolConf(overcommit_cpu=1, overcommit_memory=1, overcommit_disk=1, overcommit_pids=1)


class CountingEngine(MemoryEngine):
    """The memory engine, which counts creates and fails as many as it is told to."""

    created = 0
    at_once = 0
    most_at_once = 0
    to_fail = 0
    slow_s = 0.001

    async def create(self, spec: SandboxSpec) -> Sandbox:
        self.created += 1
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await asyncio.sleep(self.slow_s)
            if self.to_fail:
                self.to_fail -= 1
                raise SandboxError("told to fail")
            return await super().create(spec)
        finally:
            self.at_once -= 1


@pytest.fixture
async def engine() -> AsyncIterator[CountingEngine]:
    engine = CountingEngine()
    await engine.start()
    yield engine
    await engine.close()


@pytest.fixture
async def image(engine: CountingEngine) -> Image:
    return await engine.build(Blueprint())


async def opened(engine: CountingEngine, conf: PoolConf = EXACT) -> WarmPool:
    pool = WarmPool(engine, conf, MACHINE)
    await pool.start()
    return pool


async def settled(pool: WarmPool) -> None:
    for _ in range(500):
        await asyncio.sleep(0.002)
        if not (pool.counts()["creating"] or pool.counts()["closing"]):
            return
    raise AssertionError(pool.counts())


def spec(image: Image, **resources: float) -> SandboxSpec:
    return SandboxSpec(image=image, resources=Resources(**resources))  # type: ignore[arg-type]


async def test_expected_specs_get_spares_and_claims_take_them(
    engine: CountingEngine, image: Image
) -> None:
    pool = await opened(engine)
    wanted = spec(image)
    pool.expect([(wanted, 10)])
    await settled(pool)
    assert pool.counts()["warm"] == EXACT.spares_per_image
    made = engine.created
    sandbox = await pool.claim(wanted, timeout_s=5)
    assert engine.created == made
    assert (await sandbox.exec(["echo", "hi"])).stdout == b"hi\n"
    await settled(pool)
    assert pool.counts()["warm"] == EXACT.spares_per_image
    await pool.release(sandbox)
    await pool.close()


async def test_spares_never_outnumber_what_is_still_to_come(
    engine: CountingEngine, image: Image
) -> None:
    pool = await opened(engine)
    wanted = spec(image)
    pool.expect([(wanted, 1)])
    await settled(pool)
    assert pool.counts()["warm"] == 1
    box = await pool.claim(wanted, timeout_s=5)
    await settled(pool)
    assert pool.counts()["warm"] == 0
    await pool.release(box)
    assert engine.created == 1
    await pool.close()


@pytest.mark.parametrize("field", [f.name for f in dataclasses.fields(SandboxSpec)])
async def test_a_request_never_gets_a_sandbox_with_other_settings(
    engine: CountingEngine, image: Image, field: str
) -> None:
    changed = {
        "image": dataclasses.replace(image, digest="0" * 64),
        "env": (("A", "1"),),
        "workdir": "/tmp",
        "user": "nobody",
        "resources": Resources(pids=7),
        "network": "public",
        "allowed_hosts": ("packages.example",),
        "sudo": True,
        "launch": (BuildStep(op="put", dest="/data", tree=Tree.of({"x": "1"})),),
        "ready": "test -d /tmp",
    }
    wanted = SandboxSpec(image=image)
    other = dataclasses.replace(wanted, **{field: changed[field]})  # type: ignore[arg-type]
    pool = await opened(engine)
    pool.expect([(wanted, 5)])
    await settled(pool)
    try:
        box = await pool.claim(other, timeout_s=5)
    except SandboxError:
        return  # This engine cannot make it, and a warm one of other settings was not given.
    finally:
        await settled(pool)
        assert pool.counts()["warm"] == EXACT.spares_per_image
    assert box.spec == other
    await pool.close()


async def test_claims_wait_until_there_is_room(engine: CountingEngine, image: Image) -> None:
    pool = await opened(engine)
    half = spec(image, memory_mb=500)
    first, second = await pool.claim(half, timeout_s=5), await pool.claim(half, timeout_s=5)
    third = asyncio.create_task(pool.claim(half, timeout_s=5))
    await asyncio.sleep(0.02)
    assert not third.done()
    await pool.release(first)
    box = await third
    await pool.release(box)
    await pool.release(second)
    assert pool.counts() == {"warm": 0, "claimed": 0, "creating": 0, "closing": 0}
    await pool.close()


async def test_spares_give_way_to_claims(engine: CountingEngine, image: Image) -> None:
    pool = await opened(engine)
    small, large = spec(image, memory_mb=400), spec(image, memory_mb=700)
    pool.expect([(small, 9)])
    await settled(pool)
    assert pool.counts()["warm"] == 2
    box = await asyncio.wait_for(pool.claim(large, timeout_s=5), 5)
    assert box.spec == large
    await pool.close()


async def test_what_can_never_fit_is_refused_at_once(engine: CountingEngine, image: Image) -> None:
    pool = await opened(engine)
    with pytest.raises(SandboxError, match="memory_mb 1001 of 1000"):
        await pool.claim(spec(image, memory_mb=1001), timeout_s=60)
    await pool.close()


async def test_waiting_for_room_is_not_counted_as_making(
    engine: CountingEngine, image: Image
) -> None:
    pool = await opened(engine)
    whole = spec(image, memory_mb=1000)
    box = await pool.claim(whole, timeout_s=5)
    waiting = asyncio.create_task(pool.claim(whole, timeout_s=0.05))
    await asyncio.sleep(0.2)
    assert not waiting.done()
    await pool.release(box)
    await pool.release(await waiting)
    await pool.close()


async def test_a_create_that_takes_too_long_is_an_error_and_takes_no_room(
    engine: CountingEngine, image: Image
) -> None:
    pool = await opened(engine)
    whole = spec(image, memory_mb=1000)
    engine.slow_s = 60
    with pytest.raises(SandboxError, match="create_s"):
        await pool.claim(whole, timeout_s=0.02)
    engine.slow_s = 0.001
    await pool.release(await pool.claim(whole, timeout_s=5))
    await pool.close()


async def test_never_more_alive_than_the_cap(engine: CountingEngine, image: Image) -> None:
    pool = await opened(engine, dataclasses.replace(EXACT, max_sandboxes=3))
    wanted = spec(image)
    alive = most = 0

    async def one() -> None:
        nonlocal alive, most
        box = await pool.claim(wanted, timeout_s=30)
        alive += 1
        most = max(most, alive)
        await asyncio.sleep(0.001)
        alive -= 1
        await pool.release(box)

    pool.expect([(wanted, 40)])
    await asyncio.gather(*(one() for _ in range(40)))
    assert most <= 3
    assert engine.most_at_once <= EXACT.creates_at_once
    await pool.close()


async def test_failing_creates_pause_and_then_recover(engine: CountingEngine, image: Image) -> None:
    conf = dataclasses.replace(EXACT, breaker_failures=3, breaker_pause_s=0.2)
    pool = await opened(engine, conf)
    engine.to_fail = 3
    for _ in range(3):
        with pytest.raises(SandboxError, match="told to fail"):
            await pool.claim(spec(image), timeout_s=5)
    waiting = asyncio.create_task(pool.claim(spec(image), timeout_s=5))
    await asyncio.sleep(0.05)
    assert engine.created == 3, "while it pauses nothing is created"
    await pool.release(await waiting)
    assert engine.created == 4
    await pool.close()


async def test_canceled_claims_give_their_share_back(engine: CountingEngine, image: Image) -> None:
    pool = await opened(engine)
    whole = spec(image, memory_mb=1000)
    for delay_s in (0, 0.0005, 0.001, 0.002, 0.003) * 4:
        claim = asyncio.create_task(pool.claim(whole, timeout_s=5))
        await asyncio.sleep(delay_s)
        claim.cancel()
        for result in await asyncio.gather(claim, return_exceptions=True):
            if not isinstance(result, BaseException):
                await pool.release(result)
    await pool.release(await pool.claim(whole, timeout_s=5))
    await pool.close()


async def test_close_ends_claimed_and_warm(engine: CountingEngine, image: Image) -> None:
    pool = await opened(engine)
    wanted = spec(image)
    pool.expect([(wanted, 5)])
    box = await pool.claim(wanted, timeout_s=5)
    await settled(pool)
    await pool.close()
    with pytest.raises(SandboxError):
        await box.exec(["true"])
    assert pool.counts()["warm"] == pool.counts()["claimed"] == 0
