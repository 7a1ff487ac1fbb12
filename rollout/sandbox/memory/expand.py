"""Words to arguments: parameters, substitutions, field splitting, names that match a pattern."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from rollout.sandbox.memory.arithmetic import evaluate
from rollout.sandbox.memory.files import FileSystem, Folder
from rollout.sandbox.memory.syntax import Arithmetic, Literal, Parameter, Sequence, Word


@dataclass(frozen=True, slots=True)
class Piece:
    """Text that knows whether it was quoted, and so is neither split nor a pattern."""

    text: str
    quoted: bool


Field = list[Piece]


class UnsetParameter(Exception):
    """`${x:?why}`, or an unset variable under `set -u`."""


class Scope(Protocol):
    """What an expansion asks of the shell it happens in."""

    positional: list[str]

    def get(self, name: str) -> str | None: ...
    def put(self, name: str, value: str) -> None: ...
    async def capture(self, body: Sequence) -> str: ...
    @property
    def nounset(self) -> bool: ...
    @property
    def noglob(self) -> bool: ...
    @property
    def cwd(self) -> str: ...
    @property
    def files(self) -> FileSystem: ...


async def fields(scope: Scope, words: Iterable[Word]) -> list[str]:
    """The arguments that `words` stand for."""
    found: list[str] = []
    for word in words:
        for field in await _pieces(scope, word, split=True):
            found.extend(_match_names(scope, field))
    return found


async def text(scope: Scope, word: Word) -> str:
    """`word` as one string: for assignments, redirections and `case`."""
    return _join(await one_field(scope, word))


async def one_field(scope: Scope, word: Word) -> Field:
    return [piece for field in await _pieces(scope, word, split=False) for piece in field]


async def pattern(scope: Scope, word: Word) -> str:
    """`word` as the source of a regular expression for the shell pattern in it."""
    return pattern_source(await one_field(scope, word))


def pattern_source(field: Field) -> str:
    """Quoted pieces match themselves, `* ? […]` outside quotes match as in a shell."""
    return "".join(re.escape(p.text) if p.quoted else _translate(p.text) for p in field)


def _translate(glob: str) -> str:
    out, at = [], 0
    while at < len(glob):
        char = glob[at]
        at += 1
        if char == "*":
            out.append("(?s:.*)")
        elif char == "?":
            out.append("(?s:.)")
        elif (
            char == "["
            and (end := glob.find("]", at + 2 if glob[at : at + 1] in "!^]" else at + 1)) > 0
        ):
            inside = glob[at:end]
            negate = inside[:1] in ("!", "^")
            inside = inside[1:] if negate else inside
            out.append(f"[{'^' if negate else ''}{_classes(inside)}]")
            at = end + 1
        else:
            out.append(re.escape(char))
    return "".join(out)


def _classes(inside: str) -> str:
    return inside.replace("\\", "\\\\").replace("[", "\\[").replace("]", "\\]").replace("^", "\\^")


# ---------------------------------------------------------------- parts to pieces


class _Builder:
    """Collects pieces into fields."""

    def __init__(self) -> None:
        self.done: list[Field] = []
        self._open: Field | None = None

    def add(self, text: str, *, quoted: bool) -> None:
        if text or quoted:
            if self._open is None:
                self._open = []
            self._open.append(Piece(text, quoted))

    def end_field(self) -> None:
        if self._open is not None:
            self.done.append(self._open)
            self._open = None

    def split(self, text: str, separators: str) -> None:
        """Add unquoted `text`, ended into fields at `separators`."""
        if not separators:
            self.add(text, quoted=False)
            return
        blank = "".join(c for c in separators if c in " \t\n")
        hard = "".join(c for c in separators if c not in " \t\n")
        run = ""
        for char in text:
            if char in blank:
                self.add(run, quoted=False)
                self.end_field()
                run = ""
            elif char in hard:
                self.add(run, quoted=not run)
                self.end_field()
                run = ""
            else:
                run += char
        self.add(run, quoted=False)


async def _pieces(scope: Scope, word: Word, *, split: bool) -> list[Field]:
    build = _Builder()
    for index, part in enumerate(word):
        if isinstance(part, Literal):
            text = part.text
            if index == 0 and not part.quoted and text.startswith("~"):
                text = _home(scope, text)
            build.add(text, quoted=part.quoted)
            continue
        if isinstance(part, Parameter) and part.name in "@*" and not part.op:
            _add_positional(scope, part, build, split)
            continue
        if isinstance(part, Parameter):
            nested = await _parameter(scope, part, split)
            if isinstance(nested, list):
                _add_fields(build, nested)
                continue
            value = nested
        elif isinstance(part, Arithmetic):
            expression = _join(await one_field(scope, part.word))
            value = str(evaluate(expression, lambda name: scope.get(name) or "", scope.put))
        else:
            value = await scope.capture(part.body)
        if part.quoted or not split:
            build.add(value, quoted=part.quoted)
        else:
            build.split(value, _separators(scope))
    build.end_field()
    return build.done


def _separators(scope: Scope) -> str:
    found = scope.get("IFS")
    return " \t\n" if found is None else found


def _home(scope: Scope, text: str) -> str:
    head, slash, tail = text.partition("/")
    return (scope.get("HOME") or "~") + slash + tail if head == "~" else text


def _add_positional(scope: Scope, part: Parameter, build: _Builder, split: bool) -> None:
    if part.name == "*" and part.quoted:
        build.add(_separators(scope)[:1].join(scope.positional), quoted=True)
        return
    for index, argument in enumerate(scope.positional):
        if index:
            if split:
                build.end_field()
            else:
                build.add(" ", quoted=part.quoted)
        if part.quoted:
            build.add(argument, quoted=True)
        elif split:
            build.split(argument, _separators(scope))
        else:
            build.add(argument, quoted=False)


def _add_fields(build: _Builder, found: list[Field]) -> None:
    for index, field in enumerate(found):
        if index:
            build.end_field()
        for piece in field:
            build.add(piece.text, quoted=piece.quoted)


async def _parameter(scope: Scope, part: Parameter, split: bool) -> str | list[Field]:
    value = " ".join(scope.positional) if part.name in ("@", "*") else scope.get(part.name)
    op = part.op
    if op == "#len":
        return str(len(scope.positional) if part.name in ("@", "*") else len(value or ""))
    if op.startswith(("%", "#")):
        return _trim(value or "", op, await pattern(scope, part.word))
    if op.startswith("/"):
        return await _replace(scope, value or "", part)
    missing = value is None or (op.startswith(":") and not value)
    match op[-1:]:
        case "+":
            return "" if missing else await _default(scope, part, split)
        case "-" if missing:
            return await _default(scope, part, split)
        case "=" if missing:
            value = _join(await one_field(scope, part.word))
            scope.put(part.name, value)
        case "?" if missing:
            why = _join(await one_field(scope, part.word)) or "parameter not set or null"
            raise UnsetParameter(f"{part.name}: {why}")
        case "" if missing and scope.nounset:
            raise UnsetParameter(f"{part.name}: parameter not set")
    return value or ""


async def _default(scope: Scope, part: Parameter, split: bool) -> str | list[Field]:
    if part.quoted or not split:
        return _join(await one_field(scope, part.word))
    return await _pieces(scope, part.word, split=True)


def _trim(value: str, op: str, source: str) -> str:
    """`${x#p}` and its kin: the shortest or longest match of the pattern at one end goes."""
    cuts = range(len(value) + 1)
    if op[0] == "#":
        order = cuts if op == "#" else reversed(cuts)
        for cut in order:
            if re.fullmatch(source, value[:cut]):
                return value[cut:]
        return value
    order = reversed(cuts) if op == "%" else cuts
    for cut in order:
        if re.fullmatch(source, value[cut:]):
            return value[:cut]
    return value


async def _replace(scope: Scope, value: str, part: Parameter) -> str:
    """`${x/pattern/new}`, as bash has it."""
    source: list[Piece] = []
    new: list[Piece] = []
    target = source
    for piece in await one_field(scope, part.word):
        if target is source and not piece.quoted and "/" in piece.text:
            before, _, after = piece.text.partition("/")
            source.append(Piece(before, False))
            target = new
            target.append(Piece(after, False))
        else:
            target.append(piece)
    replacement = _join(new)
    count = 0 if part.op == "//" else 1
    return re.sub(pattern_source(source), lambda _: replacement, value, count=count)


def _join(field: Field) -> str:
    return "".join(piece.text for piece in field)


# ---------------------------------------------------------------- names


def _match_names(scope: Scope, field: Field) -> list[str]:
    """The names that the field matches as a pattern, else its text."""
    if scope.noglob or not any(not p.quoted and re.search(r"[*?\[]", p.text) for p in field):
        return [_join(field)]
    steps = _steps(field)
    absolute = not steps[0]
    found = ["/" if absolute else ""]
    for step in steps[1:] if absolute else steps:
        found = [match for base in found for match in _step(scope, base, step)]
    return sorted(found) or [_join(field)]


def _steps(field: Field) -> list[Field]:
    """The field cut at its slashes."""
    steps: list[Field] = [[]]
    for piece in field:
        for index, text in enumerate(piece.text.split("/")):
            if index:
                steps.append([])
            if text:
                steps[-1].append(Piece(text, piece.quoted))
    return steps


def _step(scope: Scope, base: str, step: Field) -> list[str]:
    name = _join(step)
    if not name:
        return [base]
    if not any(not p.quoted and re.search(r"[*?\[]", p.text) for p in step):
        path = _under(base, name)
        return [path] if scope.files.exists(path, cwd=scope.cwd) else []
    try:
        folder = scope.files.node(base or ".", cwd=scope.cwd)
    except OSError:
        return []
    if not isinstance(folder, Folder):
        return []
    source = pattern_source(step)
    hidden = name.startswith(".")
    return [
        _under(base, child)
        for child in folder.children
        if child.startswith(".") == hidden and re.fullmatch(source, child)
    ]


def _under(base: str, name: str) -> str:
    return f"{base}{name}" if base.endswith("/") or not base else f"{base}/{name}"
