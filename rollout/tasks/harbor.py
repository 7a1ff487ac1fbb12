"""Tasks in Harbor's folder format: one folder that is a task, or one that holds many.

task/
  task.toml  instruction.md
  environment/Dockerfile        what the sandbox is made of
  tests/test.sh                 put at /tests when the agent has ended; writes the reward
  solution/solve.sh             optional; only the oracle agent sees it
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from rollout.blueprints import check_images
from rollout.errors import ConfigError
from rollout.tasks.harbor_environment import BUILD_NETWORKS, NETWORKS, Allowed
from rollout.tasks.harbor_folder import HarborFolder
from rollout.tasks.harbor_toml import read_task_toml
from rollout.tasks.problems import Problems, all_broken, lines_of, nearest
from rollout.tasks.select import Selection, globs
from rollout.tasks.trees import locate
from rollout.types import ScoreMode, Task


class HarborTasks:
    """Loads task folders; a task's id is its folder's name.

    What a task declares is honoured or it is refused by name, before the run. `docker_image` is
    taken as the prebuilt form of `environment/Dockerfile`: the Dockerfile is used unless the
    image stands in `images`.
    """

    def __init__(
        self,
        *,
        path: str,
        images: Mapping[str, str] | None = None,
        network: str = "none",
        env_allow: Sequence[str] = (),
        build_network: str = "none",
        secrets: Mapping[str, str] | None = None,
        sudo: bool = False,
        default_mode: str = "shared",
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
        path: a task folder or a folder of task folders; `pkg://rollout/tasks/quickstart` for
            those shipped inside a package.
        images: image names (or globs over them) that tasks build on, to bases of the engine.
        network: `none` runs every task without network, whatever it declares; `as_declared`
            gives agents the one that their task declares, and Harbor's default is `public`.
            Verifiers have none: a task that declares one of theirs is refused.
        env_allow: variables of this machine that `${VAR}` in tasks may be filled with.
        build_network: `none` or `host`: what RUN lines of Dockerfiles reach.
        secrets: ids that RUN lines mount, to the variables of the worker that hold the values.
        sudo: setuid programs work in the sandboxes, sudo and su among them; Docker lets them.
        default_mode: where a task is scored that does not say: `shared` as Harbor has it, or
            `fork` or `fresh`.
        include, exclude: globs over task ids.
        limit: at most so many tasks.
        shuffle_seed: a reproducible order other than by name; null keeps the order by name.
        on_error: `raise` one error for all broken tasks, or `skip` them.
        size_limit_mb: how much the files of one task may take.
        dataset: the name in the dataset's rows; empty takes the folder's name.
        split: the split's name in the rows.
        """
        if network not in NETWORKS:
            raise ConfigError(f"task.network: saw {network!r}; use none or as_declared")
        if default_mode not in (ScoreMode.SHARED, ScoreMode.FORK, ScoreMode.FRESH):
            raise ConfigError(f"task.default_mode: saw {default_mode!r}; use shared, fork or fresh")
        self._path = path
        self._images = check_images(images or {})
        if build_network not in BUILD_NETWORKS:
            raise ConfigError(f"task.build_network: saw {build_network!r}; use none or host")
        self._allowed = Allowed(
            network=network,
            build_network=build_network,
            secrets=tuple(sorted((secrets or {}).items())),
            env=globs("task.env_allow", env_allow),
            sudo=sudo,
        )
        self._default_mode = ScoreMode(default_mode)
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
        """All selected tasks. ConfigError tells of every broken one, each with its field."""
        root = locate("task.path", self._path)
        folders = _task_folders(root, self._path)
        tasks: list[Task] = []
        broken: dict[str, list[str]] = {}
        for task_id in self._selection.order(sorted(folders), self._path):
            if self._selection.limit is not None and len(tasks) == self._selection.limit:
                break
            problems = Problems()
            task = self._load_one(task_id, folders[task_id], root.resolve().name, problems)
            if problems:
                broken[task_id] = problems.lines
            elif task is not None:
                tasks.append(task)
        if broken and not (self._selection.skip_broken and tasks):
            raise all_broken(self._path, broken)
        self._skipped = lines_of(broken)
        return tasks

    def _load_one(
        self, task_id: str, folder: Path, dataset: str, problems: Problems
    ) -> Task | None:
        try:
            return HarborFolder(
                folder, task_id, self._images, self._default_mode, self._limit_bytes, problems
            ).task(
                read_task_toml(folder / "task.toml", self._allowed, problems),
                dataset=self._dataset or dataset,
                split=self._split,
            )
        except (ConfigError, OSError) as exc:
            problems.add(task_id, str(exc))
            return None


def _task_folders(root: Path, path: str) -> dict[str, Path]:
    """Task id to folder. A folder with an instruction but no task.toml is a broken task."""
    if (root / "task.toml").is_file():
        return {root.resolve().name: root}
    children = sorted(root.iterdir()) if root.is_dir() else []
    found = {
        child.name: child
        for child in children
        if (child / "task.toml").is_file() or (child / "instruction.md").is_file()
    }
    if not found:
        inside = nearest("tasks", [child.name for child in children if child.is_dir()])
        raise ConfigError(
            f"task.path: {path!r} holds no task; a task is a folder with task.toml{inside}"
        )
    return found
