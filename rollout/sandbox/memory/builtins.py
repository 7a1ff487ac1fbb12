"""The shell's own commands: those that change the shell itself, or are too small for a process."""

import asyncio
import re
import signal

from rollout.sandbox.memory import execute
from rollout.sandbox.memory.control import (
    ON_EXIT,
    ExitShell,
    LeaveLoop,
    ReturnFromFunction,
    signal_number,
)
from rollout.sandbox.memory.files import SEARCH
from rollout.sandbox.memory.process import Process, Program, describe, to_text
from rollout.sandbox.memory.programs_process import PROGRAMS as PROCESS_PROGRAMS
from rollout.sandbox.memory.shell import Builtin, Shell

_NAME = re.compile(r"[A-Za-z_]\w*")
_LONG_OPTIONS = {"errexit": "e", "nounset": "u", "noglob": "f", "xtrace": "x", "allexport": "a"}


async def _nothing(shell: Shell, argv: list[str]) -> int:
    return 0


async def _cd(shell: Shell, argv: list[str]) -> int:
    target = argv[1] if len(argv) > 1 else shell.get("HOME") or "/"
    target = (shell.get("OLDPWD") or "/") if target == "-" else target
    process = shell.process
    place = process.files.locate(target, cwd=process.cwd, who=process.who)
    process.files.allow(process.files.folder(place.path), process.who, SEARCH, target)
    shell.put("OLDPWD", process.cwd)
    process.cwd = place.path
    shell.put("PWD", place.path)
    return 0


async def _exit(shell: Shell, argv: list[str]) -> int:
    raise ExitShell(_count(argv, shell.status))


async def _return(shell: Shell, argv: list[str]) -> int:
    raise ReturnFromFunction(_count(argv, shell.status))


async def _break(shell: Shell, argv: list[str]) -> int:
    raise LeaveLoop(_count(argv, 1), again=False)


async def _continue(shell: Shell, argv: list[str]) -> int:
    raise LeaveLoop(_count(argv, 1), again=True)


def _count(argv: list[str], default: int) -> int:
    if len(argv) < 2:
        return default
    return int(argv[1]) if argv[1].isdigit() else 2


async def _export(shell: Shell, argv: list[str]) -> int:
    if argv[1:] in ([], ["-p"]):
        for name, value in sorted(shell.environment().items()):
            await shell.process.write(f"export {name}='{value}'\n")
    for argument in argv[1:]:
        name, equals, value = argument.partition("=")
        if not _NAME.fullmatch(name):
            continue
        if equals:
            shell.put(name, value)
        if argv[0] == "export":
            shell.exported.add(name)
    return 0


async def _local(shell: Shell, argv: list[str]) -> int:
    if not shell.local_scopes:
        await shell.complain("local: not in a function")
        return 2
    for argument in argv[1:]:
        name, equals, value = argument.partition("=")
        shell.local_scopes[-1].setdefault(name, shell.variables.get(name))
        if equals:
            shell.put(name, value)
    return 0


async def _unset(shell: Shell, argv: list[str]) -> int:
    functions = argv[1:2] == ["-f"]
    for name in argv[1:]:
        if functions:
            shell.functions.pop(name, None)
        else:
            shell.variables.pop(name, None)
            shell.exported.discard(name)
    return 0


async def _set(shell: Shell, argv: list[str]) -> int:
    at = 1
    while at < len(argv):
        word = argv[at]
        if word == "--":
            shell.positional = argv[at + 1 :]
            return 0
        if word in ("-o", "+o") and at + 1 < len(argv):
            at += 1
            _switch(shell, word[0] == "-", [_LONG_OPTIONS.get(argv[at], argv[at])])
        elif word[0] in "-+" and len(word) > 1:
            letters = list(word[1:])
            if letters[-1] == "o" and at + 1 < len(argv):
                at += 1
                letters[-1] = _LONG_OPTIONS.get(argv[at], argv[at])
            _switch(shell, word[0] == "-", letters)
        else:
            shell.positional = argv[at:]
            return 0
        at += 1
    return 0


