"""The native engine as an ordinary user: what stands in for control groups and ranges of uids.

The launcher is root of a user namespace of its own, with one id in it. So a sandbox has one user,
its root, who is the user that runs the engine; files of the host show as nobody's. Nothing limits
memory or cpu, and processes are limited by RLIMIT_NPROC, which the kernel counts for each user
namespace, of which each sandbox has one. Who holds still, does so by SIGSTOP.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rollout.errors import SandboxError
from rollout.sandbox.cgroups import CgroupPlan, Cgroups, Hierarchies
from rollout.sandbox.controllers import Use, read_text
from rollout.sandbox.launcher import Launcher
from rollout.types import Resources

NOWHERE = Path("/nonexistent")
LIMITS_OF_USER = frozenset({"pids"})
CAP_SYS_ADMIN = 1 << 21


def is_ordinary_user() -> bool:
    return os.geteuid() != 0


def may_make_namespaces() -> bool:
    """Whether nothing that can be read speaks against it: root without its capabilities, as in a
    container, or a machine that gives users no namespaces."""
    if not is_ordinary_user():
        words = read_text("/proc/self/status").split()
        return bool(int(words[words.index("CapEff:") + 1], 16) & CAP_SYS_ADMIN)
    most = read_text("/proc/sys/user/max_user_namespaces").strip() or "1"
    held_back = read_text("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").strip() == "1"
    return most != "0" and not held_back


def folder_of_user(root_dir: str, usual: str) -> Path:
    """`root_dir`, or instead of the usual one, which only root can write, the user's own.

    SandboxError for a user without a home.
    """
    if root_dir != usual or not is_ordinary_user():
        return Path(root_dir).absolute()
    try:
        data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share"
    except RuntimeError as exc:
        raise SandboxError(f"user {os.geteuid()} has no home: set HOME or engine.root_dir") from exc
    return Path(data, "rollout").absolute()


class NoHierarchies(Hierarchies):
    """An ordinary user has no control groups; processes end with their launcher."""

    def __init__(self) -> None:
        super().__init__(NOWHERE, {})

    @property
    def mount_points(self) -> tuple[Path, ...]:
        return ()

    def owners(self) -> frozenset[str]:
        return frozenset()

    def end_owner(self, owner: str) -> None:
        return


class OneId:
    """In place of `Slots`: every sandbox has the same id, that of the user."""

    def take(self, wanted: int | None = None) -> int:
        return 0

    def give(self, uid: int) -> None:
        return

    def close(self) -> None:
        return


@dataclass(frozen=True, slots=True)
class ProcessLimit:
    """RLIMIT_NPROC. The kernel counts neither how often it was met nor what is used of it."""

    processes: int

    name = told = "pids"

    def reason(self) -> str:
        return ""

    def use(self) -> Use | None:
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class StopPlan(CgroupPlan):
    """Holds a sandbox still by signals that its launcher sends."""

    signal: Callable[[bool], "asyncio.Future[None]"]
    signaled: list["asyncio.Future[None]"]

    def freeze(self, frozen: bool) -> None:
        self.signaled[:] = [self.signal(frozen)]

    @property
    def frozen(self) -> bool:
        return bool(self.signaled) and self.signaled[0].done()

    def kill(self) -> None:
        return

    def held_bytes(self, files_bytes: int, *, closer: bool = False) -> int:
        return 0

    @property
    def directories(self) -> tuple[Path, ...]:
        return ()


class NoCgroups(Cgroups):
    """Makes such plans; `launcher` gives the one that runs now."""

    def __init__(self, launcher: Callable[[], Launcher | None]) -> None:
        super().__init__(NoHierarchies(), "")
        self._launcher = launcher

    def prepare(self) -> None:
        return

    @property
    def limits(self) -> frozenset[str]:
        return LIMITS_OF_USER

    def adopt(self, pid: int) -> None:
        return

    def plan(self, sandbox: str, resources: Resources) -> CgroupPlan:
        launcher = self._launcher()
        assert launcher is not None
        pids = resources.pids
        return StopPlan(
            v2=NOWHERE,
            limits=(ProcessLimit(pids),) if pids is not None else (),
            signal=lambda frozen: launcher.hold(sandbox, frozen),
            process_limit=0 if pids is None else pids + 1,
            signaled=[],
        )
