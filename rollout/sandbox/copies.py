"""Copies of whole trees on this machine, by programs that end with the process that wants them."""

import asyncio
import os
import shutil
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO

from rollout.errors import BuildError

ERROR_TAIL_BYTES = 500
COPY = ("-a", "-x", "--reflink=auto")
_NO_ATTRIBUTES = ("-dR", "--preserve=mode,ownership,timestamps,links", "-x")
COPY_PLAIN = (*_NO_ATTRIBUTES, "--reflink=auto")
"""Without extended attributes, by which a rootfs could speak to the overlay."""
LINK = (*_NO_ATTRIBUTES, "-l")
"""The same files under new names; their folders are made."""


async def copy_tree(options: Sequence[str], source: Path, target: Path) -> None:
    """Make `target`, which must be missing, as `source` is. BuildError with what cp said."""
    status, said = await run(["cp", *options, "-T", "--", str(source), str(target)])
    if status:
        raise BuildError(f"cannot copy {source}: {said or f'cp ended with {status}'}")


async def run(
    command: Sequence[str], *, stdin: IO[bytes] | None = None, timeout_s: float | None = None
) -> tuple[int, str]:
    """The exit status of a program and the end of what it said; TimeoutError past `timeout_s`.

    It is killed when the caller is cancelled and, where there is setpriv, when this process ends.
    """
    program = shutil.which("setpriv")
    prefix = (program, "--pdeathsig", "KILL", "--") if program else ()
    with tempfile.TemporaryFile() as said:  # a file: it may say a line for each of many names
        process = await asyncio.create_subprocess_exec(
            *prefix,
            *command,
            stdin=stdin or asyncio.subprocess.DEVNULL,
            stdout=said,
            stderr=said,
        )
        try:
            async with asyncio.timeout(timeout_s):
                status = await process.wait()
        except BaseException:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        said.seek(max(0, os.fstat(said.fileno()).st_size - ERROR_TAIL_BYTES))
        return status, said.read().decode(errors="replace").strip()
