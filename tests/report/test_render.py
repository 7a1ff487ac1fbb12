"""The closing table: on a pipe, on a terminal, and with names that try to be markup."""

import io
import os

import pytest
from rich.console import Console

from rollout.report.estimates import Interval
from rollout.report.render import closing, duration, printable, show
from rollout.report.summary import ArmSummary, RunSummary, StageTime


def arm(name: str = "agent=oracle", **changed: object) -> ArmSummary:
    plain = {
        "arm": name,
        "planned": 96,
        "committed": 96,
        "scored": 96,
        "tasks": 12,
        "mean_reward": 0.875,
        "interval": Interval(0.8123, 0.9377),
        "pass_at_1": 0.87,
        "k": 8,
        "pass_at_k": 0.99,
        "pass_at_k_tasks": 12,
        "outcomes": {"agent_timeout": 2, "ok": 94},
        "stages": {"agent": StageTime(n=96, p50_ms=74.2, p95_ms=3210)},
        "attempts_failed": 3,
    }
    return ArmSummary(**(plain | changed))  # type: ignore[arg-type]


def summary(*arms: ArmSummary) -> RunSummary:
    return RunSummary(arms=arms, stages=arms[0].stages)


def printed(*arms: ArmSummary, uri: str = "runs/quickstart", notes: tuple[str, ...] = ()) -> str:
    stream = io.StringIO()
    assert show(stream, closing(summary(*arms), uri, notes))
    return stream.getvalue()


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_the_line_of_an_arm() -> None:
    line = next(line for line in printed(arm()).splitlines() if line.startswith("agent=oracle"))
    assert cells(line) == [
        "agent=oracle",
        "96/96",
        "100.0 %",
        "0.875",
        "[0.812, 0.938]",
        "0.870",
        "0.990",
        "ok 94, agent_timeout 2",
        "3",
    ]


def test_header_names_k_and_stage_times_are_told() -> None:
    out = printed(arm())
    assert "pass@8" in out
    assert "74 ms / 3.2 s" in out


def test_what_is_unknown_is_not_zero() -> None:
    empty = arm(
        scored=0,
        tasks=0,
        mean_reward=None,
        interval=None,
        pass_at_1=None,
        pass_at_k=None,
        pass_at_k_tasks=0,
        stages={},
    )
    line = next(line for line in printed(empty).splitlines() if line.startswith("agent="))
    assert cells(line)[2:7] == ["0.0 %", "–", "–", "–", "–"]


def test_coverage_is_never_rounded_up_to_all() -> None:
    assert "99.9 %" in printed(arm(planned=100_000, scored=99_999))


def test_missing_rewards_and_partial_groups_are_remarked() -> None:
    out = printed(arm(scored=95, pass_at_k_tasks=11), notes=("2 workers were lost",))
    assert "1 of 96 rollouts have no reward" in out
    assert "pass@8 covers the 11 of 12 tasks" in out
    assert "2 workers were lost" in out


def test_a_pipe_gets_no_escape_sequence_and_no_cut_line() -> None:
    out = printed(arm(), arm("agent=nop"))
    assert "\x1b" not in out
    assert "…" not in out


def test_the_printed_line_of_python_names_the_dataset() -> None:
    line = printed(arm(), uri="runs/it's here").splitlines()[-1]
    assert line == """open it  rollout.open_dataset("runs/it's here").scan()"""


def test_names_are_neither_markup_nor_escape_sequences() -> None:
    out = printed(arm("[red]x[/red]\x1b[2J\u202egnp"))
    assert "[red]x[/red]\\x1b[2J\\u202egnp" in out
    assert "\x1b" not in out


def test_a_narrow_terminal_folds_names_and_loses_nothing() -> None:
    stream = io.StringIO()
    console = Console(file=stream, width=60, force_terminal=True, color_system=None)
    console.print(closing(summary(arm("agent=" + "x" * 70)), "runs/q"))
    assert stream.getvalue().count("x") >= 70


def test_show_survives_a_closed_pipe() -> None:
    read, write = os.pipe()
    os.close(read)
    stream = os.fdopen(write, "w", buffering=1)
    assert not show(stream, closing(summary(arm()), "runs/q"))
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_printable_keeps_lines_and_spells_out_controls() -> None:
    assert printable("a\n\tb\x07\x9b\ud800é漢") == "a\n\tb\\x07\\x9b\\ud800é漢"


@pytest.mark.parametrize(
    ("ms", "shown"),
    [
        (0.84, "0.8 ms"),
        (74.4, "74 ms"),
        (3210, "3.2 s"),
        (250_000, "4 min 10 s"),
        (3_660_000, "1 h 1 min"),
    ],
)
def test_durations(ms: float, shown: str) -> None:
    assert duration(ms) == shown
