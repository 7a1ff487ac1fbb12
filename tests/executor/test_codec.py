"""What crosses to worker processes comes out as it went in, or is refused."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rollout.dataset.base import CommitReply, CommitRequest, Part
from rollout.executor.base import Heartbeat, HeartbeatReply, LeaseReply, RunPlan
from rollout.executor.codec import pack, unpack
from rollout.types import (
    Attempt,
    Blueprint,
    BuildStep,
    HealthCheck,
    Lease,
    Outcome,
    Output,
    Resources,
    ScoreMode,
    Task,
    Tree,
    Verifier,
)
from tests.executor.plans import make_arm, make_plan

ATTEMPT = Attempt(
    epoch=2,
    n=1,
    outcome=Outcome.SANDBOX_LOST,
    worker="w0001",
    started_at=datetime(2026, 1, 2, 3, 4, 5, 678901, tzinfo=UTC),
    finished_at=datetime(2026, 1, 2, 3, 5, tzinfo=UTC),
    error="gone\n☠",
)


def plan_with_everything(tmp_path: Path) -> RunPlan:
    plan = make_plan(tmp_path, [make_arm("a=1", "rollout.agents.script.Script", script="x")])
    tree = Tree.of({"bin/run": b"\x00\xff\x7fELF", "readme": "text"})
    task = Task(
        id="all/of-it",
        instruction="do",
        blueprint=Blueprint(
            steps=(BuildStep(op="put", dest="/x", tree=tree, owner="a:b"),),
            env=(("A", "1"),),
            resources=Resources(cpu=0.5, memory_mb=64),
        ),
        tests=tree,
        verifier=Verifier(mode=ScoreMode.SHARED, blueprint=Blueprint(name="other")),
        healthcheck=HealthCheck(command="true"),
        outputs=(Output(source="/out", exclude=("*.o",)),),
    )
    return replace(plan, tasks=(task,), arms=(replace(plan.arms[0], settings=(("k", "v"),)),))


def records(tmp_path: Path) -> list[object]:
    plan = plan_with_everything(tmp_path)
    part = Part(table="trajectories", path="trajectories/x", rows=1, bytes=2, sha256="0" * 64)
    lease = Lease(spec=plan.specs[0], epoch=2, n=2, last=True, attempts=(ATTEMPT,))
    return [
        plan,
        LeaseReply(leases=(lease,), done=False, coming=(("task-0", 3),)),
        CommitRequest(
            worker="w",
            epoch=2,
            parts=(part,),
            trajectory_ids=("t",),
            outcomes=(Outcome.OK,),
            rewards=(None,),
            attempts=((ATTEMPT,),),
        ),
        CommitReply(accepted=False, duplicates=("t",)),
        Heartbeat(worker="w", epoch=1, state="running", counts={"warm": 1}, held=("a", "b")),
        HeartbeatReply(lost=("a",)),
    ]


def test_every_record_comes_out_as_it_went_in(tmp_path: Path) -> None:
    for record in records(tmp_path):
        crossed = json.loads(json.dumps(pack(record)))
        assert unpack(type(record), crossed) == record


@pytest.mark.parametrize(
    ("hint", "data"),
    [
        (CommitReply, {"accepted": "yes"}),
        (CommitReply, {"accepted": True, "extra": 1}),
        (CommitReply, {}),
        (CommitReply, []),
        (int, True),
        (int, 1.5),
        (str, None),
        (bytes, "not base64!"),
        (Outcome, "fine"),
        (datetime, "yesterday"),
        (tuple[str, int], ["a"]),
        (complex, 1),
    ],
)
def test_what_is_not_the_expected_type_is_refused(hint: object, data: object) -> None:
    with pytest.raises((TypeError, ValueError)):
        unpack(hint, data)


def test_what_has_no_plain_form_does_not_cross() -> None:
    with pytest.raises(TypeError, match="cannot cross"):
        pack(object())
