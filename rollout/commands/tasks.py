"""`tasks check PATH`: gold must score 1 and an empty attempt 0, by the real pipeline.

A task whose gold passes only where the agent's own processes still run (`verifier.mode=shared`)
is listed, since training wants a clean scoring sandbox.
"""

import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from rollout import build
from rollout.commands.run import INTERRUPTED, execute
from rollout.compose import Composed, compose
from rollout.dataset.reader import open_dataset
from rollout.errors import ConfigError
from rollout.report.render import show, text

USAGE = """\
python -m rollout tasks check PATH [key=value …]

PATH       a task folder in Harbor's format, a folder of them, or a .jsonl file
key=value  any key of a run, such as 'task.include=[a*]' or engine=memory
"""
GOLD, EMPTY = "agent=oracle", "agent=nop"
FAILED = 1
ERROR_CHARS = 120


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How one of the two attempts at a task ended."""

    outcome: str
    reward: float | None
    error: str

    def __str__(self) -> str:
        return self.outcome if self.reward is None else f"{self.reward:g}"


Endings = Mapping[str, Mapping[str, Ending]]
"""Task to arm to ending."""


def main(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        show(sys.stdout, text(USAGE))
        return 0
    if len(argv) < 2 or argv[0] != "check" or "=" in argv[1]:
        raise ConfigError(f"tasks knows one thing: check PATH\n{USAGE}")
    with tempfile.TemporaryDirectory(prefix="rollout-check-") as folder:
        return check(argv[1], argv[2:], folder)


def check(path: str, overrides: Sequence[str], folder: str) -> int:
    """Run both agents over all tasks, then gold again in shared mode where it failed."""
    composed = _composed(path, overrides, folder)
    endings = _run(composed, folder)
    if endings is None:
        return INTERRUPTED
    failing = [task for task, arms in endings.items() if not _solved(arms.get(GOLD))]
    shared = _run(_in_shared_mode(composed, failing), folder) if failing else {}
    if shared is None:
        return INTERRUPTED
    only_shared = [task for task in failing if _solved(shared.get(task, {}).get(GOLD))]
    bad = [task for task, arms in endings.items() if not _as_it_should(arms)]
    show(sys.stdout, text("\n".join([*_table(endings), *_closing(endings, bad, only_shared)])))
    return FAILED if bad else 0


def _composed(path: str, overrides: Sequence[str], folder: str) -> Composed:
    kind = "jsonl" if path.endswith(".jsonl") else "harbor"
    own = [f"+experiment={kind}", "executor=local", "sweep.agent=[oracle,nop]", "samples=1"]
    place = [f"task.path='{path}'", f"store.uri='{folder}'", "store.flush_s=1", "name=check"]
    return compose([*own, *place, *overrides])


def _in_shared_mode(composed: Composed, tasks: Sequence[str]) -> Composed:
    for conf in (composed.conf, *(point.conf for point in composed.points)):
        conf.name, conf.verifier.mode = "check-shared", "shared"
    composed.conf.task["include"] = list(tasks)
    composed.conf.task["limit"] = None
    return composed


def _run(composed: Composed, folder: str) -> Endings | None:
    job = build.prepare(composed)
    if execute(job):
        return None
    columns = ["task_id", "arm", "outcome", "reward", "error_message"]
    endings: dict[str, dict[str, Ending]] = {task.id: {} for task in job.plan.tasks}
    with open_dataset(job.plan.run_uri) as dataset:
        for row in dataset.scan(columns=columns).to_pylist():
            endings[row["task_id"]][row["arm"]] = Ending(
                outcome=row["outcome"], reward=row["reward"], error=row["error_message"] or ""
            )
    return endings


def _solved(ending: Ending | None) -> bool:
    return ending is not None and ending.reward == 1.0


def _as_it_should(arms: Mapping[str, Ending]) -> bool:
    return _solved(arms.get(GOLD)) and EMPTY in arms and arms[EMPTY].reward == 0.0


def _table(endings: Endings) -> Iterable[str]:
    width = max(len(task) for task in endings)
    yield f"{'task':<{width}}  {'gold':<14}  {'empty':<14}"
    for task, arms in sorted(endings.items()):
        gold, empty = arms.get(GOLD), arms.get(EMPTY)
        words = [] if _as_it_should(arms) else ["WRONG"]
        words += [ending.error[:ERROR_CHARS] for ending in (gold, empty) if ending and ending.error]
        yield f"{task:<{width}}  {_cell(gold)}  {_cell(empty)}  {'; '.join(words)}".rstrip()


def _cell(ending: Ending | None) -> str:
    return f"{ending or 'nothing'!s:<14}"


def _closing(endings: Endings, bad: Sequence[str], only_shared: Sequence[str]) -> Iterable[str]:
    if only_shared:
        yield f"gold passes only in shared mode: {', '.join(only_shared)}"
    right = len(endings) - len(bad)
    yield f"{right} of {len(endings)} tasks are right: gold scores 1, an empty attempt 0"
