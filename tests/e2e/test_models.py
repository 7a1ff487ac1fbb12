"""A sweep of two models and the built-in agent, as people start it, read back by plain pyarrow."""

import gzip
import json
import re
import threading
import time
from collections.abc import Callable
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any, ClassVar

import pyarrow.dataset as pads
import pytest

from tests.forked import Forked

pytestmark = pytest.mark.native

TASKS = [
    {"id": "greet", "instruction": "Write hello to out.txt", "command": "grep -qx hello out.txt"},
    {"id": "count", "instruction": "Write 1 to out.txt", "command": "grep -qx 1 out.txt"},
]
SOLVES = {
    "rules": [
        {"when": "hello", "turns": [{"run": "echo hello > out.txt"}, {"text": "It is there."}]},
        {"when": "1", "turns": [{"run": "echo 1 > out.txt"}, {"text": "It is there."}]},
    ]
}
LOOPS = {"rules": [{"turns": [{"run": "seq 9", "reasoning": "I look"}]}]}
FAILS = {"rules": [{"when": "no such task", "turns": [{"text": "x"}]}]}


KEY = "sk-very-secret"
LOOK = r"""
python3 -c "import json, urllib.request as u
body = json.dumps({'model': 'x', 'messages': [{'role': 'user', 'content': 'hi'}]}).encode()
print(u.urlopen('{url}/v1/chat/completions', body).read().decode())"
grep -rlsa --exclude-dir=usr --exclude-dir=proc --exclude-dir=sys 'sk-very[-]secret' / > found
cat /proc/*/environ /proc/*/cmdline | tr '\0' '\n' | grep 'sk-very[-]secret' >> found
test ! -s found
"""
"""It calls the model, and looks for the key wherever a process of the sandbox can."""


