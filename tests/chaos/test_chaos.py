"""Kill -9 and worse, at moments by seed: exactly the planned rows, and nothing left behind.

On Ray the raylet, its head and the driver are killed by seed and in the cluster at the end.

`make chaos` does it for longer; a seed that failed is repeated by
`python -m tests.chaos 0 --seed N` with the same `--executor` and `--store`.
"""

import os
import time
from pathlib import Path
from typing import Any

import pytest

from tests.census import left_clean
from tests.chaos import faults
from tests.chaos.cluster import ray_nodes
from tests.chaos.run import chaos, sweep_up
from tests.chaos.shelves import Folder, bucket, small_disk
from tests.chaos.sweep import PLANNED, Fault, Sweep
from tests.private_daemon import PrivateDaemon, private_daemon

pytestmark = pytest.mark.native

DAY = int(time.time()) // 86_400
SEEDS = [5 * DAY + n for n in range(5)]
"""Other ones each day; those of a day stay, so that a failure can be repeated."""


class TestAlone:
    """One fault, once a third of the rows is committed."""

    @pytest.mark.long
    @pytest.mark.parametrize(
        "fault", [faults.worker_stands_still, faults.driver], ids=lambda fault: fault.__name__
    )
    async def test_on_local_workers(self, tmp_path: Path, fault: Fault) -> None:
        await self.alone(tmp_path, "local", fault)

    @pytest.mark.parametrize("executor", ["local", pytest.param("ray", marks=pytest.mark.ray)])
    async def test_a_killed_worker_costs_attempts(self, tmp_path: Path, executor: str) -> None:
        sweep = await self.alone(tmp_path, executor, faults.worker)
        assert {why for row in sweep.rows() for why in failed(row)} == {"sandbox_lost"}

    async def test_a_worker_that_is_told_to_end_costs_none(self, tmp_path: Path) -> None:
        """It was given the time to end what it ran; what it had not begun goes back."""
        sweep = await self.alone(tmp_path, "local", faults.worker_asked_to_end)
        assert [why for row in sweep.rows() for why in failed(row)] == []
        assert sweep.noted() == PLANNED

    async def alone(self, tmp_path: Path, executor: str, fault: Fault) -> Sweep:
        with left_clean() as here:
            sweep = Sweep(0, executor, tmp_path, here, Folder(tmp_path / "runs"))
            sweep.start()
            sweep.wait_for_rows(12)
            assert not sweep.unseen(), "the census would not see what is left"
            done = fault(sweep)
            assert not done.startswith("no "), done
            sweep.tell(done)
            sweep.finish()
            sweep.check()
            await sweep_up(here)
        return sweep


def failed(row: dict[str, Any]) -> list[str]:
    """How the attempts before the last one ended."""
    return [attempt["outcome"] for attempt in row["attempts"][:-1]]


@pytest.mark.parametrize("seed", SEEDS[:1])
def test_a_folder(tmp_path: Path, seed: int) -> None:
    chaos(seed, "local", tmp_path, Folder(tmp_path / "runs"))


@pytest.mark.docker
@pytest.mark.parametrize("seed", SEEDS[1:2])
def test_on_docker(tmp_path: Path, seed: int) -> None:
    with private_daemon() as daemon:
        chaos(seed, "local", tmp_path, Folder(tmp_path / "runs"), daemon)


@pytest.mark.parametrize("seed", SEEDS[2:3])
def test_a_disk_that_gets_full(tmp_path: Path, seed: int) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounts a small file system, as root")
    with small_disk(tmp_path / "disk") as shelf:
        chaos(seed, "local", tmp_path, shelf)


@pytest.mark.s3
@pytest.mark.parametrize("seed", SEEDS[3:4])
def test_a_bucket(tmp_path: Path, s3_endpoint: str, seed: int) -> None:
    with bucket(s3_endpoint) as shelf:
        chaos(seed, "local", tmp_path, shelf)


@pytest.mark.ray
@pytest.mark.parametrize("seed", SEEDS[4:])
def test_on_ray(tmp_path: Path, seed: int) -> None:
    chaos(seed, "ray", tmp_path, Folder(tmp_path / "runs"))


@pytest.mark.ray
@pytest.mark.long
async def test_a_cluster_that_loses_nodes_and_the_coordinator(tmp_path: Path) -> None:
    await five_raylets(tmp_path, None)


@pytest.mark.docker
@pytest.mark.ray
@pytest.mark.long
async def test_a_cluster_with_docker_that_loses_nodes_and_the_coordinator(tmp_path: Path) -> None:
    with private_daemon() as daemon:
        await five_raylets(tmp_path, daemon)
        assert daemon.left() == []


async def five_raylets(tmp_path: Path, daemon: PrivateDaemon | None) -> None:
    """One of them drains, two are killed, and so is the coordinator between them; where sandboxes
    are containers, their daemon is started anew as well."""
    with left_clean() as here, ray_nodes(here) as nodes:
        sweep = Sweep(
            0,
            "ray",
            tmp_path,
            here,
            Folder(tmp_path / "runs"),
            "executor.workers=null",
            "executor.cpus_per_worker=1",
            slow_s=3,
            environment=nodes.environment,
            daemon=daemon,
        )
        sweep.start()
        sweep.wait_for_rows(8)
        sweep.tell(nodes.tell("drain", "0"))
        sweep.tell(nodes.tell("kill", "1"))
        sweep.wait_for_rows(20)
        sweep.tell(faults.coordinator(sweep))
        sweep.tell(f"ended with {sweep.end()}")
        sweep.start()
        sweep.wait_for_rows(24)
        sweep.tell(nodes.tell("kill", "2"))
        if daemon is not None:
            sweep.tell(faults.dockerd(sweep))
        sweep.finish()
        sweep.check()
        print(sweep.told())
        await sweep_up(here, sweep.engine)
