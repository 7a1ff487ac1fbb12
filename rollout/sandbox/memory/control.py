"""How control leaves a command of a shell other than by its end, and the names of signals."""

import signal

ON_EXIT = 0
"""The number under which the EXIT trap is kept."""


class ExitShell(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code & 0xFF


class ReturnFromFunction(Exception):
    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


class LeaveLoop(Exception):
    """`break` and `continue`, still to leave `levels` loops."""

    def __init__(self, levels: int, *, again: bool) -> None:
        super().__init__(levels)
        self.levels = levels
        self.again = again


def stays(leave: LeaveLoop) -> bool:
    """Whether the loop that caught it goes on; passes it on if it is for an outer one."""
    if leave.levels > 1:
        raise LeaveLoop(leave.levels - 1, again=leave.again)
    return leave.again


def signal_number(name: str) -> int | None:
    """Of `9`, `KILL`, `SIGKILL`, `EXIT`; None if there is none."""
    if name.isdigit():
        return int(name)
    name = name.upper().removeprefix("SIG")
    if name == "EXIT":
        return ON_EXIT
    found = signal.Signals.__members__.get(f"SIG{name}")
    return None if found is None else int(found)
