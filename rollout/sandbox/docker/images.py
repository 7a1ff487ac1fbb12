"""Images of the Docker engine: bases that the daemon has or is given, and what is built on them.

Whatever is made here stands in the daemon under a name with the hash of all that went into it, so
it is made once for all workers of the machine, whoever asks first.
"""

import asyncio
import logging
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from rollout.aio import shielded
from rollout.errors import BuildError, ConfigError, SandboxError
from rollout.sandbox.base import Image, Objects
from rollout.sandbox.bases import DEBIAN, IMAGE, OCI, ROOTFS, Base, parse_base
from rollout.sandbox.builder import flat, series
from rollout.sandbox.debian import DebianLayers
from rollout.sandbox.docker.build_steps import Engine, Segment, make_segment
from rollout.sandbox.docker.calls import Calls
from rollout.sandbox.docker.container import absent_of
from rollout.sandbox.docker.daemon import LONG_TIMEOUT_S, Daemon
from rollout.sandbox.docker.dockerfile import build_dockerfile
from rollout.sandbox.docker.layouts import pack_layout
from rollout.sandbox.images import ImageStore, building, fresh_name
from rollout.sandbox.oci import setting_of
from rollout.sandbox.owner import remove_tree
from rollout.sandbox.steps import Setting
from rollout.sandbox.survey import COVERED, source_digest
from rollout.sandbox.unpacking import unpack_archive
from rollout.types import Blueprint, digest_of

NAME = "docker"
VERSION = 1
"""Of how an image is made of its inputs; another number makes all of them anew."""
BASES = frozenset({DEBIAN, IMAGE, OCI, ROOTFS})
BASE_NAME = "rollout-base"
BUILT_NAME = "rollout-built"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Made:
    """An image in the daemon, and how its processes start."""

    id: str
    setting: Setting


