"""Tries one thing of the kernel out, in a process of its own: `python -m rollout.doctor.trial …`.

What is tried changes the process that tries it, so none of this runs in the doctor itself. The
answer is one line of JSON on stdout: {"ok": bool, "seen": str}.
"""

import errno
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from rollout.doctor import syscalls as sc

ID_RANGE = 65_536
ANSWER_BYTES = 400
NAMESPACES = {
    "mount": sc.CLONE_NEWNS,
    "pid": sc.CLONE_NEWPID,
    "ipc": sc.CLONE_NEWIPC,
    "uts": sc.CLONE_NEWUTS,
    "net": sc.CLONE_NEWNET,
    "cgroup": sc.CLONE_NEWCGROUP,
}


def namespaces() -> str:
    """Enter new namespaces of every kind, and be process 1 of the new pid namespace."""
    _become_root_of_userns()
    refused = {}
    for name, flag in NAMESPACES.items():
        if error := _in_child(partial(sc.unshare, flag)):
            refused[name] = error
    if refused:
        raise TrialFailed(", ".join(f"{name}: {error}" for name, error in refused.items()))
    sc.unshare(sum(NAMESPACES.values()))
    if error := _in_child(_be_first_process):
        raise TrialFailed(f"a process in all of them: {error}")
    return ", ".join(NAMESPACES)


def user_namespace(uid_base: str) -> str:
    """As root a namespace with a range of 65,536 ids, else one in one with only our own."""
    if os.getuid() != 0:
        _become_root_of_userns()
        if error := _in_child(partial(sc.unshare, sc.CLONE_NEWUSER)):
            raise TrialFailed(f"one inside another: {error}")
        return "one with this user's own id only, and one inside it"
    with _userns(int(uid_base)) as fd:
        if error := _in_child(partial(_enter, fd)):
            raise TrialFailed(error)
    return f"ids {uid_base} to {int(uid_base) + ID_RANGE - 1} as 0 to {ID_RANGE - 1}"


def overlay(folder: str) -> str:
    """Mount a volatile overlay whose upper folder is below `folder`; write, copy up, delete."""
    with _private_folder(folder) as place:
        options = _overlay_options(place, place / "lower")
        sc.mount("overlay", str(place / "merged"), "overlay", options)
        os.chdir(place / "merged")
        _use_overlay()
    return f"volatile overlay on {_file_system(folder)}"


def mapped_layers(folder: str, uid_base: str) -> str:
    """What a sandbox of the native engine stands on: id-mapped layer, own range, overlay."""
    base = int(uid_base)
    with _private_folder(folder) as place, _userns(base) as userns:
        (place / "mapped").mkdir()
        sc.mount_mapped(str(place / "lower"), str(place / "mapped"), userns)
        os.chown(place / "upper", base, base)
        options = _overlay_options(place, place / "mapped")
        sc.mount("overlay", str(place / "merged"), "overlay", options)
        if error := _in_child(partial(_enter_and_use, userns, place / "merged")):
            raise TrialFailed(f"work in the overlay as a user of the range: {error}")
        owner = (place / "upper" / "new").stat().st_uid
        if owner != base:
            raise TrialFailed(f"a file made inside belongs to {owner} on disk, not to {base}")
    return "a layer of root's shown to a sandbox as its own, writes owned by its range"


def proc(folder: str) -> str:
    """Mount a /proc of one's own, which masks over the outer /proc can forbid."""
    with _private_folder(folder) as place:
        sc.unshare(sc.CLONE_NEWPID)
        if error := _in_child(lambda: sc.mount("proc", str(place / "merged"), "proc")):
            raise TrialFailed(error)
    return "a /proc of one's own"


def seccomp() -> str:
    sc.allow_all_by_seccomp()
    return "a filter was installed"


class TrialFailed(Exception):
    """The trial ran and the answer is no."""


def _become_root_of_userns() -> None:
    """An ordinary user needs a user namespace for everything else; root does not."""
    if os.getuid() == 0:
        return
    uid, gid = os.getuid(), os.getgid()
    sc.unshare(sc.CLONE_NEWUSER)
    _map_own_ids("self", uid, gid)


def _map_ids(pid: str, base: int) -> None:
    """A whole range, which only root may."""
    for name in ("uid_map", "gid_map"):
        Path("/proc", pid, name).write_text(f"0 {base} {ID_RANGE}")


def _map_own_ids(pid: str, uid: int, gid: int) -> None:
    Path("/proc", pid, "setgroups").write_text("deny")
    Path("/proc", pid, "uid_map").write_text(f"0 {uid} 1")
    Path("/proc", pid, "gid_map").write_text(f"0 {gid} 1")


