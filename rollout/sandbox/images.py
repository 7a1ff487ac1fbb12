"""Layers on disk: the host base, built images and snapshots.

A layer is a folder with `root`, maybe `usr`, and `layer.json`. It never changes once it has its
name. Layers keep the ids they were written with; `layer.json` tells the first uid of that range.

The host base is a small generated skeleton for `/` (see skeleton.py) and the host's live /usr; a
kept base (see rootfs.py) is one layer that holds a whole root.
"""

import asyncio
import fcntl
import json
import os
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from rollout.aio import Deadline
from rollout.errors import BuildError, SandboxError
from rollout.sandbox.bases import HOST
from rollout.sandbox.flatten import merge
from rollout.sandbox.owner import owning, remove_tree
from rollout.sandbox.skeleton import Skeleton, make_folders_of
from rollout.sandbox.survey import COVERED

STACKS = 256
BUILD_WAIT_TIMEOUT_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """One layer and how its files are owned."""

    uid_base: int = 0
    live_usr: bool = False
    """The host's /usr stands below this layer's."""
    uppers: tuple[str, ...] = ()
    """Names of its folders of / and maybe /usr, where it is a subvolume that only the launcher
    sees; else they are `root` and `usr`."""


@dataclass(frozen=True, slots=True)
class Stacks:
    """What the two overlays of a sandbox stand on, topmost first: (first uid, folder)."""

    root: tuple[tuple[int, Path], ...]
    usr: tuple[tuple[int, Path], ...]
    top_uid: int
    """Of the topmost layer: a sandbox in the same range needs no mapping of ids."""
    fields: tuple[tuple[str, str], ...]
    """The same, as the launcher's request has it."""


class ImageStore:
    """Layers below one root folder. A layer's name is its folder, relative to that."""

    def __init__(self, root_dir: Path) -> None:
        self._root_dir = root_dir
        self._layers: dict[str, Layer] = {}
        self._stacks: dict[tuple[str, ...], Stacks] = {}
        """Of the images in use, since sandboxes come in numbers."""
        self._elsewhere: dict[str, Path] = {}
        """Where this process sees adopted layers."""

    def folder(self, name: str) -> Path:
        return self._root_dir / name

    def built(self, key: str) -> str:
        """The name under which a built image's layer is kept."""
        return f"images/{key}"

    def has(self, name: str) -> bool:
        return (self.folder(name) / "layer.json").exists()

    def stacks(self, names: tuple[str, ...]) -> Stacks:
        """SandboxError if a layer is gone that was not asked for before."""
        if names not in self._stacks:
            if len(self._stacks) >= STACKS:
                self._stacks.clear()
            self._stacks[names] = self._stack(names, {})
        return self._stacks[names]

    def stacks_here(self, names: tuple[str, ...]) -> Stacks:
        """As this process finds the layers, not as the launcher does."""
        return self._stack(names, self._elsewhere)

    def _stack(self, names: tuple[str, ...], seen: Mapping[str, Path]) -> Stacks:
        root: list[tuple[int, Path]] = []
        usr: list[tuple[int, Path]] = []
        layers = [(seen.get(name, self.folder(name)), self.layer(name)) for name in reversed(names)]
        for folder, layer in layers:
            uppers = layer.uppers or ("root", *(("usr",) if (folder / "usr").is_dir() else ()))
            root.append((layer.uid_base, folder / uppers[0]))
            usr += [(layer.uid_base, folder / part) for part in uppers[1:]]
            if layer.live_usr:
                usr.append((0, Path("/usr")))
        fields = [("root", f"{first}:{path}") for first, path in root]
        fields += [("usr", f"{first}:{path}") for first, path in usr]
        return Stacks(tuple(root), tuple(usr), layers[0][1].uid_base, tuple(fields))

    def parts(self, name: str, place: Path) -> tuple[dict[str, Path], int]:
        """The layer's own folders, `root` and maybe `usr`, and the first uid of their owners.

        `place`: where the host finds the layer.
        """
        layer = self.layer(name)
        uppers = zip(("root", "usr"), layer.uppers or ("root", "usr"), strict=False)
        folders = {part: place / upper for part, upper in uppers}
        return {part: path for part, path in folders.items() if path.is_dir()}, layer.uid_base

    def layer(self, name: str) -> Layer:
        """How its files are owned and what its folders are called; SandboxError if it is gone."""
        if name not in self._layers:
            try:
                text = (self.folder(name) / "layer.json").read_text()
            except FileNotFoundError as exc:
                raise SandboxError(
                    f"layer {name} is gone from {self._root_dir}: build the image again"
                ) from exc
            self._layers[name] = Layer(**json.loads(text))
        return self._layers[name]

    def seal(self, folder: Path, layer: Layer) -> None:
        """Make a folder with `root` a layer: the last thing before it gets its name."""
        (folder / "layer.json").write_text(json.dumps(asdict(layer)))

    def _seen(self, name: str) -> dict[str, Path]:
        """Where this process sees `root` and maybe `usr` of a layer."""
        folder, names = self._elsewhere.get(name, self.folder(name)), self.layer(name).uppers
        parts = zip(("root", "usr"), names or ("root", "usr"), strict=False)
        return {part: folder / upper for part, upper in parts if (folder / upper).is_dir()}

    def adopt(self, name: str, layer: Layer, seen_at: Path) -> None:
        """Remember a layer that this process sees elsewhere than the launcher does."""
        self._layers[name] = layer
        self._stacks.clear()
        self._elsewhere[name] = seen_at

    def forget(self, prefix: str) -> None:
        """No longer remember the adopted layers whose names begin so."""
        for name in [name for name in self._elsewhere if name.startswith(prefix)]:
            del self._layers[name], self._elsewhere[name]

    def keep(self, name: str, target: str) -> None:
        """Give a layer another name; the first to do so wins."""
        self.publish(self.folder(name), target)
        self._layers.pop(name, None)
        self._stacks.clear()

    def publish(self, sealed: Path, target: str) -> None:
        """Give a sealed folder its name; it is gone from where it was, whoever came first."""
        self.folder(target).parent.mkdir(mode=0o700, exist_ok=True)
        try:
            sealed.rename(self.folder(target))
        except OSError:
            if not self.has(target):
                raise
            remove_tree(sealed)

    def drop(self, name: str) -> None:
        self._layers.pop(name, None)
        self._stacks.clear()
        remove_tree(self.folder(name))

    def merge(self, chain: tuple[str, ...], view: Path, uid_base: int, name: str) -> None:
        """Make the layer `name` of all but the lowest of `chain`, which `view` shows. Blocks."""
        base, above = self.layer(chain[0]), [self._seen(each) for each in reversed(chain[1:])]
        made = self.folder(name)
        made.mkdir(mode=0o700)
        try:
            for part in ("root", "usr") if base.live_usr else ("root",):
                is_root = part == "root"
                merge(
                    view if is_root else view / "usr",
                    [parts[part] for parts in above if part in parts],
                    self.folder(chain[0]) / "root" if is_root else Path("/usr"),
                    made / part,
                    skip=COVERED | ({"usr"} if base.live_usr else set())
                    if is_root
                    else frozenset(),
                )
            self.seal(made, Layer(uid_base=uid_base))
        except BaseException:
            remove_tree(made)
            raise

    def host_base(self, scratch: Path) -> str:
        """The host's layer, generated where it is missing or the host has changed. Blocks.

        It is made below `scratch`, which is swept when its owner dies.
        """
        skeleton = Skeleton()
        name = f"base/{HOST}-{skeleton.digest[:16]}"
        if self.has(name):
            return name
        made = scratch / fresh_name("base-")
        made.mkdir(mode=0o755)
        try:
            skeleton.write(made / "root")
            if os.geteuid() != 0:
                make_folders_of(Path("/usr"), made / "usr")
            self.seal(made, Layer(live_usr=True))
            self.publish(made, name)
        finally:
            remove_tree(made)
        return name


