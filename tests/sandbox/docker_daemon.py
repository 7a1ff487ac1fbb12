"""What the Docker daemon has of an engine's owners, for tests that nothing of it is left."""

from collections.abc import Iterable

from rollout.sandbox.docker.container import OWNER
from rollout.sandbox.docker.daemon import find_daemon


def left_in_daemon(owners: Iterable[str]) -> list[str]:
    """Containers and images of these owners."""
    daemon = find_daemon()
    try:
        return [
            f"{item.get('Names') or item.get('RepoTags')}"
            for owner in owners
            for item in (
                *daemon.containers(f"{OWNER}={owner}"),
                *daemon.images(f"{OWNER}={owner}"),
            )
        ]
    finally:
        daemon.close()
