"""Built layers of other machines: fetched rather than built again, and shared once built.

They travel as kept end states do (see export.py): whatever comes is checked as it is unpacked. A
layer that cannot be fetched is built, and one that cannot be shared is used here all the same.
"""

import asyncio
import logging
from contextlib import suppress
from pathlib import Path

from rollout.aio import shielded
from rollout.errors import BuildError, RolloutError, TreeRefused
from rollout.sandbox.base import Objects
from rollout.sandbox.export import export_layer
from rollout.sandbox.images import ImageStore, Layer, fresh_name
from rollout.sandbox.owner import remove_tree
from rollout.sandbox.restore import restore_layer

LIMIT_BYTES = 16 << 30
"""Of what one layer holds."""
EXPORT_TIMEOUT_S = 1800.0

log = logging.getLogger(__name__)


class SharedLayers:
    """The layers that the engines of all machines with one `Objects` have in common."""

    def __init__(
        self, objects: Objects, store: ImageStore, owner_layers: Path, uid_base: int
    ) -> None:
        """`owner_layers`: a folder swept with its owner; `uid_base`: whose files they are here."""
        self._objects = objects
        self._store = store
        self._owner_layers = owner_layers
        self._uid_base = uid_base

    async def fetch(self, key: str, name: str) -> bool:
        """Whether somebody has shared the layer `key`; then it is `name` here."""
        folder = self._owner_layers / fresh_name("f")
        file = self._owner_layers / f"{folder.name}.tar.gz"
        try:
            if not await self._objects.fetch(_shared_name(key), file):
                return False
            await shielded(asyncio.to_thread(self._restore, file, folder, name))
        except (RolloutError, OSError) as exc:
            log.warning("layer %s cannot be fetched and is built: %s", key, exc)
            return False
        finally:
            with suppress(FileNotFoundError):
                file.unlink()
        return True

    async def restore(self, object_id: str, name: str) -> None:
        """Make what a sandbox wrote the layer `name`. BuildError where it is missing or no such."""
        folder = self._owner_layers / fresh_name("f")
        file = self._owner_layers / f"{folder.name}.tar.gz"
        try:
            await self._objects.save(object_id, file)
            await shielded(asyncio.to_thread(self._restore, file, folder, name))
        except TreeRefused as exc:
            raise BuildError(f"object {object_id} is no kept state: {exc}") from exc
        finally:
            with suppress(FileNotFoundError):
                file.unlink()

    def _restore(self, file: Path, folder: Path, name: str) -> None:
        folder.mkdir(mode=0o700)
        try:
            restore_layer(file, folder, self._uid_base, limit_bytes=LIMIT_BYTES)
            self._store.seal(folder, Layer(uid_base=self._uid_base))
            self._store.publish(folder, name)
        except BaseException:
            remove_tree(folder)
            raise

    async def share(self, key: str, name: str) -> None:
        file = self._owner_layers / f"{fresh_name('s')}.tar.gz"
        folders, uid_base = self._store.parts(name, self._store.folder(name))
        try:
            await export_layer(
                folders, uid_base, file, limit_bytes=LIMIT_BYTES, timeout_s=EXPORT_TIMEOUT_S
            )
            await self._objects.share(_shared_name(key), file)
        except (RolloutError, OSError) as exc:
            log.warning("layer %s is not shared: %s", key, exc)
        finally:
            with suppress(FileNotFoundError):
                file.unlink()


def _shared_name(key: str) -> str:
    return f"layers/{key}"
