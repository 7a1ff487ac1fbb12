"""Programs that copy, move and give away: cp, mv, chmod, chown."""

import errno
import re
from collections.abc import AsyncIterator

from rollout.sandbox.memory.files import File, Folder, Link, Node, error
from rollout.sandbox.memory.options import flags_and_names
from rollout.sandbox.memory.process import Process, Program, describe
from rollout.sandbox.memory.programs_files import into, walk
from rollout.sandbox.memory.streams import CHUNK_BYTES
from rollout.sandbox.memory.users import find_user

_SET_ID = 0o6000
"""What a kernel takes away from a file that gets another owner."""


# ---------------------------------------------------------------- copying and moving


async def _cp(process: Process, argv: list[str]) -> int:
    flags, names = flags_and_names(argv)
    recursive = bool(flags & {"r", "R", "a", "recursive"})
    status = 0
    for source in names[:-1]:
        try:
            target = into(process, source, names[-1])
            await _copy(process, source, target, recursive, "p" in flags or "a" in flags)
        except BrokenPipeError:
            raise
        except OSError as exc:
            await process.complain(describe(exc))
            status = 1
    return status


async def _copy(process: Process, source: str, target: str, recursive: bool, keep: bool) -> None:
    node = process.node(source, follow=not recursive)
    if isinstance(node, Folder):
        if not recursive:
            raise OSError(errno.EISDIR, "-r not specified; omitting directory", source)
        children = list(node.children)
        if not process.files.exists(target, cwd=process.cwd):
            process.files.make_folder(target, cwd=process.cwd, who=process.who, mode=node.mode)
        for child in children:
            await _copy(process, f"{source}/{child}", f"{target}/{child}", recursive, keep)
    elif isinstance(node, Link):
        place = process.files.locate(target, cwd=process.cwd, who=process.who, follow=False)
        if place.node is not None:
            process.files.unlink(target, cwd=process.cwd, who=process.who)
        process.files.enter(place, Link(target=node.target, mode=0o777), process.who)
    else:
        await _copy_file(process, source, target, node)
    made = process.node(target, follow=False)
    if keep and process.who.uid == 0:
        made.uid, made.gid, made.mtime = node.uid, node.gid, node.mtime


async def _copy_file(process: Process, source: str, target: str, node: Node) -> None:
    existed = process.files.exists(target, cwd=process.cwd)
    reading = process.open(source).hold()
    try:
        writing = process.open(target, write=True, truncate=True).hold()
        try:
            while chunk := await reading.read(CHUNK_BYTES):
                await writing.write(chunk)
        finally:
            writing.release()
    finally:
        reading.release()
    if not existed:
        process.node(target).mode = node.mode


async def _mv(process: Process, argv: list[str]) -> int:
    _, names = flags_and_names(argv)
    status = 0
    for source in names[:-1]:
        target = into(process, source, names[-1])
        try:
            process.files.rename(source, target, cwd=process.cwd, who=process.who)
        except OSError as exc:
            await process.complain(exc)
            status = 1
    return status


# ---------------------------------------------------------------- rights


async def _chmod(process: Process, argv: list[str]) -> int:
    words = [word for word in argv[1:] if word not in ("-R", "--")]
    for name in words[1:]:
        async for _, node in _chosen(process, name, "-R" in argv):
            if process.who.uid not in (0, node.uid):
                raise error(errno.EPERM, name)
            node.mode = _new_mode(node, words[0])
    return 0


def _new_mode(node: Node, text: str) -> int:
    if re.fullmatch(r"[0-7]+", text):
        return int(text, 8)
    mode = node.mode
    for clause in text.split(","):
        match = re.fullmatch(r"([ugoa]*)([-+=])([rwxXst]*)", clause)
        if not match:
            raise error(errno.EINVAL, text)
        who = match[1] or "a"
        who = "ugo" if "a" in who else who
        runs = isinstance(node, Folder) or bool(mode & 0o111)
        letters = match[3].replace("X", "x" if runs else "")
        bits = sum({"r": 4, "w": 2, "x": 1}.get(letter, 0) for letter in set(letters))
        mask = sum(bits << {"u": 6, "g": 3, "o": 0}[c] for c in who)
        if match[2] == "=":
            mode &= ~sum(7 << {"u": 6, "g": 3, "o": 0}[c] for c in who)
        mode = mode & ~mask if match[2] == "-" else mode | mask
    return mode


async def _chown(process: Process, argv: list[str]) -> int:
    words = [word for word in argv[1:] if word not in ("-R", "-h", "--")]
    who = find_user(process.files, words[0])
    if who is None:
        await process.complain(f"invalid user: '{words[0]}'")
        return 1
    if process.who.uid != 0:
        raise error(errno.EPERM, words[1])
    keep_user, keep_group = words[0].startswith(":"), ":" not in words[0]
    for name in words[1:]:
        async for _, node in _chosen(process, name, "-R" in argv):
            node.uid = node.uid if keep_user else who.uid
            node.gid = node.gid if keep_group else who.gid
            node.mode &= ~_SET_ID if isinstance(node, File) else ~0
    return 0


async def _chosen(process: Process, name: str, recursive: bool) -> AsyncIterator[tuple[str, Node]]:
    if not recursive:
        yield name, process.node(name)
        return
    async for path, node in walk(process, name, 1000):
        yield path, node


PROGRAMS: dict[str, Program] = {"chmod": _chmod, "chown": _chown, "cp": _cp, "mv": _mv}
