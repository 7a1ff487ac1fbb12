"""Makes and ends sandboxes that live in this Python process."""

import secrets
from functools import partial
from pathlib import Path

from rollout.errors import BuildError, SandboxError, TreeRefused
from rollout.sandbox.base import Image, Objects, SandboxSpec
from rollout.sandbox.bases import HOST, HOST_FROZEN
from rollout.sandbox.lineage import fork
from rollout.sandbox.memory.base_image import base_tree
from rollout.sandbox.memory.files import FileSystem, Folder
from rollout.sandbox.memory.sandbox import LIMITS, MemorySandbox
from rollout.sandbox.memory.workspace import changes, keep_only
from rollout.sandbox.steps import apply_steps, changes_files, image_settings
from rollout.types import Blueprint, Changes, Workspace

BASES = frozenset({HOST, HOST_FROZEN})
"""The host of this engine is made up and never changes, so frozen is what it is."""
NOTHING_KEPT = "the memory engine keeps no end states; engine=native does"


class MemoryEngine:
    """All images are trees held here; they are gone with this object."""

    def __init__(self, *, objects: Objects | None = None) -> None:
        self._owner = secrets.token_hex(4)
        self._objects = objects
        self._trees: dict[str, Folder] = {}
        self._built: dict[str, Image] = {}
        self._live: dict[str, MemorySandbox] = {}
        self._made = 0
        self._running = False

    @property
    def name(self) -> str:
        return "memory"

    @property
    def bases(self) -> frozenset[str]:
        return BASES

    @property
    def limits(self) -> frozenset[str]:
        return LIMITS

    @property
    def unusable(self) -> str:
        return ""

    @property
    def features(self) -> frozenset[str]:
        return frozenset({"users"})

    async def start(self) -> None:
        self._running = True

    async def build(self, blueprint: Blueprint) -> Image:
        self._check_running()
        image = self._built.get(blueprint.image_digest)
        return image or await self._build(blueprint)

    async def _build(self, blueprint: Blueprint) -> Image:
        if blueprint.base not in self.bases:
            raise BuildError(
                f"blueprint {blueprint.name!r}: the memory engine has no base {blueprint.base!r}; "
                f"it has {', '.join(sorted(BASES))}"
            )
        env, workdir, user = image_settings(blueprint)
        digest = blueprint.image_digest
        root = base_tree()
        if any(changes_files(step) for step in blueprint.steps):
            root = await self._with_steps(root, blueprint)
        image = Image(
            engine=self.name, digest=digest, layers=(digest,), env=env, workdir=workdir, user=user
        )
        self._trees[digest] = root
        return self._built.setdefault(digest, image)

    async def _with_steps(self, root: Folder, blueprint: Blueprint) -> Folder:
        bare = SandboxSpec(image=Image(engine=self.name, digest="build"))
        sandbox = self._open(bare, root)
        try:
            await apply_steps(sandbox, blueprint, objects=self._objects)
            return sandbox.copy_root()
        finally:
            await sandbox.close()

    async def create(self, spec: SandboxSpec) -> MemorySandbox:
        self._check_running()
        tree = self._tree_of(spec.image)
        if spec.network != "none":
            raise SandboxError(f"network {spec.network!r}: the memory engine has only 'none'")
        return self._open(spec, FileSystem(tree).copy_root())

    def _tree_of(self, image: Image) -> Folder:
        tree = self._trees.get(image.digest)
        if image.engine != self.name or tree is None:
            raise SandboxError(
                f"the memory engine {self._owner} does not hold image {image.digest[:12]} of "
                f"{image.engine}: it was discarded or made by another engine; build it again"
            )
        return tree

    def _open(self, spec: SandboxSpec, root: Folder) -> MemorySandbox:
        self._made += 1
        sandbox_id = f"memory-{self._owner}-{self._made}"
        sandbox = MemorySandbox(
            sandbox_id,
            spec,
            root,
            keep=self._keep,
            forget=self._forget,
            fork=partial(fork, self),
        )
        self._live[sandbox_id] = sandbox
        return sandbox

    def _keep(self, root: Folder, parent: Image) -> Image:
        """An image on a tree that a sandbox left; it starts processes as its parent does."""
        digest = secrets.token_hex(32)
        self._trees[digest] = root
        return Image(
            engine=self.name,
            digest=digest,
            layers=(digest,),
            env=parent.env,
            workdir=parent.workdir,
            user=parent.user,
        )

    def _forget(self, sandbox: MemorySandbox) -> None:
        self._live.pop(sandbox.id, None)

    async def discard(self, image: Image) -> None:
        if image.digest not in self._built:
            self._trees.pop(image.digest, None)

    async def changes(self, image: Image, below: Image, workspace: Workspace) -> Changes:
        return changes(self._tree_of(image), self._tree_of(below), workspace)

    async def keep_only(self, image: Image, below: Image, workspace: Workspace) -> Image:
        tree = keep_only(self._tree_of(image), self._tree_of(below), workspace)
        return self._keep(tree, image)

    async def export_state(self, image: Image, *, limit_bytes: int, timeout_s: float) -> Path:
        raise TreeRefused(NOTHING_KEPT)

    async def restore_state(self, below: Image, state: Path, *, limit_bytes: int) -> Image:
        raise TreeRefused(NOTHING_KEPT)

    async def close(self) -> None:
        self._running = False
        for sandbox in list(self._live.values()):
            await sandbox.close()
        self._trees.clear()
        self._built.clear()

    def _check_running(self) -> None:
        if not self._running:
            raise SandboxError(
                f"the memory engine {self._owner} is not running: start() it, and not after close()"
            )
