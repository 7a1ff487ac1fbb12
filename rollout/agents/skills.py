"""Skills: folders with a SKILL.md, put into the agent's computer for it to read when it needs them.

The format is that of agentskills.io, which harnesses share: a head of `name` and `description`
between lines of `---`, then what to do. They lie in one folder, where any agent can be told of them
or a harness finds them by a link.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rollout.errors import ConfigError
from rollout.sandbox.base import Sandbox
from rollout.transcript import clip

FOLDER = "/opt/skills"
MAIN = "SKILL.md"
MAIN_LIMIT_BYTES = 1 << 20
DESCRIPTION_CHARS = 1_024
"""As much as the format allows."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_HEAD = re.compile(r"\A---\s*\n(.*?)\n---\s*(?:\n|\Z)", re.DOTALL)
_DESCRIPTION = re.compile(r"^description:[ \t]*(.*(?:\n[ \t]+.*)*)", re.MULTILINE)


def mounts_of(skills: Sequence[str]) -> list[Mapping[str, Any]]:
    """As in `blueprint.mounts`. ConfigError for what is no skill on the machine that plans."""
    names = [name_of(skill) for skill in skills]
    for skill, name in zip(skills, names, strict=True):
        if not _NAME.fullmatch(name):
            raise ConfigError(f"agent.skills: {skill!r}: {name!r} cannot name a skill")
        if not (Path(skill).expanduser() / MAIN).is_file():
            raise ConfigError(f"agent.skills: {skill!r} is no folder with a {MAIN}")
        if names.count(name) > 1:
            raise ConfigError(f"agent.skills: two are called {name!r}; rename a folder")
    return [
        {"kind": "folder", "source": skill, "dest": f"{FOLDER}/{name}"}
        for skill, name in zip(skills, names, strict=True)
    ]


def name_of(skill: str) -> str:
    return Path(skill).expanduser().name


async def described(skills: Sequence[str], sandbox: Sandbox) -> str:
    """What a model is told of them: where each is and what it is for."""
    lines = []
    for name in map(name_of, skills):
        path = f"{FOLDER}/{name}/{MAIN}"
        text = (await sandbox.read_file(path, limit_bytes=MAIN_LIMIT_BYTES)).decode(
            errors="replace"
        )
        lines.append(f"- {path}: {description_of(text) or name}")
    return "\n".join(lines)


def description_of(text: str) -> str:
    """One line out of a SKILL.md's head; empty where there is none."""
    head = _HEAD.match(text)
    found = _DESCRIPTION.search(head[1]) if head else None
    if found is None:
        return ""
    words = " ".join(found[1].lstrip("|>-").split()).strip("'\"")
    return clip(words, DESCRIPTION_CHARS)
