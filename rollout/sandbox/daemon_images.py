"""Images of the Docker daemon, for bases `image:NAME` of engines that need no daemon otherwise."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from rollout.sandbox.oci import setting_of
from rollout.sandbox.steps import Setting

if TYPE_CHECKING:
    from rollout.sandbox.docker.daemon import Daemon


def image_digest(name: str) -> str:
    """The image's id, 64 hex digits. Blocks. BuildError or SandboxError says why there is none."""
    with _daemon() as daemon:
        return daemon.image_id(name).removeprefix("sha256:")


def save_image(image_id: str, target: Path) -> None:
    """Write it as `docker save` does. Blocks."""
    with _daemon() as daemon:
        daemon.save(image_id, target)


def image_setting(name: str) -> Setting:
    """How processes of an image start; it is not pulled for that. Blocks."""
    with _daemon() as daemon:
        return setting_of(daemon.image(name, pull=False).get("Config") or {})


@contextmanager
def _daemon() -> "Iterator[Daemon]":
    from rollout.sandbox.docker.daemon import find_daemon

    daemon = find_daemon()
    try:
        yield daemon
    finally:
        daemon.close()
