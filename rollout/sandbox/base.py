"""What every engine and every sandbox can do. The suite in tests/sandbox holds all engines to it.

An engine makes and ends sandboxes on one node; everything inside one goes through its init.
Every byte that comes back is hostile: bounded, typed, never followed as a path of the host.
"""

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from rollout.types import (
    Blueprint,
    BuildStep,
    Changes,
    Resources,
    Tree,
    Workspace,
    digest_of,
)

OUTPUT_LIMIT_BYTES = 1 << 20
"""Default cap of stdout and of stderr, each."""
FILE_LIMIT_BYTES = 64 << 20
"""Default cap of one file read."""
TREE_LIMIT_BYTES = 256 << 20
TREE_LIMIT_ENTRIES = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecResult:
    """How one process ended. 126/127: not executable / not found; 128+n: killed by signal n."""

    exit_code: int
    stdout: bytes = b""
    stderr: bytes = b""
    truncated: bool = False
    """Output went past the cap; the rest was read and dropped."""
    timed_out: bool = False
    duration_s: float = 0.0

    @property
    def ok(self) -> bool:
        return self.exit_code == 0 and not self.timed_out


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """What an engine makes of a blueprint: immutable, by digest, private to its engine."""

    engine: str
    digest: str
    layers: tuple[str, ...] = ()
    """The engine's own names of its layers, lowest first."""
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = "/"
    user: str = "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class SandboxSpec:
    """Everything that shapes a sandbox: two are interchangeable only if all of it agrees."""

    image: Image
    env: tuple[tuple[str, str], ...] = ()
    workdir: str = ""
    user: str = ""
    resources: Resources = Resources()
    network: str = "none"
    """`none | allowlist | public`: what a proxy on the host's side may let through, where somebody
    opens one (egress/access.py). To an engine they are the same, a network with nothing but its own
    loopback. `host` only while an image is built."""
    allowed_hosts: tuple[str, ...] = ()
    """What that proxy lets through: see egress/rules.py."""
    sudo: bool = False
    launch: tuple[BuildStep, ...] = ()
    """Done by `launching.launch` in each new sandbox, before anybody gets it."""
    ready: str = ""

    @property
    def fingerprint(self) -> str:
        """Over *every* field, so that a new one can never be forgotten."""
        return digest_of({f.name: getattr(self, f.name) for f in fields(self)})

    @classmethod
    def for_blueprint(cls, image: Image, blueprint: Blueprint) -> "SandboxSpec":
        return cls(
            image=image,
            env=blueprint.env,
            workdir=blueprint.workdir,
            user=blueprint.user,
            resources=blueprint.resources,
            network=blueprint.network,
            allowed_hosts=blueprint.allowed_hosts,
            sudo=blueprint.sudo,
            launch=blueprint.launch,
            ready=blueprint.ready,
        )


