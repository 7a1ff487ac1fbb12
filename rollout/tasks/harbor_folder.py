"""One task folder in Harbor's format, on its way to a Task."""

import json
import posixpath
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rollout.blueprints import find_base
from rollout.errors import ConfigError
from rollout.sandbox.base_settings import base_setting
from rollout.tasks.dockerfile import Recipe, read_dockerfile
from rollout.tasks.harbor_environment import Environment
from rollout.tasks.harbor_toml import Declared
from rollout.tasks.problems import Problems
from rollout.tasks.trees import Budget, read_tree
from rollout.types import (
    Blueprint,
    BuildStep,
    Output,
    ScoreMode,
    Task,
    Tree,
    TreeEntry,
    Verifier,
)

ARTIFACTS = "/logs/artifacts"
"""Where agents leave what they want kept; always a declared output, as in Harbor."""
LOGS = Tree(
    tuple(TreeEntry(name, "dir", 0o777) for name in ("agent", "artifacts", "verifier")),
)
_CANARY = re.compile(r"(<!--.*canary.*-->|#.*canary.*)", re.IGNORECASE)


class HarborFolder:
    """Reads the files around a task.toml; `problems` hears of all that cannot be honoured."""

    def __init__(
        self,
        folder: Path,
        task_id: str,
        images: Mapping[str, str],
        default_mode: ScoreMode,
        limit_bytes: int,
        problems: Problems,
    ) -> None:
        self._folder = folder
        self._id = task_id
        self._images = images
        self._default_mode = default_mode
        self._budget = Budget(limit_bytes)
        self._problems = problems

    def task(self, declared: Declared, *, dataset: str, split: str) -> Task | None:
        """The task, or `None` once `problems` knows why not."""
        self._refuse_files()
        instruction = self._instruction()
        tests, solution = self._tree("tests"), self._tree("solution")
        blueprint = replace(
            self._blueprint(declared.environment),
            network=declared.network.mode,
            allowed_hosts=declared.network.hosts,
        )
        verifier, tests = self._verifier(declared, tests)
        if "test.sh" not in tests.files():
            self._problems.add("tests/test.sh", "is missing; it must write the reward")
        if self._problems:
            return None
        return Task(
            id=self._id,
            instruction=instruction,
            blueprint=blueprint,
            tests=tests,
            solution=solution,
            solution_env=declared.solution_env,
            verifier=verifier,
            agent_timeout_s=declared.agent_timeout_s,
            agent_user=declared.agent_user,
            setup_timeout_s=_setup_timeout_s(declared),
            healthcheck=declared.environment.healthcheck,
            outputs=_with_artifacts(declared.outputs),
            dataset=dataset,
            split=split,
            limits_imported=True,
            metadata=json.dumps(declared.metadata, sort_keys=True, default=str),
        )

    def _refuse_files(self) -> None:
        refused = {
            "trajectory.json": "a prior trajectory cannot be given to agents",
            "environment/docker-compose.yaml": "several services are not supported",
            "tests/docker-compose.yaml": "several services are not supported",
            ".harborignore": "is not supported; remove the files it hides",
            "tests/.harborignore": "is not supported; remove the files it hides",
            "solution/.harborignore": "is not supported; remove the files it hides",
        }
        for name, why in refused.items():
            if (self._folder / name).exists():
                self._problems.add(name, why)

    def _instruction(self) -> str:
        """Without the canary lines that benchmarks put on top, which agents must not see."""
        try:
            lines = (self._folder / "instruction.md").read_text(encoding="utf-8").split("\n")
        except (OSError, UnicodeDecodeError) as exc:
            self._problems.add("instruction.md", f"cannot be read: {exc}")
            return ""
        while lines and _CANARY.fullmatch(lines[0].strip()):
            lines.pop(0)
        instruction = "\n".join(lines).strip("\n")
        if not instruction.strip():
            self._problems.add("instruction.md", "is empty")
        return instruction

    def _tree(self, name: str) -> Tree:
        folder = self._folder / name
        if not folder.is_dir():
            return Tree()
        try:
            return read_tree(folder, self._budget)
        except ConfigError as exc:
            self._problems.add(name, str(exc))
            return Tree()

    # ------------------------------------------------------------ blueprints

    def _blueprint(self, environment: Environment) -> Blueprint:
        recipe = self._image(environment, "[environment].docker_image")
        return self._blueprint_of(recipe, environment)

    def _blueprint_of(self, recipe: Recipe | None, environment: Environment) -> Blueprint:
        if recipe is None:
            return Blueprint()
        self._check_secrets(recipe, environment)
        return Blueprint(
            name=self._id,
            base=recipe.base,
            dockerfile=recipe.dockerfile,
            steps=(BuildStep(op="put", dest="/logs", tree=LOGS), *recipe.steps),
            env=environment.env,
            workdir=environment.workdir,
            resources=environment.resources,
            build_network=environment.build_network,
            secrets=environment.secrets,
            sudo=environment.sudo,
        )

    def _check_secrets(self, recipe: Recipe, environment: Environment) -> None:
        known = dict(environment.secrets)
        for step in recipe.steps:
            for secret in step.secrets:
                if secret.required and secret.id not in known:
                    self._problems.add(
                        "environment/Dockerfile",
                        f"RUN needs the secret {secret.id!r}: blueprint.secrets.{secret.id}=NAME "
                        "gives it the value of a variable",
                    )

    def _image(self, environment: Environment, field: str) -> Recipe | None:
        """The prebuilt image where its base is known, else the Dockerfile it was built from."""
        dockerfile = self._folder / "environment" / "Dockerfile"
        if environment.docker_image:
            try:
                base = find_base(environment.docker_image, self._images)
            except ConfigError as exc:
                if not dockerfile.is_file():
                    self._problems.add(field, str(exc))
                    return None
            else:
                steps = () if dockerfile.is_file() else self._uploaded(environment)
                return Recipe(base, steps)
        if not dockerfile.is_file():
            self._problems.add("environment/Dockerfile", f"is missing, and {field} is not set")
            return None
        return self._dockerfile("environment")

    def _uploaded(self, environment: Environment) -> tuple[BuildStep, ...]:
        """Harbor lays environment/ into the working folder of an image without Dockerfile."""
        tree = self._tree("environment")
        dest = environment.workdir or "/"
        return (BuildStep(op="put", dest=dest, tree=tree),) if tree.entries else ()

    def _dockerfile(self, name: str) -> Recipe | None:
        context = self._folder / name
        return read_dockerfile(
            context / "Dockerfile",
            context=context,
            field=f"{name}/Dockerfile",
            images=self._images,
            budget=self._budget,
            problems=self._problems,
            setting_of=base_setting,
        )

    # ------------------------------------------------------------ verifier

    def _verifier(self, declared: Declared, tests: Tree) -> tuple[Verifier, Tree]:
        """How the task is scored, and what is put at /tests for it."""
        verifier = Verifier(
            timeout_s=declared.verifier_timeout_s,
            env=declared.verifier_env,
            user=declared.verifier_user,
            mode=self._default_mode,
            collect=declared.collect,
        )
        if declared.verifier_mode == "shared":
            return replace(verifier, mode=ScoreMode.SHARED), tests
        if declared.verifier_mode != "separate":
            return verifier, tests
        blueprint, tests = self._verifier_image(declared, tests)
        return replace(verifier, mode=ScoreMode.FRESH, blueprint=blueprint), tests

    def _verifier_image(self, declared: Declared, tests: Tree) -> tuple[Blueprint | None, Tree]:
        """Of a separate verifier: tests/Dockerfile, else the task's own with other settings.

        With tests/Dockerfile the image brings /tests itself in Harbor. Here what it copies there
        is taken out of its steps and put as in every other task, so that nobody but the scorer
        ever decides what lies at /tests.
        """
        own = declared.verifier_environment
        if own is not None and own.docker_image:
            self._problems.add(
                "[verifier.environment].docker_image",
                f"saw {own.docker_image!r}; an image that brings its own /tests is not supported: "
                "write tests/Dockerfile",
            )
            return None, tests
        if (self._folder / "tests" / "Dockerfile").is_file():
            recipe = self._dockerfile("tests")
            if recipe is not None and recipe.dockerfile is not None:
                brought = tests  # what it copies where only the daemon knows
            else:
                brought = _below(recipe.steps if recipe else (), "/tests")
            return self._blueprint_of(recipe, own or declared.environment), brought
        if own is None:
            return None, tests
        image = self._image(
            replace(own, docker_image=declared.environment.docker_image),
            "[environment].docker_image",
        )
        return self._blueprint_of(image, own), tests


def _below(steps: Sequence[BuildStep], folder: str) -> Tree:
    """What the steps put below `folder`, later ones over earlier ones."""
    entries: dict[str, TreeEntry] = {}
    for step in steps:
        for entry in (step.tree or Tree()).entries:
            path = posixpath.relpath(posixpath.join(step.dest, entry.path), folder)
            if path != "." and not path.startswith(".."):
                entries[path] = replace(entry, path=path)
    return Tree(tuple(entries[path] for path in sorted(entries)))


def _with_artifacts(outputs: tuple[Output, ...]) -> tuple[Output, ...]:
    declared = any(output.source == ARTIFACTS for output in outputs)
    return outputs if declared else (Output(source=ARTIFACTS), *outputs)


def _setup_timeout_s(declared: Declared) -> float:
    own = declared.verifier_environment
    return max(declared.environment.build_timeout_s, own.build_timeout_s if own else 0.0)
