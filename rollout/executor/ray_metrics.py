"""Figures for Ray's dashboard and for Prometheus, under the names `ray_rollout_…`.

Few tag values on purpose: a run, a state, an outcome, a stage; never the id of a rollout.
"""

from collections.abc import Mapping

from ray.util.metrics import Counter, Gauge, Histogram

from rollout.executor.base import Progress
from rollout.types import Trajectory

SANDBOX_STATES = ("warm", "claimed", "creating", "closing")
STAGE_BOUNDS_S = [0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000]


class RayMeter:
    """A worker's figures; implements `executor.meter.Meter`."""

    def __init__(self, run_id: str, worker: str) -> None:
        where = {"run": run_id, "worker": worker}
        self._sandboxes = Gauge(
            "rollout_sandboxes", "Sandboxes of a worker by state.", ("run", "worker", "state")
        )
        self._stages = Histogram(
            "rollout_stage_seconds",
            "How long a stage of an attempt took.",
            boundaries=list(STAGE_BOUNDS_S),
            tag_keys=("run", "worker", "stage"),
        )
        self._attempts = Counter(
            "rollout_attempts", "Ended attempts by outcome.", ("run", "worker", "outcome")
        )
        self._alerts = Counter(
            "rollout_resource_alerts",
            "Sandboxes that came near a limit, by resource.",
            ("run", "worker", "resource"),
        )
        for metric in (self._sandboxes, self._stages, self._attempts, self._alerts):
            metric.set_default_tags(where)

    def ended(self, trajectory: Trajectory) -> None:
        self._attempts.inc(1.0, {"outcome": trajectory.outcome.value})
        for phase in trajectory.phases:
            # A histogram takes only values above zero; a stage may be shorter than a tick.
            self._stages.observe(max(phase.ms / 1000, 1e-6), {"stage": phase.name})
        for event in trajectory.events:
            if event.kind == "resource_alert":
                self._alerts.inc(1.0, {"resource": event.detail.partition(" ")[0]})

    def observe(self, counts: Mapping[str, float]) -> None:
        for state in SANDBOX_STATES:
            self._sandboxes.set(counts.get(state, 0.0), {"state": state})


class RunGauges:
    """The coordinator's figures: where the run stands."""

    def __init__(self, run_id: str) -> None:
        self._rollouts = Gauge("rollout_rollouts", "Rollouts of a run by state.", ("run", "state"))
        self._committed = Gauge(
            "rollout_committed", "Committed rollouts of a run by outcome.", ("run", "outcome")
        )
        self._workers = Gauge("rollout_workers", "Living workers of a run.", ("run",))
        for metric in (self._rollouts, self._committed, self._workers):
            metric.set_default_tags({"run": run_id})

    def show(self, progress: Progress) -> None:
        states = {"done": progress.done, "running": progress.running, "pending": progress.pending}
        for state, value in states.items():
            self._rollouts.set(float(value), {"state": state})
        for outcome, value in progress.outcomes.items():
            self._committed.set(float(value), {"outcome": outcome})
        self._workers.set(float(progress.workers))
