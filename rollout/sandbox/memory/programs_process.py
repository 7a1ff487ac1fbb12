"""Programs about processes, users and words: sleep, kill, env, echo, printf, test, …"""

import asyncio
import re
import signal
import time

from rollout.sandbox.memory import execute
from rollout.sandbox.memory.conditions import ConditionFault, holds
from rollout.sandbox.memory.process import Process, Program, to_bytes
from rollout.sandbox.memory.users import name_of

_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "\\": "\\",
    "a": "\a",
    "b": "\b",
    "f": "\f",
    "v": "\v",
    "e": "\x1b",
}
_ESCAPE = re.compile(r"\\(x[0-9a-fA-F]{1,2}|0?[0-7]{1,3}|.)", re.DOTALL)
_FORMAT = re.compile(r"%([-+ #0]*)(\*|\d+)?(?:\.(\*|\d+))?([a-zA-Z%])")


def unescape(text: str) -> bytes:
    """Text with backslash escapes as bytes, octal and hexadecimal ones included."""
    out, at = bytearray(), 0
    for match in _ESCAPE.finditer(text):
        out += to_bytes(text[at : match.start()])
        code, at = match[1], match.end()
        if code[0] == "x" and len(code) > 1:
            out.append(int(code[1:], 16))
        elif code[0] in "01234567":
            out.append(int(code, 8) & 0xFF)
        else:
            out += to_bytes(_ESCAPES.get(code, "\\" + code))
    return bytes(out + to_bytes(text[at:]))


def seconds(text: str) -> float:
    unit = text[-1:] if text[-1:] in _UNITS_S else ""
    return float(text.removesuffix(unit)) * _UNITS_S.get(unit, 1.0)


# ---------------------------------------------------------------- words


async def _true(process: Process, argv: list[str]) -> int:
    return 0


async def _false(process: Process, argv: list[str]) -> int:
    return 1


async def _echo(process: Process, argv: list[str]) -> int:
    words, newline, escapes = argv[1:], True, False
    while words and re.fullmatch(r"-[neE]+", words[0]):
        newline = newline and "n" not in words[0]
        escapes = escapes or "e" in words[0]
        words = words[1:]
    text = " ".join(words)
    data = unescape(text) if escapes else to_bytes(text)
    await process.write(data + (b"\n" if newline else b""))
    return 0


async def _printf(process: Process, argv: list[str]) -> int:
    if len(argv) < 2:
        await process.complain("usage: printf format [arg ...]", "printf")
        return 2
    arguments = argv[2:]
    out = bytearray()
    try:
        while True:
            used = _print_once(argv[1], arguments, out)
            arguments = arguments[used:]
            if not used or not arguments:
                break
    except ValueError as exc:
        await process.complain(str(exc), "printf")
        return 1
    await process.write(bytes(out))
    return 0


def _print_once(form: str, arguments: list[str], out: bytearray) -> int:
    """Append one pass over the format; how many arguments it took."""
    used = at = 0

    def take() -> str:
        nonlocal used
        used += 1
        return arguments[used - 1] if used <= len(arguments) else ""

    for match in _FORMAT.finditer(form):
        out += unescape(form[at : match.start()])
        at = match.end()
        flags, width, precision, kind = match.groups()
        if kind == "%":
            out += b"%"
            continue
        width = take() if width == "*" else width or ""
        precision = take() if precision == "*" else precision
        out += _convert(flags, width, precision, kind, take())
    out += unescape(form[at:])
    return used


def _convert(flags: str, width: str, precision: str | None, kind: str, text: str) -> bytes:
    dot = "" if precision is None else f".{precision}"
    if kind == "b":
        return unescape(text)
    if kind in "sc":
        value = to_bytes(text[:1] if kind == "c" else text)
        value = value if precision is None else value[: int(precision or 0)]
        size = int(width or 0)
        return value.ljust(size) if "-" in flags else value.rjust(size)
    if kind in "diuxXo":
        number = ord(text[1]) if text[:1] in "'\"" and len(text) > 1 else int(text or "0", 0)
        kind = "d" if kind in "iu" else kind
        return (f"%{flags}{width}{dot}{kind}" % number).encode()
    if kind in "eEfFgG":
        return (f"%{flags}{width}{dot}{kind}" % float(text or "0")).encode()
    raise ValueError(f"%{kind}: invalid directive")


