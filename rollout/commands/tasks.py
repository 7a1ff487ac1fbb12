"""`tasks check PATH`: gold must score 1 and an empty attempt 0, by the real pipeline.

A task whose gold passes only where the scorer takes over the agent's system, too
(`verifier.trust=system`), or only where its processes still run (`verifier.mode=shared`), is
listed: the first is what installing software takes, the second no clean scoring sandbox.
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
MORE_TRUST = (
    ("with verifier.mode=fork verifier.trust=system", "check-system", "fork", "system"),
    ("in shared mode", "check-shared", "shared", "as_declared"),
)
"""What gold is tried with that failed: in words, the run's name, its mode and its trust."""


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
    """Run both agents over all tasks, then gold again with more trust where it failed."""
    composed = _composed(path, overrides, folder)
    endings = _run(composed, folder)
    if endings is None:
        return INTERRUPTED
    failing = [task for task, arms in endings.items() if not _solved(arms.get(GOLD))]
    only: dict[str, list[str]] = {}
    for setting, name, mode, trust in MORE_TRUST:
        again = _run(_trusting(composed, failing, name, mode, trust), folder) if failing else {}
        if again is None:
            return INTERRUPTED
        only[setting] = [task for task in failing if _solved(again.get(task, {}).get(GOLD))]
        failing = [task for task in failing if task not in only[setting]]
    bad = [task for task, arms in endings.items() if not _as_it_should(arms)]
    show(sys.stdout, text("\n".join([*_table(endings), *_closing(endings, bad, only)])))
    return FAILED if bad else 0


def _composed(path: str, overrides: Sequence[str], folder: str) -> Composed:
    kind = "jsonl" if path.endswith(".jsonl") else "harbor"
    own = [f"+experiment={kind}", "executor=local", "sweep.agent=[oracle,nop]", "samples=1"]
    place = [f"task.path='{path}'", f"store.uri='{folder}'", "store.flush_s=1", "name=check"]
    return compose([*own, *place, *overrides])


def _trusting(
    composed: Composed, tasks: Sequence[str], name: str, mode: str, trust: str
) -> Composed:
    for conf in (composed.conf, *(point.conf for point in composed.points)):
        conf.name, conf.verifier.mode, conf.verifier.trust = name, mode, trust
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


def _closing(
    endings: Endings, bad: Sequence[str], only: Mapping[str, Sequence[str]]
) -> Iterable[str]:
    for setting, tasks in only.items():
        if tasks:
            yield f"gold passes only {setting}: {', '.join(tasks)}"
    right = len(endings) - len(bad)
    yield f"{right} of {len(endings)} tasks are right: gold scores 1, an empty attempt 0"
