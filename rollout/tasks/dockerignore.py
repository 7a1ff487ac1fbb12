"""Which files of a build context `.dockerignore` hides."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path


def read_ignore(context: Path, dockerfile: Path) -> Callable[[str], bool]:
    """Whether a path relative to the context is hidden; the last pattern that matches decides.

    `<Dockerfile>.dockerignore` is taken before the context's `.dockerignore`, as by BuildKit. A
    pattern that matches a folder matches all below it.
    """
    own = dockerfile.with_name(dockerfile.name + ".dockerignore")
    file = own if own.is_file() else context / ".dockerignore"
    rules = list(_rules(file.read_text())) if file.is_file() else []

    def hidden(path: str) -> bool:
        verdict = False
        for shows, pattern in rules:
            if any(pattern.fullmatch(part) for part in _with_parents(path)):
                verdict = not shows
        return verdict

    return hidden


def _rules(text: str) -> Iterator[tuple[bool, re.Pattern[str]]]:
    for line in text.splitlines():
        pattern = line.strip()
        if not pattern or line.startswith("#"):
            continue
        shows = pattern.startswith("!")
        pattern = pattern.removeprefix("!").strip().removeprefix("/").removesuffix("/")
        pattern = pattern.removeprefix("./")
        if pattern and pattern != ".":
            yield shows, glob_regex(pattern)


def _with_parents(path: str) -> Iterator[str]:
    parts = path.split("/")
    return ("/".join(parts[:end]) for end in range(1, len(parts) + 1))


def glob_regex(pattern: str) -> re.Pattern[str]:
    """Go's path patterns: `*` and `?` stop at `/`, `**` does not, `[^a-z]`, backslash escapes."""
    out, at = "", 0
    while at < len(pattern):
        char = pattern[at]
        if pattern.startswith("**/", at):
            out, at = out + "(?:.*/)?", at + 3
        elif pattern.startswith("**", at):
            out, at = out + ".*", at + 2
        elif char == "[" and (end := pattern.find("]", at + 2)) > 0:
            inner = pattern[at + 1 : end].replace("\\", "\\\\").replace("[", "\\[")
            out, at = out + f"[{inner}]", end + 1
        elif char == "\\" and at + 1 < len(pattern):
            out, at = out + re.escape(pattern[at + 1]), at + 2
        else:
            out, at = out + {"*": "[^/]*", "?": "[^/]"}.get(char, re.escape(char)), at + 1
    return re.compile(out, re.DOTALL)
