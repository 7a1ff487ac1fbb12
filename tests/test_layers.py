"""The layers of the design, from the syntax tree: who may import whom, and what from outside."""

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "rollout"

LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "types", "aio"}),
    frozenset({"config", "checks", "transcript"}),
    frozenset({"plugins"}),
    frozenset({"sandbox"}),
    frozenset({"blueprints", "capacity", "pool", "gateway", "egress"}),
    frozenset({"tasks", "agents", "scorers", "samplers", "scene", "recorded"}),
    frozenset({"episode"}),
    frozenset({"dataset"}),
    frozenset({"objects"}),
    frozenset({"mounts"}),
    frozenset({"plan"}),
    frozenset({"executor"}),
    frozenset({"doctor"}),
    frozenset({"report", "training"}),
    frozenset(
        {
            "compose",
            "compose_errors",
            "recipes",
            "loading",
            "rescoring",
            "build",
            "library",
            "environment",
            "baking",
        }
    ),
    frozenset({"online", "learning"}),
    frozenset({"commands"}),
    frozenset({"__main__"}),
)
"""Lowest first: a part may import from its own layer and from those before it."""

BESIDE = {"dataset": frozenset({"errors", "types", "aio", "config"})}
"""Parts that stand beside the ones below them, and what alone they may import."""

ONLY_IN: dict[str, tuple[str, ...]] = {
    "aiohttp": ("gateway.", "learning.server"),
    "boto3": ("dataset.store_s3",),
    "botocore": ("dataset.store_s3",),
    "compression": ("sandbox.unpack",),  # Python's own from 3.14 on
    "docker": ("sandbox.docker",),
    "dockerfile_parse": ("tasks.dockerfile",),
    "gymnasium": ("online.gymnasium_environment",),
    "hatchling": ("sandbox.init.build_hook",),
    "hydra": ("compose", "compose_errors", "__main__"),
    "numpy": ("report.", "dataset.", "training.", "learning.", "online.trl"),
    "omegaconf": ("compose", "compose_errors", "__main__"),
    "pyarrow": ("dataset.", "report."),
    "ray": ("executor.ray",),
    "rich": ("report.",),
    "torch": ("learning.", "training.loader"),
    "trl": ("online.trl",),
    "datasets": ("online.trl", "online.trl_environment", "training.adapters.sft"),
    "yaml": ("compose", "compose_errors", "__main__"),
}
"""Each library from outside, and the prefixes of the modules that may import it."""

INSIDE_FUNCTIONS = {
    ("executor.engines", "rollout.sandbox.docker.engine"): "its library is slow to import",
    ("commands.run", "rollout.executor.ray_away"): "only for runs that are left to a cluster",
    ("commands.afar", "rollout.executor.ray_away"): "only for runs on a cluster",
    ("build", "rollout.executor.ray"): "Ray takes a second to import; executor=local needs none",
    (
        "dataset.parts",
        "pyarrow.dataset",
    ): "it imports pandas where there is one; a run needs neither",
    (
        "sandbox.daemon_images",
        "rollout.sandbox.docker.daemon",
    ): "only for bases out of a daemon",
    ("training.adapters.sft", "datasets"): "only where somebody fine-tunes on conversations",
    ("online.trl", "datasets"): "only for TRL's trainers",
    ("online.trl_environment", "datasets"): "only for TRL's trainers",
    ("online.trl", "numpy"): "only for TRL's trainers",
    ("online.trl", "trl.experimental.async_grpo.async_rollout_worker"): "only for TRL's trainers",
    ("learning.learner", "torch"): "an extra: the learner says so where it is missing",
    ("learning.learner", "rollout.learning.grpo"): "it needs torch",
    ("learning.learner", "rollout.learning.policy"): "it needs torch",
    ("learning.learner", "rollout.learning.server"): "it needs torch",
    ("dataset.store", "rollout.dataset.store_s3"): "boto3 is slow to import; folders need none",
}
"""Imports inside a function, each with its reason."""

BY_NAME = {
    "": "public names are fetched from their modules at first use",
    "__main__": "a verb's module is imported when that verb is asked for",
    "gateway.upstreams.litellm": "an extra that most installations lack",
    "plugins": "what users bring is named by a dotted path",
    "sandbox": "called as rollout.sandbox(…), it hands on to the library",
}
"""Modules that import by a name known only at run time."""

TASK_CONTENT = PACKAGE / "tasks" / "quickstart"
"""Files that are put into sandboxes; no part of the program."""


