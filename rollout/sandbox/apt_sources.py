"""Where this machine's apt gets its packages from, as /etc/apt tells it: both of its formats."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rollout.errors import BuildError

APT = Path("/etc/apt")
OS_RELEASE = Path("/etc/os-release")
ASK_TIMEOUT_S = 20.0
_ONE_LINE = re.compile(r"deb\s+(?:\[([^\]]*)\]\s+)?(\S+)\s+(\S+)\s+(.+)")
_USABLE = ("http://", "https://", "file:/", "ftp://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """One suite of one mirror."""

    uri: str
    suite: str
    components: tuple[str, ...]
    keyring: str = ""
    """The file its signatures are held against; empty: those the machine trusts."""

    @property
    def shown(self) -> str:
        """Its address without a password."""
        return re.sub(r"//[^/@]*@", "//", self.uri)


def source_of(suite: str = "", *, apt: Path = APT, os_release: Path = OS_RELEASE) -> Source:
    """The machine's source of `suite`, or of its own suite where none is named.

    Of a suite that it has no line for, the mirror of its own suite is asked. BuildError where
    there is none.
    """
    own = _own_suite(os_release)
    wanted = suite or own
    found = [each for each in sources(apt) if "main" in each.components]
    for each in found:
        if each.suite == wanted:
            return each
    for each in found:
        if each.suite == own:
            return Source(uri=each.uri, suite=wanted, components=("main",), keyring=each.keyring)
    raise BuildError(
        f"{apt} has no line for the suite {wanted!r}, nor for this machine's own ({own!r}), with "
        "the component main; add one, or use a rootfs"
    )


def sources(apt: Path = APT) -> Iterator[Source]:
    """All that are in use, in apt's order: sources.list, then sources.list.d by name."""
    files = [apt / "sources.list", *sorted((apt / "sources.list.d").glob("*"))]
    for file in files:
        if file.suffix not in (".list", ".sources") or not file.is_file():
            continue
        text = file.read_text(errors="replace")
        yield from _of_lines(text) if file.suffix == ".list" else _of_stanzas(text)


def _of_lines(text: str) -> Iterator[Source]:
    for line in text.splitlines():
        found = _ONE_LINE.fullmatch(line.partition("#")[0].strip())
        if found and found[2].startswith(_USABLE):
            options = dict(word.split("=", 1) for word in (found[1] or "").split() if "=" in word)
            yield Source(
                uri=found[2],
                suite=found[3],
                components=tuple(found[4].split()),
                keyring=_keyring(options.get("signed-by", "")),
            )


def _of_stanzas(text: str) -> Iterator[Source]:
    for stanza in re.split(r"\n\s*\n", text):
        lines = [line for line in stanza.splitlines() if not line.startswith("#")]
        pairs = (line.partition(":") for line in lines if not line.startswith((" ", "\t")))
        keys = {name.strip().lower(): value.strip() for name, _, value in pairs}
        if keys.get("enabled", "yes").lower() == "no" or "deb" not in keys.get("types", "").split():
            continue
        for uri in keys.get("uris", "").split():
            for suite in keys.get("suites", "").split() if uri.startswith(_USABLE) else ():
                yield Source(
                    uri=uri,
                    suite=suite,
                    components=tuple(keys.get("components", "").split()),
                    keyring=_keyring(keys.get("signed-by", "")),
                )


def _keyring(signed_by: str) -> str:
    """Where it is a file in the form that debootstrap reads."""
    return signed_by if signed_by.startswith("/") and signed_by.endswith(".gpg") else ""


def _own_suite(os_release: Path) -> str:
    try:
        words = dict(
            word.split("=", 1) for word in shlex.split(os_release.read_text(), comments=True)
        )
    except (OSError, ValueError):
        return ""
    return words.get("VERSION_CODENAME", "")


def proxies() -> dict[str, str]:
    """apt's own, as the variables that other programs read."""
    asked = [f"{kind}_proxy Acquire::{kind}::Proxy" for kind in ("http", "https")]
    try:
        told = subprocess.run(
            ["apt-config", "shell", *" ".join(asked).split()],
            capture_output=True,
            text=True,
            check=True,
            timeout=ASK_TIMEOUT_S,
        ).stdout
        return dict(word.split("=", 1) for word in shlex.split(told))
    except (OSError, subprocess.SubprocessError, ValueError):
        return {}
