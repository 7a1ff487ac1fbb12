"""`shell`: a shell in a sandbox that holds what a rollout left, or in a fresh one."""

import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from rollout import build
from rollout.baking import by_hand, check_movable, how_to_use, keep, new_option, write_option
from rollout.checks import CHOICES, nearest
from rollout.commands.retry import saved_run
from rollout.commands.show import full_id
from rollout.commands.terminal import attach, on_terminal, terminal_size
from rollout.commands.where import STORE_WORDS, Words, place_of, read_words
from rollout.config import KEEP_LIMIT_MAX_MB, EngineConf, ObjectsConf, RunConf, arm_name
from rollout.dataset.reader import open_dataset
from rollout.egress.access import egress, logged
from rollout.errors import ConfigError
from rollout.executor.kept import fetched, kept_state
from rollout.library import chosen_engine, running_engine
from rollout.loading import conf_of
from rollout.objects.store import ObjectStore
from rollout.objects.where import open_objects
from rollout.recipes import Named, named, recipe, with_engine
from rollout.report.render import printable, show, text
from rollout.sandbox.base import Engine, Sandbox
from rollout.sandbox.launching import launch
from rollout.sandbox.made import make_spec
from rollout.types import Blueprint, Trajectory

USAGE = """\
python -m rollout shell RUN TRAJECTORY [options] [key=value …] [-- COMMAND …]
python -m rollout shell --blueprint NAME [--keep NEW] [options] [key=value …] [-- COMMAND …]

A shell in a sandbox of this machine: with the files that a rollout left, where the run kept them
(keep_on=[agent_error] or another outcome, or all), or in a fresh one. What you change there is gone
when you leave. What it prints reaches your terminal as it is.

RUN               a run's name below store.uri (default: runs), its folder, or s3://bucket/prefix/run
TRAJECTORY        the first letters of an id that `show RUN` tells
--blueprint NAME  an option of conf/blueprint, or a base such as rootfs:/srv/debian
--keep NEW        when you leave, what you changed becomes the blueprint NEW: its files go to the
                  object store, and conf/blueprint/NEW.yaml is written where you stand
--config-dir DIR  a folder with more options, and where NEW is written; without it ./conf
--fresh           the computer of that rollout as it was before the agent came
--user USER       who to be; default: whom the blueprint names, else root
--cwd FOLDER      where to begin; default: the blueprint's working folder
-- COMMAND …      to run in place of the shell; the exit code is passed on
key=value         store.uri= store.endpoint_url= store.region=, and engine.root_dir= or another
                  key of the engine, which else is as the run had it

Without a terminal on both sides, input and output are passed on as they are.
"""
ENGINE_WORDS = tuple(f"engine.{item.name}" for item in fields(EngineConf))
VALUED = ("--blueprint", "--keep", "--config-dir", "--user", "--cwd")
SHELL = ("sh", "-c", "if command -v bash >/dev/null; then exec bash; fi; exec sh")
SESSION_TIMEOUT_S = 30 * 86_400.0
TERM_CHARS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    words: Words
    options: dict[str, str]
    command: tuple[str, ...]

    @property
    def fresh(self) -> bool:
        return "--fresh" in self.options


@dataclass(frozen=True, slots=True, kw_only=True)
class _Computer:
    """What to make, and the file to lay over it."""

    blueprint: Blueprint
    engine: EngineConf
    about: str
    objects: ObjectStore
    state: Path | None = None
    keep: "_Keep | None" = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Keep:
    """As what to keep it when the session is over."""

    new: str
    path: Path
    found: Named


def main(argv: Sequence[str]) -> int:
    own = argv[: argv.index("--")] if "--" in argv else argv
    if {"-h", "--help"} & set(own):
        show(sys.stdout, text(USAGE))
        return 0
    asked = _read(argv)
    # Without a name, so that it is gone with this process however that ends.
    with tempfile.TemporaryFile() as file:
        return asyncio.run(_until_signal(asked, file.fileno()))


# ---------------------------------------------------------------- what was asked for


