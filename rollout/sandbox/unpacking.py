"""Archives into folders, by a process of its own: see unpack.py."""

import logging
import sys
import time
from pathlib import Path
from typing import IO

from rollout.errors import BuildError
from rollout.sandbox import unpack
from rollout.sandbox.copies import run

LIMIT_BYTES = 64 << 30
LIMIT_ENTRIES = 2_000_000
UNPACK_TIMEOUT_S = 3600.0

log = logging.getLogger(__name__)


async def unpack_archive(
    archive: IO[bytes],
    folder: Path,
    *modes: str,
    named: str,
    limit_bytes: int = LIMIT_BYTES,
    limit_entries: int = LIMIT_ENTRIES,
) -> None:
    """Fill the empty `folder`. BuildError, which begins with `named`, says what is wrong."""
    began = time.monotonic()
    log.warning("unpacking %s, once", named)
    command = unpack_command(folder, *modes, limit_bytes=limit_bytes, limit_entries=limit_entries)
    try:
        status, said = await run(command, stdin=archive, timeout_s=UNPACK_TIMEOUT_S)
    except TimeoutError:
        raise BuildError(f"{named}: not unpacked within {UNPACK_TIMEOUT_S:g} s") from None
    if status:
        raise BuildError(f"{named}: {said or f'the unpacker ended with {status}'}")
    log.info("unpacked %s in %.1f s", named, time.monotonic() - began)


def unpack_command(
    folder: Path,
    *modes: str,
    limit_bytes: int = LIMIT_BYTES,
    limit_entries: int = LIMIT_ENTRIES,
) -> tuple[str, ...]:
    """The program that unpacks its standard input; as root."""
    limits = (str(limit_bytes), str(limit_entries))
    return (sys.executable, "-I", "-X", "utf8", unpack.__file__, str(folder), *limits, *modes)
