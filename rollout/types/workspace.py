"""What of an agent's files its scorer gets to see: the work, and not the tools it is judged with.

A rule over paths alone, so that it holds on every engine and for every base.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, StrEnum
from pathlib import PurePosixPath

SYSTEM = frozenset(
    {
        *("bin", "boot", "dev", "etc", "lib", "lib32", "lib64", "libx32", "nix", "opt", "proc"),
        *("run", "sbin", "sys", "usr", "var"),
        *("logs", "solution", "tests"),
        *("pytest.ini", "tox.ini", "setup.cfg", "pyproject.toml"),
        *("node_modules", "package.json", "tsconfig.json"),
    }
)
"""Names below the root that are no agent's to bring: where programs look for programs, libraries
and settings, what the scorer lays down itself, and what test runners read above /tests."""
MODULE = ".py"
"""A module right below the root is found by what runs there, or above /tests."""
HOMES = ("root", "home")
PROGRAM_FOLDERS = ("bin", "sbin")


class Trust(StrEnum):
    """What a scorer that works on the agent's files takes over from it."""

    AS_DECLARED = "as_declared"
    """As the task says."""
    WORKSPACE = "workspace"
    """The work; programs, libraries and settings of the system are the image's own."""
    SYSTEM = "system"
    """All of it: for tasks whose solution is to install or configure software."""


class Share(Enum):
    """How much of what lies at a path the agent may bring."""

    ALL = "all"
    SOME = "some"
    """The folder is the image's, and some names below it are the agent's."""
    NONE = "none"


@dataclass(frozen=True, slots=True)
class Workspace:
    """All but the system's folders, hidden files in homes and the tools that PATH names.

    The working folder and the declared outputs belong to it wherever they are.
    """

    workdir: str = "/"
    """Absolute. Where it is a folder of the system's itself, or a home, it widens nothing."""
    outputs: tuple[str, ...] = ()
    tools: tuple[str, ...] = ()

    @classmethod
    def of(
        cls, workdir: str, outputs: Iterable[str], env: Iterable[tuple[str, str]]
    ) -> "Workspace":
        """`env`: of the image and the blueprint, whose PATH tells where tools are."""
        named = [path for key, value in env if key == "PATH" for path in value.split(":")]
        tools = dict.fromkeys(_root_of_tools(path) for path in named if path.startswith("/"))
        return cls(_plain(workdir), tuple(map(_plain, outputs)), tuple(tools))

    def share(self, path: str) -> Share:
        """Of an absolute path without `.`, `..` or links."""
        own = (*self.outputs, *([self.workdir] if self._widens else []))
        if any(_within(path, folder) for folder in own):
            return Share.ALL
        if any(_within(folder, path) for folder in own):
            return Share.SOME
        names = path.strip("/").split("/")
        if names[0] == "":
            return Share.SOME
        if names[0] in SYSTEM or names[0].startswith(".") or names[0].endswith(MODULE):
            return Share.NONE
        if any(_within(path, tools) for tools in self.tools):
            return Share.NONE
        if names[0] in HOMES:
            return _share_of_home(names if names[0] == "home" else ["home", *names])
        if any(_within(tools, path) for tools in self.tools):
            return Share.SOME
        return Share.ALL

    @property
    def _widens(self) -> bool:
        names = self.workdir.strip("/").split("/")
        is_home = names[0] in HOMES and len(names) <= (2 if names[0] == "home" else 1)
        return names[0] != "" and not is_home and not (len(names) == 1 and names[0] in SYSTEM)


def _share_of_home(names: list[str]) -> Share:
    """Of `home/user/…`: hidden files there are settings of programs."""
    if len(names) < 3:
        return Share.SOME
    return Share.NONE if names[2].startswith(".") else Share.ALL


def _root_of_tools(path: str) -> str:
    """`/x/bin` stands for all of `/x`: the libraries of its programs are there, too."""
    plain = PurePosixPath(_plain(path))
    return str(plain.parent if plain.name in PROGRAM_FOLDERS else plain)


def _plain(path: str) -> str:
    return "/" + "/".join(part for part in path.split("/") if part not in ("", "."))


def _within(path: str, folder: str) -> bool:
    return folder == "/" or path == folder or path.startswith(f"{folder}/")


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One name outside of the workspace that a sandbox did not leave as its image has it."""

    path: str
    how: str
    """`added`, `changed` or `removed`."""
    kind: str = "file"
    """What is there now: `file`, `dir`, `link`, `other`; of what was removed, `none`."""


CHANGES_LIMIT = 50_000
"""Changes that are told of one sandbox."""


@dataclass(frozen=True, slots=True)
class Changes:
    entries: tuple[Change, ...] = ()
    more: bool = False
    """There are others beyond CHANGES_LIMIT, or deeper than is looked."""
