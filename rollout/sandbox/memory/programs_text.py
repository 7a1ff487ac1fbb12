"""Programs on what files hold: cat, head, grep, sed, sort, wc, …"""

import hashlib
import re
from collections.abc import Awaitable, Callable, Iterator

from rollout.sandbox.memory import execute
from rollout.sandbox.memory.process import Main, Process, Program, to_bytes, to_text
from rollout.sandbox.memory.programs_files import flags_and_names
from rollout.sandbox.memory.streams import CHUNK_BYTES


class Usage(OSError):
    """A program was called in a way it does not know."""

    def __init__(self, text: str) -> None:
        super().__init__(22, text)


def _values(argv: list[str], letters: str) -> tuple[dict[str, str], list[str]]:
    """Options that take a value (`-n5`, `-n 5`) by letter, and the other words."""
    values: dict[str, str] = {}
    rest, words = [argv[0]], iter(argv[1:])
    for word in words:
        if len(word) > 1 and word[0] == "-" and word[1] in letters:
            values[word[1]] = word[2:] or next(words, "")
        else:
            rest.append(word)
    return values, rest


async def _lines(process: Process, names: list[str]) -> list[str]:
    """The lines of all files, without their newlines."""
    text = "".join([to_text(await process.read_path(name)) for name in names or ["-"]])
    return _split(text)


def _split(text: str) -> list[str]:
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


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
    values, rest = _values(argv, "nc")
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
    values, rest = _values(argv, "nc")
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
    values, rest = _values(argv, "kt")
    flags, names = flags_and_names(rest)
    column = int(re.split(r"\D", values.get("k", "0"))[0] or 0)

    def key(line: str) -> tuple[float, str]:
        part = line
        if column:
            parts = line.split(values.get("t"))
            part = parts[column - 1] if column <= len(parts) else ""
        number = re.match(r"\s*(-?\d+(?:\.\d+)?)", part) if "n" in flags else None
        return (float(number[1]) if number else 0.0, part)

    lines = sorted(await _lines(process, names), key=key, reverse="r" in flags)
    if "u" in flags:
        lines = list(dict.fromkeys(lines))
    await process.write("".join(f"{line}\n" for line in lines))
    return 0


async def _uniq(process: Process, argv: list[str]) -> int:
    flags, names = flags_and_names(argv)
    runs: list[tuple[str, int]] = []
    for line in await _lines(process, names[:1]):
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
    values, rest = _values(argv, "dfc")
    chosen = list(_ranges(values.get("f") or values.get("c") or "1-"))
    for line in await _lines(process, rest[1:]):
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


# ---------------------------------------------------------------- patterns


def python_pattern(pattern: str, *, extended: bool) -> str:
    """A POSIX regular expression as Python's; basic ones have their operators escaped."""
    for name, members in _CLASSES.items():
        pattern = pattern.replace(f"[:{name}:]", members)
    if extended:
        return pattern
    tokens = re.findall(r"\\.|\[\^?\]?[^]]*\]|.", pattern, re.DOTALL)
    swapped = {f"\\{c}": c for c in "(){}|+?"} | {c: f"\\{c}" for c in "(){}|+?"}
    swapped["\\<"] = swapped["\\>"] = r"\b"
    return "".join(swapped.get(token, token) for token in tokens)


_CLASSES = {
    "alpha": "A-Za-z",
    "digit": "0-9",
    "alnum": "A-Za-z0-9",
    "space": r"\s",
    "upper": "A-Z",
    "lower": "a-z",
    "punct": r"!-/:-@\[-`{-~",
    "blank": r" \t",
}


async def _grep(process: Process, argv: list[str]) -> int:
    values, rest = _values(argv, "em")
    flags, names = flags_and_names(rest)
    pattern = values.get("e")
    if pattern is None:
        if not names:
            raise Usage("a pattern is missing")
        pattern, names = names[0], names[1:]
    matches = _matcher(pattern, flags, argv[0])
    limit = int(values.get("m", str(1 << 30)))
    found, status = False, 1
    for name in names or ["-"]:
        try:
            lines = _split(to_text(await process.read_path(name)))
        except OSError as exc:
            if "s" not in flags:
                await process.complain(exc)
            status = 2
            continue
        hits = [(n, ln) for n, ln in enumerate(lines, start=1) if matches(ln) != ("v" in flags)]
        found = found or bool(hits)
        if "q" not in flags:
            many = len(names) > 1 and "h" not in flags
            await _print_hits(process, hits[:limit], flags, name, many)
    return 0 if found else status


def _matcher(pattern: str, flags: set[str], program: str) -> Callable[[str], bool]:
    if "F" in flags or program.endswith("fgrep"):
        sources = [re.escape(line) for line in pattern.split("\n")]
    else:
        extended = "E" in flags or "P" in flags or program.endswith("egrep")
        sources = [python_pattern(line, extended=extended) for line in pattern.split("\n")]
    source = "|".join(f"(?:{one})" for one in sources)
    if "w" in flags:
        source = rf"\b(?:{source})\b"
    if "x" in flags:
        source = rf"^(?:{source})$"
    try:
        compiled = re.compile(source, re.IGNORECASE if "i" in flags else 0)
    except re.error as exc:
        raise Usage(f"invalid pattern {pattern!r}: {exc}") from exc
    return lambda line: compiled.search(line) is not None


