"""`resources.unenforceable`, from the config to a sandbox of the native engine."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from rollout import build
from rollout.compose import compose
from rollout.errors import ConfigError
from rollout.executor.local import LocalExecutor
from rollout.sandbox.native import NativeEngine
from rollout.types import Blueprint, Resources
from tests.sandbox.test_native import conf, make

pytestmark = pytest.mark.native

LIMITS = {"cpu": "1.5", "memory_mb": "256", "pids": "77", "disk_mb": "64"}
NAMES = {"cpu": "cpu", "memory_mb": "memory", "pids": "pids", "disk_mb": "disk"}


def prepared(tmp_path: Path, *overrides: str) -> build.Job:
    """A run of one task that asks for no limits itself."""
    lines = tmp_path / "tasks.jsonl"
    lines.write_text('{"id": "one", "instruction": "go", "command": "true"}\n')
    places = [f"task.path={lines}", f"store.uri={tmp_path}/runs", f"engine.root_dir={tmp_path}"]
    sweep = ["+experiment=jsonl", "sweep.agent=[nop]", "resources.pids=null"]
    engine = [] if "engine=memory" in overrides else ["engine=native"]
    return build.prepare(compose([*sweep, *engine, *places, *overrides]))


@pytest.mark.parametrize("scratch", ["disk", "tmpfs"])
@pytest.mark.parametrize("cgroups", ["each", "group"])
@pytest.mark.parametrize("field", LIMITS)
async def test_what_was_planned_is_what_holds(
    tmp_path: Path, field: str, cgroups: str, scratch: str
) -> None:
    """Refused before the run where the engine cannot, and enforced where it was not refused."""
    engine_conf = conf(tmp_path, scratch=scratch)
    engine_conf.memory_cgroups = cgroups
    wanted = [f"resources.{field}={LIMITS[field]}"]
    engine = [f"engine.memory_cgroups={cgroups}", f"engine.scratch={scratch}"]
    made = NativeEngine(engine_conf)
    await made.start()
    try:
        assert NativeEngine(engine_conf).limits == made.limits
        can = NAMES[field] in made.limits
        refused = pytest.raises(ConfigError, match=f"{field}=.* cannot be enforced here")
        with nullcontext() if can else refused:
            prepared(tmp_path, *wanted, *engine)
        job = prepared(tmp_path, *wanted, *engine, "resources.unenforceable=record")
        blueprint = job.plan.tasks[0].blueprint
        assert str(getattr(blueprint.resources, field)) == LIMITS[field]
        box = await make(made, resources=blueprint.resources)
        assert any(name.startswith(NAMES[field]) for name in box.limits_enforced) == can
        shared = cgroups == "group" and field == "memory_mb" and can
        assert ("memory (group)" in box.limits_enforced) == shared
    finally:
        await made.close()


async def test_a_worker_that_cannot_hold_a_limit_does_not_work(tmp_path: Path) -> None:
    """Such as on a node that is unlike the one where the plan was made."""
    job = prepared(tmp_path, "engine=memory", "executor=local", "executor.workers=1")
    assert job.plan.limits_to_hold == ()
    build.record_start(job)
    unfit = replace(job.plan, limits_to_hold=("memory", "pids"))
    with pytest.raises(ConfigError, match=r"no worker .* cannot enforce .*: memory; see"):
        async for _ in LocalExecutor().run(unfit):
            pass


def test_what_somebody_wrote_has_to_hold(tmp_path: Path) -> None:
    wrote = ["resources.cpu=1", "resources.memory_mb=9"]
    assert prepared(tmp_path, *wrote).plan.limits_to_hold == ("cpu", "memory")
    assert prepared(tmp_path, "task.memory_mb=64").plan.limits_to_hold == ("memory",)
    record = "resources.unenforceable=record"
    assert prepared(tmp_path, *wrote, record).plan.limits_to_hold == ()


async def test_a_limit_left_off_is_never_claimed(tmp_path: Path) -> None:
    job = prepared(tmp_path)
    assert job.plan.tasks[0].blueprint.resources == Resources()
    engine = NativeEngine(conf(tmp_path))
    await engine.start()
    try:
        assert (await make(engine, resources=Blueprint().resources)).limits_enforced == ()
    finally:
        await engine.close()
