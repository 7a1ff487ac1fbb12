"""The loop: a few real steps, stopped in the middle; and gradients from what was stored."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from rollout import RolloutSource, open_dataset  # noqa: E402  only with torch
from rollout.learning.grpo import Grpo  # noqa: E402
from rollout.learning.policy import TinyPolicy, loss_of  # noqa: E402
from rollout.learning.server import PolicyServer  # noqa: E402
from rollout.types import Group  # noqa: E402
from tests.s3_server import BUCKET  # noqa: E402

pytestmark = pytest.mark.native
SMALL = ["samples=4", "online.batch=2", "task.count=5", "executor.workers=1"]


def start(folder: Path, *words: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "rollout", "+experiment=learn", *SMALL, *words]
    return subprocess.Popen(
        [*command, f"store.uri={folder}/runs"],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def test_a_learner_that_is_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    with start(tmp_path, "learner.steps=50") as first:
        assert first.stdout is not None
        for line in first.stdout:
            if line.startswith("step    3"):
                break
        os.kill(first.pid, signal.SIGKILL)
    time.sleep(1)  # its workers end with it
    second = start(tmp_path, "learner.steps=6")
    said, _ = second.communicate(timeout=120)
    assert second.returncode == 0, said
    steps = [int(line.split()[1]) for line in said.splitlines() if line.startswith("step ")]
    assert steps[0] in (3, 4), said
    assert steps[-1] == 6
    assert "6 training steps" in said
    third, _ = start(tmp_path, "learner.steps=6").communicate(timeout=60)
    assert "step " not in third.replace("training step", ""), "it is done"
    with open_dataset(f"{tmp_path}/runs/learn") as dataset:
        rows = dataset.scan(["trajectory_id", "reward", "policy_version_min"]).to_pylist()
    assert len({row["trajectory_id"] for row in rows}) == len(rows)
    assert len(rows) >= 6 * 2 * 4
    versions = {row["policy_version_min"] for row in rows}
    assert min(versions) == 0
    assert len(versions) > 2, "its weights changed meanwhile"


@pytest.mark.s3
async def test_rows_read_back_from_s3_give_the_gradients_of_the_online_path(
    s3_endpoint: str, tmp_path: Path
) -> None:
    policy = TinyPolicy(0)
    online: list[Group] = []
    async with PolicyServer(policy) as server:
        config = ["+experiment=learn", *SMALL, f"model.urls=[{server.url}]", "learner=none"]
        config += [f"store.uri=s3://{BUCKET}/learn", f"store.endpoint_url={s3_endpoint}"]
        config += [f"objects.uri={tmp_path}/objects"]
        async with RolloutSource(config) as source:
            async for batch in source.batches():
                online += batch
                if len(online) == 6:
                    break
                server.take(policy, version := len(online) // 2)
                await source.update_policy(version)
            uri = source.uri
    with open_dataset(uri, endpoint_url=s3_endpoint) as dataset:
        stored = {group.group_id: group for group in dataset.groups()}
    again = [stored[group.group_id] for group in online]
    assert gradients(policy, online) == pytest.approx(gradients(policy, again), rel=1e-6)


def gradients(policy: TinyPolicy, groups: list[Group]) -> list[float]:
    trainer = Grpo(policy)
    policy.zero_grad()
    loss_of(policy, trainer.batch(groups), entropy=0.06).backward()
    grads = [weight.grad for weight in policy.parameters() if weight.grad is not None]
    norms = [float(grad.norm()) for grad in grads]
    assert any(norms), "there is something to learn from"
    return norms


def test_what_is_missing_is_said_before_anything_starts(tmp_path: Path) -> None:
    asked = start(tmp_path, "learner.steps=0")
    said, _ = asked.communicate(timeout=60)
    assert (asked.returncode, "learner.steps: must be above 0" in said) == (2, True), said
    asked = start(tmp_path, "learner=none")
    said, _ = asked.communicate(timeout=60)
    assert (asked.returncode, "choose a learner" in said) == (2, True), said
    assert not json.dumps([str(path) for path in tmp_path.glob("runs/*")]).count("learn")
