"""What the kernel, and whatever contains us, lets us do. Everything is tried out for real."""

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rollout.doctor.base import Finding, Wishes, fail, ok, warn
from rollout.sandbox.unprivileged import is_ordinary_user

TRIAL_TIMEOUT_S = 20.0
KERNEL_NEEDED = (5, 19)
"""The first whose overlayfs accepts id-mapped layers."""
CAP_SYS_ADMIN = 21

_OUTSIDE = "run outside the container, or start it with `--privileged`"
_SYS = Path("/proc/sys")
_APPARMOR = "kernel.apparmor_restrict_unprivileged_userns"
_CLONE_KNOB = "kernel.unprivileged_userns_clone"
_MAX_USERNS = "user.max_user_namespaces"
_NOEXEC_KNOB = "vm.memfd_noexec"


@dataclass(frozen=True, slots=True)
class Tried:
    """How a trial went."""

    ok: bool
    seen: str


def check(wishes: Wishes) -> Iterator[Finding]:
    yield _version()
    yield _rights()
    yield _masks()
    yield _namespaces()
    yield _user_namespaces(wishes)
    yield from _file_systems(wishes)
    yield _seccomp()
    yield _memfd()


def attempt(trial: str, *arguments: str) -> Tried:
    """Run a trial of `rollout.doctor.trial` in a process of its own. Bounded; never raises."""
    command = [sys.executable, "-m", "rollout.doctor.trial", trial, *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TRIAL_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired:
        return Tried(False, f"no answer within {TRIAL_TIMEOUT_S:.0f} s")
    except OSError as exc:
        return Tried(False, f"the trial could not be started: {exc}")
    try:
        answer = json.loads(done.stdout)
        return Tried(bool(answer["ok"]), str(answer["seen"]))
    except (ValueError, KeyError, TypeError):
        return Tried(False, f"the trial ended with {done.returncode}: {done.stderr[-500:].strip()}")


def existing(folder: str) -> Path:
    """`folder`, or the nearest folder above it that exists."""
    path = Path(folder).absolute()
    return next(place for place in (path, *path.parents) if place.is_dir())


def _version() -> Finding:
    release = platform.release()
    found = re.match(r"(\d+)\.(\d+)", release)
    seen = f"{platform.system()} {release} on {platform.machine()}"
    if platform.system() != "Linux" or found is None:
        return fail("kernel", seen, "use a Linux machine: sandboxes are made of its namespaces")
    if (int(found[1]), int(found[2])) < KERNEL_NEEDED:
        needed = ".".join(map(str, KERNEL_NEEDED))
        return fail("kernel", seen, f"use kernel {needed} or newer: overlays of id-mapped layers")
    return ok("kernel", seen)


def _rights() -> Finding:
    uid, capabilities = os.geteuid(), int(_status("CapEff"), 16)
    if is_ordinary_user():
        seen = f"user {uid}, not root: a sandbox has one user, its root, and keeps no states"
        return warn("rights", seen, "run as root (`sudo`) for 65,536 users in each, and states")
    if not capabilities >> CAP_SYS_ADMIN & 1:
        return fail("rights", "root without CAP_SYS_ADMIN: this is a container", _OUTSIDE)
    return ok("rights", "root with CAP_SYS_ADMIN")


def _masks() -> Finding:
    """What an outer container laid over /proc, and the seccomp filter it put on us."""
    points = (line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines())
    masked = [p for p in points if p.startswith("/proc/") and p != "/proc/sys/fs/binfmt_misc"]
    signs = [f"{len(masked)} masks over /proc, such as {masked[0]}"] if masked else []
    if _status("Seccomp") == "2":
        signs.append("a seccomp filter from outside")
    tried = attempt("proc", "/tmp")
    seen = "; ".join([*signs, tried.seen])
    if not tried.ok:
        return fail("container masks", f"no /proc of one's own can be mounted: {seen}", _OUTSIDE)
    if signs:
        return warn("container masks", seen, f"if later lines fail: {_OUTSIDE}")
    return ok("container masks", f"none; {seen}")


def _namespaces() -> Finding:
    tried = attempt("namespaces")
    if tried.ok:
        return ok("namespaces", tried.seen)
    return fail("namespaces", tried.seen, _userns_advice())


def _user_namespaces(wishes: Wishes) -> Finding:
    tried = attempt("user_namespace", str(wishes.uid_base))
    if tried.ok:
        return ok("user namespaces", tried.seen)
    return fail("user namespaces", tried.seen, _userns_advice())


def _userns_advice() -> str:
    """Whichever of the known switches stands in the way, as the command that turns it."""
    if _reads(_APPARMOR, "1") and is_ordinary_user():
        return f"AppArmor forbids it to ordinary users: {_sysctl(_APPARMOR, 0)}, or run as root"
    if _reads(_CLONE_KNOB, "0") and is_ordinary_user():
        return f"{_sysctl(_CLONE_KNOB, 1)}, or run as root"
    if _reads(_MAX_USERNS, "0"):
        return _sysctl(_MAX_USERNS, 100_000)
    return f"run as root; in a container: {_OUTSIDE}"


def _file_systems(wishes: Wishes) -> Iterator[Finding]:
    folder = str(existing(wishes.root_dir))
    where = wishes.root_dir if folder == wishes.root_dir else f"{wishes.root_dir} (in {folder})"
    advice = "set engine.root_dir to a folder you own on ext4, xfs, btrfs or tmpfs (an overlay "
    advice += "cannot carry another overlay's upper folder, nor can NFS)"
    tried = attempt("overlay", folder)
    if not tried.ok:
        yield fail("overlayfs", f"at {where}: {tried.seen}", advice)
        return
    yield ok("overlayfs", f"at {where}: {tried.seen}")
    if is_ordinary_user():
        return  # files of one user need no other owners shown
    tried = attempt("mapped_layers", folder, str(wishes.uid_base))
    if tried.ok:
        yield ok("id-mapped layers", tried.seen)
    else:
        change = f"run as root on kernel 5.19 or newer; {advice}"
        yield fail("id-mapped layers", f"at {where}: {tried.seen}", change)


def _seccomp() -> Finding:
    tried = attempt("seccomp")
    if tried.ok:
        return ok("seccomp", tried.seen)
    return fail("seccomp", tried.seen, "use a kernel with CONFIG_SECCOMP_FILTER")


def _memfd() -> Finding:
    """The init is started from a sealed copy in memory."""
    if _reads(_NOEXEC_KNOB, "2"):
        return fail("memfd", "programs in memory may not be run", _sysctl(_NOEXEC_KNOB, 1))
    return ok("memfd", "programs in memory may be run")


def _status(field: str) -> str:
    """A line of /proc/self/status; `0` where the kernel has none."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return line.split()[1]
    return "0"


def _reads(sysctl: str, value: str) -> bool:
    try:
        return (_SYS / sysctl.replace(".", "/")).read_text().strip() == value
    except OSError:
        return False


def _sysctl(name: str, value: int) -> str:
    return f"`sysctl -w {name}={value}`"
