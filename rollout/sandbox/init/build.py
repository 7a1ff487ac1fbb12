"""Compile the C of this folder into `rollout-box`, one static program. Stdlib only.

The package's build hook runs this file before anything of the package can be imported.
"""

import fcntl
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

HERE = Path(__file__).resolve().parent
BINARY = HERE / "rollout-box"
FLAGS = (
    "-std=gnu11",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fstack-protector-strong",
    "-static",
    "-s",
)
COMPILE_TIMEOUT_S = 300


class CompileError(RuntimeError):
    """No compiler was found, or it refused the sources."""


def binary() -> Path:
    """The program, built if it is missing or older than its sources; safe to call at once."""
    if _is_fresh():
        return BINARY
    with _locked(HERE):
        return BINARY if _is_fresh() else build()


def build(target: Path | None = None) -> Path:
    """Compile every *.c of this folder to `target`, which appears whole or not at all."""
    target = target or BINARY
    sources = [str(path) for path in sorted(HERE.glob("*.c"))]
    handle, name = tempfile.mkstemp(prefix=".rollout-box-", dir=target.parent)
    os.close(handle)
    made = Path(name)
    try:
        _compile([*_compiler(), *FLAGS, "-o", str(made), *sources])
        made.chmod(0o755)
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)
    return target


def _is_fresh() -> bool:
    # Only "older" counts: a wheel gives every file one and the same time.
    try:
        built = BINARY.stat().st_mtime_ns
    except FileNotFoundError:
        return False
    return all(path.stat().st_mtime_ns <= built for path in HERE.glob("*.[ch]"))


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _compiler() -> list[str]:
    if shutil.which("musl-gcc"):
        # Debian's musl lacks the kernel's headers; the system's come last, for these alone.
        headers = ("/usr/include", f"/usr/include/{platform.machine()}-linux-gnu")
        return ["musl-gcc", *(part for folder in headers for part in ("-idirafter", folder))]
    for name in ("gcc", "cc"):
        if shutil.which(name):
            return [name]
    if importlib.util.find_spec("ziglang"):
        zig_target = f"{platform.machine()}-linux-musl"
        return [sys.executable, "-m", "ziglang", "cc", "-target", zig_target]
    raise CompileError(
        "no C compiler for the sandbox's init: install gcc (apt-get install gcc libc6-dev), "
        "musl-tools, or the Python package ziglang"
    )


def _compile(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False
        )
    except subprocess.TimeoutExpired as exc:
        raise CompileError(f"{command[0]} took more than {COMPILE_TIMEOUT_S} s") from exc
    if done.returncode != 0:
        raise CompileError(f"{command[0]} failed on the sandbox's init:\n{done.stderr[-4000:]}")
