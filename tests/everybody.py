"""Running this package as another user, who may look into neither this checkout nor root's home."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("rollout", "conf", "tests", "pyproject.toml")


@dataclass(frozen=True)
class Somebody:
    """A user without a name, in a folder of its own with a copy of the checkout."""

    uid: int
    home: Path
    python: str

    @classmethod
    def with_copy(cls, uid: int, home: Path) -> "Somebody":
        """Skips the test where no interpreter can be started by others."""
        checkout = home / "checkout"
        for part in PARTS:
            source = ROOT / part
            if source.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(source, checkout / part, ignore=ignored)
            else:
                shutil.copy(source, checkout / part)
        home.chmod(0o755)
        for path in (home, *home.rglob("*")):
            os.chown(path, uid, uid, follow_symlinks=False)
        return cls(uid, home, python_of_everybody(uid, checkout))

    @property
    def checkout(self) -> Path:
        return self.home / "checkout"

    def run(self, *arguments: str, timeout_s: float) -> "subprocess.CompletedProcess[str]":
        """`python ARGUMENTS`, with nothing of this process's environment or rights."""
        return subprocess.run(
            [self.python, *arguments],
            env={
                "PATH": "/usr/local/bin:/usr/bin:/bin",
                "HOME": str(self.home),
                "PYTHONPATH": packages_and(self.checkout),
                "PYTHONDONTWRITEBYTECODE": "1",
                "CI": os.environ.get("CI", ""),
            },
            cwd=self.checkout,
            user=self.uid,
            group=self.uid,
            extra_groups=[],
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )


def packages_and(checkout: Path) -> str:
    return os.pathsep.join([str(checkout), *(p for p in sys.path if "site-packages" in p)])


def python_of_everybody(uid: int, checkout: Path = ROOT) -> str:
    """An interpreter that another user may start and that can load this package."""
    for python in _interpreters():
        with contextlib.suppress(OSError):
            done = subprocess.run(
                [python, "-c", "import rollout.commands.doctor, numpy"],
                env={"PYTHONPATH": packages_and(checkout)},
                cwd="/",
                user=uid,
                group=uid,
                extra_groups=[],
                capture_output=True,
                timeout=60,
                check=False,
            )
            if done.returncode == 0:
                return python
    pytest.skip("no interpreter here can be started by another user")


def _interpreters() -> Sequence[str]:
    found = [sys.executable, *filter(None, map(shutil.which, ("python3", "python3.11")))]
    return [*found, *(f"/usr/bin/python3.{minor}" for minor in (11, 12, 13))]