def _switch(shell: Shell, on: bool, options: list[str]) -> None:
    if on:
        shell.options.update(options)
    else:
        shell.options.difference_update(options)


async def _shift(shell: Shell, argv: list[str]) -> int:
    count = _count(argv, 1)
    if count > len(shell.positional):
        await shell.complain("shift: can't shift that many")
        return 2
    shell.positional = shell.positional[count:]
    return 0


async def _eval(shell: Shell, argv: list[str]) -> int:
    shell.status = 0
    return await shell.evaluate(" ".join(argv[1:]))


async def _source(shell: Shell, argv: list[str]) -> int:
    path = argv[1]
    if "/" not in path and not shell.process.files.exists(path, cwd=shell.cwd):
        path = execute.find(shell.process, path)
    script = to_text(await shell.process.read_path(path))
    try:
        return await shell.evaluate(script)
    except ReturnFromFunction as exc:
        return exc.code


async def _read(shell: Shell, argv: list[str]) -> int:
    raw = "-r" in argv
    names = [word for word in argv[1:] if not word.startswith("-")] or ["REPLY"]
    line, ended = await _read_line(shell.process)
    if not raw:
        line = re.sub(r"\\(.)", r"\1", line)
    separators = shell.get("IFS")
    values = _split_line(line, " \t\n" if separators is None else separators, len(names))
    for name, value in zip(names, values, strict=True):
        shell.put(name, value)
    return int(not ended)


async def _read_line(process: Process) -> tuple[str, bool]:
    """One byte at a time, so that the rest of the input is left to others."""
    line, stream = bytearray(), process.stream(0)
    while byte := await stream.read(1):
        if byte == b"\n":
            return to_text(line), True
        line += byte
    return to_text(line), False


def _split_line(line: str, separators: str, count: int) -> list[str]:
    """The fields of a line for `count` names; the last one gets the rest as it stands."""
    blank = "".join(c for c in separators if c in " \t\n")
    line = line.strip(blank) if blank else line
    if count == 1 or not separators:
        return [line] + [""] * (count - 1)
    many = "+" if separators == blank else ""
    pieces = re.split(f"[{re.escape(separators)}]{many}", line, maxsplit=count - 1)
    return pieces + [""] * (count - len(pieces))


async def _trap(shell: Shell, argv: list[str]) -> int:
    words = [word for word in argv[1:] if word != "--"]
    if not words:
        for trapped, action in shell.traps.items():
            name = "EXIT" if trapped == ON_EXIT else signal.Signals(trapped).name[3:]
            await shell.process.write(f"trap -- '{action}' {name}\n")
        return 0
    reset = len(words) == 1 or words[0] == "-"
    for name in words if len(words) == 1 else words[1:]:
        number = signal_number(name)
        if number is None:
            await shell.complain(f"trap: {name}: bad trap")
            return 1
        _set_trap(shell, number, None if reset else words[0])
    return 0


def _set_trap(shell: Shell, number: int, action: str | None) -> None:
    """None: the default again; empty: ignored."""
    shell.process.caught.discard(number)
    shell.process.ignored.discard(number)
    shell.traps.pop(number, None)
    if action is None:
        return
    shell.traps[number] = action
    if number != ON_EXIT:
        (shell.process.caught if action else shell.process.ignored).add(number)


async def _wait(shell: Shell, argv: list[str]) -> int:
    if len(argv) < 2:
        for pid in list(shell.jobs):
            interrupted = await _wait_for(shell, pid)
            if interrupted is not None:
                return interrupted
        return 0
    status = 127
    for word in argv[1:]:
        pid = _job_pid(shell, word)
        if pid not in shell.jobs:
            status = 127
            continue
        job = shell.jobs[pid]
        interrupted = await _wait_for(shell, pid)
        status = await job.wait() if interrupted is None else interrupted
    return status


async def _wait_for(shell: Shell, pid: int) -> int | None:
    """None once the job ended; 128+n if a trapped signal ended the waiting."""
    if not await shell.process.wait_or_signal(shell.jobs[pid]):
        number = shell.process.pending[0] if shell.process.pending else signal.SIGINT
        await shell.take_signals()
        return 128 + number
    del shell.jobs[pid]
    return None


