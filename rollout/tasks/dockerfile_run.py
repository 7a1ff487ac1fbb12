"""RUN: one command of a build, with what it may read while it runs."""

import json
import posixpath
import re
import shlex
from collections.abc import Mapping, Sequence

from rollout.errors import ConfigError
from rollout.tasks.dockerfile_lines import Heredoc
from rollout.tasks.dockerfile_words import expand
from rollout.tasks.problems import NeedsDaemon
from rollout.types import BuildStep, Secret

SHELL = ("/bin/sh", "-c")
ARGUMENT_BYTES = 131_071
"""The kernel's limit of one word of a command."""
_FLAG = re.compile(r"--([a-z]+)(?:=(\S*))?(?:\s+|$)")
_SCRIPT = 'f=$(mktemp) && printf %s {} > "$f" && chmod 700 "$f" && "$f"; s=$?; rm -f "$f"; exit $s'
"""Runs a heredoc that begins with `#!` as the program that it is."""


def run_step(
    value: str,
    heredocs: Sequence[Heredoc],
    *,
    shell: Sequence[str],
    variables: Mapping[str, str],
    args: Mapping[str, str],
) -> BuildStep:
    """The step of one RUN.

    variables: for its flags; the command itself is left to its shell.
    args: what ARG lines have set and no ENV has hidden.

    ConfigError says what is wrong with it, NeedsDaemon what only a daemon can do.
    """
    secrets: list[Secret] = []
    while flag := _FLAG.match(value):
        name, setting = flag[1], expand(flag[2] or "", variables)
        value = value[flag.end() :]
        if name == "mount":
            secrets.append(_secret(setting))
        elif (name, setting) != ("network", "default"):
            raise NeedsDaemon(f"RUN --{name}{'=' * bool(setting)}{setting}")
    argv = _argv(value, heredocs, tuple(shell))
    if not value.strip():
        raise ConfigError("RUN without a command")
    if any(len(word.encode()) > ARGUMENT_BYTES for word in argv):
        raise ConfigError(f"RUN with more than {ARGUMENT_BYTES} bytes; COPY a script and run that")
    return BuildStep(op="run", argv=argv, env=tuple(sorted(args.items())), secrets=tuple(secrets))


def _argv(value: str, heredocs: Sequence[Heredoc], shell: tuple[str, ...]) -> tuple[str, ...]:
    if not heredocs:
        return words_of(value) or (*shell, value)
    if len(heredocs) == 1 and re.fullmatch(r"<<-?(['\"]?)[^\s'\"]+\1", value.strip()):
        body = heredocs[0].body
        if body.startswith("#!"):
            return (*SHELL, _SCRIPT.format(shlex.quote(body)))
        return (*shell, body)
    return (*shell, f"{value}\n{''.join(heredoc.lines for heredoc in heredocs)}")


def words_of(value: str) -> tuple[str, ...]:
    """Of the form `["a", "b"]`; empty for every other, which is a shell's to read."""
    if not value.lstrip().startswith("["):
        return ()
    try:
        listed = json.loads(value)
    except json.JSONDecodeError:
        return ()
    if isinstance(listed, list) and all(isinstance(word, str) for word in listed):
        return tuple(listed)
    return ()


def _secret(setting: str) -> Secret:
    """Of `type=secret,id=…,target=…,env=…,required`."""
    parts = (part.partition("=") for part in setting.split(","))
    pairs = {key: word for key, _, word in parts}
    kind = pairs.pop("type", "bind")
    if kind != "secret":
        raise NeedsDaemon(f"RUN --mount=type={kind}")
    target = pairs.pop("target", "") or pairs.pop("dst", "") or pairs.pop("destination", "")
    secret_id = pairs.pop("id", "") or pairs.pop("source", "") or posixpath.basename(target)
    env = pairs.pop("env", "")
    required = "required" in pairs and pairs.pop("required") in ("", "true", "1")
    if known := {"uid", "gid", "mode"} & set(pairs):
        raise NeedsDaemon(f"RUN --mount=type=secret with {', '.join(sorted(known))}")
    if pairs.pop("required", None) not in (None, "false", "0") or pairs:
        raise ConfigError(f"RUN --mount={setting}: use id, target, env and required")
    if not secret_id:
        raise ConfigError(f"RUN --mount={setting}: a secret needs an id")
    if target and env:
        raise NeedsDaemon("RUN --mount=type=secret with both target and env")
    return Secret(id=secret_id, target=_absolute(target), env=env, required=required)


def _absolute(target: str) -> str:
    """Relative targets are below /run/secrets, as in Docker."""
    return posixpath.normpath(posixpath.join("/run/secrets", target)) if target else ""
