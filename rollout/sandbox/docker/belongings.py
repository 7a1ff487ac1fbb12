"""What owners have in the daemon, so that what a dead one left is found and ended."""

from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

from rollout.errors import SandboxError
from rollout.sandbox.cgroups import Hierarchies
from rollout.sandbox.docker.calls import AT_ONCE
from rollout.sandbox.docker.container import OWNER
from rollout.sandbox.docker.daemon import Daemon

SNAPSHOT_NAME = "rollout-snapshot"
"""Of images that go with their owner; those that were built stay for all."""

T = TypeVar("T")


class Belongings:
    """Containers and snapshots, told by their labels, and control groups where the machine's are
    to be seen: owners of both engines may live below one root folder. All of it blocks."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._groups: Hierarchies | None = None
        with suppress(SandboxError):
            self._groups = Hierarchies.of_machine()

    def owners(self) -> frozenset[str]:
        listed = [*self._daemon.containers(OWNER), *self._snapshots(OWNER)]
        found = frozenset(str(item["Labels"][OWNER]) for item in listed)
        return found | self._groups.owners() if self._groups else found

    def end_owner(self, owner: str) -> None:
        """SandboxError where the daemon refuses; whatever can be ended, is."""
        label = f"{OWNER}={owner}"
        _all(self._daemon.remove, [str(box["Id"]) for box in self._daemon.containers(label)])
        # The daemon refuses those that others stand on, which are gone a round later.
        for _ in range(16):
            left = [str(image["Id"]) for image in self._snapshots(label)]
            if not left or _all(self._daemon.remove_image, left) == len(left):
                break
        if self._groups:
            self._groups.end_owner(owner)

    def _snapshots(self, label: str) -> list[dict[str, dict[str, str]]]:
        names = f"{SNAPSHOT_NAME}:"
        return [
            dict(image)
            for image in self._daemon.images(label)
            if any(name.startswith(names) for name in image.get("RepoTags") or ())
        ]


def _all(call: Callable[[str], None], names: Iterable[str]) -> int:
    """How many calls failed."""

    def one(name: str) -> bool:
        try:
            call(name)
        except SandboxError:
            return True
        return False

    with ThreadPoolExecutor(AT_ONCE) as threads:
        return sum(threads.map(one, names))
