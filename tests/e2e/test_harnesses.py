"""Agents that others wrote, unchanged: installed from their registries, each solves a task by way
of the gateway, in a sandbox without any network."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.test_models import rows, started
from tests.forked import Forked

pytestmark = [pytest.mark.native, pytest.mark.xdist_group("harnesses")]

HARNESSES = {
    "claude_code": ("npm", "@anthropic-ai/claude-code@2.1.197", "anthropic"),
    "codex": ("npm", "@openai/codex@0.169.0", "responses"),
    "mini_swe_agent": ("pip", "mini-swe-agent==2.4.6", "chat"),
}

SKILL = "---\nname: greeting\ndescription: Tells how one greets here.\n---\nSay hello.\n"


def reachable(installer: str, package: str, folder: Path) -> bool:
    pip = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), package]
    ask = ["npm", "view", package, "version"] if installer == "npm" else pip
    if shutil.which(ask[0]) is None:
        return False
    try:
        done = subprocess.run(ask, capture_output=True, timeout=60)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0


@pytest.mark.parametrize(
    "agent",
    # Installing this one alone takes a minute.
    [pytest.param(a, marks=pytest.mark.long) if a == "mini_swe_agent" else a for a in HARNESSES],
)
def test_a_harness_solves_a_task_through_the_gateway(
    agent: str, tmp_path: Path, forked: Forked
) -> None:
    installer, package, dialect = HARNESSES[agent]
    has_skills = agent != "mini_swe_agent"
    if not reachable(installer, package, tmp_path / "downloaded"):
        pytest.skip(f"{package} is not to be had here by {installer}")
    (tmp_path / "skills/greeting").mkdir(parents=True)
    (tmp_path / "skills/greeting/SKILL.md").write_text(SKILL)
    skills = ["agent.skills=[skills/greeting]"] if has_skills else []
    done = started(forked,
        tmp_path, f"agent={agent}", *skills, "model.script=solves.json",
        "blueprint.build_network=host", "retry.max_attempts=1", "task.include=[greet]",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (row,) = rows(tmp_path)
    assert (row["outcome"], row["reward"]) == ("ok", 1.0), row["error_message"]
    (installed,) = row["agents"]
    assert installed["version"] == package.rpartition("@")[2].rpartition("==")[2]
    steps = [step for step in row["steps"] if step["source"] == "agent"]
    assert {step["api"] for step in steps} == {dialect}
    (asked, *_) = [m for m in row["messages"] if m["role"] == "assistant"]
    assert "echo hello" in asked["tool_calls"][0]["function"]["arguments"]
    assert [m["role"] for m in row["messages"] if m["role"] == "tool"]
    assert has_skills == any("how one greets here" in m["content"] for m in row["messages"])
    assert "agent_output.txt" in [artifact["name"] for artifact in row["artifacts"]]
