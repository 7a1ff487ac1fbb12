"""The Docker daemon, for engine=docker: whether one answers, and what it can limit."""

import os
from collections.abc import Iterator
from pathlib import Path

from rollout.doctor.base import Finding, Wishes, ok, warn
from rollout.errors import SandboxError
from rollout.sandbox.controllers import CONTROLLERS
from rollout.sandbox.docker.daemon import USUAL_URL, Facts, find_daemon

DOCKER_TIMEOUT_S = 3.0
OPTIONAL = "only engine=docker needs one"


def check(wishes: Wishes) -> Iterator[Finding]:
    """Optional: the native engine needs none."""
    host = os.environ.get("DOCKER_HOST") or USUAL_URL
    path = host.removeprefix("unix://")
    if host.startswith("unix://") and not Path(path).exists():
        yield ok("Docker", f"no daemon at {path}; {OPTIONAL}: `make docker`")
        return
    try:
        daemon = find_daemon(DOCKER_TIMEOUT_S)
        try:
            facts = daemon.facts()
        finally:
            daemon.close()
    except (SandboxError, KeyError, TypeError, ValueError) as exc:
        change = f"start it, or join the group that owns {path}; {OPTIONAL}"
        yield warn("Docker", " ".join(str(exc).split())[:300], change)
        return
    yield ok("Docker", f"version {facts.version} answers at {host}: {_words(facts)}")


def _words(facts: Facts) -> str:
    lacking = sorted({*CONTROLLERS, "disk"} - facts.limits)
    users = "root inside is somebody else" if facts.user_namespaces else "root inside is root"
    return (
        f"{facts.storage_driver} on {facts.backing or 'an unknown file system'}, runtimes "
        f"{', '.join(facts.runtimes)}; limits {', '.join(sorted(facts.limits)) or 'nothing'}"
        f"{', not ' + ', '.join(lacking) if lacking else ''}; {users}"
    )
