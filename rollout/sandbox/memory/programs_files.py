"""Programs on names and files: ls, stat, find, mkdir, rm, ln, …"""

import errno
import os
import re
from collections.abc import AsyncIterator

from rollout.sandbox.memory.expand import Piece, pattern_source
from rollout.sandbox.memory.files import File, Folder, Link, Node, Special, error
from rollout.sandbox.memory.options import flags_and_names
from rollout.sandbox.memory.process import Process, Program
from rollout.sandbox.memory.users import name_of

_KINDS = {File: "-", Folder: "d", Link: "l"}


def _absolute(process: Process, path: str) -> str:
    return path if path.startswith("/") else f"{process.cwd}/{path}"


def _base(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2] or "/"


def into(process: Process, source: str, target: str) -> str:
    """Where `source` lands: inside `target` if that is a folder."""
    files = process.files
    if files.exists(target, cwd=process.cwd) and isinstance(process.node(target), Folder):
        return f"{target}/{_base(source)}"
    return target


async def _tell(process: Process, problems: list[OSError]) -> int:
    for problem in problems:
        await process.complain(problem)
    return int(bool(problems))


# ---------------------------------------------------------------- looking


async def _ls(process: Process, argv: list[str]) -> int:
    flags, names = flags_and_names(argv)
    status = 0
    for index, name in enumerate(names or ["."]):
        try:
            node = process.node(name, follow="d" not in flags and "l" not in flags)
            listing = _listing(process, name, node, flags)
        except OSError as exc:
            await process.complain(exc)
            status = 2
            continue
        if len(names) > 1 and isinstance(node, Folder) and "d" not in flags:
            await process.write(f"{chr(10) if index else ''}{name}:\n")
        long = "l" in flags or "n" in flags
        for entry, child in listing:
            await process.write((_long(process, entry, child) if long else entry) + "\n")
    return status


def _listing(process: Process, name: str, node: Node, flags: set[str]) -> list[tuple[str, Node]]:
    if not isinstance(node, Folder) or "d" in flags:
        return [(name, node)]
    process.files.allow(node, process.who, 4, name)
    hidden = bool(flags & {"a", "A"})
    found = [(n, c) for n, c in sorted(node.children.items()) if hidden or not n.startswith(".")]
    return [(".", node), ("..", node), *found] if "a" in flags else found


def _long(process: Process, name: str, node: Node) -> str:
    kind = _KINDS.get(type(node), "p" if isinstance(node, Special) and node.kind == "fifo" else "c")
    user = name_of(process.files, "passwd", node.uid)
    group = name_of(process.files, "group", node.gid)
    arrow = f" -> {node.target}" if isinstance(node, Link) else ""
    size = len(node.data) if isinstance(node, File) else 0
    return f"{kind}{_mode_text(node.mode)} 1 {user} {group} {size} {name}{arrow}"


def _mode_text(mode: int) -> str:
    return "".join(
        letter if mode & (0o400 >> index) else "-" for index, letter in enumerate("rwxrwxrwx")
    )


async def _stat(process: Process, argv: list[str]) -> int:
    """`stat -c FORMAT FILE…` with `%a %s %U %G %u %g %n %F`."""
    follow = "-L" in argv
    words = [word for word in argv[1:] if word != "-L"]
    if words[:1] not in (["-c"], ["--format"]):
        await process.complain("only -c FORMAT is known here")
        return 1
    for name in words[2:]:
        node = process.node(name, follow=follow)
        values = {
            "a": f"{node.mode:o}",
            "s": str(len(node.data) if isinstance(node, File) else 0),
            "U": name_of(process.files, "passwd", node.uid),
            "G": name_of(process.files, "group", node.gid),
            "u": str(node.uid),
            "g": str(node.gid),
            "n": name,
            "Y": str(int(node.mtime)),
            "F": {File: "regular file", Folder: "directory", Link: "symbolic link"}.get(
                type(node), "fifo"
            ),
        }
        pieces = re.split(r"%(.)", words[1])
        pieces[1::2] = [values.get(letter, letter) for letter in pieces[1::2]]
        await process.write("".join(pieces) + "\n")
    return 0


async def _readlink(process: Process, argv: list[str]) -> int:
    flags, names = flags_and_names(argv)
    for name in names:
        if "f" in flags or argv[0].endswith("realpath"):
            found = process.files.locate(name, cwd=process.cwd, who=process.who)
            await process.write(found.path + "\n")
            continue
        node = process.node(name, follow=False)
        if not isinstance(node, Link):
            return 1
        await process.write(node.target + "\n")
    return 0


async def _basename(process: Process, argv: list[str]) -> int:
    name = _base(argv[1])
    if len(argv) > 2 and name != argv[2]:
        name = name.removesuffix(argv[2])
    await process.write(name + "\n")
    return 0


async def _dirname(process: Process, argv: list[str]) -> int:
    head, slash, _ = argv[1].rstrip("/").rpartition("/")
    await process.write((head or slash or ".") + "\n")
    return 0


async def _find(process: Process, argv: list[str]) -> int:
    """`find [PATH…] [-name P] [-type T] [-maxdepth N]`."""
    tests = next((i for i, w in enumerate(argv) if i and w.startswith("-")), len(argv))
    options = _pairs(argv[tests:])
    depth = int(options.get("-maxdepth", "1000"))
    for top in argv[1:tests] or ["."]:
        async for path, node in walk(process, top, depth):
            if _found(path, node, options):
                await process.write(path + "\n")
    return 0


