"""Limits of the machine against the number of sandboxes that are to live on it at once.

What the kernel counts for each sandbox alone, such as `fs.mount-max`, is not among them.
"""

import os
import resource
import shutil
from collections.abc import Iterator
from pathlib import Path

from rollout.config import EngineConf
from rollout.doctor.base import Finding, Level, Wishes, ok, warn
from rollout.doctor.kernel import existing
from rollout.sandbox.unprivileged import is_ordinary_user
from rollout.sandbox.volume import mkfs_program

PIDS_EACH = 8
"""Processes of a busy sandbox: its init, a shell, a tool with some children."""
INOTIFY_EACH = 64
"""What the engine allows to each sandbox, and the host counts for each range of uids alone."""
WATCHES_EACH = 8_192
"""Files and folders that its programs watch; what the kernel once gave every user."""
FILES_EACH = 128
"""Open in all its processes."""
MEMORY_KB_EACH = 370
"""Of the kernel's and of its init, without limits; measured with 6,000 alive."""
GROUP_KB = 22
"""Of the kernel's, for a memory control group, before it counts file systems."""
GROUP_BYTES_FOR_FILE_SYSTEM = 16
"""In each such group for each file system mounted on the machine; measured as 520 for 64 bits."""
FILE_SYSTEMS_EACH = 5
"""Two overlays, /proc, /dev/pts and the message queues."""
GROUPS_ALONE = 2_000
"""Beyond so many sandboxes `engine.memory_cgroups=auto` shares a group between several."""
DESCRIPTORS_EACH = 4
"""Connections and pidfds that a worker may hold for a sandbox at work."""
DISK_MB_EACH = 16
DISK_FREE_MB = 2_048
PID_MAX = 4_194_304
NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts", "cgroup")
SLACK = 1_024

_SYS = Path("/proc/sys")


def check(wishes: Wishes) -> Iterator[Finding]:
    n = wishes.sandboxes
    yield _knob("kernel/pid_max", n * PIDS_EACH + SLACK, PID_MAX, n)
    yield _knob("kernel/threads-max", n * PIDS_EACH + SLACK, PID_MAX, n)
    yield _knob("fs/file-max", n * FILES_EACH, 2 * n * FILES_EACH, n)
    yield _knob("kernel/pty/max", n + _kept_terminals(), 2 * n + _kept_terminals(), n)
    yield from _inotify(n)
    yield from _namespaces(n)
    yield _descriptors(n)
    if is_ordinary_user():
        yield _processes(n)
    yield _memory(n)
    yield _disk(wishes)
    yield _disk_limits()


def _knob(path: str, needed: int, better: int, n: int) -> Finding:
    """A sysctl that must be at least what `n` sandboxes need."""
    name = path.replace("/", ".")
    try:
        value = int((_SYS / path).read_text())
    except (OSError, ValueError) as exc:
        return warn(name, f"cannot be read: {exc}", "mount /proc, or look on the host")
    seen = f"{value:,}, and {n:,} sandboxes may need {needed:,}"
    if value >= needed:
        return ok(name, seen)
    return warn(name, seen, f"`sysctl -w {name}={max(better, needed)}`")


def _kept_terminals() -> int:
    """Every sandbox has a /dev/pts of its own, but the kernel counts all, and keeps some back."""
    try:
        return int((_SYS / "kernel/pty/reserve").read_text())
    except (OSError, ValueError):
        return SLACK


def _inotify(n: int) -> Iterator[Finding]:
    """Counted for each range of uids alone; an ordinary user's sandboxes all share the user's."""
    instances, watches = INOTIFY_EACH, WATCHES_EACH
    if is_ordinary_user():
        instances, watches = max(n, instances), max(n * INOTIFY_EACH, watches)
    yield _knob("fs/inotify/max_user_instances", instances, 2 * instances, n)
    yield _knob("fs/inotify/max_user_watches", watches, 2 * watches, n)


def _namespaces(n: int) -> Iterator[Finding]:
    """One line for all kinds, unless some are too few."""
    needed, better = n + SLACK, 2 * n + SLACK
    found = [_knob(f"user/max_{kind}_namespaces", needed, better, n) for kind in NAMESPACES]
    short = [finding for finding in found if finding.level is not Level.OK]
    yield from short or [ok("user.max_*_namespaces", f"each at least {n + SLACK:,}")]


