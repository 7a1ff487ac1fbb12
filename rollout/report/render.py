"""What a run prints at its end: one table by arm, its stage times, and how to open the dataset.

Text out of a sandbox or a config is never taken as markup, and no control character of it reaches
the terminal.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import TextIO

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rollout.report.estimates import Interval
from rollout.report.paired import Difference
from rollout.report.summary import ArmSummary, RunSummary, StageTime

PLAIN_WIDTH = 160
"""Columns to use where there is no terminal to ask."""
UNKNOWN = "–"

_FORMAT_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Bidirectional overrides: invisible, and able to show text in another order than it has."""


class PlainSpokenConsole(Console):
    """A rich console that raises when its reader has gone, instead of ending the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        raise BrokenPipeError


def open_console(stream: TextIO) -> Console:
    """A console on `stream`: colours on a terminal, plain and wide text elsewhere."""
    console = PlainSpokenConsole(file=stream, highlight=False)
    if not console.is_terminal:
        console.width = PLAIN_WIDTH
    return console


def show(stream: TextIO, *parts: RenderableType, wrap: bool = True) -> bool:
    """Print to `stream`; False if whoever read it has gone, which is no error of the run."""
    console = open_console(stream)
    try:
        console.print(*parts, sep="\n", soft_wrap=not wrap)
        stream.flush()
    except (OSError, ValueError):
        return False
    return True


def closing(
    summary: RunSummary, uri: str, notes: Sequence[str] = (), *, endpoint_url: str | None = None
) -> RenderableType:
    """Everything that is printed when a run has ended."""
    parts: list[RenderableType] = [table(summary)]
    if summary.differences:
        parts.extend(["", difference_table(summary.differences)])
    if summary.stages:
        parts.extend(["", stage_table(summary)])
    parts.append("")
    parts.extend(note_line(note) for note in [*_remarks(summary), *notes])
    parts.append(where(uri, endpoint_url=endpoint_url))
    return Group(*parts)


def table(summary: RunSummary) -> Table:
    """One line for each arm: how many, how good, how sure, and how they ended."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    made.add_column("arm", overflow="fold")
    groups = any(arm.k > 1 for arm in summary.arms)
    for name in ("n", "coverage", "mean reward", "95 % interval", "pass@1"):
        made.add_column(name, justify="right")
    if groups:
        made.add_column(_pass_k(summary.arms), justify="right")
    made.add_column("outcomes", overflow="fold")
    made.add_column("failed attempts", justify="right")
    for arm in summary.arms:
        made.add_row(*_cells(arm, groups=groups))
    return made


def difference_table(differences: Sequence[Difference]) -> Table:
    """Each arm against the first, on the tasks for which both have a reward."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    made.add_column(f"against {printable(differences[0].against)}", overflow="fold")
    for name in ("difference", "95 % interval", "tasks", "higher", "lower", "unscored"):
        made.add_column(name, justify="right")
    for each in differences:
        mean = UNKNOWN if each.mean is None else f"{each.mean:+.3f}"
        counts = (each.tasks, each.higher, each.lower, each.unscored)
        made.add_row(text(each.arm), mean, _signed(each.interval), *map(str, counts))
    return made


def stage_table(summary: RunSummary) -> Table:
    """Median and 95th percentile of every stage, by arm."""
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    made.add_column("stage times p50 / p95", overflow="fold")
    for stage in summary.stages:
        made.add_column(printable(stage), justify="right")
    for arm in summary.arms:
        made.add_row(text(arm.arm), *(_stage(arm.stages.get(name)) for name in summary.stages))
    if len(summary.arms) > 1:
        made.add_row("all", *(_stage(summary.stages[name]) for name in summary.stages))
    return made


def where(uri: str, *, endpoint_url: str | None = None) -> Text:
    """Where the dataset is, and the line of Python that opens it."""
    shown = printable(uri)
    more = f", endpoint_url={printable(endpoint_url)!r}" if endpoint_url else ""
    return Text(f"dataset  {shown}\nopen it  rollout.open_dataset({shown!r}{more}).scan()")


def note_line(note: str) -> Text:
    return Text(f"note     {printable(note)}", style="yellow")


def text(value: str, style: str = "") -> Text:
    """`value` as it is: no markup, no control characters."""
    return Text(printable(value), style=style)


def printable(value: str) -> str:
    """`value` with every control character but newline and tab spelled out, such as `\\x1b`."""
    return "".join(char if _harmless(char) else ascii(char)[1:-1] for char in value)


def duration(ms: float) -> str:
    """Milliseconds at a glance: `0.8 ms`, `74 ms`, `3.2 s`, `4 min 10 s`."""
    if ms < 10:
        return f"{ms:.1f} ms"
    if ms < 1_000:
        return f"{ms:.0f} ms"
    if ms < 100_000:
        return f"{ms / 1_000:.1f} s"
    minutes, seconds = divmod(round(ms / 1_000), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {seconds} s"


def number(value: float | None, digits: int = 3) -> str:
    return UNKNOWN if value is None else f"{value:.{digits}f}"


def counted(counts: Mapping[str, int]) -> str:
    """`ok 94, agent_timeout 2`, the most frequent first."""
    pairs = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return ", ".join(f"{name} {count}" for name, count in pairs)


def _harmless(char: str) -> bool:
    if char in "\n\t":
        return True
    return unicodedata.category(char) not in ("Cc", "Cs") and char not in _FORMAT_CONTROLS


def _cells(arm: ArmSummary, *, groups: bool) -> tuple[RenderableType, ...]:
    """One arm's line; without groups pass@k would repeat pass@1."""
    return (
        text(arm.arm),
        f"{arm.committed}/{arm.planned}",
        UNKNOWN if arm.coverage is None else _percent(arm.coverage),
        number(arm.mean_reward),
        _interval(arm.interval),
        number(arm.pass_at_1),
        *([number(arm.pass_at_k)] if groups else []),
        text(counted(arm.outcomes)),
        str(arm.attempts_failed),
    )


def _pass_k(arms: Iterable[ArmSummary]) -> str:
    ks = sorted({arm.k for arm in arms})
    return f"pass@{ks[0]}" if len(ks) == 1 else "pass@k"


def _percent(share: float) -> str:
    """Rounded down, so that 100 % means all."""
    return f"{int(share * 1000) / 10:.1f} %"


def _interval(interval: Interval | None) -> str:
    return UNKNOWN if interval is None else f"[{interval.low:.3f}, {interval.high:.3f}]"


def _signed(interval: Interval | None) -> str:
    return UNKNOWN if interval is None else f"[{interval.low:+.3f}, {interval.high:+.3f}]"


def _stage(time: StageTime | None) -> str:
    return UNKNOWN if time is None else f"{duration(time.p50_ms)} / {duration(time.p95_ms)}"


def _remarks(summary: RunSummary) -> list[str]:
    """What the numbers of the table do not tell by themselves."""
    remarks = []
    if missing := summary.planned - summary.scored:
        remarks.append(
            f"{missing} of {summary.planned} rollouts have no reward; they count nowhere as zero"
        )
    for arm in summary.arms:
        if arm.flagged:
            remarks.append(
                f"{arm.arm}: {arm.flagged} of {arm.committed} rollouts show signs of tampering "
                f"({counted(arm.signs)}); `show RUN` marks them, `show RUN TRAJECTORY` tells more"
            )
        if arm.pass_at_k_tasks < arm.tasks:
            remarks.append(
                f"{arm.arm}: pass@{arm.k} covers the {arm.pass_at_k_tasks} of {arm.tasks} tasks "
                f"whose {arm.k} samples all have a reward"
            )
    return remarks
