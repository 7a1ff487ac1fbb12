"""Live progress: lines in a log, a panel on a real pseudo-terminal, and terminals that go away."""

import io
import os
import select
import sys
from pathlib import Path

import pytest

from rollout.executor.base import Progress
from rollout.report.progress import LiveProgress, Speed, line, panel
from rollout.report.render import open_console

LOOK = Progress(
    total=192,
    done=96,
    running=12,
    workers=2,
    counts={"warm": 4.0, "creating": 1.0, "claimed": 12.0},
    outcomes={"agent_timeout": 2, "ok": 94},
    arms={"agent=oracle": (50, 40, 40.0), "agent=nop": (46, 44, 11.0), "agent=new": (0, 0, 0.0)},
    attempts_failed=3,
)


def changed(look: Progress = LOOK, **fields: object) -> Progress:
    values = {name: getattr(look, name) for name in look.__dataclass_fields__}
    return Progress(**(values | fields))


def test_a_line_tells_it_all() -> None:
    said = line(LOOK, 9.6)
    assert said == (
        "96/192  9.6/s  ETA 10.0 s | alive running 12, workers 2, warm 4, creating 1"
        " | outcomes ok 94, agent_timeout 2 | failed attempts 3"
        " | mean reward agent=oracle 1.000 (n 40), agent=nop 0.250 (n 44)"
    )


def test_resource_alerts_are_told_once_there_are_some() -> None:
    counts = {"warm": 4.0, "resource_alerts": 3.0}
    assert "warm 4, resource alerts 3 |" in line(changed(counts=counts), 9.6)
    assert "alerts" not in line(changed(counts={"resource_alerts": 0.0}), 9.6)


def test_no_rate_no_eta_before_something_is_done() -> None:
    assert line(Progress(total=8, done=0), None).startswith("0/8 | alive")


def test_why_it_pauses_is_told() -> None:
    assert "paused: 31 % of the last 200 attempts" in line(
        changed(paused="31 % of the last 200 attempts"), None
    )


def test_many_arms_are_cut_short() -> None:
    arms = {f"arm{n}": (1, 1, 1.0) for n in range(20)}
    said = line(changed(arms=arms), None)
    assert "arm7 1.000" in said
    assert "and 12 more arms" in said


def test_speed_looks_at_the_last_half_minute_only() -> None:
    speed = Speed()
    for second in range(0, 61, 10):
        speed.look(second if second <= 30 else 30 + (second - 30) * 5, second)
    assert speed.per_s == pytest.approx(5.0)


def test_speed_is_unknown_while_nothing_moves() -> None:
    speed = Speed()
    assert speed.per_s is None
    speed.look(5, 0.0)
    speed.look(5, 1.0)
    assert speed.per_s is None


def test_a_log_gets_plain_lines_and_each_note_once() -> None:
    stream = io.StringIO()
    with LiveProgress(stream, line_every_s=3600) as progress:
        progress.update(LOOK)
        progress.update(changed(done=97, notes=("cpu limits are not enforced",)))
        progress.update(changed(done=98, notes=("cpu limits are not enforced",)))
        progress.update(changed(done=192, finished=True))
    lines = stream.getvalue().splitlines()
    assert [said.split("  ")[0].split(" |")[0] for said in lines] == [
        "96/192",
        "note: cpu limits are not enforced",
        "192/192",
    ]
    assert "\x1b" not in stream.getvalue()


def test_lines_come_as_often_as_asked() -> None:
    stream = io.StringIO()
    with LiveProgress(stream, line_every_s=0) as progress:
        for _ in range(3):
            progress.update(LOOK)
    assert len(stream.getvalue().splitlines()) == 3


def test_names_are_no_escape_sequences() -> None:
    stream = io.StringIO()
    with LiveProgress(stream) as progress:
        progress.update(changed(notes=("\x1b]0;owned\x07",), paused="[bold]\x1b[2J"))
    assert "\\x1b]0;owned\\x07" in stream.getvalue()
    assert "[bold]\\x1b[2J" in stream.getvalue()


class Terminal:
    """A pseudo-terminal: `stream` is what a program writes to, `seen()` what a person sees."""

    def __init__(self) -> None:
        self.master, slave = os.openpty()
        self.stream = os.fdopen(slave, "w")

    def seen(self) -> str:
        seen = b""
        while select.select([self.master], [], [], 0.2)[0]:
            seen += os.read(self.master, 65536)
        return seen.decode()

    def hang_up(self) -> None:
        os.close(self.master)


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "100")
    return Terminal()


def test_a_terminal_gets_a_panel_that_is_gone_at_the_end(terminal: Terminal) -> None:
    with LiveProgress(terminal.stream) as progress:
        progress.update(changed(notes=("one worker was lost",)))
        shown = terminal.seen()
        print("a line of somebody else's", file=sys.stderr)
        assert "a line of somebody else's" in terminal.seen()
    end = terminal.seen()
    assert "96/192" in shown
    assert "agent=oracle 1.000 (n 40)" in shown
    assert "note: one worker was lost" in shown
    assert "━" in shown
    assert "\x1b[?25l" in shown
    assert "\x1b[?25h" in end
    terminal.stream.close()
    terminal.hang_up()


def test_a_terminal_that_hangs_up_ends_nothing(terminal: Terminal) -> None:
    stderr = sys.stderr
    with LiveProgress(terminal.stream) as progress:
        progress.update(LOOK)
        terminal.hang_up()
        progress.update(changed(done=100))
        progress.update(changed(done=101, notes=("still here",)))
    assert sys.stderr is stderr
    with pytest.raises(OSError, match="Input/output error"):
        terminal.stream.close()


def test_a_log_whose_reader_left_ends_nothing() -> None:
    read, write = os.pipe()
    stream = os.fdopen(write, "w")
    os.close(read)
    with LiveProgress(stream, line_every_s=0) as progress:
        progress.update(LOOK)
        progress.update(LOOK)
    with pytest.raises(BrokenPipeError):
        stream.close()


def test_a_closed_stream_ends_nothing(tmp_path: Path) -> None:
    stream = (tmp_path / "log").open("w")
    stream.close()
    with LiveProgress(stream, line_every_s=0) as progress:
        progress.update(LOOK)


def test_the_panel_of_an_empty_run_can_be_drawn() -> None:
    stream = io.StringIO()
    open_console(stream).print(panel(Progress(total=0, done=0), None))
    assert "0/0" in stream.getvalue()
