"""Which rollouts of another run a run scores again: those whose agents' files were kept."""

from collections.abc import Mapping, Sequence
from typing import Any

from rollout import plan
from rollout.config import RescoreConf
from rollout.dataset.reader import open_dataset
from rollout.episode import STATE_NAME
from rollout.errors import ConfigError, StoreError
from rollout.executor.base import Source
from rollout.recorded import can_be_scored
from rollout.types import Outcome, RolloutSpec, StopReason, Task

COLUMNS = (
    *("trajectory_id", "arm", "task_id", "sample_index", "outcome", "stop_reason"),
    *("blueprint_digest", "artifacts"),
)
Wanted = tuple[str, str, int]
"""Arm, task, sample."""


def recorded_specs(
    conf: RescoreConf, specs: Sequence[RolloutSpec], tasks: Mapping[tuple[str, str], Task]
) -> tuple[tuple[RolloutSpec, ...], Source, str]:
    """Of `specs` those that the source can stand in for, and a note where that is not all.

    tasks: by arm and id. ConfigError where it is none, or where the computer of a task is not what
    its agent worked in: what was kept is only what the agent wrote to it.
    """
    rows = _rows(conf)
    usable = {at: row for at, row in rows.items() if _is_usable(row)}
    found = [(spec, usable[_at(spec)]) for spec in specs if _at(spec) in usable]
    if not found:
        raise ConfigError(
            f"rescore: {conf.uri} kept the files of no rollout that could be scored again; a run "
            "with keep_on=[all] keeps them, up to keep_limit_mb each"
        )
    other = sorted({spec.task_id for spec, row in found if not _same(row, tasks, spec)})
    if other:
        lines = [f"rescore: task {id_}: its computer is another one by now" for id_ in other]
        raise ConfigError(plan.clipped(lines))
    ids = tuple((spec.trajectory_id, row["trajectory_id"]) for spec, row in found)
    source = Source(uri=str(conf.uri), endpoint_url=conf.endpoint_url, region=conf.region, ids=ids)
    left_out = len(specs) - len(found)
    note = f"{left_out} of {len(specs)} rollouts kept no files, and are left out"
    return tuple(spec for spec, _ in found), source, note if left_out else ""


def _rows(conf: RescoreConf) -> dict[Wanted, dict[str, Any]]:
    try:
        with open_dataset(
            str(conf.uri), endpoint_url=conf.endpoint_url, region=conf.region
        ) as dataset:
            rows = dataset.scan(list(COLUMNS)).to_pylist()
    except StoreError as exc:
        raise ConfigError(f"rescore: {exc}") from exc
    return {(row["arm"], row["task_id"], row["sample_index"]): row for row in rows}


def _at(spec: RolloutSpec) -> Wanted:
    return spec.arm, spec.task_id, spec.sample


def _is_usable(row: Mapping[str, Any]) -> bool:
    kept = any(artifact["name"] == STATE_NAME for artifact in row["artifacts"] or ())
    stop = StopReason(row["stop_reason"]) if row["stop_reason"] else None
    return kept and can_be_scored(Outcome(row["outcome"]), stop)


def _same(row: Mapping[str, Any], tasks: Mapping[tuple[str, str], Task], spec: RolloutSpec) -> bool:
    return bool(row["blueprint_digest"] == tasks[spec.arm, spec.task_id].blueprint.digest)
