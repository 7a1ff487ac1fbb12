"""One Ray for all tests of this folder: starting it costs seconds."""

from collections.abc import Callable, Iterator

import pytest

from rollout.config import ExecutorConf
from rollout.executor.base import Executor
from rollout.executor.local import LocalExecutor
from rollout.executor.ray import RayExecutor
from rollout.executor.ray_cluster import Cluster


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Cluster]:
    cluster = Cluster(ExecutorConf(dashboard=False))
    yield cluster
    cluster.close()


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def executor(request: pytest.FixtureRequest) -> Callable[[], Executor]:
    """Makes executors of one kind."""
    if request.param == "local":
        return LocalExecutor
    request.getfixturevalue("ray_cluster")
    return RayExecutor