@dataclass(frozen=True)
class Module:
    """One file of the package."""

    path: Path

    @cached_property
    def name(self) -> str:
        """Dotted and without `rollout`, such as `dataset.log`; a package has its own name."""
        parts = self.path.relative_to(PACKAGE).with_suffix("").parts
        return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)

    @property
    def part(self) -> str:
        """The layered part it belongs to: the first of its names."""
        return self.name.partition(".")[0]

    @cached_property
    def tree(self) -> ast.Module:
        return ast.parse(self.path.read_text(), str(self.path))

    @cached_property
    def imports(self) -> frozenset[str]:
        """Absolute names of all modules imported anywhere in the file."""
        return frozenset(imported(self.tree))

    @property
    def libraries(self) -> frozenset[str]:
        """What it imports that is neither ours nor Python's."""
        tops = {name.partition(".")[0] for name in self.imports}
        return frozenset(tops - sys.stdlib_module_names - {"rollout"})


def imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module == "rollout":
            yield from (f"rollout.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


MODULES = [
    Module(path) for path in sorted(PACKAGE.rglob("*.py")) if not path.is_relative_to(TASK_CONTENT)
]


def layer_of(part: str) -> int:
    for rank, parts in enumerate(LAYERS):
        if part in parts:
            return rank
    raise AssertionError(f"rollout/{part} stands in no layer: add it to LAYERS")


def ours(module: Module) -> frozenset[str]:
    """The parts of this package that `module` imports, such as `dataset`."""
    names = (name.split(".") for name in module.imports if name.startswith("rollout."))
    return frozenset(parts[1] for parts in names)


def test_imports_point_down_only() -> None:
    upward = {
        (module.name, part)
        for module in MODULES
        if module.name
        for part in ours(module)
        if layer_of(part) > layer_of(module.part)
    }
    assert upward == set()


@pytest.mark.parametrize("part", BESIDE)
def test_parts_that_stand_beside_others(part: str) -> None:
    allowed = BESIDE[part] | {part}
    strays = {
        (module.name, other)
        for module in MODULES
        if module.part == part
        for other in ours(module) - allowed
    }
    assert strays == set()


@pytest.mark.parametrize("part", ["sandbox", "tasks", "agents", "scorers", "dataset", "executor"])
def test_a_contract_knows_none_of_those_who_keep_it(part: str) -> None:
    (base,) = (module for module in MODULES if module.name == f"{part}.base")
    assert not {name for name in base.imports if name.startswith(f"rollout.{part}.")}


def test_libraries_are_imported_only_where_they_belong() -> None:
    astray = {
        (module.name, library)
        for module in MODULES
        for library in module.libraries
        if not module.name.startswith(ONLY_IN.get(library, ("no module at all",)))
    }
    assert astray == set(), "a new library is to be named in ONLY_IN and in pyproject.toml"


def test_no_library_is_listed_that_nothing_imports() -> None:
    used = set().union(*(module.libraries for module in MODULES))
    assert set(ONLY_IN) <= used


def test_no_import_is_relative() -> None:
    relative = {
        (module.name, ast.unparse(node))
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ImportFrom) and node.level
    }
    assert relative == set()


def imports_inside_functions() -> set[tuple[str, str]]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        (module.name, name)
        for module in MODULES
        for node in ast.walk(module.tree)
        if isinstance(node, functions)
        for name in imported(node)
    }


def test_no_import_hides_in_a_function_without_a_reason() -> None:
    assert imports_inside_functions() == set(INSIDE_FUNCTIONS)


def test_imports_by_name_are_known() -> None:
    by_name = {
        module.name
        for module in MODULES
        for node in ast.walk(module.tree)
        if getattr(node, "id", getattr(node, "attr", "")) in ("import_module", "__import__")
    }
    assert by_name == set(BY_NAME)


def test_every_module_says_what_it_is_for() -> None:
    silent = {
        module.name for module in MODULES if module.tree.body and not ast.get_docstring(module.tree)
    }
    assert silent == set()


def test_nothing_happens_at_import() -> None:
    calls = {
        (module.name, ast.unparse(node))
        for module in MODULES
        for node in module.tree.body
        if isinstance(node, ast.Expr) and not isinstance(node.value, ast.Constant)
    }
    assert calls == set()


def test_the_package_itself_imports_nothing_of_its_own() -> None:
    (package,) = (module for module in MODULES if not module.name)
    eager = [node for node in package.tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {name.partition(".")[0] for node in eager for name in imported(node)}
    assert names <= sys.stdlib_module_names
