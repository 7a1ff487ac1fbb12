"""Tasks from a JSONL file, one object a line, its fields mapped by the config."""

import json
import posixpath
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rollout.config import BlueprintConf, ResourcesConf, limits_of, resources_of
from rollout.errors import ConfigError
from rollout.tasks.blueprint import WORKDIR, overlaid, read_foundation
from rollout.tasks.mapping import FieldMapping, Row, parse_row
from rollout.tasks.problems import Problems, all_broken, lines_of
from rollout.tasks.select import Selection
from rollout.tasks.trees import Budget, locate
from rollout.types import (
    Blueprint,
    BuildStep,
    ScoreMode,
    Task,
    Tree,
    Verifier,
    canonical_json,
)

OF_ALL = ("mounts", "launch_commands", "ready")
"""Words of a blueprint that hold for every task of a run."""


class JsonlTasks:
    """Each line a task. A part comes from the field it is mapped to, or from a template.

    `files`, `tests` and `solution` are tables of relative path to text. For `tests` and
    `solution` a plain text is the script itself: `test.sh`, `solve.sh`. Fields that no part uses
    are kept as the task's metadata.
    """

    def __init__(
        self,
        *,
        path: str,
        fields: Mapping[str, str] | None = None,
        templates: Mapping[str, Any] | None = None,
        blueprint: Any = None,
        cpu: float | None = None,
        memory_mb: int | None = None,
        disk_mb: int | None = None,
        verifier_timeout_s: float = 600.0,
        include: str | Sequence[str] = (),
        exclude: str | Sequence[str] = (),
        limit: int | None = None,
        shuffle_seed: int | None = None,
        on_error: str = "raise",
        size_limit_mb: float = 64.0,
        dataset: str = "",
        split: str = "",
    ) -> None:
        """
        path: the .jsonl file.
        fields: part to field, such as `{instruction: prompt, id: meta.name}`; a dot goes into an
            object. A part that is not mapped is looked for under its own name.
        templates: part to text with `$field` or `${field}`, or for files, tests and solution to
            a table of path to such text; goes before `fields`. `$$` is a dollar sign.
        blueprint: what the sandboxes are made of, in the words of `conf/blueprint`; a line's own
            `blueprint` replaces single ones. `files` are put into its workdir.
        cpu, memory_mb, disk_mb: limits of each sandbox; null leaves them to the config.
        verifier_timeout_s: for the scorer, in seconds.
        include, exclude: globs over task ids.
        limit: at most so many tasks.
        shuffle_seed: a reproducible order; null keeps the order of the file.
        on_error: `raise` one error for all broken lines, or `skip` them.
        size_limit_mb: how much one line's files may take.
        dataset: the name in the dataset's rows; empty takes the file's name.
        split: the split's name in the rows.
        """
        self._path = path
        self._mapping = FieldMapping.of(fields or {}, templates or {})
        self._conf = overlaid(BlueprintConf(), blueprint or {}, "task.blueprint")
        self._limits = ResourcesConf(cpu=cpu, memory_mb=memory_mb, disk_mb=disk_mb, pids=None)
        self._read: dict[str, Blueprint] = {}
        self._verifier_timeout_s = float(verifier_timeout_s)
        self._selection = Selection.of(
            include=include,
            exclude=exclude,
            limit=limit,
            shuffle_seed=shuffle_seed,
            on_error=on_error,
        )
        self._limit_bytes = int(size_limit_mb * (1 << 20))
        self._dataset, self._split = dataset, split
        self._skipped: list[str] = []

    @property
    def skipped(self) -> list[str]:
        return self._skipped

    def load(self) -> list[Task]:
        """All selected tasks. ConfigError tells of every bad line, each with its field."""
        broken: dict[str, list[str]] = {}
        rows = dict(self._rows(broken))
        tasks: list[Task] = []
        for task_id in self._selection.order(list(rows), self._path) if rows else []:
            if self._selection.limit is not None and len(tasks) == self._selection.limit:
                break
            number, row = rows[task_id]
            problems = Problems()
            task = self._task(task_id, row, problems)
            if problems:
                broken[f"line {number} ({task_id})"] = problems.lines
            else:
                tasks.append(task)
        if broken and not (self._selection.skip_broken and tasks):
            raise all_broken(self._path, broken)
        if not tasks:
            raise ConfigError(f"task.path: {self._path!r} holds no line")
        self._skipped = lines_of(broken)
        return tasks

    def _rows(self, broken: dict[str, list[str]]) -> Iterator[tuple[str, tuple[int, Row]]]:
        """Task id to line number and object, for the lines that have an id of their own."""
        first: dict[str, int] = {}
        for number, text in self._lines():
            problems = Problems()
            row = parse_row(text, problems)
            task_id = self._mapping.text("id", row, problems) if row is not None else ""
            if row is not None and not problems and not task_id:
                problems.add(self._mapping.name("id"), "is missing or empty")
            if task_id in first:
                problems.add(
                    self._mapping.name("id"), f"saw {task_id!r}, which line {first[task_id]} has"
                )
            if problems or row is None:
                broken[f"line {number}"] = problems.lines
            else:
                first[task_id] = number
                yield task_id, (number, row)

    def _lines(self) -> Iterator[tuple[int, str]]:
        file = locate("task.path", self._path)
        if not file.is_file():
            raise ConfigError(f"task.path: {self._path!r} is a folder; name the .jsonl file in it")
        try:
            with file.open(encoding="utf-8") as lines:
                for number, text in enumerate(lines, start=1):
                    if text.strip():
                        yield number, text
        except UnicodeDecodeError as exc:
            raise ConfigError(f"task.path: {self._path!r} is not UTF-8: {exc}") from exc

    def _task(self, task_id: str, row: Row, problems: Problems) -> Task:
        mapping, budget = self._mapping, Budget(self._limit_bytes)
        instruction = mapping.text("instruction", row, problems)
        if not instruction.strip():
            problems.add(mapping.name("instruction"), "is missing or empty")
        files = mapping.tree("files", row, budget, problems)
        return Task(
            id=task_id,
            instruction=instruction,
            blueprint=self._blueprint(row, files, problems),
            tests=mapping.tree("tests", row, budget, problems),
            solution=mapping.tree("solution", row, budget, problems),
            verifier=Verifier(
                timeout_s=self._verifier_timeout_s,
                mode=ScoreMode.FORK,
                command=mapping.text("command", row, problems),
            ),
            agent_timeout_s=mapping.seconds("timeout_s", row, problems),
            dataset=self._dataset or posixpath.basename(self._path).removesuffix(".jsonl"),
            split=self._split,
            metadata=json.dumps(mapping.rest(row), sort_keys=True, ensure_ascii=False),
        )

    def _blueprint(self, row: Row, files: Tree, problems: Problems) -> Blueprint:
        """The run's with what the line has of its own, each kind read once."""
        own = self._mapping.table("blueprint", row, problems)
        key = canonical_json(own)
        try:
            if key not in self._read:
                self._read[key] = self._blueprint_with(own)
        except ConfigError as exc:
            problems.lines += str(exc).splitlines()
            return Blueprint()
        return _with_files(self._read[key], files)

    def _blueprint_with(self, own: Row) -> Blueprint:
        for key in own:
            if key in OF_ALL:
                raise ConfigError(f"blueprint.{key}: is the whole run's; leave it off here")
        conf = overlaid(self._conf, own)
        limits = limits_of(overlaid(BlueprintConf(), own), self._limits)
        name = conf.dockerfile.path or conf.base
        return replace(read_foundation(conf, name=name), resources=resources_of(limits))


def _with_files(blueprint: Blueprint, files: Tree) -> Blueprint:
    said = [step.dest for step in blueprint.steps if step.op == "workdir"]
    workdir = said[-1] if said else WORKDIR
    put = (BuildStep(op="put", dest=workdir, tree=files),) if files.entries else ()
    made = () if said else (BuildStep(op="workdir", dest=workdir),)
    return replace(blueprint, steps=(*blueprint.steps, *made, *put))
