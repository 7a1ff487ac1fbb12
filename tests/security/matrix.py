"""The matrix: what is tried, on which engine, what is declared and what came of it."""

from collections import Counter
from collections.abc import Iterable, Mapping

from rollout.sandbox.walls import TRIES, WALLS, Wall
from tests.security.drills.table import CONTAINED, DRILLS
from tests.security.examine import DOCKER, USER, Found, Survey
from tests.security.probes.table import ABSENT, ESCAPED, PROBES, REFUSED

OPEN, BROKEN, NOT_APPLICABLE = "open", "broken", "n/a"
STATUS = {REFUSED: REFUSED, ABSENT: REFUSED, CONTAINED: CONTAINED, ESCAPED: OPEN}
"""Of each outcome; what is none of these is broken, and never counts as held back."""
HELD = frozenset({REFUSED, CONTAINED, NOT_APPLICABLE})

WALL_OF: Mapping[str, Wall] = {
    **{name: Wall(probe.wall) for name, probe in PROBES.items()},
    **{name: drill.wall for name, drill in DRILLS.items()},
}
ALL = sorted(WALL_OF)
BOMBS = frozenset(drill.wall for drill in DRILLS.values()) - {Wall.UIDS, Wall.INHERITED}
"""What is tried against these is let in and held there; all else is kept out."""
WITHOUT_MEANING: Mapping[str, frozenset[str]] = {
    USER: frozenset({"device_in_a_layer"}),
    DOCKER: frozenset({"device_in_a_layer", "write_to_the_shared_dev", "change_a_shared_device"}),
}
"""What there is nothing to try with: an ordinary user makes no device, and a container has a /dev
of its own."""

UNSHOWN: Mapping[str, Mapping[str, str]] = {
    DOCKER: {
        **dict.fromkeys(WITHOUT_MEANING[DOCKER], "nothing to try it with"),
        **dict.fromkeys(("root_above_the_root", "out_of_a_chroot"), "runc always pivots"),
        **dict.fromkeys(
            ("inherit_a_descriptor", "descriptor_of_the_host_in_init"),
            "a daemon hands no descriptors on",
        ),
        **dict.fromkeys(
            ("cap_perfmon", "cap_bpf", "cap_checkpoint_restore"), "old daemons know it not"
        ),
        **dict.fromkeys(
            (
                "mount_sysfs",
                "write_/sys/kernel/mm/ksm/run",
                "write_/sys/module/printk/parameters/time",
            ),
            "Docker's own /sys is in the way",
        ),
        "leave_the_cgroup": "Docker's groups are where version 2 has no controllers",
        **dict.fromkeys(
            ("cap_sys_resource", "raise_the_limit_of_namespaces", "real_time_scheduling"),
            "the daemon itself may lack the right",
        ),
        "flood_of_logs": "its init has no output that could be logged",
    },
}
"""What a weakened engine need not show, and why; the native one shows each of them."""


def status(found: Found, mode: str, name: str) -> str:
    if name in WITHOUT_MEANING.get(mode, ()):
        return NOT_APPLICABLE
    outcome, _ = found.get(name, (BROKEN, ""))
    return STATUS.get(outcome, BROKEN)


def of_wall(wall: Wall) -> list[str]:
    return [name for name in ALL if WALL_OF[name] is wall]


def deviations(survey: Survey) -> list[str]:
    """Whatever is not as `WALLS` declares it, told with what was seen."""
    return [
        f"{mode}: {name}: {status(found, mode, name)}: {found.get(name, ('', 'no answer'))[1]}"
        for mode, found in survey.items()
        for name in ALL
        if not is_as_declared(found, mode, name)
    ]


def is_as_declared(found: Found, mode: str, name: str) -> bool:
    how = status(found, mode, name)
    return how in HELD or (how == OPEN and WALL_OF[name] not in WALLS[mode])


# ---------------------------------------------------------------- as text


def declared_table() -> str:
    """For the README, in Markdown: what is declared, which the tests hold to what is."""
    modes = list(WALLS)
    rows = [["what is tried", "probes", *modes]]
    for wall, tried in TRIES.items():
        held = "contained" if wall in BOMBS else "refused"
        cells = [held if wall in WALLS[mode] else "**open**" for mode in modes]
        rows.append([tried, str(len(of_wall(wall))), *cells])
    total = [f"{sum(len(of_wall(w)) for w in WALLS[mode])} of {len(ALL)}" for mode in modes]
    rows.append(["behind a wall", str(len(ALL)), *total])
    head, *body = ("| " + " | ".join(row) + " |" for row in rows)
    return "\n".join([head, "|" + "---|" * len(rows[0]), *body])


def found_table(survey: Survey) -> str:
    """For the terminal: how it went, counted."""
    rows = [["what is tried", *survey]]
    for wall, tried in TRIES.items():
        names = of_wall(wall)
        rows.append([tried, *(counted(found, mode, names) for mode, found in survey.items())])
    rows.append(["all", *(counted(found, mode, ALL) for mode, found in survey.items())])
    return in_columns(rows)


def each_table(survey: Survey) -> str:
    """For the terminal: every probe."""
    rows = [["probe", *survey]]
    for wall in Wall:
        for name in of_wall(wall):
            cells = (status(found, mode, name) for mode, found in survey.items())
            rows.append([f"{wall}: {name}", *cells])
    return in_columns(rows)


def counted(found: Found, mode: str, names: Iterable[str]) -> str:
    counts = Counter(status(found, mode, name) for name in names)
    order = (REFUSED, CONTAINED, NOT_APPLICABLE, OPEN, BROKEN)
    return ", ".join(f"{counts[how]} {how}" for how in order if counts[how])


def in_columns(rows: list[list[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    return "\n".join([lines[0], "─" * len(lines[0]), *lines[1:]])
