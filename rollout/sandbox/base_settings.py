"""How processes of a base start, as far as can be told before anything is made of it."""

import subprocess
import tempfile
from functools import lru_cache
from pathlib import Path

from rollout.errors import BuildError, ConfigError, SandboxError
from rollout.sandbox.bases import IMAGE, OCI, parse_base
from rollout.sandbox.daemon_images import image_setting
from rollout.sandbox.oci import read_image
from rollout.sandbox.steps import Setting
from rollout.sandbox.unpacking import unpack_command

TIMEOUT_S = 600.0


def base_setting(text: str) -> Setting:
    """Of the base that `text` names; the plain one where it says nothing of its own. Blocks.

    ConfigError for a base that cannot be read. An image that no daemon here has is plain too.
    """
    base = parse_base(text)
    if base.kind == IMAGE:
        try:
            return image_setting(base.path)
        except (BuildError, SandboxError):
            return Setting()
    if base.kind != OCI:
        return Setting()
    path = Path(base.path)
    try:
        found = (path / "index.json" if path.is_dir() else path).stat()
        return _of_oci(base.path, found.st_mtime_ns, found.st_size)
    except (ConfigError, OSError) as exc:
        raise ConfigError(f"base {text}: {exc}") from exc


@lru_cache(maxsize=64)
def _of_oci(path: str, mtime_ns: int, size: int) -> Setting:
    """Looked at again when it has changed."""
    if Path(path).is_dir():
        return read_image(Path(path)).setting
    with tempfile.TemporaryDirectory() as folder, Path(path).open("rb") as archive:
        done = subprocess.run(
            unpack_command(Path(folder), "small"),
            stdin=archive,
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            raise ConfigError(done.stdout.decode(errors="replace") or "it cannot be unpacked")
        return read_image(Path(folder)).setting
