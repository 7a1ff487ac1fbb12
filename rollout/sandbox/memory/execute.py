"""What a kernel does with argv: find the program, follow `#!`, check the right to run it."""

import errno

from rollout.sandbox.memory.files import SEARCH, File, Folder, error
from rollout.sandbox.memory.process import Process, Program, describe, to_text

MARK = b"\x7fMEM "
"""A file that starts so stands for the program named after it."""
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_INTERPRETERS_DEEP = 4


def find(process: Process, name: str) -> str:
    """The path that `name` runs. FileNotFoundError if none, PermissionError if not executable."""
    if "/" in name:
        _runnable(process, name)
        return name
    refused: OSError | None = None
    for folder in process.env.get("PATH", DEFAULT_PATH).split(":"):
        path = f"{folder or '.'}/{name}"
        try:
            _runnable(process, path)
        except PermissionError as exc:
            refused = exc
        except OSError:
            continue
        else:
            return path
    raise refused or error(errno.ENOENT, name)


def _runnable(process: Process, path: str) -> File:
    node = process.node(path)
    if isinstance(node, Folder) or not isinstance(node, File) or not node.mode & 0o111:
        raise error(errno.EACCES, path)
    process.files.allow(node, process.who, SEARCH, path)
    return node


def load(process: Process, argv: list[str], *, deep: int = 0) -> tuple[Program, list[str]]:
    """The program `argv` starts, and its argv once `#!` is followed. OSError if it cannot start."""
    path = find(process, argv[0])
    head = bytes(_runnable(process, path).data[:256])
    if head.startswith(MARK):
        program = process.machine.programs.get(to_text(head[len(MARK) :]).strip())
        if program is None:
            raise error(errno.ENOEXEC, path)
        return program, argv
    interpreter = to_text(head[2:].split(b"\n", 1)[0]).strip().split(None, 1)
    if not head.startswith(b"#!") or not interpreter or deep >= _INTERPRETERS_DEEP:
        raise error(errno.ENOEXEC, path)
    return load(process, [*interpreter, path, *argv[1:]], deep=deep + 1)


async def run(process: Process, argv: list[str], *, shell: str = "") -> int:
    """Become the program that `argv` names and run to its end.

    What cannot start is told as 126 or 127, as a shell or init tells it. A text file without `#!`
    is a script for `shell`, if one is given.
    """
    try:
        try:
            program, words = load(process, argv)
        except OSError as exc:
            if exc.errno != errno.ENOEXEC or not shell or _binary(process, argv[0]):
                raise
            program, words = load(process, [shell, find(process, argv[0]), *argv[1:]])
    except OSError as exc:
        missing = isinstance(exc, FileNotFoundError | NotADirectoryError)
        reason = f"{argv[0]}: not found" if missing else describe(exc)
        await process.complain(reason, "sh")
        return 127 if missing else 126
    process.argv = argv
    try:
        return await program(process, words)
    except (IndexError, ValueError) as exc:
        await process.complain(f"bad arguments {words[1:]}: {exc}")
        return 2


def _binary(process: Process, name: str) -> bool:
    node = process.node(find(process, name))
    return isinstance(node, File) and b"\0" in node.data[:256]