def _job_pid(shell: Shell, word: str) -> int:
    if word.startswith("%") and shell.jobs:
        index = int(word[1:]) - 1 if word[1:].isdigit() else -1
        pids = list(shell.jobs)
        return pids[index] if -1 <= index < len(pids) else 0
    return int(word) if word.isdigit() else 0


async def _kill(shell: Shell, argv: list[str]) -> int:
    jobs = {word: str(_job_pid(shell, word)) for word in argv if word.startswith("%")}
    status = await PROCESS_PROGRAMS["kill"](shell.process, [jobs.get(w, w) for w in argv])
    await asyncio.sleep(0)
    await shell.take_signals()
    return status


async def _command(shell: Shell, argv: list[str]) -> int:
    """`command NAME …` runs past functions; `command -v NAME` tells what would run."""
    words = argv[1:]
    if words[:1] in (["-v"], ["-V"]):
        found = [await _tell(shell, name) for name in words[1:]]
        return 0 if all(found) and found else 127
    if not words:
        return 0
    builtin = shell.builtins.get(words[0])
    if builtin is not None:
        return await shell.call_builtin(builtin, words)
    return await shell.external(words, {})


async def _type(shell: Shell, argv: list[str]) -> int:
    found = [await _tell(shell, name) for name in argv[1:]]
    return 0 if all(found) else 127


async def _tell(shell: Shell, name: str) -> bool:
    if name in shell.functions or name in shell.builtins:
        await shell.process.write(f"{name}\n")
        return True
    try:
        await shell.process.write(f"{execute.find(shell.process, name)}\n")
    except BrokenPipeError:
        raise
    except OSError:
        return False
    return True


def _program(program: Program) -> Builtin:
    """A program small enough to run inside the shell's process."""

    async def builtin(shell: Shell, argv: list[str]) -> int:
        return await program(shell.process, argv)

    return builtin


BUILTINS: dict[str, Builtin] = {
    ":": _nothing,
    ".": _source,
    "break": _break,
    "cd": _cd,
    "command": _command,
    "continue": _continue,
    "eval": _eval,
    "exit": _exit,
    "export": _export,
    "readonly": _export,
    "hash": _nothing,
    "kill": _kill,
    "local": _local,
    "read": _read,
    "return": _return,
    "set": _set,
    "shift": _shift,
    "source": _source,
    "trap": _trap,
    "type": _type,
    "ulimit": _nothing,
    "umask": _nothing,
    "unset": _unset,
    "wait": _wait,
    **{
        name: _program(PROCESS_PROGRAMS[name])
        for name in ("true", "false", "echo", "printf", "test", "[", "pwd")
    },
}


async def sh(process: Process, argv: list[str]) -> int:
    """The program `sh`: `-c SCRIPT [NAME ARG…]`, `FILE ARG…`, or stdin; options as `set` has."""
    at, options, command = 1, list[str](), False
    while at < len(argv) and argv[at][:1] in "-+" and len(argv[at]) > 1:
        word = argv[at]
        at += 1
        if word == "--":
            break
        if word.startswith("--"):
            continue
        command = command or "c" in word
        letters = "".join(letter for letter in word[1:] if letter not in "cilsm")
        if letters:
            options.append(word[0] + letters)
        if letters.endswith("o") and at < len(argv):
            options.append(argv[at])
            at += 1
    rest = argv[at:]
    name = argv[0].rpartition("/")[2]
    if command:
        if not rest:
            await process.complain("-c requires an argument", name)
            return 2
        script, name, rest = rest[0], (rest[1:2] or [name])[0], rest[2:]
    elif rest:
        try:
            script = to_text(await process.read_path(rest[0]))
        except OSError as exc:
            await process.complain(f"cannot open {describe(exc)}", name)
            return 127 if isinstance(exc, FileNotFoundError) else 126
        name, rest = rest[0], rest[1:]
    else:
        script = to_text(await process.read_all())
    process.argv = argv
    shell = Shell(process, BUILTINS, name, rest)
    if options:
        await _set(shell, ["set", *options])
    return await shell.run_script(script)
