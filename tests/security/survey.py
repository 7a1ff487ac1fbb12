"""Every engine on this machine, run every way it can be, against every probe and drill."""

import asyncio
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rollout.errors import BuildError, SandboxError
from rollout.sandbox.docker.daemon import find_daemon
from rollout.sandbox.init import build
from tests.everybody import Somebody
from tests.security.docker import DEBIAN
from tests.security.examine import (
    DOCKER,
    NATIVE,
    SUDO,
    USER,
    Survey,
    as_shipped,
    docker_as_shipped,
    docker_weakened,
    weakened,
)
from tests.security.host import host_with_secrets

UID = 54_322
USER_TIMEOUT_S = 240


def survey(folder: Path) -> tuple[Survey, Survey]:
    """In `folder`, as shipped and weakened. As root all, and as an ordinary user what they can."""
    if os.geteuid() != 0:
        with host_with_secrets(folder) as facts:
            return asyncio.run(as_shipped([USER], folder, facts)), {}
    build.binary()  # the other user may have no compiler
    with ThreadPoolExecutor() as threads, host_with_secrets(folder) as facts:
        others = [threads.submit(as_somebody), threads.submit(with_docker, folder, facts)]
        shipped = asyncio.run(as_shipped([NATIVE, SUDO], folder, facts))
        weak = {NATIVE: asyncio.run(weakened(folder, facts))}
        for other in others:
            more_shipped, more_weak = other.result()
            shipped |= more_shipped
            weak |= more_weak
    return shipped, weak


def with_docker(folder: Path, facts: Mapping[str, Any]) -> tuple[Survey, Survey]:
    """Nothing where no daemon with the image answers: in CI that is a failure."""
    try:
        daemon = find_daemon(timeout_s=10)
        try:
            daemon.image_id(DEBIAN, pull=False)
        finally:
            daemon.close()
    except (BuildError, SandboxError):
        if os.environ.get("CI"):
            raise
        return {}, {}
    shipped = {DOCKER: asyncio.run(docker_as_shipped(folder, facts))}
    return shipped, {DOCKER: asyncio.run(docker_weakened(folder, facts))}


def as_somebody() -> tuple[Survey, Survey]:
    """By a real second user, with a copy of this checkout."""
    home = Path(tempfile.mkdtemp(prefix="rollout-somebody-"))
    try:
        somebody = Somebody.with_copy(UID, home)
        arguments = ("-m", "tests.security.examine", USER, str(home))
        done = somebody.run(*arguments, timeout_s=USER_TIMEOUT_S)
        assert done.returncode == 0, done.stderr[-4000:]
        found: dict[str, list[str]] = json.loads(done.stdout)
        return {USER: {name: (how, seen) for name, (how, seen) in found.items()}}, {}
    finally:
        shutil.rmtree(home)
