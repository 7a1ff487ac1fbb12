"""What a rootfs must have to be a sandbox's: mount points, a few folders, names of users."""

import os
import stat
from contextlib import suppress
from pathlib import Path

from rollout.errors import BuildError
from rollout.sandbox.layered import ROOT, Layered, Seen
from rollout.sandbox.owner import remove_tree
from rollout.sandbox.skeleton import HOSTNAME, WRITTEN
from rollout.sandbox.survey import COVERED

FOLDERS = {"etc": 0o755, "root": 0o700, "run": 0o755, "tmp": 0o1777}
OURS = {
    "hosts": WRITTEN["etc/hosts"],
    "hostname": f"{HOSTNAME}\n",
    "resolv.conf": "",
}
"""Below /etc, whatever the rootfs has there: each sandbox has this name and no name server."""
IF_MISSING = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\n"
    "nobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
}


def supply(root: Path) -> None:
    """Complete a root that nobody writes to meanwhile. No link in it is followed. Blocks.

    BuildError if it or its /etc is no folder of its own.
    """
    if not stat.S_ISDIR(root.lstat().st_mode):
        raise BuildError(f"{root} is no folder")
    root.chmod(0o755)
    for name in sorted(COVERED):
        # A link here would have the sandbox's own mounted somewhere else.
        _clear(root / name)
        _make_folder(root / name, 0o755)
    for name, mode in FOLDERS.items():
        if not os.path.lexists(root / name):
            _make_folder(root / name, mode)
    etc = root / "etc"
    if not stat.S_ISDIR(etc.lstat().st_mode):
        raise BuildError("its /etc is no folder; a sandbox needs /etc/passwd and /etc/hosts there")
    for name, text in OURS.items():
        _clear(etc / name)
        _write(etc / name, text)
    for name, text in IF_MISSING.items():
        if not os.path.lexists(etc / name):
            _write(etc / name, text)
    if not os.path.lexists(etc / "mtab"):
        (etc / "mtab").symlink_to("/proc/self/mounts")


def supply_over(root: Path, below: Layered, workdir: str) -> None:
    """Make `root` what completes the layers `below` it as a layer of its own. Blocks.

    workdir: made too where it is missing. BuildError as `supply`.
    """
    _make_folder(root, 0o755)
    for name in sorted(COVERED):
        _make_folder(root / name, 0o755)
    for name, mode in FOLDERS.items():
        if below.look(name) is None:
            _make_folder(root / name, mode)
    etc = below.look("etc")
    if etc is not None and not etc.is_folder:
        raise BuildError("its /etc is no folder; a sandbox needs /etc/passwd and /etc/hosts there")
    if etc is not None:
        _make_like(root / "etc", etc)
    for name, text in OURS.items():
        _write(root / "etc" / name, text)
    for name, text in IF_MISSING.items():
        if below.look(f"etc/{name}") is None:
            _write(root / "etc" / name, text)
    if below.look("etc/mtab") is None:
        (root / "etc/mtab").symlink_to("/proc/self/mounts")
    _make_workdir(root, below, workdir)


def _make_workdir(root: Path, below: Layered, workdir: str) -> None:
    path = workdir.strip("/")
    parts = path.split("/")
    if not path or parts[0] in COVERED or {"", ".", ".."} & set(parts):
        return
    above = below.folders(f"{path}/")
    if all(seen is None or seen.is_folder for _, seen in above):
        for folder, seen in above:
            if not (root / folder).is_dir():
                _make_like(root / folder, seen or ROOT)


def _make_like(path: Path, seen: Seen) -> None:
    _make_folder(path, stat.S_IMODE(seen.mode))
    os.chown(path, seen.uid, seen.gid)


def _clear(path: Path) -> None:
    with suppress(FileNotFoundError):
        if stat.S_ISDIR(path.lstat().st_mode):
            remove_tree(path)
        else:
            path.unlink()


def _make_folder(path: Path, mode: int) -> None:
    path.mkdir()
    path.chmod(mode)


def _write(path: Path, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(path, flags, 0o644)
    try:
        os.fchmod(file, 0o644)
        os.write(file, text.encode())
    finally:
        os.close(file)
