"""What a shell script consists of: the tree that `parser` makes and `shell` runs."""

from dataclasses import dataclass, field
from typing import TypeAlias

Part: TypeAlias = "Literal | Parameter | Substitution | Arithmetic"
Word: TypeAlias = tuple[Part, ...]
Command: TypeAlias = (
    "Simple | If | Loop | For | Case | Group | Function | Conditional | ArithmeticCommand"
)


@dataclass(frozen=True, slots=True)
class Literal:
    text: str
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Parameter:
    """`$name`, `${name op word}`; `op` `#len` is `${#name}`."""

    name: str
    op: str = ""
    word: Word = ()
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Substitution:
    """`$(…)` or backticks."""

    body: "Sequence"
    quoted: bool = False


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """`$((…))`."""

    word: Word
    quoted: bool = False


@dataclass(slots=True)
class Redirect:
    op: str
    """`< > >> >| >& <& <> &> &>> << <<<`"""
    fd: int
    word: Word
    delimiter: str = ""
    """Of a here-document, whose text becomes `word` once its lines are read."""


@dataclass(frozen=True, slots=True)
class Simple:
    assigns: tuple[tuple[str, Word], ...]
    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...]


@dataclass(frozen=True, slots=True)
class If:
    branches: "tuple[tuple[Sequence, Sequence], ...]"
    otherwise: "Sequence | None"
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True, slots=True)
class Loop:
    test: "Sequence"
    body: "Sequence"
    until: bool
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True, slots=True)
class For:
    name: str
    words: tuple[Word, ...] | None
    """`None`: the positional parameters."""
    body: "Sequence"
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True, slots=True)
class Case:
    word: Word
    branches: "tuple[tuple[tuple[Word, ...], Sequence], ...]"
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True, slots=True)
class Group:
    """`{ …; }`, or `( … )` with `fork`."""

    body: "Sequence"
    fork: bool
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True, slots=True)
class Conditional:
    """`[[ … ]]`, given to `test` without splitting its words."""

    words: tuple[Word, ...]
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True, slots=True)
class ArithmeticCommand:
    """`(( … ))`."""

    word: Word
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True, slots=True)
class Function:
    name: str
    body: Command
    redirects: tuple[Redirect, ...] = ()


@dataclass(frozen=True, slots=True)
class Pipeline:
    commands: tuple[Command, ...]
    negate: bool = False


@dataclass(frozen=True, slots=True)
class AndOr:
    first: Pipeline
    rest: tuple[tuple[str, Pipeline], ...] = ()


@dataclass(frozen=True, slots=True)
class Sequence:
    """Commands one after the other; the flag marks those sent to the background."""

    items: tuple[tuple[AndOr, bool], ...] = field(default=())