@contextmanager
def _userns(base: int) -> Iterator[int]:
    """A descriptor of a new user namespace whose ids are mapped from here."""
    to_child, from_child = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.write(from_child[1], _answer(lambda: sc.unshare(sc.CLONE_NEWUSER)))
        os.close(to_child[1])
        os.read(to_child[0], 1)
        os._exit(0)
    os.close(from_child[1])
    try:
        if error := os.read(from_child[0], ANSWER_BYTES).lstrip(b"\0").decode():
            raise TrialFailed(error)
        _map_ids(str(child), base)
        fd = os.open(f"/proc/{child}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
        yield fd
        os.close(fd)
    finally:
        os.close(to_child[1])
        os.close(to_child[0])
        os.close(from_child[0])
        os.waitpid(child, 0)


@contextmanager
def _private_folder(parent: str) -> Iterator[Path]:
    """A new folder below `parent` in a mount namespace nobody else sees, removed afterwards."""
    place = Path(tempfile.mkdtemp(prefix=".rollout-doctor-", dir=parent))
    child = os.fork()
    if child:
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        _remove(place)
        os._exit(status)
    _become_root_of_userns()
    sc.unshare(sc.CLONE_NEWNS)
    sc.mount("none", "/", "none", flags=sc.MS_REC | sc.MS_PRIVATE)
    place.chmod(0o755)
    for name in ("lower", "upper", "work", "merged"):
        (place / name).mkdir()
    (place / "lower" / "old").write_text("old")
    (place / "lower" / "kept").write_text("kept")
    (place / "lower" / "folder" / "inner").mkdir(parents=True)
    yield place


def _remove(place: Path) -> None:
    """The kernel leaves folders of mode 0 in the work folder of an overlay."""
    for folder, names, _ in os.walk(place / "work"):
        for name in names:
            Path(folder, name).chmod(0o700)
    shutil.rmtree(place, ignore_errors=True)


def _overlay_options(place: Path, lower: Path) -> str:
    options = f"lowerdir={lower},upperdir={place}/upper,workdir={place}/work,volatile"
    return options if _is_initial_userns() else options + ",userxattr"


def _is_initial_userns() -> bool:
    return Path("/proc/self/uid_map").read_text().split() == ["0", "0", "4294967295"]


def _use_overlay() -> None:
    """In the working folder, so that no folder above it needs to be open to us."""
    Path("new").write_text("new")
    Path("kept").write_text("changed")
    Path("old").unlink()
    shutil.rmtree("folder")
    Path("folder").mkdir()  # hides what is below it by an extended attribute
    names = sorted(str(path) for path in Path().rglob("*"))
    if names != ["folder", "kept", "new"]:
        raise TrialFailed(f"after a write and a removal the overlay shows {names}")


def _enter(userns: int) -> None:
    sc.setns(userns, sc.CLONE_NEWUSER)
    os.setgroups([])
    os.setresgid(0, 0, 0)
    os.setresuid(0, 0, 0)


def _enter_and_use(userns: int, merged: Path) -> None:
    os.chdir(merged)
    _enter(userns)
    _use_overlay()


def _be_first_process() -> None:
    if os.getpid() != 1:
        raise TrialFailed(f"its pid is {os.getpid()}, not 1")


def _in_child(work: Callable[[], object]) -> str:
    """Do `work` in a fork of this process; empty if it went well, else what went wrong."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, _answer(work))
        os._exit(0)
    os.close(write)
    answer = os.read(read, ANSWER_BYTES)
    os.close(read)
    os.waitpid(child, 0)
    return answer.lstrip(b"\0").decode() if answer else "it ended without an answer"


def _answer(work: Callable[[], object]) -> bytes:
    """A zero byte for success, else the error in words."""
    try:
        work()
    except (OSError, TrialFailed) as exc:
        return _words(exc).encode()[:ANSWER_BYTES]
    return b"\0"


def _words(exc: OSError | TrialFailed) -> str:
    if isinstance(exc, TrialFailed) or exc.errno is None:
        return str(exc)
    where = f" ({exc.filename})" if exc.filename else ""
    return f"{errno.errorcode.get(exc.errno, exc.errno)}, {exc.strerror}{where}"


def _file_system(folder: str) -> str:
    """The type of the file system that holds `folder`, by the longest mount point above it."""
    best, kind = "", "an unknown file system"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        point = left.split()[4]
        inside = folder == point or folder.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, right.split()[0]
    return kind


TRIALS: dict[str, Callable[..., str]] = {
    "namespaces": namespaces,
    "user_namespace": user_namespace,
    "overlay": overlay,
    "mapped_layers": mapped_layers,
    "proc": proc,
    "seccomp": seccomp,
}


def main(argv: Sequence[str]) -> None:
    """Run one trial and print its answer."""
    try:
        answer = {"ok": True, "seen": TRIALS[argv[0]](*argv[1:])}
    except (OSError, TrialFailed) as exc:
        answer = {"ok": False, "seen": _words(exc)}
    sys.stdout.write(json.dumps(answer) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