def _pairs(words: list[str]) -> dict[str, str]:
    words = [word for word in words if word != "-print"]
    return dict(zip(words[::2], words[1::2], strict=False))


def _found(path: str, node: Node, options: dict[str, str]) -> bool:
    name, kind = options.get("-name"), options.get("-type")
    if name is not None and not re.fullmatch(pattern_source([Piece(name, False)]), _base(path)):
        return False
    return kind is None or {File: "f", Folder: "d", Link: "l"}.get(type(node), "p") == kind


async def walk(process: Process, path: str, depth: int) -> AsyncIterator[tuple[str, Node]]:
    pending = [(path, depth)]
    while pending:
        path, left = pending.pop()
        node = process.node(path, follow=False)
        yield path, node
        if isinstance(node, Folder) and left > 0:
            children = sorted(node.children, reverse=True)
            pending.extend((f"{path.rstrip('/')}/{child}", left - 1) for child in children)


# ---------------------------------------------------------------- making and removing


async def _mkdir(process: Process, argv: list[str]) -> int:
    words, mode = argv[:], 0o755
    if "-m" in words:
        at = words.index("-m")
        mode = int(words[at + 1], 8)
        del words[at : at + 2]
    flags, names = flags_and_names(words)
    problems: list[OSError] = []
    for name in names:
        try:
            parents = bool(flags & {"p", "parents"})
            made = process.files.make_folder(
                name, cwd=process.cwd, who=process.who, parents=parents
            )
            if "-m" in argv:
                made.mode = mode
        except OSError as exc:
            problems.append(exc)
    return await _tell(process, problems)


async def _rmdir(process: Process, argv: list[str]) -> int:
    _, names = flags_and_names(argv)
    problems: list[OSError] = []
    for name in names:
        try:
            process.files.remove_folder(name, cwd=process.cwd, who=process.who)
        except OSError as exc:
            problems.append(exc)
    return await _tell(process, problems)


async def _rm(process: Process, argv: list[str]) -> int:
    flags, names = flags_and_names(argv)
    problems: list[OSError] = []
    for name in names:
        try:
            if flags & {"r", "R", "recursive"}:
                process.files.remove_tree(name, cwd=process.cwd, who=process.who)
            else:
                process.files.unlink(name, cwd=process.cwd, who=process.who)
        except FileNotFoundError as exc:
            if not flags & {"f", "force"}:
                problems.append(exc)
        except OSError as exc:
            problems.append(exc)
    return await _tell(process, problems)


async def _touch(process: Process, argv: list[str]) -> int:
    _, names = flags_and_names(argv)
    problems: list[OSError] = []
    for name in names:
        try:
            node = process.files.open_file(
                name, cwd=process.cwd, who=process.who, write=True, create=True
            )
            node.mtime = _now()
        except IsADirectoryError:
            process.node(name).mtime = _now()
        except OSError as exc:
            problems.append(exc)
    return await _tell(process, problems)


def _now() -> float:
    return File().mtime


async def _mkfifo(process: Process, argv: list[str]) -> int:
    _, names = flags_and_names(argv)
    for name in names:
        place = process.files.locate(name, cwd=process.cwd, who=process.who)
        if place.node is not None:
            raise error(errno.EEXIST, name)
        who = process.who
        process.files.enter(place, Special(kind="fifo", uid=who.uid, gid=who.gid), who)
    return 0


async def _mktemp(process: Process, argv: list[str]) -> int:
    flags, names = flags_and_names(argv)
    template = _absolute(process, names[0]) if names else "/tmp/tmp.XXXXXXXXXX"
    path = re.sub("X+$", lambda match: os.urandom(16).hex()[: len(match[0])], template)
    if "d" in flags:
        process.files.make_folder(path, who=process.who, mode=0o700)
    else:
        node = process.files.open_file(path, who=process.who, write=True, create=True)
        node.mode = 0o600
    await process.write(path + "\n")
    return 0


async def _ln(process: Process, argv: list[str]) -> int:
    flags, names = flags_and_names(argv)
    source, target = names[0], names[1] if len(names) > 1 else _base(names[0])
    if "n" not in flags and "T" not in flags:
        target = into(process, source, target)
    if "f" in flags and process.files.exists(target, cwd=process.cwd, follow=False):
        process.files.unlink(target, cwd=process.cwd, who=process.who)
    place = process.files.locate(target, cwd=process.cwd, who=process.who, follow=False)
    if place.node is not None:
        raise error(errno.EEXIST, target)
    if "s" in flags:
        made: Node = Link(target=source, mode=0o777, uid=process.who.uid, gid=process.who.gid)
    else:
        made = process.node(source)
        if isinstance(made, Folder):
            raise error(errno.EPERM, source)
    process.files.enter(place, made, process.who)
    return 0


PROGRAMS: dict[str, Program] = {
    "basename": _basename,
    "dirname": _dirname,
    "find": _find,
    "ln": _ln,
    "ls": _ls,
    "mkdir": _mkdir,
    "mkfifo": _mkfifo,
    "mktemp": _mktemp,
    "readlink": _readlink,
    "realpath": _readlink,
    "rm": _rm,
    "rmdir": _rmdir,
    "stat": _stat,
    "touch": _touch,
}