class Endpoint(BaseHTTPRequestHandler):
    """Answers every call, and notes the key it was asked with."""

    keys: ClassVar[list[str]] = []
    rejects = False
    """Says no, and repeats the key."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        key = self.headers["Authorization"] or self.headers["x-api-key"]
        self.keys.append(key)
        message = {"role": "assistant", "content": "hello"}
        told: dict[str, Any] = {"choices": [{"message": message, "finish_reason": "stop"}]}
        if self.path.endswith("/messages"):
            told = {"content": [{"type": "text", "text": "hello"}], "stop_reason": "end_turn"}
        if self.rejects:
            told = {"error": f"{'.' * (496 - len(key))}{key}{'.' * 900}"}  # where it is clipped
        said = json.dumps(told).encode()
        self.send_response(401 if self.rejects else 200)
        self.send_header("Content-Length", str(len(said)))
        self.end_headers()
        self.wfile.write(said)

    def log_message(self, *words: object) -> None: ...


Start = Callable[..., CompletedProcess[str]]


def started(forked: Forked, folder: Path, *words: str) -> CompletedProcess[str]:
    (folder / "tasks.jsonl").write_text("\n".join(map(json.dumps, TASKS)))
    for name, script in {"solves": SOLVES, "loops": LOOPS, "fails": FAILS}.items():
        (folder / f"{name}.json").write_text(json.dumps(script))
    line = [
        *("+experiment=jsonl", "~sweep.agent", "task.path=tasks.jsonl", "agent=bash"),
        *("model=scripted", "executor=local", "name=models"),
        *(f"engine.root_dir={folder}/root", *words),
    ]
    return forked.said(line, cwd=folder)


@pytest.fixture
def start(forked: Forked) -> Start:
    return partial(started, forked)


def rows(folder: Path) -> list[dict[str, Any]]:
    table = pads.dataset(folder / "runs/models/trajectories").to_table()
    found: list[dict[str, Any]] = table.to_pylist()
    return sorted(found, key=lambda row: (row["arm"], row["task_id"], row["sample_index"]))


def test_two_models_side_by_side(tmp_path: Path, start: Start) -> None:
    sweep = "+sweep.model.script=[solves.json,loops.json]"
    done = start(tmp_path, sweep, "samples=2", "budget.turns=3", "model.price.prompt=2",
                 "model.price.completion=4")  # fmt: skip
    assert done.returncode == 0, done.stderr
    # The other of the two arms solves both tasks that this one does not.
    assert re.search(r"model.script=loops.json +-1\.000 +– +2 +0 +2 +0\n", done.stdout), done.stdout
    loops, solves = rows(tmp_path)[:4], rows(tmp_path)[4:]
    assert {(row["outcome"], row["reward"]) for row in solves} == {("ok", 1.0)}
    assert {(row["outcome"], row["reward"]) for row in loops} == {("max_turns", 0.0)}
    for row in (*solves, *loops):
        agents = [step for step in row["steps"] if step["source"] == "agent"]
        assert row["prompt_tokens"] == sum(step["prompt_tokens"] or 0 for step in agents)
        cost = (2 * row["prompt_tokens"] + 4 * row["completion_tokens"]) / 1e6
        assert row["cost_usd"] == pytest.approx(cost)
        assert json.loads(row["tools"])[0]["function"]["name"] == "bash"
        assert row["model_name"] == "scripted"
    roles = [message["role"] for message in solves[0]["messages"]]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    looked = [m for m in loops[0]["messages"] if m["role"] == "tool"]
    assert [m["content"] for m in looked] == ["1\n2\n3\n4\n5\n6\n7\n8\n9\n[exit code 0]"] * 3
    assert loops[0]["messages"][2]["reasoning_content"] == "I look"


def test_its_conversations_are_files_for_other_programs(
    tmp_path: Path, start: Start, forked: Forked
) -> None:
    assert start(tmp_path, "+sweep.model.script=[solves.json,loops.json]", "budget.turns=3",
                 "store.format=arrow").returncode == 0  # fmt: skip

    def export(*words: str) -> CompletedProcess[str]:
        return forked.said(["export", "models", *words], cwd=tmp_path)

    done = export("format=sft")
    assert (done.returncode, "2 conversations" in done.stdout) == (0, True), done.stderr
    lines = (tmp_path / "models-sft.jsonl").read_text().splitlines()
    for line in map(json.loads, lines):
        assert line["reward"] == 1.0
        assert [m["role"] for m in line["messages"]] == [
            *("system", "user", "assistant", "tool", "assistant")
        ]
        (call,) = line["messages"][2]["tool_calls"]
        assert call["function"]["arguments"]["command"].startswith("echo")
    assert "4 conversations" in export("format=sft", "min_reward=0", "out=all.jsonl").stdout
    again = export("format=sft")
    assert (again.returncode, "is there already" in again.stderr) == (2, True)
    assert export("format=atif").returncode == 0
    documents = [json.loads(path.read_text()) for path in (tmp_path / "models-atif").iterdir()]
    assert len(documents) == 4
    assert {document["agent"]["name"] for document in documents} == {"bash"}


def test_what_was_sampled_is_a_table_for_trainers(tmp_path: Path, start: Start) -> None:
    done = start(tmp_path, "model.script=solves.json", "model.capture=tokens", "samples=3")
    assert done.returncode == 0, done.stderr
    told = {row["trajectory_id"]: row for row in rows(tmp_path)}
    sequences = pads.dataset(tmp_path / "runs/models/sequences").to_table().to_pylist()
    assert {each["trajectory_id"] for each in sequences} == set(told)
    for each in sequences:
        row = told[each["trajectory_id"]]
        assert (row["capture_level"], row["num_sequences"]) == ("tokens", 1)
        same = ("reward", "outcome", "group_id", "arm_digest", "sample_index", "trainable")
        assert {name: each[name] for name in same} == {name: row[name] for name in same}
        assert len(each["token_ids"]) == len(each["loss_mask"]) == len(each["logprobs"])
        assert sum(each["loss_mask"]) == row["completion_tokens"]
        spoken = [step for step in row["steps"] if step["completion_tokens"]]
        for step in spoken:
            start_at, end = step["token_start"], step["token_end"]
            assert step["sequence_index"] == each["sequence_index"] == 0
            assert set(each["loss_mask"][start_at:end]) == {1}
            said = bytes(t for t in each["token_ids"][start_at:end] if t < 256).decode()
            message = row["messages"][step["message_end"] - 1]
            assert message["content"] in said
        assert each["prompt_len"] == spoken[0]["token_start"] == spoken[0]["prompt_tokens"]


def test_the_experiment_for_training_runs_against_a_script(tmp_path: Path, forked: Forked) -> None:
    (tmp_path / "solves.json").write_text(json.dumps(SOLVES | {"rules": [*SOLVES["rules"], {
        "turns": [{"run": "ls"}, {"text": "I do not know."}]}]}))  # fmt: skip
    line = ["+experiment=rft", "model=scripted", "model.script=solves.json", "executor=local"]
    line += ["samples=2", "name=models", f"engine.root_dir={tmp_path}/root"]
    done = forked.said(line, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    told = rows(tmp_path)
    assert len(told) == 32
    assert {(row["outcome"], row["reward"]) for row in told} == {("ok", 0.0)}
    sequences = pads.dataset(tmp_path / "runs/models/sequences").to_table().to_pylist()
    assert len(sequences) == sum(row["num_sequences"] for row in told) == 32
    assert {each["temperature"] for each in sequences} == {1.0}
    for row in told:
        phases = [phase["name"] for phase in row["phases"]]
        assert "freeze" in phases


@pytest.mark.parametrize(("model", "before"), [("openai", "Bearer "), ("anthropic", "")])
def test_the_key_is_the_workers_alone(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, model: str, before: str
) -> None:
    monkeypatch.setenv("MODEL_KEY", KEY)
    Endpoint.keys.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = start(
            tmp_path, "agent=command", "agent.name=look", f"agent.command={quoted(LOOK)}",
            f"model={model}", "model.name=m", "model.key_env=MODEL_KEY", "keep_on=[all]",
            f"model.urls=[http://127.0.0.1:{server.server_port}/v1]",
        )  # fmt: skip
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr
    assert {row["outcome"] for row in rows(tmp_path)} == {"ok"}, rows(tmp_path)[0]["error_message"]
    assert {f"{before}{KEY}"} == set(Endpoint.keys)
    written = [path for path in (tmp_path / "runs").rglob("*") if path.is_file()]
    states = [path for path in written if path.name.endswith("state.tar.gz")]
    assert states
    assert [path for path in states if KEY.encode() in gzip.decompress(path.read_bytes())] == []
    assert [path for path in written if KEY.encode() in path.read_bytes()] == []
    assert KEY not in repr(rows(tmp_path)) + done.stdout + done.stderr


class Rejecting(Endpoint):
    rejects = True


@pytest.mark.parametrize("model", ["openai", "anthropic"])
def test_nor_is_a_piece_of_it_where_the_endpoint_repeats_it(
    tmp_path: Path, start: Start, monkeypatch: pytest.MonkeyPatch, model: str
) -> None:
    monkeypatch.setenv("MODEL_KEY", KEY)
    with ThreadingHTTPServer(("127.0.0.1", 0), Rejecting) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        done = start(
            tmp_path, f"model={model}", "model.name=m", "model.key_env=MODEL_KEY",
            f"model.urls=[http://127.0.0.1:{server.server_port}/v1]", "retry.max_attempts=1",
        )  # fmt: skip
        server.shutdown()
    told = rows(tmp_path)
    assert {row["outcome"] for row in told} == {"model_error"}, done.stderr
    assert "status 401" in told[0]["error_message"]
    written = repr(told) + done.stdout + done.stderr
    for piece in ("sk-v", "very-", "secret"):
        assert piece not in written


def quoted(text: str) -> str:
    """As a word of Hydra's command line."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def test_what_the_model_is_asked_in_vain_is_told_in_the_row(tmp_path: Path, start: Start) -> None:
    done = start(tmp_path, "model.script=fails.json", "retry.max_attempts=1")
    assert done.returncode == 1, done.stderr
    assert {(row["outcome"], row["reward"]) for row in rows(tmp_path)} == {("model_error", None)}
    assert "no rule for" in rows(tmp_path)[0]["error_message"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["model=none"], "arm default: agent bash needs a model"),
        (["model.script=none.json"], "model.script: none.json"),
        (["model.script=solves.json", "engine=memory"], "agent bash: engine memory lacks"),
        (["model.script=solves.json", "budget.cost_usd=1"], "model.price: must be given"),
        (["model=openai", "model.name=m", "model.urls=[localhost]"], "is no http://"),
        (["model=none", "agent=nop", "budget.turns=3"], "budget.turns: there is no model"),
    ],
)
def test_slips_are_told_before_anything_starts(
    tmp_path: Path, start: Start, words: list[str], said: str
) -> None:
    done = start(tmp_path, *words)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert not (tmp_path / "runs").exists()


class Busy(Endpoint):
    """Takes a while for each call, and notes how many it had at once."""

    lock = threading.Lock()
    running = most = 0

    def do_POST(self) -> None:
        with Busy.lock:
            Busy.running += 1
            Busy.most = max(Busy.most, Busy.running)
        time.sleep(0.2)
        with Busy.lock:
            Busy.running -= 1
        super().do_POST()


def test_all_workers_together_keep_to_what_the_endpoint_may_be_asked(
    tmp_path: Path, start: Start
) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Busy) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}/v1"
        Busy.keys.clear()
        done = start(
            tmp_path, "model=openai", "model.name=m", f"model.urls=[{url}]",
            "model.max_concurrent=4", "executor.workers=2", "samples=16",
        )  # fmt: skip
        server.shutdown()
    assert done.returncode == 0, done.stderr
    assert len(Busy.keys) == len(rows(tmp_path)) == 32
    assert 2 <= Busy.most <= 4
