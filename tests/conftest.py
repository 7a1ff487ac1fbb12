"""What all tests share: when a marked test may be skipped, and when a skip is a failure."""

import os
from pathlib import Path

import pytest


def _native_missing() -> str:
    """Why the native engine cannot run here; empty if it can."""
    if os.geteuid() != 0:
        return "needs root"
    if not Path("/sys/fs/cgroup").exists():
        return "needs cgroups mounted at /sys/fs/cgroup"
    return ""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without root the native tests are skipped and say why; in CI that would hide a failure."""
    missing = _native_missing()
    if not missing or os.environ.get("CI"):
        return
    for item in items:
        if item.get_closest_marker("native"):
            item.add_marker(pytest.mark.skip(reason=missing))