async def _print_hits(
    process: Process, hits: list[tuple[int, str]], flags: set[str], name: str, many: bool
) -> None:
    if "l" in flags:
        await process.write(f"{name}\n" if hits else "")
        return
    prefix = f"{name}:" if many else ""
    if "c" in flags:
        await process.write(f"{prefix}{len(hits)}\n")
        return
    for number, line in hits:
        await process.write(f"{prefix}{f'{number}:' if 'n' in flags else ''}{line}\n")


async def _sed(process: Process, argv: list[str]) -> int:
    """`s/a/b/[gIp]`, `d`, `p`, `q`, with line numbers, `$` or /pattern/ before; -n -i -E -e."""
    scripts, words = list[str](), list[str]()
    flags = set[str]()
    rest = iter(argv[1:])
    for word in rest:
        if word in ("-e", "--expression"):
            scripts.append(next(rest, ""))
        elif word.startswith("-") and len(word) > 1:
            flags.update("i" if word.startswith("-i") else word[1:])
        else:
            words.append(word)
    if not scripts:
        scripts, words = words[:1], words[1:]
    extended = bool(flags & {"E", "r"})
    edits = [_edit(part, extended) for script in scripts for part in _commands(script)]
    for names in [[name] for name in words] if "i" in flags else [words]:
        lines = await _lines(process, names)
        out = "".join(f"{line}\n" for line in _edited(lines, edits, quiet="n" in flags))
        if "i" in flags:
            await process.write_path(names[0], to_bytes(out))
        else:
            await process.write(out)
    return 0


Edit = tuple[Callable[[int, str, int], bool], str, Callable[[str], tuple[str, bool]]]


def _commands(script: str) -> list[str]:
    """A script cut at newlines and at the `;` that stand between commands."""
    pieces = re.split(r"\n|;(?=\s*(?:[sdpq]|\d|\$|/))", script)
    return [piece.strip() for piece in pieces if piece.strip()]


def _edit(text: str, extended: bool) -> Edit:
    match = re.fullmatch(
        r"(?:(\d+|\$)(?:,(\d+|\$))?|/((?:\\.|[^/])*)/)?\s*([sdpq])(.*)", text, re.DOTALL
    )
    if not match:
        raise Usage(f"unknown command: {text!r}")
    first, last, pattern, command, tail = match.groups()
    chosen = _address(first, last, pattern, extended)
    if command != "s":
        return chosen, command, lambda line: (line, False)
    parts = re.split(rf"(?<!\\){re.escape(tail[:1])}", tail[1:])
    if len(parts) != 3:
        raise Usage(f"unterminated `s' command: {text!r}")
    source, new, options = parts
    compiled = re.compile(
        python_pattern(source.replace(f"\\{tail[0]}", tail[0]), extended=extended),
        re.IGNORECASE if "I" in options or "i" in options else 0,
    )
    new = new.replace(f"\\{tail[0]}", tail[0])
    count = 0 if "g" in options else 1

    def substitute(line: str) -> tuple[str, bool]:
        changed, times = compiled.subn(lambda m: _filled(new, m), line, count)
        return changed, bool(times) and "p" in options

    return chosen, "s", substitute


def _filled(new: str, match: re.Match[str]) -> str:
    def one(found: re.Match[str]) -> str:
        if found[0] == "&":
            return match[0]
        code = found[0][1]
        return (
            (match[int(code)] or "") if code.isdigit() else {"n": "\n", "t": "\t"}.get(code, code)
        )

    return re.sub(r"\\.|&", one, new, flags=re.DOTALL)


def _address(
    first: str | None, last: str | None, pattern: str | None, extended: bool
) -> Callable[[int, str, int], bool]:
    """Whether (number, line, count of lines) is chosen."""
    if pattern is not None:
        compiled = re.compile(python_pattern(pattern, extended=extended))
        return lambda _, line, __: compiled.search(line) is not None
    if first is None:
        return lambda *_: True

    def chosen(number: int, _: str, count: int) -> bool:
        start = count if first == "$" else int(first)
        end = start if last is None else count if last == "$" else int(last)
        return start <= number <= end

    return chosen


def _edited(lines: list[str], edits: list[Edit], *, quiet: bool) -> Iterator[str]:
    for number, original in enumerate(lines, start=1):
        line, deleted, leave = original, False, False
        for chosen, command, substitute in edits:
            if not chosen(number, line, len(lines)):
                continue
            if command == "d":
                deleted = True
                break
            line, printed = substitute(line)
            if printed or command == "p":
                yield line
            if command == "q":
                leave = True
                break
        if not quiet and not deleted:
            yield line
        if leave:
            return


# ---------------------------------------------------------------- the rest


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
    values, rest = _values(argv, "nI")
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
    "egrep": _grep,
    "fgrep": _grep,
    "grep": _grep,
    "head": _head,
    "md5sum": _checksum,
    "sed": _sed,
    "sha256sum": _checksum,
    "sort": _sort,
    "tail": _tail,
    "tee": _tee,
    "tr": _tr,
    "uniq": _uniq,
    "wc": _wc,
    "xargs": _xargs,
}
