"""Where an agent comes from: what its name means now, as an exact version.

Registries are asked by their own clients, npm and pip, with the settings they have on this machine;
nothing is installed and no code of a package is run here.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollout.errors import ConfigError
from rollout.types import Tree

TIMEOUT_S = 120.0
NPM = re.compile(r"(?P<name>(@[a-z0-9~._-]+/)?[a-z0-9~][a-z0-9~._-]*)(@(?P<wanted>[^@\s]+))?")
NPM_EXACT = re.compile(r"\d+\.\d+\.\d+([-+][0-9A-Za-z.+-]+)?")
PYPI = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)(?P<extras>\[[A-Za-z0-9._,-]+\])?(?P<wanted>[=<>!~].*)?"
)
PYPI_EXACT = re.compile(r"===?([0-9][0-9A-Za-z.!+_-]*)")


def npm_version(text: str, env: Mapping[str, str]) -> tuple[str, str]:
    """Name and exact version of `NAME@VERSION`, of a range, a tag, or a name alone."""
    found = NPM.fullmatch(text)
    if found is None:
        raise ConfigError(f"source: {text!r} is no npm package; write npm:NAME@VERSION")
    name, wanted = found["name"], found["wanted"] or "latest"
    if NPM_EXACT.fullmatch(wanted):
        return name, wanted
    told = _ask(["npm", "view", f"{name}@{wanted}", "version", "--json"], env)
    versions = [told] if isinstance(told, str) else told if isinstance(told, list) else []
    if not versions:
        raise ConfigError(f"source: npm knows no version {wanted!r} of {name}")
    return name, max(map(str, versions), key=_by_number)


def pypi_version(text: str, env: Mapping[str, str]) -> tuple[str, str, str]:
    """Name, extras and exact version of `NAME==VERSION`, of a range, or of a name alone."""
    found = PYPI.fullmatch(text.replace(" ", ""))
    if found is None:
        raise ConfigError(f"source: {text!r} is no package of PyPI; write pypi:NAME==VERSION")
    name, extras, wanted = found["name"], found["extras"] or "", found["wanted"] or ""
    if exact := PYPI_EXACT.fullmatch(wanted):
        return name, extras, exact[1]
    # Wheels alone: to know the version of anything else, its code would have to be run.
    quiet = ("--quiet", "--no-input", "--disable-pip-version-check", "--no-deps")
    asked = ("--dry-run", "--ignore-installed", "--only-binary=:all:", "--report=-")
    told = _ask([sys.executable, "-m", "pip", "install", *quiet, *asked, name + wanted], env)
    try:
        return name, extras, str(told["install"][0]["metadata"]["version"])
    except (TypeError, LookupError) as exc:
        raise ConfigError(f"source: pip tells no version of {name}{wanted}") from exc


def _by_number(version: str) -> tuple[bool, list[int], str]:
    """Releases after what comes before them, by number."""
    release, _, before = version.partition("-")
    return not before, [int(part) for part in re.findall(r"\d+", release)], version


def _ask(command: Sequence[str], env: Mapping[str, str]) -> Any:
    what = " ".join(command[:3]) if command[0] == "npm" else f"pip install {command[-1]}"
    with tempfile.TemporaryDirectory(prefix="rollout-agent-") as elsewhere:
        try:
            done = subprocess.run(
                command,
                cwd=elsewhere,  # out of reach of a project's own .npmrc
                env={**os.environ, **env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except FileNotFoundError as exc:
            raise ConfigError(
                f"source: {command[0]} is needed here to find the version; write an exact one"
            ) from exc
        except subprocess.TimeoutExpired:
            raise ConfigError(f"source: `{what}` took longer than {TIMEOUT_S:g} s") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        told = next((line for line in said if re.search(r"(?i)error", line)), " ".join(said[-1:]))
        raise ConfigError(f"source: `{what}` fails: {_masked(told, env)[:300]}")
    try:
        return json.loads(done.stdout or b"null")
    except ValueError as exc:
        raise ConfigError(f"source: `{what}` told no JSON") from exc


def _masked(text: str, env: Mapping[str, str]) -> str:
    for value in env.values():
        text = text.replace(value, "…")
    return re.sub(r"://[^/@\s]*@", "://…@", text)


# ---------------------------------------------------------------- a folder


def unwrapped(tree: Tree) -> Tree:
    """Without the one folder that packages of npm and PyPI have around them."""
    tops = {entry.path.split("/")[0] for entry in tree.entries}
    top = next(iter(tops), "")
    kinds = {entry.path: entry.kind for entry in tree.entries}
    if len(tops) != 1 or kinds.get(top, "dir") != "dir" or top == "bin":
        return tree
    start = f"{top}/"
    inner = (entry for entry in tree.entries if entry.path.startswith(start))
    return Tree(tuple(_moved(entry, entry.path.removeprefix(start)) for entry in inner))


def _moved(entry: Any, path: str) -> Any:
    return type(entry)(path, entry.kind, entry.mode, entry.data, entry.target)


def kind_of(tree: Tree) -> str:
    """By which it is installed: `npm`, `pip` or `plain`; ConfigError for neither."""
    names = {entry.path for entry in tree.entries}
    if "package.json" in names:
        return "npm"
    if names & {"pyproject.toml", "setup.py"}:
        return "pip"
    if any(name.startswith("bin/") for name in names):
        return "plain"
    raise ConfigError(
        "source: it has neither package.json, pyproject.toml or setup.py, nor a folder bin with "
        "the agent's commands"
    )


def written_version(tree: Tree) -> str:
    """What the folder says of its own version; empty where it says nothing."""
    files = tree.files()
    try:
        if "package.json" in files:
            return _text(json.loads(files["package.json"]).get("version"))
        if told := re.search(rb"(?m)^Version: *(\S+)", files.get("PKG-INFO", b"")):
            return told[1].decode()
        project = tomllib.loads(files.get("pyproject.toml", b"").decode()).get("project", {})
        return _text(project.get("version"))
    except (ValueError, AttributeError) as exc:
        raise ConfigError(f"source: its description cannot be read: {exc}") from exc


def _text(value: object) -> str:
    return value if isinstance(value, str) else ""


def default_name(source: str) -> str:
    """What an agent is called that nobody has named: the last part of its source."""
    kind, _, rest = source.partition(":")
    if kind == "git":
        rest = rest.rpartition("@")[0].rstrip("/").removesuffix(".git")
    if kind == "npm":
        rest = rest.removeprefix("@").partition("@")[0]
    last = Path(rest).name.lower()
    return re.split(r"[\[=<>!~]", last)[0] if kind == "pypi" else last