def fresh_name(prefix: str) -> str:
    return f"{prefix}{uuid.uuid4().hex[:12]}"


def _who_holds(source: Path) -> int:
    """The launcher through whose descriptor the host finds a tmpfs; 0 for a folder on disk."""
    return int(source.parts[2]) if source.is_relative_to("/proc") else 0


async def take_upper(source: Path, target: Path, *, copy: bool) -> None:
    """Move an ended sandbox's upper folder, or copy a frozen one: owners, xattrs, whiteouts."""
    if not copy:
        try:
            await asyncio.to_thread(source.rename, target)
        except OSError:
            await _copy(source, target, "--reflink=auto")
        return
    await _copy(source, target, "--reflink=auto")


async def link_upper(source: Path, target: Path) -> None:
    """A second set of folders over the same files, none of which may ever be changed in place."""
    try:
        await _copy(source, target, "--link")
    except SandboxError:  # such as for a file that has as many names as it can
        await asyncio.to_thread(remove_tree, target)
        await _copy(source, target, "--reflink=auto")


async def _copy(source: Path, target: Path, how: str) -> None:
    command = ("cp", "-a", how, "-T", "--", str(source), str(target))
    process = await asyncio.create_subprocess_exec(
        *owning(command, of=_who_holds(source)),
        stdin=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        _, errors = await process.communicate()
    except asyncio.CancelledError:
        with suppress(ProcessLookupError):  # it may have ended by itself
            process.kill()
        await process.wait()
        raise
    if process.returncode:
        raise SandboxError(f"cannot copy {source}: {errors[-500:].decode(errors='replace')}")


@asynccontextmanager
async def building(path: Path, blueprint: str) -> AsyncIterator[None]:
    """Held by one builder of this image among all processes of the machine."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    deadline = Deadline.after(BUILD_WAIT_TIMEOUT_S)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if deadline.passed:
                    raise BuildError(
                        f"blueprint {blueprint!r}: another process has been building it for "
                        f"{BUILD_WAIT_TIMEOUT_S:g} s (lock {path})"
                    ) from None
                await asyncio.sleep(0.02)
        yield
    finally:
        os.close(handle)
