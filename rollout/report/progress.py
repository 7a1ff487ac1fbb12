"""Live progress of a run: a panel on a terminal, plain lines elsewhere.

It writes to stderr, so that stdout holds nothing but results. A terminal that went away silences
it; it never ends a run.
"""

import sys
import time
from collections import deque
from collections.abc import Callable
from types import TracebackType
from typing import Self, TextIO

from rich.console import Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from rollout.executor.base import Progress
from rollout.report.render import counted, duration, open_console, printable

LINE_EVERY_S = 5.0
RATE_WINDOW_S = 30.0
BAR_WIDTH = 40
ARMS_SHOWN = 8


class Speed:
    """Rollouts a second over the last RATE_WINDOW_S, from looks at the count."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque()

    def look(self, done: int, now_s: float) -> None:
        self._looks.append((now_s, done))
        while len(self._looks) > 2 and now_s - self._looks[1][0] >= RATE_WINDOW_S:
            self._looks.popleft()

    @property
    def per_s(self) -> float | None:
        """`None` until something was seen to be done."""
        if len(self._looks) < 2:
            return None
        (start_s, first), (end_s, last) = self._looks[0], self._looks[-1]
        return (last - first) / (end_s - start_s) if last > first and end_s > start_s else None


class LiveProgress:
    """Shows each `Progress` it is given; a context manager.

    Notes are told once, as lines of their own, above the panel where there is one.
    """

    def __init__(self, stream: TextIO | None = None, *, line_every_s: float = LINE_EVERY_S) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._console = open_console(self._stream)
        self._live: Live | None = None
        self._line_every_s = line_every_s
        self._next_line_s = 0.0
        self._told: set[str] = set()
        self._speed = Speed()
        self._lost = False

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._live = Live(
                console=self._console, auto_refresh=False, transient=True, redirect_stdout=False
            )
            self._guarded(self._live.start)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        live, self._live = self._live, None
        if live is not None:
            try:
                live.stop()
            except (OSError, ValueError):
                self._lost = True

    def update(self, progress: Progress) -> None:
        """Show where the run stands; cheap, to be called about twice a second."""
        now_s = time.monotonic()
        self._speed.look(progress.done, now_s)
        for note in progress.notes:
            self.note(note)
        if self._live is not None:
            live = self._live
            self._guarded(lambda: live.update(panel(progress, self._speed.per_s), refresh=True))
        elif now_s >= self._next_line_s or progress.finished:
            self._next_line_s = now_s + self._line_every_s
            self._print(line(progress, self._speed.per_s))

    def note(self, note: str) -> None:
        """Tell something once, however often it is given."""
        if note not in self._told:
            self._told.add(note)
            self._print(f"note: {note}")

    def _print(self, words: str) -> None:
        shown = Text(printable(words))
        self._guarded(lambda: self._console.print(shown, soft_wrap=True))

    def _guarded(self, write: Callable[[], object]) -> None:
        """Write, unless the terminal has gone; once it has, stay silent."""
        if self._lost:
            return
        try:
            write()
            self._stream.flush()
        except (OSError, ValueError):
            self._lost = True
            self._console.quiet = True


def panel(progress: Progress, per_s: float | None) -> RenderableType:
    """What a terminal shows: a bar, what is alive, how rollouts ended, the mean by arm."""
    bar = ProgressBar(total=max(1, progress.total), completed=progress.done, width=BAR_WIDTH)
    head = Table.grid(padding=(0, 1))
    head.add_row(bar, Text(_headline(progress, per_s)))
    facts = Table.grid(padding=(0, 2))
    for name, value in _facts(progress):
        facts.add_row(Text(name, style="dim"), Text(printable(value)))
    parts: list[RenderableType] = [head, facts]
    if progress.paused:
        parts.append(Text(f"paused: {printable(progress.paused)}", style="bold yellow"))
    return Group(*parts)


def line(progress: Progress, per_s: float | None) -> str:
    """The same as one line, for logs."""
    parts = [_headline(progress, per_s), *(f"{name} {value}" for name, value in _facts(progress))]
    if progress.paused:
        parts.append(f"paused: {progress.paused}")
    return " | ".join(parts)


def _headline(progress: Progress, per_s: float | None) -> str:
    words = [f"{progress.done}/{progress.total}"]
    if per_s is not None:
        words.append(f"{per_s:.1f}/s")
        if left := progress.total - progress.done:
            words.append(f"ETA {duration(left / per_s * 1_000)}")
    return "  ".join(words)


def _facts(progress: Progress) -> list[tuple[str, str]]:
    facts = [("alive", _alive(progress))]
    if progress.outcomes:
        facts.append(("outcomes", counted(progress.outcomes)))
    if progress.attempts_failed:
        facts.append(("failed attempts", str(progress.attempts_failed)))
    if means := _means(progress):
        facts.append(("mean reward", means))
    return facts


def _alive(progress: Progress) -> str:
    counts = {"running": float(progress.running), "workers": float(progress.workers)}
    counts |= {
        name: progress.counts[name] for name in ("warm", "creating") if name in progress.counts
    }
    if alerts := progress.counts.get("resource_alerts"):
        counts["resource alerts"] = alerts
    return ", ".join(f"{name} {count:.0f}" for name, count in counts.items())


def _means(progress: Progress) -> str:
    """`oracle 1.000 (n 40), nop 0.000 (n 38)`: only rollouts that have a reward."""
    scored = [(arm, n, total) for arm, (_, n, total) in progress.arms.items() if n]
    shown = [f"{arm} {total / n:.3f} (n {n})" for arm, n, total in scored[:ARMS_SHOWN]]
    if len(scored) > ARMS_SHOWN:
        shown.append(f"and {len(scored) - ARMS_SHOWN} more arms")
    return ", ".join(shown)