class Images:
    """Of one engine, which does the steps."""

    def __init__(
        self,
        daemon: Daemon,
        calls: Calls,
        root_dir: Path,
        objects: Objects | None,
        engine: Engine,
        owner_layers: Path,
    ) -> None:
        """`owner_layers`: a folder that is swept with its owner."""
        self._daemon = daemon
        self._calls = calls
        self._root_dir = root_dir
        self._objects = objects
        self._engine = engine
        self._owner_layers = owner_layers
        self._debian = DebianLayers(ImageStore(root_dir), owner_layers)
        self._absent: dict[str, tuple[str, ...]] = {}
        self._depths: dict[str, int] = {}
        self._of_files: dict[str, Made] = {}
        """What Dockerfiles gave, by the digest of their blueprint."""

    async def build(self, blueprint: Blueprint) -> Image:
        """BuildError names the blueprint and what was wrong."""
        try:
            made = await self._made(blueprint)
        except (BuildError, ConfigError, SandboxError) as exc:
            named = f"blueprint {blueprint.name!r}"
            raise BuildError(f"{exc}" if named in str(exc) else f"{named}: {exc}") from exc
        setting = made.setting
        return Image(
            engine=NAME,
            digest=blueprint.image_digest,
            layers=(made.id,),
            env=setting.env,
            workdir=setting.workdir,
            user=setting.user,
        )

    def absent(self, image_id: str) -> tuple[str, ...]:
        """What this image is known to lack of the files that Docker puts everywhere."""
        return self._absent.get(image_id, ())

    def note(self, image_id: str, absent: tuple[str, ...]) -> None:
        self._absent[image_id] = absent

    async def depth(self, image_id: str) -> int:
        """How many layers it has."""
        if image_id not in self._depths:
            about = await self._calls.again(lambda: self._daemon.image(image_id, pull=False))
            self._depths[image_id] = len(about["RootFS"].get("Layers") or ())
        return self._depths[image_id]

    def stands_on(self, image_id: str, below: str) -> None:
        if below in self._depths:
            self._depths[image_id] = self._depths[below] + 1

    async def _made(self, blueprint: Blueprint) -> Made:
        if blueprint.dockerfile is not None:
            made = await self._of_dockerfile(blueprint)
        else:
            made = await self._base(parse_base(blueprint.base), blueprint.name)
        image_id, setting = made.id, made.setting
        for steps in series(flat(enumerate(blueprint.steps, start=1), setting)):
            below = Image(engine=NAME, digest=image_id, layers=(image_id,))
            image_id = await self._segment(Segment(blueprint, steps, below))
        for step in blueprint.steps:
            setting = setting.after(step)
        return Made(image_id, setting)

    # ---------------------------------------------------------------- bases

    async def _base(self, base: Base, blueprint: str) -> Made:
        if base.kind not in BASES:
            raise ConfigError(
                f"base {str(base)!r}: the docker engine has no {base.kind}, for it knows images "
                f"alone: {', '.join(sorted(BASES))}"
            )
        if base.kind == IMAGE:
            return self._of(await self._named(base))
        if base.kind == DEBIAN:
            layer = await self._debian.layer(base, blueprint)
            root = Base(kind=ROOTFS, path=str(self._root_dir / layer / "root"))
            return await self._taken(root, layer, blueprint)
        digest = await asyncio.to_thread(source_digest, base)
        if base.digest and base.digest != digest:
            raise ConfigError(
                f"base {base}: {base.path} holds sha256:{digest} now; it has changed since the run "
                "was planned, or is another on this machine"
            )
        return await self._taken(base, digest, blueprint)

    async def _taken(self, base: Base, content: str, blueprint: str) -> Made:
        """`content`: a fingerprint of what is to be taken."""
        name = f"{BASE_NAME}:{digest_of([VERSION, base.kind, content])[:40]}"
        if (found := await self._there(name)) is None:
            async with building(self._lock(name), blueprint):
                found = await self._there(name) or await self._take(base, name)
        return self._of(found)

    async def _named(self, base: Base) -> Mapping[str, Any]:
        """By name; with a fingerprint, that very image, whatever has the name by now."""
        if not base.digest:
            return await self._asked(lambda: self._daemon.image(base.path))
        wanted = f"sha256:{base.digest}"
        if found := await self._there(wanted):
            return found
        found = await self._asked(lambda: self._daemon.image(base.path))
        digests = {text.partition("@")[2] for text in found.get("RepoDigests") or ()}
        if wanted not in digests:
            raise BuildError(
                f"base {base}: the Docker daemon has {found['Id']} under this name; it has changed "
                "since the run was planned, or is another on this machine"
            )
        return found

    async def _take(self, base: Base, name: str) -> Mapping[str, Any]:
        path = Path(base.path)
        if base.kind == ROOTFS:
            return await self._asked(lambda: self._import(base, name))
        if await asyncio.to_thread(path.is_dir):
            return await self._asked(lambda: self._load_layout(path, name))
        try:
            return await self._asked(lambda: self._load(path, name))
        except BuildError as exc:
            log.info("%s is no archive as `docker save` writes it: %s", path, exc)
        folder = self._owner_layers / fresh_name("i")
        try:
            await shielded(asyncio.to_thread(folder.mkdir, 0o755))
            with await asyncio.to_thread(path.open, "rb") as archive:
                await unpack_archive(archive, folder, named=str(base))
            return await self._asked(lambda: self._load_layout(folder, name))
        finally:
            await shielded(asyncio.to_thread(remove_tree, folder))

    def _import(self, base: Base, name: str) -> Mapping[str, Any]:
        with opened(base) as archive:
            self._daemon.import_root(archive, name, {})
        return self._daemon.image(name, pull=False)

    def _load(self, path: Path, name: str) -> Mapping[str, Any]:
        with path.open("rb") as archive:
            self._daemon.tag(self._daemon.load(archive), name)
        return self._daemon.image(name, pull=False)

    def _load_layout(self, folder: Path, name: str) -> Mapping[str, Any]:
        with TemporaryFile(dir=self._owner_layers) as archive:
            pack_layout(folder, archive)
            self._daemon.tag(self._daemon.load(archive), name)
        return self._daemon.image(name, pull=False)

    async def _there(self, name: str) -> Mapping[str, Any] | None:
        try:
            return await self._calls.again(lambda: self._daemon.image(name, pull=False))
        except BuildError:
            return None

    async def _asked(self, call: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        return await self._calls.run(call, timeout_s=LONG_TIMEOUT_S)

    def _of(self, about: Mapping[str, Any]) -> Made:
        self.note(str(about["Id"]), absent_of(about))
        return Made(str(about["Id"]), setting_of(about.get("Config") or {}))

    # ---------------------------------------------------------------- steps

    async def _segment(self, segment: Segment) -> str:
        steps = [(each.step, each.setting if segment.runs else None) for each in segment.steps]
        below = segment.below.layers[-1]
        inputs = digest_of([VERSION, below, steps, segment.network])[:40]
        name = f"{BUILT_NAME}:{inputs}"
        if (found := await self._there(name)) is None:
            async with building(self._lock(name), segment.blueprint.name):
                found = await self._there(name)
                if found is None:
                    log = self._root_dir / "logs" / f"{inputs}.log"
                    return await make_segment(self._engine, segment, name, self._objects, log)
        return self._of(found).id

    async def _of_dockerfile(self, blueprint: Blueprint) -> Made:
        digest = blueprint.image_digest
        async with building(self._lock(digest), blueprint.name):
            if digest not in self._of_files:
                logs = self._root_dir / "logs"
                about = await build_dockerfile(self._daemon, self._calls, blueprint, logs)
                self._of_files[digest] = self._of(about)
        return self._of_files[digest]

    def _lock(self, name: str) -> Path:
        return self._root_dir / "images" / f"{name.replace(':', '-')}.lock"


@contextmanager
def opened(base: Base) -> Iterator[IO[bytes]]:
    """The archive of a root as it is, or a root folder as one. Blocks."""
    if Path(base.path).is_file():
        with Path(base.path).open("rb") as archive:
            yield archive
        return
    left_out = [f"--exclude=./{name}" for name in sorted(COVERED)]
    command = ["tar", "-C", base.path, "--one-file-system", "--numeric-owner", *left_out]
    with subprocess.Popen([*command, "-c", "."], stdout=subprocess.PIPE) as tar:
        assert tar.stdout is not None
        try:
            yield tar.stdout
        finally:
            tar.stdout.close()
            tar.kill()
        if tar.wait() not in (0, -9):
            raise BuildError(f"base {base}: tar ended with {tar.returncode}")