ALERT_LEVELS = (90, 80)
"""Percent of a limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceAlert:
    """A sandbox came near one of its limits. Each level of each is told once: the higher of the
    two where both were passed since the last look."""

    at: datetime
    resource: str
    """Of `cpu memory pids disk`."""
    level: int
    """One of `ALERT_LEVELS`."""
    detail: str
    """How much is used of how much, in words."""


class Objects(Protocol):
    """Where engines find what is too large to travel in a blueprint, and share what they built."""

    async def tree(self, object_id: str) -> Tree:
        """A stored tar, unpacked and checked, or a blob as a tree of one entry named `blob`.

        BuildError when it is missing, when its content is not what the id says, or when a tar
        holds what TreeRefused is for.
        """

    async def fetch(self, name: str, target: Path) -> bool:
        """Write the shared file `name` to `target`; False when nobody has shared it yet."""

    async def share(self, name: str, source: Path) -> None:
        """Keep a file for other nodes; the first to share a name wins. StoreError if it cannot."""

    async def save(self, object_id: str, target: Path) -> None:
        """Write the bytes of an object to a new file; BuildError as of `tree`."""

    async def made(self, name: str) -> str | None:
        """The id of the object that was kept under `name`, by whatever node."""

    async def keep(self, name: str, tree: Tree) -> str:
        """Make an object of a tree and keep it under `name`; its id, or that of who came first."""


class Process(Protocol):
    """A live process: iterate it for `("stdout" | "stderr", bytes)`, then ask `wait`.

    What is not taken is held up to 1 MiB; then its pipes are no longer read, and it waits. Leaving
    the `async with` block, or `close`, hangs up: the process group is killed if it still runs.
    """

    @property
    def pid(self) -> int:
        """Its number inside the sandbox."""

    async def __aenter__(self) -> Self: ...

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    async def write_stdin(self, data: bytes) -> None:
        """Send `data`, waiting while the process does not read. Dropped once it has ended."""

    async def close_stdin(self) -> None:
        """The end of its input; on a terminal, what ^D does."""

    async def resize(self, rows: int, cols: int) -> None:
        """Tell a process with a terminal the new size of its window; else nothing happens."""

    async def signal(self, number: int) -> None:
        """Send a signal to its process group; nothing happens once it has ended."""

    def __aiter__(self) -> Self: ...

    async def __anext__(self) -> tuple[str, bytes]: ...

    async def wait(self) -> ExecResult:
        """Wait for its end. The result holds what was not iterated, up to 1 MiB a stream."""

    def close(self) -> None:
        """Hang up; idempotent."""


class Sandbox(Protocol):
    """A live isolated computer. Any call may raise SandboxLost; none may hang past its deadline.

    While it is suspended, all that needs it to run is refused at once; `snapshot`, `fork`,
    `end_as_image`, `limits_hit` and `close` work.
    """

    @property
    def id(self) -> str:
        """Unique on this node among all sandboxes of all owners."""

    @property
    def spec(self) -> SandboxSpec: ...

    @property
    def limits_enforced(self) -> tuple[str, ...]:
        """Which of `cpu memory pids disk` hold in this sandbox, of those asked for.

        `memory (group)` where it holds for a group of sandboxes and for each single process.
        """

    @property
    def alerts(self) -> tuple[ResourceAlert, ...]:
        """Told so far, oldest first."""

    def set_env(self, env: Mapping[str, str]) -> None:
        """Variables of all processes that start from now on: over the sandbox's own, below those of
        a call, and in place of what was set here before. Copies of the sandbox do not have them."""

    async def exec(
        self,
        argv: Sequence[str | bytes],
        *,
        stdin: bytes = b"",
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        timeout_s: float = 60.0,
        output_limit_bytes: int = OUTPUT_LIMIT_BYTES,
    ) -> ExecResult:
        """Run one process to the end of that process (not of its background children).

        Bytes of `argv` that are no UTF-8 are given as `bytes` or as surrogate escapes. `env` is
        laid over the sandbox's own; empty `cwd` and `user` mean the sandbox's own. A missing
        program is exit code 127, a missing `cwd` or user is a SandboxError. On timeout and on
        cancellation the process group is killed; after a normal exit background children live on.
        """

    async def start(
        self,
        argv: Sequence[str | bytes],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str = "",
        user: str = "",
        pty: bool = False,
        rows: int = 24,
        cols: int = 80,
        timeout_s: float = 3600.0,
        output_limit_bytes: int | None = None,
    ) -> Process:
        """Start a process to talk to, otherwise as `exec`; returns once it runs.

        With `pty` it gets a terminal of `rows` by `cols`, and all its output is `stdout`; an
        engine without the feature `pty` raises SandboxError. `None`: no output cap.
        """

    async def listen(self, port: int) -> socket.socket:
        """A socket that listens on the sandbox's 127.0.0.1:`port`; accept on it from here.

        0 is any free port. Non-blocking and the caller's to close; it ends with the sandbox.
        SandboxError if the port is taken, or if the engine lacks the feature `ports`.
        """

    async def connect(self, port: int) -> socket.socket:
        """A socket connected to the sandbox's 127.0.0.1:`port`, otherwise as `listen`."""

    async def read_file(self, path: str, *, limit_bytes: int = FILE_LIMIT_BYTES) -> bytes:
        """The whole regular file; FileNotFoundError if none, SandboxError if longer or no file."""

    async def write_file(
        self, path: str, data: bytes, *, mode: int = 0o644, user: str = ""
    ) -> None:
        """Write a whole file, making missing folders. Owned by `user`, else root."""

    async def put_tree(self, tree: Tree, dest: str, *, owner: str = "") -> None:
        """Lay `tree` over the absolute folder `dest`, made if missing; `owner`: `user[:group]`."""

    async def get_tree(
        self,
        path: str,
        *,
        limit_bytes: int = TREE_LIMIT_BYTES,
        limit_entries: int = TREE_LIMIT_ENTRIES,
    ) -> Tree:
        """The folder's files, folders and inner links; a plain file gives a tree of one entry.

        FileNotFoundError if nothing is there. TreeRefused for absolute names, `..`, links that
        leave the tree, devices, fifos, sockets, or more than the limits.
        """

    async def remove(self, path: str) -> None:
        """Remove file or folder with all below it, following no link; fine if missing."""

    async def kill_all(self) -> None:
        """End every process but init."""

    async def limits_hit(self) -> tuple[str, ...]:
        """Which of `memory pids disk` were run into so far, as the kernel counted."""

    @property
    def out_of_memory(self) -> bool:
        """Whether what ran in it took its whole memory limit and ended all of it: OutOfMemory."""

    async def limit_reasons(self) -> Mapping[str, str]:
        """For each of `limits_hit`, in words: what was counted, the limit, how much is used.

        It may be asked of a sandbox that is lost, too.
        """

    async def snapshot(self) -> Image:
        """The file system as it stands, as an image; the sandbox goes on."""

    async def fork(self, count: int) -> "list[Sandbox]":
        """`count` new sandboxes of the same spec with this one's files; this one goes on.

        Processes are not copied. Either all are made or none. The files they share are removed
        when nobody stands on them any more, in whatever order parents and children are closed.
        """

    async def suspend(self) -> None:
        """Stop all its processes where they are, until `resume`; idempotent.

        Calls that are under way end at their deadline at the latest; new ones are refused.
        """

    async def resume(self) -> None:
        """Let its processes go on; idempotent."""

    async def end_as_image(self) -> Image:
        """End the sandbox and keep its file system as an image, without copying it.

        Of one that is OutOfMemory, too; any other that is lost has no state to be trusted.
        """

    async def close(self) -> None:
        """End the sandbox and everything of it; idempotent, bounded, never raises SandboxError."""


