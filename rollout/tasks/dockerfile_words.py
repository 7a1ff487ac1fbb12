"""Words of a Dockerfile: quotes, escapes and variables as Docker reads them."""

import re
from collections.abc import Mapping

from rollout.errors import ConfigError

_IN_BODY = re.compile(r"\\\$|\$\{[^}]*\}|\$[A-Za-z_][A-Za-z0-9_]*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|[0-9]")


def expand(text: str, variables: Mapping[str, str]) -> str:
    """One word with quotes taken off and variables put in.

    Understood: `$name`, `${name}`, and `${name` with `:-word`, `-word`, `:+word`, `+word`,
    `:?word` or `?word` before the `}`. Other forms are a ConfigError.
    """
    return _Reader(text, variables).read()


def expand_body(text: str, variables: Mapping[str, str]) -> str:
    """The lines of a heredoc: only variables are put in, quotes stay, `\\$` is a dollar sign."""

    def put(found: re.Match[str]) -> str:
        return "$" if found[0] == r"\$" else expand(found[0], variables)

    return _IN_BODY.sub(put, text)


class _Reader:
    """One pass over a word, Docker's shell lexer in small."""

    def __init__(self, text: str, variables: Mapping[str, str]) -> None:
        self._text = text
        self._at = 0
        self._variables = variables

    def read(self, until: str = "") -> str:
        """Up to the unquoted character `until`, or to the end."""
        out: list[str] = []
        while self._at < len(self._text):
            char = self._text[self._at]
            if char == until:
                return "".join(out)
            self._at += 1
            match char:
                case "'":
                    out.append(self._single_quoted())
                case '"':
                    out.append(self._double_quoted())
                case "\\":
                    out.append(self._take(1))
                case "$":
                    out.append(self._variable())
                case _:
                    out.append(char)
        if until:
            raise ConfigError(f"{self._text!r} has a ${{ without its }}")
        return "".join(out)

    def _take(self, count: int) -> str:
        taken = self._text[self._at : self._at + count]
        self._at += count
        return taken

    def _single_quoted(self) -> str:
        end = self._text.find("'", self._at)
        if end < 0:
            raise ConfigError(f"{self._text!r} has a ' without its end")
        quoted = self._text[self._at : end]
        self._at = end + 1
        return quoted

    def _double_quoted(self) -> str:
        out: list[str] = []
        while self._at < len(self._text):
            char = self._take(1)
            if char == '"':
                return "".join(out)
            if char == "$":
                out.append(self._variable())
            elif char == "\\" and self._text[self._at : self._at + 1] in ('"', "$", "\\"):
                out.append(self._take(1))
            else:
                out.append(char)
        raise ConfigError(f'{self._text!r} has a " without its end')

    def _variable(self) -> str:
        if self._text[self._at : self._at + 1] == "{":
            self._at += 1
            return self._braced()
        found = _NAME.match(self._text, self._at)
        if not found:
            return "$"
        self._at = found.end()
        return self._variables.get(found[0], "")

    def _braced(self) -> str:
        found = _NAME.match(self._text, self._at)
        if not found:
            raise ConfigError(f"{self._text!r} has a ${{ without a variable's name")
        self._at = found.end()
        name, value = found[0], self._variables.get(found[0])
        if self._text[self._at : self._at + 1] == "}":
            self._at += 1
            return value or ""
        colon = self._text[self._at : self._at + 1] == ":"
        self._at += colon
        modifier = self._take(1)
        word = self.read(until="}")
        self._at += 1
        present = bool(value) if colon else value is not None
        match modifier:
            case "-":
                return value or "" if present else word
            case "+":
                return word if present else ""
            case "?" if present:
                return value or ""
            case "?":
                raise ConfigError(f"the variable {name} must be set: {word or 'no value'}")
        raise ConfigError(f"the form ${{{name}{':' * colon}{modifier}…}} is not understood")


def pairs(text: str, variables: Mapping[str, str]) -> list[tuple[str, str]]:
    """What an ENV line sets: `name=value …`, or the old `name rest of the line`."""
    words = split_words(text)
    if "=" not in words[0]:
        name, _, rest = text.strip().partition(" ")
        if not rest.strip():
            raise ConfigError(f"{text!r} sets {name!r} to nothing; write {name}=value")
        return [(expand(name, variables), expand(rest.strip(), variables))]
    for word in words:
        if "=" not in word:
            raise ConfigError(f"{word!r} has no `=`; write name=value")
    halves = (word.partition("=") for word in words)
    return [(expand(name, variables), expand(value, variables)) for name, _, value in halves]


def split_words(text: str) -> list[str]:
    """At white space that is neither quoted nor escaped; quotes and escapes stay."""
    words: list[str] = []
    word, quote, escaped = "", "", False
    for char in text:
        if not (quote or escaped) and char.isspace():
            if word:
                words.append(word)
            word = ""
            continue
        word += char
        if escaped:
            escaped = False
        elif char == "\\" and quote != "'":
            escaped = True
        elif quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
    return [*words, word] if word else words
