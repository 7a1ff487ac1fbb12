"""How long an attempt can take when every stage uses up its own timeout."""

from collections.abc import Callable

from rollout.executor.base import RunPlan
from rollout.types import Arm, HealthCheck, RolloutSpec, Task

SLACK_S = 120.0
"""For what has no timeout of its own: waiting for room, encoding, the store."""


def hard_limits_s(plan: RunPlan) -> Callable[[RolloutSpec], float]:
    """Seconds after which a lease of a spec is void, even if its worker lives."""
    tasks = {task.id: task for task in plan.tasks}
    arms = {arm.name: arm for arm in plan.arms}

    def limit_s(spec: RolloutSpec) -> float:
        return hard_limit_s(plan, tasks[spec.task_id], arms[spec.arm])

    return limit_s


def hard_limit_s(plan: RunPlan, task: Task, arm: Arm) -> float:
    conf = plan.timeouts
    agent_s = arm.agent_timeout_s or task.agent_timeout_s or conf.agent_s
    setup_s = max(task.setup_timeout_s, conf.setup_s)
    score_s = max(task.verifier.timeout_s, conf.score_s)
    scaled_s = (2 * setup_s + agent_s + score_s) * max(1.0, arm.timeout_multiplier)
    collect_s = sum(step.timeout_s for step in task.verifier.collect)
    healthy_s = _healthy_s(task.healthcheck) if task.healthcheck else 0.0
    around_s = 2 * (conf.create_s + conf.release_s) + plan.store.flush_s
    keep_s = conf.keep_s if plan.keep.outcomes else 0.0
    return scaled_s + collect_s + healthy_s + around_s + keep_s + SLACK_S


def _healthy_s(check: HealthCheck) -> float:
    return check.start_period_s + (check.retries + 2) * (check.interval_s + check.timeout_s)
