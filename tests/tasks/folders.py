"""A good task folder in Harbor's format, to be spoilt one thing at a time."""

from pathlib import Path

from rollout.tasks.harbor import HarborTasks
from rollout.types import Task

IMAGES = {"python:3.11-slim": "host"}
TOML = 'schema_version = "1.4"\n'
DOCKERFILE = "FROM python:3.11-slim\nWORKDIR /app\n"


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def make_task(root: Path, task_id: str = "good", toml: str = TOML, **files: str) -> Path:
    """`root/task_id`; keyword arguments are more files, `__` in their names for `/`."""
    folder = root / task_id
    write(
        folder,
        {
            "task.toml": toml,
            "instruction.md": f"Do {task_id}.\n",
            "environment/Dockerfile": DOCKERFILE,
            "tests/test.sh": "#!/bin/sh\necho 1 > /logs/verifier/reward.txt\n",
            "solution/solve.sh": "#!/bin/sh\ntrue\n",
        },
    )
    write(folder, {name.replace("__", "/"): text for name, text in files.items()})
    return folder


def load(root: Path, **settings: object) -> list[Task]:
    given: dict[str, object] = {"images": IMAGES, **settings}
    return HarborTasks(path=str(root), **given).load()  # type: ignore[arg-type]


def load_one(root: Path, toml: str = TOML, **settings: object) -> Task:
    make_task(root, toml=toml)
    (task,) = load(root, **settings)
    return task
