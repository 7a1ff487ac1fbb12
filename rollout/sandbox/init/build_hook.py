"""Hatchling's hook: compile the sandbox's init and put it into the wheel."""

import importlib.util
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class InitBuildHook(BuildHookInterface):  # type: ignore[misc, type-arg, unused-ignore]
    """Makes the wheel one of its platform; a source distribution carries the C alone."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        if self.target_name != "wheel":
            return
        _compiler_module(Path(self.root)).build()
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["pure_python"] = False
        build_data["tag"] = f"py3-none-{platform}"


def _compiler_module(root: Path) -> ModuleType:
    # By its path: the package itself cannot be imported yet, its dependencies are not there.
    path = root / "rollout" / "sandbox" / "init" / "build.py"
    spec = importlib.util.spec_from_file_location("rollout_box_build", path)
    if spec is None or spec.loader is None:
        raise RuntimeError(f"cannot load {path}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
