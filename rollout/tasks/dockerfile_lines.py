"""A Dockerfile's instructions, one by one, each with its heredocs.

The library reads instructions, comments and continued lines; heredocs, which it does not know, are
taken out before it sees the file.
"""

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from dockerfile_parse import DockerfileParser

from rollout.errors import ConfigError
from rollout.tasks.dockerfile_words import split_words

_MARK = re.compile(r"\d*<<(-?)([^<]+)")
_NAME = re.compile(r"[A-Za-z0-9_.-]+")
_WITH_HEREDOCS = ("RUN", "COPY", "ADD")


@dataclass(frozen=True, slots=True)
class Heredoc:
    """One `<<NAME` of an instruction, and the lines up to NAME."""

    name: str
    body: str
    """With a newline behind each line, and for `<<-` without the tabs before it."""
    literal: bool
    """The name was quoted: nothing in the body is expanded."""
    lines: str
    """As written, the last line with the name included."""


@dataclass(frozen=True, slots=True)
class Line:
    """One instruction."""

    number: int
    """Of its first line, from 1."""
    instruction: str
    value: str
    heredocs: tuple[Heredoc, ...] = ()


def read_lines(content: bytes) -> tuple[list[Line], list[tuple[int, str]]]:
    """The instructions, and number and text of lines that are none.

    UnicodeDecodeError, and ConfigError for a heredoc without an end.
    """
    kept, heredocs = _take_heredocs(content.decode().splitlines())
    parsed = DockerfileParser(fileobj=io.BytesIO("\n".join(kept).encode())).structure
    lines = [
        Line(
            line["startline"] + 1,
            line["instruction"],
            line["value"],
            tuple(heredocs.get(line["endline"], ())),
        )
        for line in parsed
        if line["instruction"] != "COMMENT"
    ]
    return lines, list(_passed_over(kept, parsed))


def _passed_over(kept: list[str], parsed: list[dict[str, Any]]) -> Iterator[tuple[int, str]]:
    """What the library has left out in silence."""
    read = {at for line in parsed for at in range(line["startline"], line["endline"] + 1)}
    for at, text in enumerate(kept):
        if text.strip() and at not in read:
            yield at + 1, text.strip()


def _take_heredocs(lines: list[str]) -> tuple[list[str], dict[int, list[Heredoc]]]:
    """The lines, those of heredocs blank; and the heredocs by the line they were asked for in."""
    kept: list[str] = []
    found: dict[int, list[Heredoc]] = {}
    while len(kept) < len(lines):
        text = _logical(lines, kept)
        asked = len(kept) - 1
        bodies = [_body(lines, kept, mark) for mark in _marks(text)]
        if bodies:
            found[asked] = bodies
    return kept, found


def _logical(lines: list[str], kept: list[str]) -> str:
    """The next instruction with its continued lines, moved to `kept`."""
    text = lines[len(kept)]
    kept.append(text)
    if not text.strip() or text.lstrip().startswith("#"):
        return ""
    while text.rstrip().endswith("\\") and len(kept) < len(lines):
        more = lines[len(kept)]
        kept.append(more)
        if more.strip() and not more.lstrip().startswith("#"):
            text = text.rstrip()[:-1] + more
    return text


def _marks(text: str) -> list[tuple[bool, bool, str]]:
    """(tabs are taken off, literal, name) of each heredoc an instruction asks for."""
    if text.strip().partition(" ")[0].upper() not in _WITH_HEREDOCS:
        return []
    found = []
    for word in split_words(text):
        mark = _MARK.fullmatch(word)
        name = mark[2].strip("'\"") if mark else ""
        if mark and _NAME.fullmatch(name):
            found.append((bool(mark[1]), name != mark[2], name))
    return found


def _body(lines: list[str], kept: list[str], mark: tuple[bool, bool, str]) -> Heredoc:
    without_tabs, literal, name = mark
    begin = len(kept)
    while len(kept) < len(lines):
        line = lines[len(kept)]
        kept.append("")
        if (line.lstrip("\t") if without_tabs else line) == name:
            raw = lines[begin : len(kept) - 1]
            body = [line.lstrip("\t") if without_tabs else line for line in raw]
            return Heredoc(
                name=name,
                body="".join(f"{line}\n" for line in body),
                literal=literal,
                lines="".join(f"{line}\n" for line in lines[begin : len(kept)]),
            )
    raise ConfigError(f"the heredoc <<{name} of line {begin} has no end, a line with {name} alone")
