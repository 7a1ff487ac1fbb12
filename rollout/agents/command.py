"""Any agent that is a program, unchanged: installed in the sandbox, pointed at the gateway, run.

Such harnesses take the address of their model from the environment or a file; both are given here
as templates in which `{url}` stands for the gateway inside the sandbox (`http://127.0.0.1:PORT`),
`{port}` for its port and `{model}` for the model's name. What the harness asks and is told, the
gateway writes down.
"""

import posixpath
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rollout.agents.base import Model, Recorder
from rollout.agents.script import ARGUMENT_LIMIT_BYTES, task_fields
from rollout.agents.skills import mounts_of
from rollout.aio import Deadline
from rollout.errors import AgentError, ConfigError, SandboxError, SandboxLost
from rollout.sandbox.base import ExecResult, Sandbox
from rollout.sandbox.output import text_of
from rollout.transcript import clip
from rollout.types import StopReason, Task

LOG_LIMIT_BYTES = 16 << 20
LOG_FILES = 64
OUTPUT_LIMIT_BYTES = 4 << 20
SHOWN_CHARS = 2_000
FETCHED = ("npm:", "pypi:", "git:")
"""Sources that an installation gets over the network."""


class Command:
    """Runs one command line as the agent's user, in the task's working folder.

    Besides `env` its environment holds the task as of `agent=script`: TASK_INSTRUCTION and others.
    """

    version = "1"
    needs_model = True
    features = ("ports", "programs")
    """What its sandbox must have: a socket to listen on, and a kernel below."""

    def __init__(
        self,
        *,
        name: str,
        command: str,
        install: str = "",
        install_name: str = "",
        version_command: str = "",
        env: dict[str, str] | None = None,
        files: dict[str, str] | None = None,
        logs: list[str] | None = None,
        failure_pattern: str = "",
        skills: list[str] | None = None,
        port: int = 0,
    ) -> None:
        """
        name: in tables and rows.
        command: handed to `sh -c`; templates are filled in. With an exit code other than 0 the
        agent has failed; it is scored all the same.
        install: `npm:NAME@VERSION`, `pypi:NAME==VERSION`, `git:URL@REF` or `object:sha256:…`,
        put into the image as `blueprint.mounts` does; empty: the image has it.
        install_name: of the mount, where that is not the source's own.
        version_command: tells the version that must be the one installed.
        env: variable to template.
        files: absolute path to template, written before the start.
        logs: absolute paths; what lies there afterwards is kept as artifacts.
        failure_pattern: a regular expression; output that has it means the same.
        skills: folders of this machine with a SKILL.md, put below /opt/skills; how the harness
        finds them there is its command's or files' to say.
        port: inside the sandbox; 0: any free one.
        """
        if not command.strip():
            raise ConfigError("agent.command: is empty; use the harness's command line")
        wrong = [path for path in (*(files or {}), *(logs or [])) if not path.startswith("/")]
        if wrong:
            raise ConfigError(f"agent: {wrong[0]!r} is no absolute path; write /…")
        try:
            self._failure = re.compile(failure_pattern) if failure_pattern else None
        except re.error as exc:
            raise ConfigError(f"agent.failure_pattern: {exc}") from exc
        self.name = name
        self._command, self._port = command, port
        self._install, self._install_name = install, install_name
        self._version_command = version_command
        self._env, self._files = dict(env or {}), dict(files or {})
        self._logs = list(logs or [])
        self._skills = list(skills or [])

    def mounts(self) -> Sequence[Mapping[str, Any]]:
        """What the blueprint of its tasks must mount, as in `blueprint.mounts`."""
        skills = mounts_of(self._skills)
        if not self._install:
            return skills
        mount = {"kind": "agent", "source": self._install, "at": "build"}
        if self._install_name:
            mount["name"] = self._install_name
        if self._version_command:
            mount["version_command"] = self._version_command
        return (mount, *skills)

    @property
    def fetched(self) -> bool:
        """Whether the installation needs a network."""
        return self._install.startswith(FETCHED)

    def problems(self, task: Task) -> str | None:
        """Why this agent cannot work on the task, known before anything runs."""
        if len(task.instruction.encode()) > ARGUMENT_LIMIT_BYTES:
            return f"task {task.id}: its instruction is too long for an environment variable"
        return None

    async def run(
        self,
        task: Task,
        sandbox: Sandbox,
        model: Model | None,
        deadline: Deadline,
        record: Recorder,
    ) -> StopReason:
        """AgentError when the program fails, once its output and logs are on record."""
        if model is None:
            raise AgentError(f"agent {self.name}: needs a model")
        async with model.listen(sandbox, self._port) as port:
            filled = {"url": f"http://127.0.0.1:{port}", "port": str(port), "model": model.name}
            await self._write_files(sandbox, task.agent_user, filled)
            result = await sandbox.exec(
                ["sh", "-c", fill(self._command, filled)],
                env={**task_fields(task, deadline), **_filled(self._env, filled)},
                user=task.agent_user,
                timeout_s=deadline.left_s,
                output_limit_bytes=OUTPUT_LIMIT_BYTES,
            )
        record.artifact("agent_output.txt", text_of(result).encode(errors="replace"))
        await self._keep_logs(sandbox, record)
        return self._judged(result)

    async def _write_files(self, sandbox: Sandbox, user: str, filled: Mapping[str, str]) -> None:
        for path, text in self._files.items():
            await sandbox.write_file(path, fill(text, filled).encode(), user=user)

    async def _keep_logs(self, sandbox: Sandbox, record: Recorder) -> None:
        """They are the agent's own word: what cannot be had is told, and nothing more."""
        for path in self._logs:
            try:
                tree = await sandbox.get_tree(
                    path, limit_bytes=LOG_LIMIT_BYTES, limit_entries=LOG_FILES
                )
            except SandboxLost:
                raise
            except (FileNotFoundError, SandboxError) as exc:
                record.event("agent_log_not_kept", f"{path}: {exc}")
                continue
            for name, data in tree.files().items():
                record.artifact(posixpath.join(path.strip("/"), name).replace("/", "_"), data)

    def _judged(self, result: ExecResult) -> StopReason:
        if result.timed_out:
            return StopReason.TIMEOUT
        said = text_of(result)
        if result.exit_code != 0:
            what = f"exit code {result.exit_code}"
        elif self._failure and (found := self._failure.search(said)):
            what = f"it says {clip(found[0], 200)!r}"
        else:
            return StopReason.COMPLETED
        raise AgentError(
            f"agent {self.name}: {what}; it printed: {clip(said.strip(), SHOWN_CHARS) or 'nothing'}"
        )


def fill(template: str, values: Mapping[str, str]) -> str:
    """Only these names in braces are anything special: TOML and JSON stay as they are."""
    for name, value in values.items():
        template = template.replace(f"{{{name}}}", value)
    return template


def _filled(templates: Mapping[str, str], values: Mapping[str, str]) -> dict[str, str]:
    return {name: fill(text, values) for name, text in templates.items()}