async def _test(process: Process, argv: list[str]) -> int:
    words = argv[1:]
    if argv[0] == "[":
        if words[-1:] != ["]"]:
            await process.complain("missing ]", "[")
            return 2
        words = words[:-1]
    try:
        return int(not holds(process, words))
    except ConditionFault as exc:
        await process.complain(str(exc), "sh")
        return 2


async def _yes(process: Process, argv: list[str]) -> int:
    line = to_bytes(" ".join(argv[1:]) or "y") + b"\n"
    block = line * max(1, 8192 // len(line))
    while True:
        await process.write(block)


async def _seq(process: Process, argv: list[str]) -> int:
    numbers = [int(word) for word in argv[1:]]
    first, step, last = 1, 1, numbers[-1]
    if len(numbers) > 1:
        first = numbers[0]
    if len(numbers) > 2:
        step = numbers[1]
    values = range(first, last + (1 if step > 0 else -1), step)
    for at in range(0, len(values), 1000):
        await process.write("".join(f"{value}\n" for value in values[at : at + 1000]))
    return 0


async def _pwd(process: Process, argv: list[str]) -> int:
    await process.write(f"{process.cwd}\n")
    return 0


# ---------------------------------------------------------------- processes


async def _sleep(process: Process, argv: list[str]) -> int:
    try:
        total_s = sum(float("inf") if w == "infinity" else seconds(w) for w in argv[1:])
    except ValueError:
        await process.complain(f"invalid time interval: {argv[1:]}")
        return 1
    await asyncio.sleep(min(total_s, 1e8))
    return 0


async def _kill(process: Process, argv: list[str]) -> int:
    number, targets = _signal_and_targets(argv[1:])
    if number is None:
        await process.complain(f"invalid signal: {argv[1:]}", "kill")
        return 2
    status = 0
    for target in targets:
        found = _targets(process, target)
        allowed = [other for other in found if process.who.uid in (0, other.who.uid)]
        for other in allowed:
            other.signal(number)
        if not allowed:
            why = "Operation not permitted" if found else "No such process"
            await process.complain(why, "kill")
            status = 1
    await asyncio.sleep(0)
    return status


def _signal_and_targets(words: list[str]) -> tuple[int | None, list[str]]:
    if words[:1] == ["-s"]:
        return _signal(words[1]), words[2:]
    if words[:1] == ["--"]:
        return signal.SIGTERM, words[1:]
    if words and words[0].startswith("-") and len(words) > 1:
        rest = words[1:]
        return _signal(words[0][1:]), rest[1:] if rest[:1] == ["--"] else rest
    return signal.SIGTERM, words


def _signal(name: str) -> int | None:
    if name.isdigit():
        return int(name)
    found = signal.Signals.__members__.get("SIG" + name.upper().removeprefix("SIG"))
    return None if found is None else int(found)


def _targets(process: Process, word: str) -> list[Process]:
    try:
        pid = int(word)
    except ValueError:
        return []
    table = process.machine.table
    if pid > 0:
        return [table[pid]] if pid in table else []
    if pid == -1:
        return [other for other in table.values() if other is not process]
    return process.machine.group(-pid if pid else process.pgid)


async def _env(process: Process, argv: list[str]) -> int:
    words = argv[1:]
    while words:
        if words[0] in ("-i", "-"):
            process.env = {}
        elif words[0] == "-u" and len(words) > 1:
            words = words[1:]
            process.env.pop(words[0], None)
        elif "=" in words[0]:
            name, _, value = words[0].partition("=")
            process.env[name] = value
        else:
            break
        words = words[1:]
    if words:
        return await execute.run(process, words)
    await process.write("".join(f"{name}={value}\n" for name, value in process.env.items()))
    return 0


async def _setsid(process: Process, argv: list[str]) -> int:
    """A session of its own. Like the real one, a group's leader leaves that to a child."""
    words = [word for word in argv[1:] if word not in ("-f", "--fork", "-w", "--wait")]
    if process.pgid != process.pid and "-f" not in argv:
        process.pgid = process.pid
        return await execute.run(process, words)

    async def main(child: Process) -> int:
        child.pgid = child.pid
        return await execute.run(child, words)

    child = process.machine.spawn(main, parent=process)
    return await child.wait() if "-w" in argv or "--wait" in argv else 0


async def _nohup(process: Process, argv: list[str]) -> int:
    process.ignored.add(signal.SIGHUP)
    return await execute.run(process, argv[1:])


async def _timeout(process: Process, argv: list[str]) -> int:
    words, number = argv[1:], int(signal.SIGTERM)
    while words and words[0].startswith("-"):
        if words[0] in ("-s", "-k"):
            number = (_signal(words[1]) or number) if words[0] == "-s" else number
            words = words[2:]
        else:
            words = words[1:]
    limit_s, command = seconds(words[0]), words[1:]
    child = process.machine.spawn(lambda p: execute.run(p, command), parent=process)
    ended = asyncio.create_task(child.wait())
    try:
        await asyncio.wait({ended}, timeout=limit_s)
        if ended.done():
            return ended.result()
        child.signal(number)
        await ended
        return 137 if number == signal.SIGKILL else 124
    finally:
        ended.cancel()


async def _ps(process: Process, argv: list[str]) -> int:
    await process.write("  PID  PPID  PGID COMMAND\n")
    for other in list(process.machine.table.values()):
        line = f"{other.pid:5} {other.ppid:5} {other.pgid:5} {' '.join(other.argv)}\n"
        await process.write(line)
    return 0


# ---------------------------------------------------------------- who and where


async def _id(process: Process, argv: list[str]) -> int:
    uid, gid = process.who.uid, process.who.gid
    user, group = name_of(process.files, "passwd", uid), name_of(process.files, "group", gid)
    flags = "".join(word[1:] for word in argv[1:])
    if "u" in flags or "g" in flags:
        named, number = (user, uid) if "u" in flags else (group, gid)
        await process.write(f"{named if 'n' in flags else number}\n")
    else:
        await process.write(f"uid={uid}({user}) gid={gid}({group}) groups={gid}({group})\n")
    return 0


async def _whoami(process: Process, argv: list[str]) -> int:
    await process.write(name_of(process.files, "passwd", process.who.uid) + "\n")
    return 0


async def _hostname(process: Process, argv: list[str]) -> int:
    await process.write("sandbox\n")
    return 0


async def _date(process: Process, argv: list[str]) -> int:
    form = argv[-1][1:] if argv[-1].startswith("+") else "%a %b %e %H:%M:%S UTC %Y"
    await process.write(time.strftime(form.replace("%s", str(int(time.time()))), time.gmtime()))
    await process.write("\n")
    return 0


async def _nproc(process: Process, argv: list[str]) -> int:
    await process.write("1\n")
    return 0


PROGRAMS: dict[str, Program] = {
    "[": _test,
    "date": _date,
    "echo": _echo,
    "env": _env,
    "false": _false,
    "hostname": _hostname,
    "id": _id,
    "kill": _kill,
    "nohup": _nohup,
    "nproc": _nproc,
    "printenv": _env,
    "printf": _printf,
    "ps": _ps,
    "pwd": _pwd,
    "seq": _seq,
    "setsid": _setsid,
    "sleep": _sleep,
    "sync": _true,
    "test": _test,
    "timeout": _timeout,
    "true": _true,
    "whoami": _whoami,
    "yes": _yes,
}
