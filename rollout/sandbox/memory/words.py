"""The words of a shell script: quoting, `$…`, and the scanner under the parser."""

import re
from abc import ABC, abstractmethod

from rollout.sandbox.memory.syntax import (
    Arithmetic,
    Literal,
    Parameter,
    Part,
    Sequence,
    Substitution,
    Word,
)

METACHARACTERS = frozenset(" \t\n;&|<>()")
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_BARE = re.compile(r"(?:[^\s;&|<>()'\"\\$`]+)(?=[\s;&|<>()]|$)")
_BLANKS = re.compile(r"(?:[ \t]|\\\n)*(?:(?<![^\s;&|()])#[^\n]*)?")
_OPERATION = re.compile(r":?[-=+?]|%%?|##?|//?")
_PARAMETER = re.compile(r"\d+|[A-Za-z_]\w*|[@*#?$!-]")
_SPECIAL = "@*#?$!-0123456789"


class ShellSyntaxError(Exception):
    """The script cannot be parsed."""


class Words(ABC):
    """Reads words out of a text; what stands in `$(…)` is for the parser above."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    @abstractmethod
    def _sequence(self) -> Sequence:
        """Commands up to what closes them, which is left unread."""

    @abstractmethod
    def _inner(self, text: str) -> Sequence:
        """A script of its own, out of backticks."""

    @abstractmethod
    def _read_heredocs(self) -> None:
        """The lines that here-documents of the line just ended consist of."""

    def _word(self) -> Word:
        parts: list[Part] = []
        while self._at < len(self._text) and self._text[self._at] not in METACHARACTERS:
            self._part(parts, quoted=False, stop="")
        return tuple(parts)

    def _parts(self, stop: str, *, quoted: bool) -> list[Part]:
        """Parts up to the unquoted text `stop`, which is left unread; empty: up to the end."""
        parts: list[Part] = []
        depth = 0
        while self._at < len(self._text):
            if stop and depth == 0 and self._peek(stop):
                return parts
            if stop == "))":
                depth += {"(": 1, ")": -1}.get(self._text[self._at], 0)
            self._part(parts, quoted=quoted, stop=stop)
        if stop:
            raise ShellSyntaxError(f"Unterminated quoted string or expansion, no {stop}")
        return parts

    def _part(self, parts: list[Part], *, quoted: bool, stop: str) -> None:
        char = self._text[self._at]
        if char == "\\":
            self._escape(parts, quoted, stop)
        elif char == "'" and not quoted:
            end = self._text.find("'", self._at + 1)
            if end < 0:
                raise ShellSyntaxError("Unterminated quoted string")
            parts.append(Literal(self._text[self._at + 1 : end], True))
            self._at = end + 1
        elif char == '"' and (not quoted or stop == "}"):
            self._at += 1
            parts.append(Literal("", True))
            parts.extend(self._parts('"', quoted=True))
            self._at += 1
        elif char == "$":
            parts.append(self._dollar(quoted))
        elif char == "`":
            parts.append(self._backticks(quoted))
        else:
            end = self._at + 1
            while end < len(self._text) and self._text[end] not in " \t\n;&|<>()'\"\\$`}":
                end += 1
            parts.append(Literal(self._text[self._at : end], quoted))
            self._at = end

    def _escape(self, parts: list[Part], quoted: bool, stop: str) -> None:
        following = self._text[self._at + 1 : self._at + 2]
        self._at += 2
        if following == "\n":
            return
        special = '$`\\"' if stop == '"' else "$`\\}" if stop == "}" else "$`\\"
        if quoted and following not in special:
            following = "\\" + following
        parts.append(Literal(following or "\\", True))

    def _dollar(self, quoted: bool) -> Part:
        if self._peek("$(("):
            at = self._at
            try:
                self._at += 3
                word = tuple(self._parts("))", quoted=True))
                self._expect("))")
                return Arithmetic(word, quoted)
            except ShellSyntaxError:
                self._at = at
        if self._peek("$("):
            self._at += 2
            body = self._sequence()
            self._expect(")")
            return Substitution(body, quoted)
        if self._peek("${"):
            return self._braced(quoted)
        self._at += 1
        name = NAME.match(self._text, self._at)
        if name:
            self._at = name.end()
            return Parameter(name[0], quoted=quoted)
        if self._at < len(self._text) and self._text[self._at] in _SPECIAL:
            return Parameter(self._take(1), quoted=quoted)
        return Literal("$", quoted)

    def _braced(self, quoted: bool) -> Parameter:
        self._at += 2
        length = self._peek("#") and not self._peek("#}")
        self._at += int(length)
        name = _PARAMETER.match(self._text, self._at)
        if not name:
            raise ShellSyntaxError("Bad substitution")
        self._at = name.end()
        operation = _OPERATION.match(self._text, self._at)
        op, word = "", list[Part]()
        if length:
            op = "#len"
        elif operation:
            op = operation[0]
            self._at = operation.end()
            word = self._parts("}", quoted=quoted and op[-1] in "-=+?")
        self._expect("}")
        return Parameter(name[0], op, tuple(word), quoted)

    def _backticks(self, quoted: bool) -> Substitution:
        end = self._at + 1
        while end < len(self._text) and self._text[end] != "`":
            end += 2 if self._text[end] == "\\" else 1
        if end >= len(self._text):
            raise ShellSyntaxError("EOF in backquote substitution")
        inner = re.sub(r"\\([$`\\])", r"\1", self._text[self._at + 1 : end])
        self._at = end + 1
        return Substitution(self._inner(inner), quoted)

    # ------------------------------------------------------------ scanning

    def _blanks(self) -> None:
        match = _BLANKS.match(self._text, self._at)
        if match:
            self._at = match.end()

    def _newlines(self) -> None:
        self._blanks()
        while self._peek("\n"):
            self._at += 1
            self._read_heredocs()
            self._blanks()

    def _peek(self, *texts: str) -> bool:
        return self._text.startswith(texts, self._at)

    def _take(self, count: int) -> str:
        self._at += count
        return self._text[self._at - count : self._at]

    def _bare(self) -> str:
        """The unquoted plain word that comes next, if it is one."""
        match = _BARE.match(self._text, self._at)
        return match[0] if match else ""

    def _at_metacharacter(self) -> bool:
        return self._at >= len(self._text) or self._text[self._at] in METACHARACTERS

    def _expect(self, text: str) -> None:
        self._blanks()
        if not self._peek(text):
            raise self._unexpected()
        self._at += len(text)

    def _keyword(self, word: str) -> None:
        if self._bare() != word:
            raise self._unexpected(word)
        self._at += len(word)

    def _unexpected(self, wanted: str = "") -> ShellSyntaxError:
        if self._at >= len(self._text):
            seen = "end of file unexpected"
        elif self._peek("\n"):
            seen = "newline unexpected"
        else:
            seen = f'"{self._bare() or self._text[self._at]}" unexpected'
        return ShellSyntaxError(seen + (f' (expecting "{wanted}")' if wanted else ""))
