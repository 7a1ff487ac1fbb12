"""A whole Dockerfile, built by the daemon itself, for what steps cannot say."""

import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from rollout.errors import BuildError
from rollout.sandbox.docker.calls import Calls
from rollout.sandbox.docker.daemon import LONG_TIMEOUT_S, Daemon
from rollout.types import Blueprint, Dockerfile

NAME = "rollout-built"
FILE = ".rollout.Dockerfile"
TAIL_CHARS = 4_000
LOG_LIMIT_CHARS = 16 << 20
_KINDS = {"file": tarfile.REGTYPE, "dir": tarfile.DIRTYPE, "link": tarfile.SYMTYPE}


async def build_dockerfile(
    daemon: Daemon, calls: Calls, blueprint: Blueprint, logs: Path
) -> Mapping[str, Any]:
    """The image it gives. What the build said is kept in `logs`, its end in a BuildError.

    The daemon knows by the content of each step what it has built before.
    """
    assert blueprint.dockerfile is not None
    name = f"{NAME}:{blueprint.image_digest[:40]}"
    log = logs / f"{blueprint.image_digest[:40]}.log"

    def build() -> Mapping[str, Any]:
        logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        with TemporaryFile() as context:
            assert blueprint.dockerfile is not None
            pack(blueprint.dockerfile, context)
            options = {
                "dockerfile": FILE,
                "tag": name,
                "buildargs": dict(blueprint.dockerfile.args),
                "target": blueprint.dockerfile.target or None,
                "network_mode": blueprint.build_network,
            }
            said, error = _read(daemon.build(context, **options))
        log.write_text(said)
        if error:
            raise BuildError(
                f"blueprint {blueprint.name!r}: its Dockerfile cannot be built: {error}\n"
                f"{said[-TAIL_CHARS:].strip()}\n(all of it: {log})"
            )
        return daemon.image(name, pull=False)

    return await calls.run(build, timeout_s=LONG_TIMEOUT_S)


def _read(told: Iterable[Mapping[str, Any]]) -> tuple[str, str]:
    """All that was said, and what was wrong, if anything."""
    said: list[str] = []
    size = 0
    for piece in told:
        if "error" in piece:
            return "".join(said), " ".join(str(piece["error"]).split())
        text = str(piece.get("stream") or piece.get("status") or "")
        size += len(text)
        if size <= LOG_LIMIT_CHARS:
            said.append(text)
    return "".join(said), ""


def pack(dockerfile: Dockerfile, target: IO[bytes]) -> None:
    """The build context as the daemon takes it: a tar, rewound."""
    with tarfile.open(fileobj=target, mode="w") as tar:
        for info, data in _members(dockerfile):
            tar.addfile(info, io.BytesIO(data))
    target.seek(0)


def _members(dockerfile: Dockerfile) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    for entry in dockerfile.context.entries:
        info = tarfile.TarInfo(entry.path)
        info.type, info.mode = _KINDS[entry.kind], entry.mode
        info.size, info.linkname = len(entry.data), entry.target
        yield info, entry.data
    text = dockerfile.text.encode()
    info = tarfile.TarInfo(FILE)
    info.size = len(text)
    yield info, text
