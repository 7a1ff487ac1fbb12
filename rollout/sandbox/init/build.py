"""Compile the C of this folder into `rollout-box`, one static program. Stdlib only.

The package's build hook runs this file before anything of the package can be imported.
"""

import fcntl
import hashlib
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
    "-fstack-protector-strong",
    "-static",
    "-s",
)
COMPILE_TIMEOUT_S = 300


class CompileError(RuntimeError):
    """No compiler was found, or it refused the sources."""


def binary() -> Path:
    """The program, built if it is missing or of other sources; safe to call from many at once."""
    if _is_fresh():
        return BINARY
    with _locked(HERE):
        return BINARY if _is_fresh() else build()


def build(target: Path | None = None, *defines: str) -> Path:
    """Compile every *.c of this folder to `target`, which appears whole or not at all.

    `defines` are names for the compiler; tests alone have any (see weaken.c).
    """
    target = target or BINARY
    sources = [str(path) for path in sorted(HERE.glob("*.c"))]
    handle, name = tempfile.mkstemp(prefix=".rollout-box-", dir=target.parent)
    os.close(handle)
    made = Path(name)
    try:
        defined = (f'SOURCES_DIGEST="{_sources_digest()}"', *defines)
        flags = (*FLAGS, *(f"-D{name}" for name in defined))
        _compile([*_compiler(), *flags, "-o", str(made), *sources])
        made.chmod(0o755)
        made.replace(target)
    finally:
        made.unlink(missing_ok=True)
    return target


def _is_fresh() -> bool:
    # By content and not by time: whoever unpacks a wheel gives its files times as he likes.
    try:
        return _sources_digest().encode() in BINARY.read_bytes()
    except FileNotFoundError:
        return False


def _sources_digest() -> str:
    digest = hashlib.sha256(" ".join(FLAGS).encode())
    for path in sorted(HERE.glob("*.[ch]")):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


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