class Engine(Protocol):
    """Makes and ends sandboxes on this node, all of them owned by this one object."""

    @property
    def name(self) -> str: ...

    @property
    def bases(self) -> frozenset[str]:
        """Which of the kinds in `bases.py` its sandboxes can stand on."""

    @property
    def limits(self) -> frozenset[str]:
        """Which of `cpu memory pids disk` this engine can enforce on this machine.

        Before `start` only as far as can be seen without making anything.
        """

    @property
    def unusable(self) -> str:
        """Why it cannot run on this machine, as far as can be seen without making anything."""

    @property
    def features(self) -> frozenset[str]:
        """Which of `pty ports programs users states` its sandboxes have; `programs`: real ones, on
        a kernel; `users`: more than their root; `states`: what they wrote can be exported and
        restored; `dockerfile`: images can be built of a whole Dockerfile, whatever it says."""

    async def start(self) -> None:
        """Take ownership, sweep what dead owners left, make ready to create."""

    async def build(self, blueprint: Blueprint) -> Image:
        """The image of `blueprint`; immediate when already there. BuildError names the step."""

    async def create(self, spec: SandboxSpec) -> Sandbox:
        """A ready sandbox: its init has answered."""

    async def discard(self, image: Image) -> None:
        """Drop an image made by `snapshot` or `end_as_image`: no more sandboxes are made of it.

        Those that stand on it live on, and its files go with the last of them.
        """

    async def changes(self, image: Image, below: Image, workspace: Workspace) -> Changes:
        """What the sandbox that left `image`, and stood on `below`, wrote outside of the workspace.

        Told by the host's own look at its files: nothing inside can keep a name out of it.
        """

    async def keep_only(self, image: Image, below: Image, workspace: Workspace) -> Image:
        """A new image: of what that sandbox wrote the workspace alone, all else as `below` has it.

        `image` stays; both are the caller's to discard.
        """

    async def export_state(self, image: Image, *, limit_bytes: int, timeout_s: float) -> Path:
        """What the sandbox wrote that left `image`, as a file that is the caller's to remove.

        TreeRefused if that is more than `limit_bytes` or takes longer than `timeout_s`, or if the
        engine lacks the feature `states`.
        """

    async def restore_state(self, below: Image, state: Path, *, limit_bytes: int) -> Image:
        """An image of `below` and an exported file above it; `discard` drops it. TreeRefused."""

    async def close(self) -> None:
        """End every sandbox and give up ownership; idempotent."""