def _read(argv: Sequence[str]) -> _Asked:
    """The words before `--` are ours, all after it are the command's."""
    cut = list(argv).index("--") if "--" in argv else len(argv)
    options: dict[str, str] = {}
    rest = []
    words = iter(argv[:cut])
    for word in words:
        name, equals, value = word.partition("=")
        if name in VALUED:
            options[name] = value if equals else next(words, "")
            if not options[name]:
                raise ConfigError(f"{name}: must be followed by a value\n{USAGE}")
        elif word == "--fresh":
            options[word] = word
        elif word.startswith("-"):
            raise ConfigError(f"{word}: unknown{nearest(name, (*VALUED, '--fresh'))}\n{USAGE}")
        else:
            rest.append(word)
    found = read_words(rest, (*STORE_WORDS, *ENGINE_WORDS), USAGE)
    if len(found.plain) != (0 if "--blueprint" in options else 2):
        raise ConfigError(f"shell takes a run and a trajectory, or --blueprint NAME\n{USAGE}")
    if "--keep" in options and "--blueprint" not in options:
        raise ConfigError(f"--keep: goes with --blueprint\n{USAGE}")
    return _Asked(words=found, options=options, command=tuple(argv[cut + 1 :]))


def _computer(asked: _Asked, room: int) -> _Computer:
    """`room`: a descriptor of an empty file, for what a rollout left."""
    name = asked.options.get("--blueprint")
    if name is None:
        return _of_rollout(asked, room)
    engine, new = _engine(EngineConf(), asked.words), asked.options.get("--keep")
    config_dir = asked.options.get("--config-dir")
    path = new_option(new, config_dir) if new else None
    found = named(name, config_dir=config_dir)
    objects = open_objects(ObjectsConf(), asked.words.store, root_dir=engine.root_dir)
    about = f"blueprint {name}, fresh"
    if not new or not path:
        blueprint = recipe(found, objects)
        engine = chosen_engine(engine, blueprint)
        return _Computer(blueprint=blueprint, engine=engine, about=about, objects=objects)
    check_movable(found)
    blueprint = by_hand(found, objects)
    engine = chosen_engine(engine, blueprint, features=frozenset({"states"}))
    return _Computer(
        blueprint=blueprint,
        engine=engine,
        about=about,
        objects=objects,
        keep=_Keep(new=new, path=path, found=with_engine(found, engine)),
    )


def _engine(conf: EngineConf, words: Words) -> EngineConf:
    changes: dict[str, Any] = {}
    for key, value in words.settings.items():
        if key in ENGINE_WORDS:
            name = key.removeprefix("engine.")
            changes[name] = _typed(key, value, getattr(conf, name))
    return replace(conf, **changes)


def _typed(key: str, value: str, like: object) -> object:
    allowed = CHOICES.get(key, (value,))
    if value not in allowed:
        raise ConfigError(f"{key}: {value!r} is none of {', '.join(allowed)}")
    if isinstance(like, str):
        return value
    try:
        return int(value)  # also of those that may be null
    except ValueError as exc:
        raise ConfigError(f"{key}: {value!r} is no number") from exc


# ---------------------------------------------------------------- of a rollout


def _of_rollout(asked: _Asked, room: int) -> _Computer:
    run, prefix = asked.words.plain
    parent, name = place_of(run, asked.words.store)
    saved = saved_run(parent, name, asked.words.store)
    conf = saved.conf
    uri, store = build.run_uri(parent, name), conf.store
    with open_dataset(uri, endpoint_url=store.endpoint_url, region=store.region) as data:
        row = data.trajectory(full_id(data, prefix))
        kept = None if asked.fresh else kept_state(row, run)
        points = [each for each in saved.points if arm_name(each.settings) == row.spec.arm]
        blueprint = _blueprint(conf_of(conf, points[0]) if points else conf, row)
        state = None if kept is None else fetched(data, kept, room)
    how = "as the agent left it" if state else "fresh"
    about = f"rollout {row.spec.trajectory_id[:12]} of {name}, task {row.spec.task_id}, {how}"
    features = frozenset({"states"} if state else ())
    engine = _engine(conf.engine, asked.words)
    engine = chosen_engine(engine, blueprint, features=features)
    objects = open_objects(conf.objects, store, root_dir=engine.root_dir)
    return _Computer(blueprint=blueprint, engine=engine, about=about, objects=objects, state=state)


