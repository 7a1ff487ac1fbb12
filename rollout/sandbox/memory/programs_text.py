"""Programs on what files hold: cat, head, sort, wc, dd, …"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator

from rollout.sandbox.memory import execute
from rollout.sandbox.memory.options import Usage, flags_and_names, read_lines, values_and_rest
from rollout.sandbox.memory.process import Main, Process, Program, to_text
from rollout.sandbox.memory.streams import CHUNK_BYTES


async def _cat(process: Process, argv: list[str]) -> int:
    _, names = flags_and_names([word for word in argv if word != "-"])
    status = 0
    for name in [word for word in argv[1:] if word == "-" or word in names] or ["-"]:
        try:
            stream = (process.stream(0) if name == "-" else process.open(name)).hold()
        except OSError as exc:
            await process.complain(exc)
            status = 1
            continue
        try:
            while chunk := await stream.read(CHUNK_BYTES):
                await process.write(chunk)
        finally:
            stream.release()
    return status


async def _head(process: Process, argv: list[str]) -> int:
    argv = [re.sub(r"^-(\d+)$", r"-n\1", word) for word in argv]
    values, rest = values_and_rest(argv, "nc")
    for name in rest[1:] or ["-"]:
        stream = (process.stream(0) if name == "-" else process.open(name)).hold()
        try:
            if "c" in values:
                await _head_bytes(process, stream.read, _size(values["c"]))
            else:
                await _head_lines(process, stream.read, int(values.get("n", "10")))
        finally:
            stream.release()
    return 0


Read = Callable[[int], Awaitable[bytes]]


async def _head_bytes(process: Process, read: Read, left: int) -> None:
    while left > 0:
        chunk = await read(min(left, CHUNK_BYTES))
        if not chunk:
            return
        left -= len(chunk)
        await process.write(chunk)


async def _head_lines(process: Process, read: Read, left: int) -> None:
    while left > 0:
        chunk = await read(CHUNK_BYTES)
        if not chunk:
            return
        lines = chunk.splitlines(keepends=True)[:left]
        left -= sum(line.endswith(b"\n") for line in lines)
        await process.write(b"".join(lines))


def _size(text: str) -> int:
    match = re.fullmatch(r"(\d+)([kKMG]?)B?", text)
    if not match:
        raise Usage(f"invalid number: {text!r}")
    return int(match[1]) << {"": 0, "k": 10, "K": 10, "M": 20, "G": 30}[match[2]]


async def _tail(process: Process, argv: list[str]) -> int:
    argv = [re.sub(r"^-(\d+)$", r"-n\1", word) for word in argv]
    values, rest = values_and_rest(argv, "nc")
    for name in rest[1:] or ["-"]:
        data = await process.read_path(name)
        if "c" in values:
            await process.write(data[-_size(values["c"]) :])
            continue
        count = values.get("n", "10")
        lines = data.splitlines(keepends=True)
        first = int(count) - 1 if count.startswith("+") else max(0, len(lines) - int(count))
        await process.write(b"".join(lines[first:]))
    return 0


async def _wc(process: Process, argv: list[str]) -> int:
    flags, names = flags_and_names([word for word in argv if word != "-"])
    columns = [letter for letter in "lwcm" if letter in flags] or list("lwc")
    totals = [0] * len(columns)
    for name in names or ["-"]:
        data = await process.read_path(name)
        counts = {"l": data.count(b"\n"), "c": len(data), "m": len(to_text(data))}
        counts["w"] = len(data.split()) if "w" in columns else 0
        row = [counts[letter] for letter in columns]
        totals = [a + b for a, b in zip(totals, row, strict=True)]
        await process.write(_counts(row, name if names else ""))
    if len(names) > 1:
        await process.write(_counts(totals, "total"))
    return 0


def _counts(row: list[int], name: str) -> str:
    text = str(row[0]) if len(row) == 1 else "".join(f"{count:7}" for count in row)
    return text + (f" {name}\n" if name else "\n")


async def _tee(process: Process, argv: list[str]) -> int:
    flags, names = flags_and_names(argv)
    append = "a" in flags
    streams = [
        process.open(name, write=True, append=append, truncate=not append).hold() for name in names
    ]
    try:
        while chunk := await process.stream(0).read(CHUNK_BYTES):
            await process.write(chunk)
            for stream in streams:
                await stream.write(chunk)
    finally:
        for stream in streams:
            stream.release()
    return 0


async def _sort(process: Process, argv: list[str]) -> int:
    values, rest = values_and_rest(argv, "kt")
    flags, names = flags_and_names(rest)
    column = int(re.split(r"\D", values.get("k", "0"))[0] or 0)

    def key(line: str) -> tuple[float, str]:
        part = line
        if column:
            parts = line.split(values.get("t"))
            part = parts[column - 1] if column <= len(parts) else ""
        number = re.match(r"\s*(-?\d+(?:\.\d+)?)", part) if "n" in flags else None
        return (float(number[1]) if number else 0.0, part)

    lines = sorted(await read_lines(process, names), key=key, reverse="r" in flags)
    if "u" in flags:
        lines = list(dict.fromkeys(lines))
    await process.write("".join(f"{line}\n" for line in lines))
    return 0


async def _uniq(process: Process, argv: list[str]) -> int:
    flags, names = flags_and_names(argv)
    runs: list[tuple[str, int]] = []
    for line in await read_lines(process, names[:1]):
        if runs and runs[-1][0] == line:
            runs[-1] = (line, runs[-1][1] + 1)
        else:
            runs.append((line, 1))
    for line, count in runs:
        if ("d" in flags and count == 1) or ("u" in flags and count > 1):
            continue
        await process.write(f"{count:7} {line}\n" if "c" in flags else f"{line}\n")
    return 0


async def _cut(process: Process, argv: list[str]) -> int:
    values, rest = values_and_rest(argv, "dfc")
    chosen = list(_ranges(values.get("f") or values.get("c") or "1-"))
    for line in await read_lines(process, rest[1:]):
        if "c" in values:
            kept = [char for n, char in enumerate(line, start=1) if any(n in r for r in chosen)]
            await process.write("".join(kept) + "\n")
            continue
        delimiter = values.get("d", "\t")
        parts = line.split(delimiter)
        kept = [part for n, part in enumerate(parts, start=1) if any(n in r for r in chosen)]
        await process.write((delimiter.join(kept) if len(parts) > 1 else line) + "\n")
    return 0


def _ranges(text: str) -> Iterator[range]:
    for item in text.split(","):
        first, dash, last = item.partition("-")
        start = int(first or 1)
        yield range(start, (int(last) if last else 1 << 30) + 1 if dash else start + 1)


async def _tr(process: Process, argv: list[str]) -> int:
    flags, sets = flags_and_names(argv)
    source = _characters(sets[0])
    text = to_text(await process.read_all())
    if "d" in flags:
        wanted = set(source)
        text = "".join(c for c in text if (c in wanted) == ("c" in flags))
    elif "s" in flags and len(sets) == 1:
        text = re.sub(f"([{re.escape(source)}])\\1+", r"\1", text)
    else:
        target = _characters(sets[1])
        target += target[-1:] * (len(source) - len(target))
        text = text.translate(str.maketrans(source, target[: len(source)]))
    await process.write(text)
    return 0


def _characters(text: str) -> str:
    for name, members in {"upper": "A-Z", "lower": "a-z", "digit": "0-9", "space": " \t\n"}.items():
        text = text.replace(f"[:{name}:]", members)
    text = text.replace("\\n", "\n").replace("\\t", "\t").replace("\\\\", "\\")
    return re.sub(r"(.)-(.)", lambda m: "".join(map(chr, range(ord(m[1]), ord(m[2]) + 1))), text)


async def _dd(process: Process, argv: list[str]) -> int:
    options = dict(word.split("=", 1) for word in argv[1:])
    size, left = _size(options.get("bs", "512")), int(options.get("count", str(1 << 40)))
    reading = (process.open(options["if"]) if "if" in options else process.stream(0)).hold()
    try:
        target = options.get("of")
        writing = (
            process.open(target, write=True, truncate=True) if target else process.stream(1)
        ).hold()
        try:
            while left > 0 and (chunk := await reading.read(size)):
                await writing.write(chunk)
                left -= 1
        finally:
            writing.release()
    finally:
        reading.release()
    return 0


async def _cmp(process: Process, argv: list[str]) -> int:
    flags, names = flags_and_names(argv)
    a, b = [await process.read_path(name) for name in names[:2]]
    if a != b and not flags & {"s", "q"}:
        await process.write(f"{names[0]} {names[1]} differ\n")
    return int(a != b)


async def _xargs(process: Process, argv: list[str]) -> int:
    values, rest = values_and_rest(argv, "nI")
    words = to_text(await process.read_all()).split()
    command = rest[1:] or ["echo"]
    size = int(values.get("n", "1" if "I" in values else str(max(1, len(words)))))
    status = 0
    for at in range(0, len(words), size):
        batch = words[at : at + size]
        argv = [*command, *batch]
        if "I" in values:
            argv = [word.replace(values["I"], batch[0]) for word in command]
        child = process.machine.spawn(_runner(argv), parent=process)
        status = 123 if await child.wait() else status
    return status


def _runner(argv: list[str]) -> Main:
    return lambda process: execute.run(process, argv)


async def _checksum(process: Process, argv: list[str]) -> int:
    algorithm = argv[0].rpartition("/")[2].removesuffix("sum")
    for name in argv[1:] or ["-"]:
        digest = hashlib.new(algorithm, await process.read_path(name)).hexdigest()
        await process.write(f"{digest}  {name}\n")
    return 0


PROGRAMS: dict[str, Program] = {
    "cat": _cat,
    "cmp": _cmp,
    "cut": _cut,
    "dd": _dd,
    "diff": _cmp,
    "head": _head,
    "md5sum": _checksum,
    "sha256sum": _checksum,
    "sort": _sort,
    "tail": _tail,
    "tee": _tee,
    "tr": _tr,
    "uniq": _uniq,
    "wc": _wc,
    "xargs": _xargs,
}
