"""Commands one after the other that share a working folder and an environment, as in a terminal.

Each is a process of its own, so that one which hangs costs its own time limit and nothing else.
"""

import uuid
from types import TracebackType
from typing import Self

from rollout.sandbox.base import ExecResult, Sandbox

# `trap` sees every way out of the command but a kill; `eval` lets it change folder and variables.
WRAPPER = """\
_state=$1
[ ! -r "$_state/env" ] || . "$_state/env" 2>/dev/null
[ ! -r "$_state/cwd" ] || cd "$(cat "$_state/cwd")" 2>/dev/null
trap '_code=$?
{ mkdir -p "$_state" && export -p > "$_state/env" && pwd > "$_state/cwd"; } 2>/dev/null
exit $_code' EXIT
eval "$2"
"""
OUTPUT_LIMIT_BYTES = 4 << 20


class WorkShell:
    """Use as `async with`: what it keeps inside is gone afterwards."""

    def __init__(self, sandbox: Sandbox, *, user: str) -> None:
        self._sandbox = sandbox
        self._user = user
        self._state = f"/tmp/.shell-{uuid.uuid4().hex}"
        self._shell = "sh"

    async def __aenter__(self) -> Self:
        found = await self._sandbox.exec(["sh", "-c", "command -v bash"], user=self._user)
        self._shell = "bash" if found.ok else "sh"
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:  # else the sandbox may be gone, and what it left is not ours to mend
            await self._sandbox.remove(self._state)

    async def run(self, command: str, *, timeout_s: float) -> ExecResult:
        """One command, standard output and error in one as they came. What it leaves in the
        background lives on. One that is cut off changes neither folder nor variables."""
        script = f"exec 2>&1\n{WRAPPER}"
        text = command.encode(errors="replace")
        argv: list[str | bytes] = [self._shell, "-c", script, self._shell, self._state, text]
        return await self._sandbox.exec(
            argv, user=self._user, timeout_s=timeout_s, output_limit_bytes=OUTPUT_LIMIT_BYTES
        )
