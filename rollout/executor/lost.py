"""The row of a rollout that no worker lived to tell about."""

from rollout.agents.base import Agent
from rollout.types import Arm, Lease, Task, Trajectory


def lost_trajectory(
    lease: Lease, task: Task, arm: Arm, agent: Agent, *, run_id: str, node: str
) -> Trajectory:
    """Every planned rollout ends as a row: this one says how its last attempt was lost."""
    last = lease.attempts[-1]
    return Trajectory(
        run_id=run_id,
        spec=lease.spec,
        epoch=last.epoch,
        attempt=last.n,
        outcome=last.outcome,
        error_type="SandboxLost",
        error_message=last.error,
        attempts=lease.attempts,
        blueprint=task.blueprint.name,
        blueprint_digest=task.blueprint.digest,
        task_digest=task.digest,
        dataset=task.dataset,
        split=task.split,
        agent_name=agent.name,
        agent_version=agent.version,
        agents=task.blueprint.agents,
        arm_digest=arm.digest,
        started_at=last.started_at,
        finished_at=last.finished_at,
        node=node,
    )
