"""Programs that look for patterns: grep and sed."""

import re
from collections.abc import Callable, Iterator

from rollout.sandbox.memory.options import (
    Usage,
    flags_and_names,
    read_lines,
    split_lines,
    values_and_rest,
)
from rollout.sandbox.memory.process import Process, Program, to_bytes, to_text


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
    values, rest = values_and_rest(argv, "em")
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
            lines = split_lines(to_text(await process.read_path(name)))
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
        lines = await read_lines(process, names)
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


PROGRAMS: dict[str, Program] = {"egrep": _grep, "fgrep": _grep, "grep": _grep, "sed": _sed}
