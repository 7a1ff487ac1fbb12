"""What all tests share: when one may be skipped, and a real S3 server on 127.0.0.1."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rollout.config import ExecutorConf
from rollout.errors import BuildError, SandboxError
from rollout.sandbox.docker.daemon import find_daemon
from tests.forked import Forked
from tests.s3_server import CREDENTIALS, s3_server

DEBIAN = "rollout-test-debian"
"""The image that sandboxes of the Docker engine stand on; `make images` makes it."""


def _native_missing() -> str:
    """Why the native engine cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "" if _may_have_user_namespaces() else "needs root, or user namespaces for users"
    if not Path("/sys/fs/cgroup").exists():
        return "needs cgroups mounted at /sys/fs/cgroup"
    return ""


def _may_have_user_namespaces() -> bool:
    done = subprocess.run(["unshare", "--user", "--map-root-user", "true"], capture_output=True)
    return done.returncode == 0


def _docker_missing() -> str:
    """Why the Docker engine cannot be tested here; empty if it can."""
    try:
        daemon = find_daemon(timeout_s=10)
    except SandboxError:
        return "no Docker daemon answers: make docker images"
    try:
        daemon.image_id(DEBIAN, pull=False)
    except (BuildError, SandboxError):
        return f"the Docker daemon has no image {DEBIAN}: make images"
    finally:
        daemon.close()
    return ""


MISSING = {"native": _native_missing, "docker": _docker_missing}
"""Marker to what tells why its tests are skipped."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    _side_by_side(items)
    _skip_what_is_missing(items)


def _side_by_side(items: list[pytest.Item]) -> None:
    """What `--dist loadgroup` may run at the same time: files, but only one Ray. It takes long, so
    it comes first."""
    for item in items:
        if item.get_closest_marker("ray"):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif not item.get_closest_marker("xdist_group"):
            item.add_marker(pytest.mark.xdist_group(item.path.stem))
    items.sort(key=lambda item: item.get_closest_marker("xdist_group").args[0] != "ray")


def _skip_what_is_missing(items: list[pytest.Item]) -> None:
    """What a machine lacks skips tests, which say why; in CI that would hide a failure."""
    if os.environ.get("CI"):
        return
    for mark, why in MISSING.items():
        marked = [item for item in items if item.get_closest_marker(mark)]
        if marked and (missing := why()):
            for item in marked:
                item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(scope="session")
def forked() -> Iterator[Forked]:
    """The command line, without the second that its imports take."""
    made = Forked()
    yield made
    made.close()


@pytest.fixture(scope="session")
def credentials() -> Iterator[None]:
    """Keys that any server on 127.0.0.1 takes."""
    with pytest.MonkeyPatch.context() as environment:
        for name, value in CREDENTIALS.items():
            environment.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def s3_endpoint(credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a moto_server process with one bucket; ended with the session."""
    with s3_server(tmp_path_factory.mktemp("moto") / "output") as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[Any]:
    """One Ray for all tests that can share one: starting it costs seconds."""
    from rollout.executor.ray_cluster import Cluster

    cluster = Cluster(ExecutorConf(dashboard=False))
    yield cluster
    cluster.close()
