"""The command line. A verb as first word is dispatched here; everything else is Hydra's to read."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from rollout.checks import nearest
from rollout.compose import Composed, compose_here, conf_dir, diagnose, register, spelled_for_hydra
from rollout.errors import ConfigError, RolloutError

VERBS = (
    *("doctor", "tasks", "show", "retry", "rescore", "export", "shell", "blueprint", "objects"),
    *("attach", "status", "cancel", "compact", "gc"),
)
"""Each is a module of `rollout.commands` with `main(argv) -> int`, imported when asked for."""

FAILED, BAD_CONFIG, INTERRUPTED = 1, 2, 130
FULL_ERROR = "HYDRA_FULL_ERROR"


def main(argv: Sequence[str] | None = None) -> None:
    """Exit with the code of what was asked for; a refusal is one message and code 2."""
    words = list(sys.argv[1:] if argv is None else argv)
    code = _code_of(lambda: _dispatch(words))
    _flush()
    sys.exit(code)


def _code_of(command: Callable[[], int]) -> int:
    """The exit code; what we raise on purpose is told in its own words, without a traceback."""
    try:
        return command()
    except RolloutError as exc:
        sys.stderr.write(f"rollout: {exc}\n")
        return BAD_CONFIG if isinstance(exc, ConfigError) else FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _dispatch(words: list[str]) -> int:
    if words and words[0] in VERBS:
        return _command(words[0], words[1:])
    if {"-h", "--help"} & set(words):
        return _command("help", words)
    if words and words[0].isalpha() and "=" not in words[0]:
        known = ", ".join(VERBS)
        hint = nearest(words[0], VERBS) or f"; there are: {known}"
        raise ConfigError(f"{words[0]}: is neither a verb nor key=value{hint}")
    return _hydra(words)


def _command(name: str, words: list[str]) -> int:
    code: int = import_module(f"rollout.commands.{name}").main(words)
    return code


def _hydra(words: list[str]) -> int:
    """Let Hydra read the line, then run what it came to: one run, or with --multirun several.

    Hydra is done before a run begins, so that all runs are known to be good before the first
    starts, and nothing of Hydra's stands around it.
    """
    composed: list[Composed] = []
    refused: list[str] = []

    @hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name="config")
    def job(_: DictConfig) -> None:
        try:
            composed.append(_compose_job())
        except ConfigError as exc:
            refused.append(str(exc))

    register()
    sys.argv = [sys.argv[0], *_overrides_first(spelled_for_hydra(words))]
    with _hydra_raises():
        try:
            job()
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as exc:
            raise diagnose(exc, sys.argv[1:]) from exc
    if refused:
        raise ConfigError("\n".join(dict.fromkeys(refused)))
    return _run_all(composed)


def _overrides_first(words: list[str]) -> list[str]:
    """`--cfg job samples=3` too: Hydra's own parser takes no overrides after a flag."""
    first = [word for word in words if not word.startswith("-") and ("=" in word or word[0] == "~")]
    return [*first, *(word for word in words if word not in first)]


def _compose_job() -> Composed:
    job = HydraConfig.get()
    paths = [word for word in job.overrides.hydra if "hydra.searchpath" in word]
    return compose_here([*job.overrides.task, *paths], job.job.config_name or "config")


def _run(composed: Composed) -> int:
    """What a run needs is imported once its config is known to be good."""
    code: int = import_module("rollout.commands.run").run(composed)
    return code


def _run_all(composed: Sequence[Composed]) -> int:
    """The worst code of all; an interrupt ends the row."""
    worst = 0
    for each in composed:
        code = _code_of(partial(_run, each))
        worst = max(worst, code)
        if code == INTERRUPTED:
            break
    return worst


@contextmanager
def _hydra_raises() -> Iterator[None]:
    """Errors come out of Hydra as they are, instead of being printed by it."""
    before = os.environ.get(FULL_ERROR)
    os.environ[FULL_ERROR] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[FULL_ERROR]
        else:
            os.environ[FULL_ERROR] = before


def _flush() -> None:
    """A reader of our output that has gone must not turn into an exit code."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
