"""A shell's variables, parameters and options."""

from collections.abc import Iterable, Mapping

from rollout.sandbox.memory.files import FileSystem
from rollout.sandbox.memory.process import Process


class Variables:
    """What expansion reads and assignments change."""

    def __init__(self, process: Process, name: str, positional: Iterable[str]) -> None:
        self.process = process
        self.name = name
        self.positional = list(positional)
        self.variables = dict(process.env)
        self.variables.setdefault("PWD", process.cwd)
        self.exported = set(process.env)
        self.local_scopes: list[dict[str, str | None]] = []
        self.options: set[str] = set()
        self.status = 0
        self.last_background: int | None = None
        self.main_pid = process.pid

    def get(self, name: str) -> str | None:
        match name:
            case "?":
                return str(self.status)
            case "#":
                return str(len(self.positional))
            case "$":
                return str(self.main_pid)
            case "!":
                return None if self.last_background is None else str(self.last_background)
            case "-":
                return "".join(sorted(o for o in self.options if len(o) == 1))
            case "0":
                return self.name
        if name.isdigit():
            index = int(name) - 1
            return self.positional[index] if index < len(self.positional) else None
        return self.variables.get(name)

    def put(self, name: str, value: str) -> None:
        self.variables[name] = value
        if "a" in self.options:
            self.exported.add(name)

    @property
    def nounset(self) -> bool:
        return "u" in self.options

    @property
    def noglob(self) -> bool:
        return "f" in self.options

    @property
    def cwd(self) -> str:
        return self.process.cwd

    @property
    def files(self) -> FileSystem:
        return self.process.files

    def environment(self) -> dict[str, str]:
        return {name: self.variables[name] for name in self.exported if name in self.variables}

    def restore(self, kept: Mapping[str, str | None]) -> None:
        for name, value in kept.items():
            if value is None:
                self.variables.pop(name, None)
            else:
                self.variables[name] = value
