"""`shell`, the real program: on a real terminal, between pipes, on what real rollouts left."""

import fcntl
import json
import os
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

import rollout
from rollout.commands.shell import _typed
from rollout.errors import ConfigError
from tests.forked import Forked
from tests.sandbox.conftest import left_behind, uid_base
from tests.test_cli import ROOT, TASK_TOML

pytestmark = [
    pytest.mark.native,
    pytest.mark.skipif(os.geteuid() != 0, reason="end states are kept by root alone"),
]

PATIENCE_S = 40.0
ON_THIS_TERMINAL = (
    "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execv(sys.executable, [sys.executable, '-m', 'rollout', *sys.argv[1:]])"
)


class Terminal:
    """The program on a terminal of its own, with somebody who types."""

    def __init__(self, words: list[str], cwd: Path, rows: int = 30, cols: int = 100) -> None:
        self.master, self.slave = os.openpty()
        self.resize(rows, cols)
        self.before = termios.tcgetattr(self.slave)
        self.said = b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", ON_THIS_TERMINAL, *words],
            cwd=cwd,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TERM": "vt100"},
            stdin=self.slave,
            stdout=self.slave,
            stderr=self.slave,
            start_new_session=True,
        )

    def resize(self, rows: int, cols: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, cols, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def expect(self, *words: str) -> None:
        """Read on until each of the words has come, in their order; then they are done with."""
        give_up_s = time.monotonic() + PATIENCE_S
        for word in words:
            while word.encode() not in self.said:
                if not self._read(give_up_s - time.monotonic()):
                    pytest.fail(f"{word!r} never came: {self.said.decode(errors='replace')}")
            self.said = self.said.partition(word.encode())[2]

    def _read(self, left_s: float) -> bool:
        ready, _, _ = select.select([self.master], [], [], max(0.0, left_s))
        if ready:
            self.said += os.read(self.master, 65536)
        return bool(ready)

    def ended(self) -> int:
        """The exit code; what it says meanwhile is read, as a terminal does."""
        give_up_s = time.monotonic() + PATIENCE_S
        while self.process.poll() is None and time.monotonic() < give_up_s:
            self._read(0.05)
        while self._read(0.0):
            pass
        assert self.process.returncode is not None, self.said
        return self.process.returncode

    @property
    def as_before(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            self.ended()
        os.close(self.master)
        os.close(self.slave)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[list[str]]:
    """Words for an engine of this test alone, which must leave nothing."""
    root = tmp_path / "engine"
    yield [f"engine.root_dir={root}", f"engine.uid_base={uid_base()}", "engine.max_slots=64"]
    give_up_s = time.monotonic() + 20
    while (left := left_behind(root, set())) and time.monotonic() < give_up_s:
        time.sleep(0.1)
    assert left == []


@pytest.fixture
def terminal(tmp_path: Path, engine: list[str]) -> Iterator[Callable[..., Terminal]]:
    made: list[Terminal] = []

    def start(*words: str) -> Terminal:
        own, command = (words, ())
        if "--" in words:
            cut = words.index("--")
            own, command = words[:cut], words[cut:]
        made.append(Terminal(["shell", *own, *engine, *command], tmp_path))
        return made[-1]

    yield start
    for each in made:
        each.close()


@pytest.fixture
def fresh(terminal: Callable[..., Terminal]) -> Terminal:
    """A shell in a fresh sandbox, ready to be typed at."""
    shell = terminal("--blueprint", "host")
    shell.expect("gone when you leave", "#")
    return shell


# ---------------------------------------------------------------- a person at a terminal


def test_what_is_typed_is_done_and_the_exit_code_passed_on(fresh: Terminal) -> None:
    fresh.type("echo $((6*7)) $TERM; tty; pwd; id -u\r")
    fresh.expect("42 vt100", "/dev/pts/", "/app", "0")
    fresh.type("exit 7\r")
    assert fresh.ended() == 7
    assert fresh.as_before


def test_keys_mean_what_they_mean_inside(fresh: Terminal) -> None:
    """^C ends what runs there and nothing here; ^D ends the shell."""
    fresh.type("sleep 1000\r")
    fresh.expect("sleep 1000\r\n")
    time.sleep(0.3)
    fresh.type("\x03")
    fresh.expect("^C", "#")
    fresh.type("echo =$?=\r")
    fresh.expect("=130=", "#")
    fresh.type("echo go; cat\r")
    fresh.expect("cat\r\n", "go\r\n")  # from here on the terminal is cat's, not the line editor's
    fresh.type("line\r")
    fresh.expect("line\r\nline\r\n")
    fresh.type("\x04")
    fresh.expect("#")
    fresh.type("\x04")
    assert fresh.ended() == 0
    assert fresh.as_before


def test_the_window_has_its_size_and_follows_it(fresh: Terminal) -> None:
    fresh.type("stty size\r")
    fresh.expect("30 100\r")
    fresh.type("trap 'echo changed' WINCH\r")
    fresh.expect("WINCH\r\n", "#")
    fresh.resize(41, 123)
    time.sleep(0.3)
    fresh.type("stty size\r")
    fresh.expect("41 123\r")
    fresh.type("exit\r")
    assert fresh.ended() == 0


def test_much_output_comes_whole(terminal: Callable[..., Terminal]) -> None:
    shell = terminal("--blueprint", "host", "--", "seq", "300000")
    shell.expect("1\r\n", "299999\r\n", "300000\r\n")
    assert shell.ended() == 0


def test_a_command_gets_the_terminal_too(terminal: Callable[..., Terminal]) -> None:
    program = "import sys; print([sys.stdin.isatty(), sys.stdout.isatty()]); sys.exit(9)"
    shell = terminal("--blueprint", "host", "--user=nobody", "--", "python3", "-c", program)
    shell.expect("[True, True]")
    assert shell.ended() == 9
    assert shell.as_before


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_in_order(fresh: Terminal, number: signal.Signals) -> None:
    assert not fresh.as_before
    fresh.process.send_signal(number)
    assert fresh.ended() == 128 + number
    assert fresh.as_before


def test_a_sandbox_that_is_lost_is_told_on_a_terminal_that_is_as_before(fresh: Terminal) -> None:
    children = psutil.Process(fresh.process.pid).children()
    (launcher,) = (c for c in children if "launch" in c.cmdline())
    launcher.kill()
    fresh.expect("rollout: ")
    assert fresh.ended() == 1
    assert fresh.as_before


def test_a_terminal_that_goes_away_ends_it(
    terminal: Callable[..., Terminal], tmp_path: Path
) -> None:
    shell = terminal("--blueprint", "host")
    shell.expect("#")
    master, shell.master = shell.master, os.open(os.devnull, os.O_RDWR)
    os.close(shell.slave)
    shell.slave = os.open(os.devnull, os.O_RDWR)
    os.close(master)
    assert shell.process.wait(PATIENCE_S) in (128 + signal.SIGHUP, 141)


# ---------------------------------------------------------------- pipes and words


Done = subprocess.CompletedProcess[bytes]
Run = Callable[[list[str], Path], Done]


@pytest.fixture
def run(forked: Forked) -> Run:
    """A line with nothing on its stdin; `started` is for those who have something to say to it."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return lambda words, cwd: forked.run(words, cwd=cwd, env=environment, timeout_s=240)


def started(words: list[str], cwd: Path, stdin: bytes) -> Done:
    return subprocess.run(
        [sys.executable, "-m", "rollout", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        input=stdin,
        capture_output=True,
        timeout=240,
    )


def test_between_pipes_it_is_a_plain_program(engine: list[str], tmp_path: Path) -> None:
    words = ["shell", "--blueprint", "host", *engine]
    command = ["--", "sh", "-c", "wc -c; tty; echo to stderr >&2; exit 5"]
    done = started([*words, *command], tmp_path, b"x" * 3_000_000)
    assert (done.returncode, done.stdout) == (5, b"3000000\nnot a tty\n")
    assert done.stderr == b"to stderr\n"
    script = started([*words, "--cwd", "/tmp"], tmp_path, b"pwd; printf '\\0\\377'; exit 6\n")
    assert (script.returncode, script.stdout, script.stderr) == (6, b"/tmp\n\0\xff", b"")


def test_a_reader_that_has_seen_enough_ends_it(engine: list[str], tmp_path: Path) -> None:
    words = ["shell", "--blueprint", "host", *engine, "--", "yes"]
    process = subprocess.Popen(
        [sys.executable, "-m", "rollout", *words],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.read(4) == b"y\ny\n"
    process.stdout.close()
    assert process.wait(PATIENCE_S) == 141


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "a run and a trajectory, or --blueprint NAME"),
        (["run"], "a run and a trajectory"),
        (["--blueprint", "host", "run", "id"], "or --blueprint NAME"),
        (["--blueprint"], "--blueprint: must be followed"),
        (["--blueprint", "hots"], 'did you mean "host"?'),
        (["--blueprint", "host", "--usr=me"], '"--user"'),
        (["--blueprint", "host", "engine.uid_bas=1"], '"engine.uid_base"'),
        (["--blueprint", "host", "engine.uid_base=x"], "engine.uid_base: 'x' is no number"),
        (["--blueprint", "host", "engine.kind=nativ"], "native"),
        (["no-such-run", "ab"], "no-such-run"),
    ],
)
def test_a_slip_exits_with_2_and_says_what(
    run: Run, tmp_path: Path, words: list[str], told: str
) -> None:
    done = run(["shell", *words], tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(b"rollout: ")
    assert told in done.stderr.decode()


def test_help_helps_also_before_a_command(run: Run, tmp_path: Path) -> None:
    done = run(["shell", "--help"], tmp_path)
    assert done.returncode == 0
    assert b"keep_on=" in done.stdout
    with pytest.raises(ConfigError):
        _typed("engine.uid_base", "", 1)


def test_users_and_folders_that_are_not_there_are_told(
    run: Run, engine: list[str], tmp_path: Path
) -> None:
    words = ["shell", "--blueprint", "host", *engine]
    for option in ("--user=nosuch", "--cwd=/no/such"):
        done = run([*words, option, "--", "true"], tmp_path)
        assert done.returncode == 1
        assert done.stderr.startswith(b"rollout: ")
    assert run([*words, "--", "no-such-program"], tmp_path).returncode == 127


# ---------------------------------------------------------------- what rollouts left


class Kept:
    """A run of one task whose script leaves files, on an engine of its own."""

    def __init__(self, folder: Path, engine: list[str], call: Run) -> None:
        self.folder, self.engine, self.call = folder, engine, call
        self.task = folder / "tasks" / "one"
        files = {
            "task.toml": TASK_TOML,
            "instruction.md": "Write anything.",
            "environment/Dockerfile": "FROM python:3.11-slim\nWORKDIR /app\nCOPY given .\n",
            "environment/given": "given\n",
            "tests/test.sh": (
                "echo tested > /app/tested; [ -e /app/mute ] || echo 1 > /logs/verifier/reward.txt"
            ),
        }
        for name, text in files.items():
            (self.task / name).parent.mkdir(parents=True, exist_ok=True)
            (self.task / name).write_text(text)

    def declare(self, output: str) -> None:
        """What a fresh scorer is to have."""
        toml = self.task / "task.toml"
        toml.write_text(f'artifacts = ["{output}"]\n{toml.read_text()}')

    def run(self, script: str, *words: str, code: int = 0) -> dict[str, Any]:
        """Its one row."""
        small = ["executor=local", "executor.workers=1", "store.flush_s=1", "~sweep"]
        small += ["verifier.mode=fork", "pool=cold"]
        agent = ["agent=script", f"agent.script='{script}'", "retry.max_attempts=1"]
        place = ["+experiment=harbor", f"task.path={self.task.parent}", "name=left"]
        loose = ["retry.storm_share=1"]
        done = self.call([*place, *small, *agent, *loose, *self.engine, *words], self.folder)
        assert done.returncode == code, done.stderr.decode()
        with rollout.open_dataset(str(self.folder / "runs" / "left")) as dataset:
            (row,) = dataset.scan().to_pylist()
        found: dict[str, Any] = row
        return found

    def shell(self, row: dict[str, Any], command: str, *options: str) -> tuple[int, str, str]:
        prefix = row["trajectory_id"][:8]
        done = self.call(
            ["shell", "left", prefix, *options, "--", "sh", "-c", command], self.folder
        )
        return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.fixture
def kept(tmp_path: Path, engine: list[str], run: Run) -> Kept:
    return Kept(tmp_path, engine, run)


SCRIPT = "echo mine > new; rm given; echo x > /usr/local/x"


@pytest.mark.parametrize("mode", ["fork", "fresh", "shared"])
def test_what_the_agent_left_is_there_again(kept: Kept, mode: str) -> None:
    if mode == "fresh":
        kept.declare("/app/new")
    row = kept.run(SCRIPT, "keep_on=[ok,agent_error]", f"verifier.mode={mode}")
    left_out = {"fork": ["left_out"]}.get(mode, [])  # from its scorer, and not from what is kept
    assert (row["outcome"], [event["kind"] for event in row["events"]]) == ("ok", left_out)
    (artifact,) = (each for each in row["artifacts"] if each["name"] == "state.tar.gz")
    folder = rf"artifacts/{row['trajectory_id']}/{row['epoch']}-1-[0-9a-f]{{8}}"
    assert re.fullmatch(rf"{folder}/state\.tar\.gz", artifact["uri"])
    assert (kept.folder / "runs/left" / artifact["uri"]).stat().st_size == artifact["bytes"]
    code, out, err = kept.shell(row, "ls; cat new /usr/local/x; exit 4")
    tested = "tested\n" if mode == "shared" else ""
    assert (code, out, err) == (4, f"new\n{tested}mine\nx\n", "")
    assert kept.shell(row, "ls", "--fresh") == (0, "given\n", "")


def test_what_is_typed_there_changes_nothing_that_is_kept(kept: Kept) -> None:
    row = kept.run(SCRIPT, "keep_on=[all]")
    assert kept.shell(row, "rm /app/*; ls /app")[:2] == (0, "")
    assert kept.shell(row, "ls /app")[:2] == (0, "new\n")


@pytest.mark.parametrize(
    ("script", "words", "outcome", "code"),
    [
        ("touch /app/mute", [], "scoring_error", 1),
        ("touch /app/a; exit 3", [], "agent_error", 0),
        ("sleep 100", ["timeouts.agent_override_s=1"], "agent_timeout", 0),
    ],
)
def test_every_ending_that_has_files_can_be_kept(
    kept: Kept, script: str, words: list[str], outcome: str, code: int
) -> None:
    row = kept.run(script, f"keep_on=[{outcome}]", *words, code=code)
    assert row["outcome"] == outcome
    assert [artifact["name"] for artifact in row["artifacts"]] == ["state.tar.gz"]
    assert kept.shell(row, "cat /app/given")[:2] == (0, "given\n")


def test_what_was_not_asked_for_is_not_kept_and_that_is_told(kept: Kept) -> None:
    row = kept.run(SCRIPT, "keep_on=[agent_error,scoring_error]")
    assert row["artifacts"] == []
    code, out, err = kept.shell(row, "ls")
    assert (code, out) == (2, "")
    assert "ended as ok" in err
    assert "keep_on=[ok]" in err
    assert f"shell left {row['trajectory_id'][:12]} --fresh" in err


def test_what_is_too_much_is_not_kept_and_that_is_told(kept: Kept) -> None:
    row = kept.run("head -c 3000000 /dev/zero > big", "keep_on=[ok]", "keep_limit_mb=2")
    assert (row["outcome"], row["reward"], row["artifacts"]) == ("ok", 1.0, [])
    assert [event["kind"] for event in row["events"]] == ["state_not_kept"]
    code, _, err = kept.shell(row, "ls")
    assert code == 2
    assert "more than 2 MB (keep_limit_mb)" in err


def test_a_file_that_was_changed_is_not_restored(kept: Kept) -> None:
    row = kept.run(SCRIPT, "keep_on=[ok]")
    path = kept.folder / "runs/left" / row["artifacts"][0]["uri"]
    whole = path.read_bytes()
    for changed in (whole[:-1] + b"x", whole + b"x"):
        path.write_bytes(changed)
        code, out, err = kept.shell(row, "ls")
        assert (code, out) == (1, "")
        assert "its row says" in err
    path.unlink()
    assert kept.shell(row, "ls")[0] == 2


def test_a_task_that_has_changed_since_is_told(kept: Kept) -> None:
    row = kept.run(SCRIPT, "keep_on=[ok]")
    (kept.task / "environment/given").write_text("other\n")
    (kept.task / "environment/more").write_text("more\n")
    code, out, err = kept.shell(row, "ls")
    assert (code, out) == (0, "new\n")
    assert "has changed since the rollout" in err
    kept.task.rename(kept.task.with_name("two"))
    code, _, err = kept.shell(row, "ls")
    assert (code, "task one is no more among those" in err) == (2, True)


def test_a_wrong_word_in_keep_on_is_told_before_anything_starts(kept: Kept) -> None:
    done = kept.call(["+experiment=quickstart", "keep_on=[ok,agent_eror]"], kept.folder)
    assert done.returncode == 2
    assert "keep_on: 'agent_eror' is no outcome; did you mean \"agent_error\"?" in (
        done.stderr.decode()
    )
    done = kept.call(
        ["+experiment=quickstart", "keep_on=[ok]", "engine=memory", "executor=local"], kept.folder
    )
    assert done.returncode == 2
    assert b"keep_on: engine memory lacks" in done.stderr
    assert not (kept.folder / "runs").exists()


# ---------------------------------------------------------------- the library


async def test_a_sandbox_is_a_call(engine: list[str]) -> None:
    settings = dict(word.removeprefix("engine.").split("=") for word in engine)
    conf = rollout.config.EngineConf(  # type: ignore[attr-defined]
        root_dir=settings["root_dir"], uid_base=int(settings["uid_base"]), max_slots=64
    )
    async with rollout.sandbox("host", engine=conf, env={"A": "b"}, pids=50) as box:
        said = await box.exec(["sh", "-c", "pwd; echo $A"])
        assert said.stdout == b"/app\nb\n"
        assert box.spec.resources.pids == 50
        owners = list(Path(conf.root_dir).glob("owners/*"))
        assert len(owners) == 1
    assert list(Path(conf.root_dir).glob("owners/*")) == []
    for words, told in (
        ({"blueprint": "hots"}, '"host"'),
        ({"memry_mb": 1}, "'memory_mb'"),
        ({"engine": "dokcer"}, "docker"),
    ):
        with pytest.raises(ConfigError, match=told):
            async with rollout.sandbox(**words):  # type: ignore[arg-type]
                pass
    assert json.dumps(rollout.__all__).count("sandbox") == 1


# ---------------------------------------------------------------- kept by hand


def run_shell(cwd: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "rollout", "shell", *words],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_what_was_changed_by_hand_is_a_blueprint_that_another_machine_can_use(
    tmp_path: Path, engine: list[str], terminal: Callable[..., Terminal]
) -> None:
    (tmp_path / "mine.yaml").write_text(
        "env: {WHO: me}\nlaunch_commands: ['date > /tmp/launched']\n"
        "mounts: [{kind: file, dest: /srv/mounted, content: m}]\n"
    )
    shell = terminal("--blueprint", "mine.yaml", "--keep", "first")
    shell.expect("what you change is kept as first when you leave")
    shell.type("rm /etc/motd; echo by $WHO > hand; chown 7:8 hand; cat /srv/mounted; exit 3\n")
    shell.expect("wrote conf/blueprint/first.yaml")
    assert shell.ended() == 3
    command = ["--", "sh", "-c", "echo again >> /app/hand; test ! -e /etc/motd"]
    second = run_shell(tmp_path, "--blueprint", "first", "--keep", "second", *engine, *command)
    assert second.returncode == 0, second.stderr
    elsewhere = [f"engine.root_dir={tmp_path}/other", *engine[1:]]
    look = ["--", "sh", "-c", "cat hand /srv/mounted; stat -c %u:%g hand; ls /tmp; ls /etc/motd"]
    seen = run_shell(tmp_path, "--blueprint", "second", *elsewhere, *look)
    assert seen.stdout == "by me\nagain\nm7:8\nlaunched\n"
    assert "/etc/motd" in seen.stderr
    kept = (tmp_path / "conf/blueprint/second.yaml").read_text()
    assert (kept.count("object: sha256:"), "mounts" in kept) == (2, False)
    (tmp_path / "conf/blueprint/second.yaml").write_text(kept.replace("base: host", "base: debian"))
    other = run_shell(tmp_path, "--blueprint", "second", *engine, "--", "true")
    assert (other.returncode, "others than it was kept on" in other.stderr) == (2, True)


def test_keep_is_told_what_is_wrong_before_anything_starts(tmp_path: Path) -> None:
    taken = run_shell(tmp_path, "--blueprint", "host", "--keep", "host", "--", "true")
    assert (taken.returncode, "there is a blueprint of this name" in taken.stderr) == (2, True)
    lost = run_shell(tmp_path, "RUN", "abc", "--keep", "x")
    assert (lost.returncode, "--keep: goes with --blueprint" in lost.stderr) == (2, True)