def _blueprint(conf: RunConf, row: Trajectory) -> Blueprint:
    """As the run had it; where the task has changed since, that is said."""
    blueprint = build.task_of(conf, row.spec.task_id).blueprint
    if blueprint.digest != row.blueprint_digest:
        _say(
            f"the blueprint of task {row.spec.task_id} has changed since the rollout (digest was "
            f"{row.blueprint_digest[:12]}, is {blueprint.digest[:12]}): what the agent did not "
            "write is as it is now"
        )
    return blueprint


# ---------------------------------------------------------------- the session


async def _until_signal(asked: _Asked, room: int) -> int:
    """The exit code of the command, or of the signal that ended us: everything is left in order."""
    with _ending_on(signal.SIGTERM, signal.SIGHUP) as told:
        try:
            return await _session(await asyncio.to_thread(_computer, asked, room), asked)
        except asyncio.CancelledError:
            if not told:
                raise
            return 128 + told[0]


@contextmanager
def _ending_on(*numbers: signal.Signals) -> Iterator[list[int]]:
    loop, task, told = asyncio.get_running_loop(), asyncio.current_task(), list[int]()
    assert task is not None

    def end(number: int) -> None:
        told.append(number)
        task.cancel()

    for number in numbers:
        loop.add_signal_handler(number, end, number)
    try:
        yield told
    finally:
        for number in numbers:
            loop.remove_signal_handler(number)


async def _session(computer: _Computer, asked: _Asked) -> int:
    terminal = on_terminal()
    async with AsyncExitStack() as stack:
        engine = await stack.enter_async_context(running_engine(computer.engine, computer.objects))
        box = await _made(engine, computer)
        await stack.enter_async_context(egress(box, logged))
        if terminal and not asked.command:
            _say(f"{computer.about}; what you change is {_fate(computer)} when you leave")
        rows, cols = terminal_size()
        process = await box.start(
            asked.command or SHELL,
            env=_environment() if terminal else {},
            cwd=asked.options.get("--cwd", ""),
            user=asked.options.get("--user", ""),
            pty=terminal,
            rows=rows,
            cols=cols,
            timeout_s=SESSION_TIMEOUT_S,
        )
        async with process:
            code = await attach(process, terminal=terminal)
        if computer.keep is not None:
            await _kept(engine, box, computer.keep, computer.objects)
        return code


async def _made(engine: Engine, computer: _Computer) -> Sandbox:
    """What a rollout left has been launched already, and is not again."""
    spec = await make_spec(engine, computer.blueprint, computer.objects)
    if computer.state is not None:
        limit_bytes = KEEP_LIMIT_MAX_MB << 20
        image = await engine.restore_state(spec.image, computer.state, limit_bytes=limit_bytes)
        return await engine.create(replace(spec, image=image, launch=(), ready=""))
    box = await engine.create(spec)
    await launch(box, computer.objects)
    return box


def _fate(computer: _Computer) -> str:
    return "gone" if computer.keep is None else f"kept as {computer.keep.new}"


async def _kept(engine: Engine, box: Sandbox, wanted: _Keep, objects: ObjectStore) -> None:
    words = await keep(engine, box, wanted.found, objects)
    write_option(wanted.path, f"{wanted.found.name}, and what was changed in it by hand.", words)
    for line in how_to_use(wanted.path, wanted.new):
        _say(line)


def _environment() -> dict[str, str]:
    """Of ours, the kind of terminal alone."""
    kind = os.environ.get("TERM", "")
    fine = 0 < len(kind) <= TERM_CHARS and kind.isascii() and kind.isprintable()
    return {"TERM": kind if fine else "xterm"}


def _say(what: str) -> None:
    sys.stderr.write(f"{printable(what)}\n")
    sys.stderr.flush()
