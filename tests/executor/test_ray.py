"""What only Ray has: its cluster's resources, its dashboard's figures, its names."""

import asyncio
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import ray

from rollout.config import ExecutorConf
from rollout.errors import ConfigError, Fenced
from rollout.executor.ray import RayExecutor
from rollout.executor.ray_cluster import NAMESPACE, Cluster, slots
from tests.executor.plans import gated_plan, until

pytestmark = pytest.mark.ray

NO_HOST = """
import ray
from rollout.config import ExecutorConf
from rollout.errors import ConfigError
from rollout.executor.ray_cluster import Cluster
from rollout.executor.ray_home import RayHome
home = RayHome()
ray.init(address="local", include_dashboard=False, num_cpus=1, _temp_dir=str(home.path))
try:
    Cluster(ExecutorConf())
except ConfigError as exc:
    print(exc)
ray.shutdown()
home.close()
"""


def metrics() -> str:
    [node] = ray.nodes()
    with urllib.request.urlopen(
        f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics", timeout=10
    ) as reply:
        return reply.read().decode()


async def test_the_dashboards_figures_and_names_tell_the_run(
    ray_cluster: Cluster, tmp_path: Path
) -> None:
    plan = gated_plan(tmp_path)
    executor = RayExecutor()

    async def run() -> None:
        async for _ in executor.run(plan):
            pass

    running = asyncio.create_task(run())
    await until(lambda: len(list(tmp_path.glob("begun-*"))) == 4)
    names = {a["name"] for a in ray.util.list_named_actors(all_namespaces=True)}
    assert names == {f"rollout-coordinator-{plan.run_id}", f"rollout-worker-{plan.run_id}-0"}
    coordinator = ray.get_actor(f"rollout-coordinator-{plan.run_id}", namespace=NAMESPACE)
    with pytest.raises(ray.exceptions.RayTaskError, match="cannot be asked"):
        await coordinator.ask.remote("_take_over")
    expected = [
        ("ray_rollout_rollouts{", 'state="running"', "} 4.0"),
        ("ray_rollout_rollouts{", 'state="pending"', "} 8.0"),
        ("ray_rollout_sandboxes{", 'state="claimed"', "} 4.0"),
        ("ray_rollout_workers{", f'run="{plan.run_id}"', "} 1.0"),
    ]

    def shown(parts: tuple[str, ...]) -> bool:
        lines = [line for line in metrics().splitlines() if f'run="{plan.run_id}"' in line]
        return any(all(part in line for part in parts) for line in lines)

    async with asyncio.timeout(60):
        while not all([await asyncio.to_thread(shown, parts) for parts in expected]):
            await asyncio.sleep(1)
    (tmp_path / "open").touch()
    async with asyncio.timeout(60):
        while not await asyncio.to_thread(
            shown, ("ray_rollout_stage_seconds_count", 'stage="agent"')
        ):
            await asyncio.sleep(1)
    await running
    assert executor.dashboard_url is None
    left = ray.util.list_named_actors(all_namespaces=True)
    assert left == []


async def test_a_second_start_takes_the_run_over(ray_cluster: Cluster, tmp_path: Path) -> None:
    plan = gated_plan(tmp_path)

    async def run() -> None:
        async for _ in RayExecutor().run(plan):
            pass

    old = asyncio.create_task(run())
    await until(lambda: len(list(tmp_path.glob("begun-*"))) == 4)
    (tmp_path / "open").touch()
    new = asyncio.create_task(run())
    with pytest.raises(Fenced):
        await old
    await new


def test_workers_are_placed_by_cores(ray_cluster: Cluster) -> None:
    [node] = ray.nodes()
    cores = int(node["Resources"]["CPU"])
    found = slots(ExecutorConf(cpus_per_worker=1))
    assert len(found) == cores
    assert sum(slot.part for slot in found) <= 1
    assert sum(slot.cpus for slot in found) == cores
    [whole] = slots(ExecutorConf(cpus_per_worker=cores * 4))
    assert (whole.cpus, whole.part, whole.share) == (cores, 1.0, 1.0)
    assert len(slots(ExecutorConf(cpus_per_worker=1, workers=1))) == 1


def test_a_cluster_without_a_sandbox_host_is_refused_and_told_how() -> None:
    done = subprocess.run([sys.executable, "-c", NO_HOST], capture_output=True, text=True)
    assert "none of its 1 nodes has the resource `sandbox_host`" in done.stdout, done.stderr
    assert "ray start" in done.stdout


def test_an_address_where_nothing_answers_is_refused_at_once() -> None:
    script = """
from rollout.config import ExecutorConf
from rollout.executor.ray_cluster import Cluster
Cluster(ExecutorConf(address="127.0.0.1:1"))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert f"{ConfigError.__name__}: executor.address: nothing answers" in done.stderr
