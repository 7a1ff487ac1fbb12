"""The story of one rollout for a terminal, and the list to pick one from.

All of it may come out of a hostile sandbox: text is clipped, never markup, and free of control
characters.
"""

from collections.abc import Iterator
from datetime import datetime

import pyarrow as pa
from rich import box
from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rollout.report.render import UNKNOWN, duration, number, printable, text
from rollout.scorers.integrity import kind_of
from rollout.transcript import clip
from rollout.types import AgentStep, Message, Outcome, Phase, Trajectory

CLIP_CHARS = 4_000
"""Of one text; the rest is left out of the middle."""
ROWS_SHOWN = 200
BAR_CELLS = 40
ROLE_STYLES = {"system": "dim", "user": "cyan", "assistant": "green", "tool": "magenta"}


def rollouts_table(table: pa.Table) -> RenderableType:
    """One line for each rollout of `arm, task_id, sample_index, outcome, reward, integrity,
    trajectory_id`."""
    shown = table.slice(0, ROWS_SHOWN).to_pylist()
    made = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for name in ("trajectory", "arm", "task", "sample", "outcome", "reward", "signs"):
        made.add_column(name, overflow="fold", no_wrap=name == "trajectory")
    for row in shown:
        made.add_row(
            text(row["trajectory_id"]),
            text(row["arm"]),
            text(row["task_id"]),
            str(row["sample_index"]),
            _outcome(Outcome(row["outcome"])),
            number(row["reward"]),
            text(", ".join(dict.fromkeys(map(kind_of, row.get("integrity") or ()))), "bold red"),
        )
    if table.num_rows <= ROWS_SHOWN:
        return made
    return Group(made, Text(f"… and {table.num_rows - ROWS_SHOWN} more", style="dim"))


def story(trajectory: Trajectory) -> RenderableType:
    """From the claim of the sandbox to the verdict, in the order it happened."""
    parts: list[RenderableType] = [Rule(text(_title(trajectory))), _facts(trajectory)]
    parts.extend(_section("messages", list(_conversation(trajectory))))
    parts.extend(_section("events", [_event(e.at, e.kind, e.detail) for e in trajectory.events]))
    parts.extend(_section("scorer's output", _lines(trajectory.scorer_output)))
    parts.extend(_section("stages", [timeline(trajectory.phases)] if trajectory.phases else []))
    parts.extend(_section("attempts", list(_attempts(trajectory))))
    parts.extend(
        _section("artifacts", [text(f"{a.uri}  {a.bytes} bytes") for a in trajectory.artifacts])
    )
    return Group(*parts)


def timeline(phases: tuple[Phase, ...]) -> Table:
    """A bar for each stage on one common axis of time."""
    start = min(phase.start for phase in phases)
    ends = [_since_ms(start, phase.start) + phase.ms for phase in phases]
    scale = BAR_CELLS / max(*ends, 1e-6)
    made = Table.grid(padding=(0, 2))
    for phase in phases:
        before = min(BAR_CELLS - 1, int(_since_ms(start, phase.start) * scale))
        length = max(1, min(BAR_CELLS - before, round(phase.ms * scale)))
        made.add_row(text(phase.name), Text(" " * before + "━" * length), Text(duration(phase.ms)))
    return made


def _title(t: Trajectory) -> str:
    return f"{t.spec.task_id}  {t.spec.arm}  sample {t.spec.sample + 1} of {t.spec.group_size}"


def _facts(t: Trajectory) -> Table:
    made = Table.grid(padding=(0, 2))
    made.add_row("trajectory", text(t.spec.trajectory_id))
    made.add_row("outcome", _ending(t))
    made.add_row("reward", text(_reward(t)))
    if t.error_type or t.error_message:
        made.add_row("error", text(f"{t.error_type}: {_clip(t.error_message)}", "red"))
    made.add_row("agent", text(" ".join(filter(None, (t.agent_name, t.agent_version)))))
    if t.model_name:
        made.add_row("model", text(t.model_name))
    made.add_row("blueprint", text(t.blueprint))
    made.add_row("limits", text(", ".join(t.limits_enforced) or "none enforced"))
    made.add_row("where", text(f"sandbox {t.sandbox_id or UNKNOWN} on {t.node or UNKNOWN}"))
    took_ms = _since_ms(t.started_at, t.finished_at)
    made.add_row("when", Text(f"{t.started_at:%Y-%m-%d %H:%M:%S %Z}, {duration(took_ms)}"))
    for sign in t.integrity:
        made.add_row("integrity", text(sign, "bold red"))
    return made


def _ending(t: Trajectory) -> Text:
    ending = _outcome(t.outcome)
    return ending.append(f", the agent ended with {t.stop_reason}") if t.stop_reason else ending


def _outcome(outcome: Outcome) -> Text:
    style = "green" if outcome is Outcome.OK else "yellow" if outcome.scored else "red"
    return Text(outcome.value, style=style)


def _reward(t: Trajectory) -> str:
    parts = [f"{s.name} {number(s.value)}{' ' + s.error if s.error else ''}" for s in t.scores]
    return number(t.reward) + (f"  ({', '.join(parts)})" if parts else "")


def _clip(value: str) -> str:
    return clip(value, CLIP_CHARS)


def _section(title: str, parts: list[RenderableType]) -> list[RenderableType]:
    return [Rule(Text(title), align="left", style="dim"), *parts] if parts else []


def _lines(value: str) -> list[RenderableType]:
    return [text(_clip(value.rstrip("\n")))] if value.strip() else []


def _conversation(t: Trajectory) -> Iterator[RenderableType]:
    ends = {step.message_end: step for step in t.steps}
    for number_, message in enumerate(t.messages, 1):
        yield from _message(message)
        if number_ in ends:
            yield from _step(ends[number_])


def _message(message: Message) -> Iterator[RenderableType]:
    style = ROLE_STYLES.get(message.role, "")
    name = f" {message.name}" if message.name else ""
    yield text(f"{message.role}{name}", f"bold {style}")
    if message.reasoning_content:
        yield _indented(text(_clip(message.reasoning_content), "dim italic"))
    if message.content:
        yield _indented(text(_clip(message.content)))
    for call in message.tool_calls:
        yield _indented(text(f"→ {call.name} {_clip(call.arguments)}", "yellow"))


def _step(step: AgentStep) -> Iterator[RenderableType]:
    times = [("model", step.model_ms), ("sandbox", step.env_ms)]
    told = [f"{name} {duration(ms)}" for name, ms in times if ms is not None]
    if step.error:
        told.append(f"error {_clip(step.error)}")
    if told:
        yield _indented(text("⏱ " + ", ".join(told), "dim"))


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, 2))


def _event(at: datetime, kind: str, detail: str) -> Text:
    return Text(f"{at:%H:%M:%S}  {printable(kind)}  {printable(_clip(detail))}")


def _attempts(t: Trajectory) -> Iterator[RenderableType]:
    if len(t.attempts) < 2 and t.outcome.scored:
        return
    for attempt in t.attempts:
        took = duration(_since_ms(attempt.started_at, attempt.finished_at))
        words = f"{attempt.n}. {attempt.outcome} after {took} on {attempt.worker}"
        yield text(f"{words}: {_clip(attempt.error)}" if attempt.error else words)


def _since_ms(start: datetime, end: datetime) -> float:
    return (end - start).total_seconds() * 1_000