def _descriptors(n: int) -> Finding:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = min(n * DESCRIPTORS_EACH + SLACK, 20_000)
    seen = f"soft {_count(soft)}, hard {_count(hard)}, and {n:,} sandboxes may need {needed:,}"
    if _enough(hard, needed):
        return ok("open files", seen)
    change = f"raise the hard limit: `ulimit -Hn {needed}` as root, or LimitNOFILE={needed}"
    return warn("open files", seen, change)


def _processes(n: int) -> Finding:
    """Those in the sandboxes of an ordinary user count as the user's own."""
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    needed = n * PIDS_EACH + SLACK
    seen = f"hard {_count(hard)}, and {n:,} sandboxes may need {needed:,}"
    if _enough(hard, needed):
        return ok("user's processes", seen)
    change = f"`ulimit -Hu {needed}` as root before it becomes this user, or in limits.conf"
    return warn("user's processes", seen, change)


def _memory(n: int, meminfo: Path = Path("/proc/meminfo")) -> Finding:
    """What idle sandboxes take, above all of the kernel's own; work in them comes on top."""
    lines = dict(line.split(":", 1) for line in meminfo.read_text().splitlines())
    free_mb = int(lines["MemAvailable"].split()[0]) // 1024
    bare_mb = n * MEMORY_KB_EACH // 1024
    grouped_mb = 0 if is_ordinary_user() else _groups_mb(n)
    seen = f"{free_mb:,} MB available, and {n:,} idle sandboxes need about {bare_mb:,} MB"
    if grouped_mb:
        seen += f", with a memory limit on each {grouped_mb:,} MB more"
    if free_mb >= bare_mb + grouped_mb:
        return ok("memory", seen)
    if free_mb >= bare_mb:
        change = "set engine.memory_cgroups=group, or no resources.memory_mb, or ask for fewer"
        return warn("memory", seen, change)
    return warn("memory", seen, "ask for fewer at once, or use a machine with more")


def _groups_mb(n: int) -> int:
    """Each group of `n` sandboxes holds something for every file system of all of them."""
    groups = min(n, GROUPS_ALONE)
    groups += max(0, n - GROUPS_ALONE) // EngineConf.memory_group_size
    each = GROUP_KB * 1024 + GROUP_BYTES_FOR_FILE_SYSTEM * FILE_SYSTEMS_EACH * n
    return groups * each // 2**20


def _disk(wishes: Wishes) -> Finding:
    folder = existing(wishes.root_dir)
    free_mb = shutil.disk_usage(folder).free // 2**20
    needed_mb = max(DISK_FREE_MB, wishes.sandboxes * DISK_MB_EACH)
    seen = f"{free_mb:,} MB free for {wishes.root_dir}, and {wishes.sandboxes:,} sandboxes at "
    seen += f"{DISK_MB_EACH} MB each need {needed_mb:,} MB"
    if free_mb >= needed_mb:
        return ok("disk space", seen)
    return warn("disk space", seen, "free some, or set engine.root_dir to a larger disk")


def _disk_limits(dev: Path = Path("/dev")) -> Finding:
    """What holds `disk_mb` of a sandbox."""
    if is_ordinary_user():
        seen = "by tmpfs only, so what such sandboxes write takes memory: only root may mount btrfs"
        return warn("disk limits", seen, "run as root (`sudo`)")
    lacking = []
    if mkfs_program() is None:
        lacking.append("no mkfs.btrfs (`apt-get install btrfs-progs`)")
    if not _knows_btrfs():
        lacking.append("no btrfs in this kernel (`modprobe btrfs`)")
    if not (dev / "loop-control").exists():
        lacking.append("no /dev/loop-control (`modprobe loop`; in a container, --privileged)")
    if not lacking:
        return ok("disk limits", "btrfs: a subvolume of a sparse image for each sandbox")
    seen = f"by tmpfs, so what such sandboxes write takes memory: {', '.join(lacking)}"
    return warn("disk limits", seen, "add what is lacking")


def _knows_btrfs() -> bool:
    """Built in, loaded, or a module that a first mount would load."""
    if "\tbtrfs\n" in Path("/proc/filesystems").read_text():
        return True
    modules = Path("/lib/modules") / os.uname().release / "modules.dep"
    return modules.is_file() and "/btrfs.ko" in modules.read_text()


def _count(limit: int) -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit:,}"


def _enough(limit: int, needed: int) -> bool:
    return limit == resource.RLIM_INFINITY or limit >= needed
