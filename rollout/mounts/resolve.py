"""From mounts as they stand in a config to steps in which everything is exact."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from rollout.errors import ConfigError, RolloutError
from rollout.mounts.agents import AgentMount
from rollout.mounts.base import Fields, Mount, Part, Resolved
from rollout.mounts.code import CodeMount
from rollout.mounts.files import FileMount, FolderMount, ObjectMount
from rollout.objects.store import ObjectStore
from rollout.types import BuildStep

KINDS: Mapping[str, Callable[[Fields], Mount]] = {
    "file": FileMount.read,
    "folder": FolderMount.read,
    "object": ObjectMount.read,
    "code": CodeMount.read,
    "agent": AgentMount.read,
}
LAUNCH, BUILD = "launch", "build"


def resolve(mounts: Sequence[Mapping[str, Any]], objects: ObjectStore) -> Resolved:
    """Pin all mounts, in order; blocks, and may fetch. ConfigError tells every problem there is.

    Each mount is a mapping with `kind`, `at: launch | build` (launch unless said) and the keys of
    its kind. The same mounts come to the same steps, as long as what they name is the same.
    """
    read = [_read(number, values) for number, values in enumerate(mounts)]
    problems = [problem for fields, _, _ in read for problem in fields.problems]
    if problems:
        raise ConfigError("\n".join(problems))
    parts: list[tuple[str, Part]] = []
    for fields, at, mount in read:
        assert mount is not None
        try:
            parts.append((at, mount.resolve(objects)))
        except RolloutError as exc:
            problems.append(fields.error(exc))
    problems += _twice([part for _, part in parts])
    if problems:
        raise ConfigError("\n".join(problems))
    return _together(parts)


def _read(number: int, values: Mapping[str, Any]) -> tuple[Fields, str, Mount | None]:
    if not isinstance(values, Mapping):
        fields = Fields(number, {})
        fields.problem("kind", f"a mount is a mapping of keys, was {values!r}")
        return fields, LAUNCH, None
    fields = Fields(number, values)
    kind = fields.choice("kind", tuple(KINDS))
    at = fields.choice("at", (LAUNCH, BUILD), LAUNCH)
    if kind not in KINDS:
        return fields, at, None
    mount = KINDS[kind](fields)
    fields.finish()
    return fields, at, mount


def _twice(parts: Sequence[Part]) -> list[str]:
    names = [name for part in parts for name, _, _ in part.agents]
    return [
        f"mounts: two agents are called {name!r}; give one another name"
        for name in dict.fromkeys(names)
        if names.count(name) > 1
    ]


def _together(parts: Sequence[tuple[str, Part]]) -> Resolved:
    every = [part for _, part in parts]
    return Resolved(
        baked=tuple(step for at, part in parts if at == BUILD for step in in_image(part.steps)),
        launch=tuple(step for at, part in parts if at == LAUNCH for step in part.steps),
        agents=tuple(agent for part in every for agent in part.agents),
        secrets=tuple(dict.fromkeys(secret for part in every for secret in part.secrets)),
        notes=tuple(note for part in every for note in part.notes),
    )


def in_image(steps: Sequence[BuildStep]) -> Iterator[BuildStep]:
    """Where an image is built, what would have to be made beforehand is simply done."""
    for step in steps:
        yield from step.steps if step.op == "made" else (step,)
