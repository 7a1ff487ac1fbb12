"""Layers for bases that are images of others: of an OCI layout, a saved archive, a Docker daemon.

Each layer of an image is unpacked once on a machine, under the digest of its content, and shared by
all images that have it. On top of them lies one of our own with what every sandbox needs. What an
image came to is written down under its fingerprint, so that its archive is not read again.
"""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from rollout.aio import shielded
from rollout.errors import BuildError, ConfigError, SandboxError
from rollout.sandbox.bases import IMAGE, Base
from rollout.sandbox.builder import Ground
from rollout.sandbox.daemon_images import save_image
from rollout.sandbox.images import ImageStore, building, fresh_name
from rollout.sandbox.layered import Layered
from rollout.sandbox.oci import Blob, OciImage, opened, read_image
from rollout.sandbox.owner import remove_tree
from rollout.sandbox.rootfs import BaseLayers
from rollout.sandbox.steps import Setting
from rollout.sandbox.supply import supply_over
from rollout.sandbox.unpacking import unpack_archive
from rollout.types import digest_of

VERSION = 1
"""Of how layers are made of an image; another number makes all of them anew."""
_CHUNK_BYTES = 1 << 20


class OciLayers:
    """The images of others that one engine stands on."""

    def __init__(self, store: ImageStore, owner_layers: Path, bases: BaseLayers) -> None:
        self._store = store
        self._owner_layers = owner_layers
        self._bases = bases

    async def ground(self, base: Base, blueprint: str) -> Ground:
        """Its layers, made where they are missing. BuildError says why not.

        An archive is looked through again when it has changed, an image's name asked for at each
        call; with a fingerprint neither is.
        """
        try:
            digest = base.digest or await asyncio.to_thread(self._bases.digest_now, base)
            if known := self._known(base.kind, digest):
                return known
            async with building(self._record(base.kind, digest).with_suffix(".lock"), blueprint):
                return self._known(base.kind, digest) or await self._make(base, digest, blueprint)
        except (BuildError, ConfigError, SandboxError, OSError) as exc:
            raise BuildError(f"blueprint {blueprint!r}: {exc}") from exc

    # ---------------------------------------------------------------- what is known of an image

    def _record(self, kind: str, digest: str) -> Path:
        return self._store.folder(f"base/{kind}-{VERSION}-{digest}.json")

    def _known(self, kind: str, digest: str) -> Ground | None:
        try:
            said = json.loads(self._record(kind, digest).read_text())
        except FileNotFoundError:
            return None
        ground = Ground(
            layers=tuple(said["layers"]),
            setting=Setting(
                env=tuple((name, value) for name, value in said["env"]),
                workdir=said["workdir"],
                user=said["user"],
            ),
        )
        return ground if all(self._store.has(layer) for layer in ground.layers) else None

    def _remember(self, kind: str, digest: str, ground: Ground) -> None:
        path = self._record(kind, digest)
        setting = ground.setting
        made = self._owner_layers / fresh_name("r")
        told = {"layers": ground.layers, "env": setting.env}
        made.write_text(json.dumps({**told, "workdir": setting.workdir, "user": setting.user}))
        made.rename(path)

    # ---------------------------------------------------------------- making layers

    async def _make(self, base: Base, digest: str, blueprint: str) -> Ground:
        async with self._opened(base, digest) as folder:
            try:
                image = await asyncio.to_thread(read_image, folder)
            except ConfigError as exc:
                raise BuildError(f"base {base}: {exc}") from exc
            if base.kind == IMAGE and digest not in image.ids:
                raise BuildError(f"base {base}: the daemon saved another image than {digest}")
            layers = [await self._layer(base, folder, blob, blueprint) for blob in image.layers]
        if base.kind != IMAGE and await asyncio.to_thread(self._bases.digest_now, base) != digest:
            raise BuildError(
                f"base {base}: {base.path} does not hold sha256:{digest}; it has changed since the "
                "run was planned, or is another on this machine"
            )
        ground = await self._ground(image, tuple(layers), blueprint)
        self._remember(base.kind, digest, ground)
        return ground

    @asynccontextmanager
    async def _opened(self, base: Base, digest: str) -> AsyncIterator[Path]:
        """A folder with the image, whatever it came as."""
        path = Path(base.path)
        if base.kind != IMAGE and await asyncio.to_thread(path.is_dir):
            yield path
            return
        made = self._owner_layers / fresh_name("i")
        try:
            await shielded(asyncio.to_thread(made.mkdir, 0o700))
            if base.kind == IMAGE:
                path = made / "image.tar"
                await shielded(asyncio.to_thread(save_image, f"sha256:{digest}", path))
            folder = made / "image"
            folder.mkdir(mode=0o755)
            with path.open("rb") as archive:
                await unpack_archive(archive, folder, named=str(base))
            yield folder
        finally:
            await shielded(asyncio.to_thread(remove_tree, made))

    async def _layer(self, base: Base, folder: Path, blob: Blob, blueprint: str) -> str:
        async def fill(root: Path) -> None:
            await asyncio.to_thread(root.mkdir, 0o755)
            with opened(folder, blob.name) as archive:
                named = f"base {base}, layer sha256:{blob.diff_id[:12]}"
                if blob.digest and await asyncio.to_thread(_sha256, archive) != blob.digest:
                    raise BuildError(f"{named}: {blob.name} is not what its name says")
                await unpack_archive(archive, root, "layer", blob.diff_id, named=named)

        name = f"base/layer-{VERSION}-{blob.diff_id}"
        await self._bases.make_once(name, blueprint, fill)
        return name

    async def _ground(self, image: OciImage, layers: tuple[str, ...], blueprint: str) -> Ground:
        below = Layered(self._store.stacks(layers).root)
        workdir = image.setting.workdir

        async def fill(root: Path) -> None:
            await asyncio.to_thread(supply_over, root, below, workdir)

        name = f"base/supply-{VERSION}-{digest_of([layers, workdir])[:32]}"
        await self._bases.make_once(name, blueprint, fill)
        return Ground(layers=(*layers, name), setting=image.setting)


def _sha256(file: IO[bytes]) -> str:
    digest = hashlib.sha256()
    while piece := file.read(_CHUNK_BYTES):
        digest.update(piece)
    file.seek(0)
    return digest.hexdigest()
