"""Both executors, for tests that hold them to one contract."""

from collections.abc import Callable

import pytest

from rollout.executor.base import Executor
from rollout.executor.local import LocalExecutor
from rollout.executor.ray import RayExecutor


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.ray)])
def executor(request: pytest.FixtureRequest) -> Callable[[], Executor]:
    """Makes executors of one kind."""
    if request.param == "local":
        return LocalExecutor
    request.getfixturevalue("ray_cluster")
    return RayExecutor
