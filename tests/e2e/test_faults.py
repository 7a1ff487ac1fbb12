"""A sweep against an endpoint that fails a third of its calls: nothing lost, nothing made up."""

import json
import subprocess
import sys
import threading
from pathlib import Path

import pyarrow.dataset as pads
import pytest

from tests.e2e.faulty_endpoint import FAULTS, Server, solves

pytestmark = pytest.mark.native

TASKS = Path(__file__).resolve().parents[2] / "rollout/tasks/quickstart"


def test_two_models_and_two_agents_against_a_faulty_endpoint(tmp_path: Path) -> None:
    server = Server(TASKS)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        done = subprocess.run(
            [
                *(sys.executable, "-m", "rollout", "+experiment=eval", "executor=local"),
                *("name=faults", "samples=2", f"model.urls=[{server.url}]"),
                *("+sweep.model.name=[solver,half]", "+sweep.agent.tools=[native,fenced]"),
                *("model.timeout_s=5", f"engine.root_dir={tmp_path}/root"),
            ],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=280,
        )
    finally:
        server.shutdown()
        server.server_close()
    assert done.returncode == 0, done.stderr[-3_000:]
    rows = pads.dataset(tmp_path / "runs/faults/trajectories").to_table().to_pylist()
    assert len(rows) == 16 * 2 * 2 * 2
    assert min(server.faults[fault] for fault in FAULTS) > 5, server.faults
    for row in rows:
        model = "half" if "half" in row["arm"] else "solver"
        wanted = 1.0 if solves(model, row["task_id"].rpartition("/")[2]) else 0.0
        assert (row["outcome"], row["reward"]) == ("ok", wanted), (row["arm"], row["task_id"])
        assert len(row["attempts"]) == 1
    check_what_was_said(server, rows)


def check_what_was_said(server: Server, rows: list[dict]) -> None:  # type: ignore[type-arg]
    """Each reply is in one row, as it was, behind the very messages it was the answer to."""
    heard = dict(server.told)
    for row in rows:
        for step in row["steps"]:
            if step["source"] != "agent":
                continue
            place = step["message_end"] - 1
            message = row["messages"][place]
            mark = next(mark for mark in heard if mark in message["content"])
            told = heard.pop(mark)
            said = told["reply"]["choices"][0]["message"]
            assert message["content"] == said["content"]
            assert [call["function"] for call in message["tool_calls"] or ()] == [
                call["function"] for call in said.get("tool_calls", ())
            ]
            asked = [(m["role"], m["content"]) for m in told["asked"]["messages"]]
            before = [(m["role"], m["content"]) for m in row["messages"][:place]]
            assert json.dumps(asked) == json.dumps(before)
    assert not heard
