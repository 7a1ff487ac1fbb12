"""A Dockerfile as steps of a blueprint, or whole where steps cannot say it.

Understood as Docker does: FROM (through the map of bases), ARG, ENV, WORKDIR, USER, SHELL, RUN with
secrets and heredocs, COPY and ADD of local files, archives and heredocs, VOLUME (its folder is
made). Without effect on files or on how commands start here, and so passed over: LABEL, EXPOSE,
MAINTAINER, STOPSIGNAL, HEALTHCHECK, CMD, and ENTRYPOINT, which is told.

More than one stage, COPY --from, URLs, ONBUILD, other mounts of RUN and what BuildKit sets are for
a Docker daemon: then the recipe holds the whole Dockerfile. All else is refused by name and line.
"""

import logging
import platform
import posixpath
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from rollout.blueprints import find_base
from rollout.errors import ConfigError
from rollout.sandbox.bases import HOST, IMAGE, parse_base
from rollout.sandbox.steps import Setting
from rollout.tasks.copying import Copy, copy_step
from rollout.tasks.dockerfile_lines import Line, read_lines
from rollout.tasks.dockerfile_run import SHELL, run_step, words_of
from rollout.tasks.dockerfile_words import expand, expand_body, pairs
from rollout.tasks.dockerignore import read_ignore
from rollout.tasks.problems import NeedsDaemon, Problems, nearest
from rollout.tasks.trees import Budget, read_tree
from rollout.types import BuildStep, Dockerfile, Tree

USUAL_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
"""`$PATH` in an ENV line, where the base does not say one."""
_PASSED_OVER = frozenset(
    {"LABEL", "EXPOSE", "MAINTAINER", "STOPSIGNAL", "HEALTHCHECK", "CMD", "ENTRYPOINT"}
)
_PLATFORM_ARGS = re.compile(r"(TARGET|BUILD)(PLATFORM|OS|ARCH|VARIANT)|BUILDKIT_\w+")
_ARCHITECTURES = {"x86_64": ("amd64", "x86_64"), "aarch64": ("arm64", "arm64/v8", "aarch64")}

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a Dockerfile comes to."""

    base: str
    steps: tuple[BuildStep, ...]
    dockerfile: Dockerfile | None = None
    """Where a daemon must build it; then `base` and `steps` say nothing of it."""


def read_dockerfile(
    dockerfile: Path,
    *,
    context: Path,
    field: str,
    images: Mapping[str, str],
    budget: Budget,
    problems: Problems,
    args: Mapping[str, str] | None = None,
    target: str = "",
    setting_of: Callable[[str], Setting] = lambda base: Setting(),
) -> Recipe | None:
    """The recipe, or `None` after telling `problems` of every line that cannot be used.

    `field` is how the file is called in messages, such as `environment/Dockerfile`.
    args: build arguments, in place of the defaults of ARG lines.
    target: the stage to stop at.
    setting_of: how commands of a base start, as far as that is known before it is made.
    """
    before = len(problems.lines)
    try:
        content = dockerfile.read_bytes()
        lines, strays = read_lines(content)
    except (UnicodeDecodeError, ConfigError) as exc:
        problems.add(field, str(exc))
        return None
    reader = _Reader(context, dockerfile, images, budget, args or {}, setting_of)
    needs = _read(reader, lines, field, problems)
    for at, text in strays:
        problems.add(f"{field}:{at}", f"{text[:60]!r} is no whole instruction")
    if target and not needs and target not in reader.stages:
        problems.add(field, f"has no stage {target!r}{nearest(target, reader.stages)}")
    if not reader.stages and len(problems.lines) == before:
        problems.add(field, "it has no FROM")
    if reader.base_problem and not needs:
        problems.add(*reader.base_problem)
    if len(problems.lines) > before:
        return None
    if needs:
        return Recipe(HOST, (), _whole(reader, content, needs[0], target, context, budget))
    return Recipe(reader.base, tuple(reader.steps))


def _read(reader: "_Reader", lines: list[Line], field: str, problems: Problems) -> list[str]:
    """What of it needs a daemon, each with its line."""
    needs: list[str] = []
    for line in lines:
        where = f"{field}:{line.number}"
        try:
            if line.instruction == "ENTRYPOINT":
                log.warning("%s: ENTRYPOINT is passed over: nothing is started by itself", where)
            reader.apply(line, where)
        except _NextStage as exc:
            return [*needs, f"{where}: {exc}"]
        except NeedsDaemon as exc:
            needs.append(f"{where}: {exc}")
        except _Stop as exc:
            problems.add(where, str(exc))
            break
        except (ConfigError, OSError) as exc:
            problems.add(where, str(exc))
    return needs


def _whole(
    reader: "_Reader", content: bytes, needs: str, target: str, context: Path, budget: Budget
) -> Dockerfile:
    """For a daemon: the text, its FROM lines led to images, and all of the context."""
    tree = read_tree(context, budget, skip=reader.hidden)
    return Dockerfile(
        text=_led(content.decode(), reader.images),
        context=tree,
        args=tuple(sorted(reader.build_args.items())),
        target=target,
        needs=needs,
    )


_FROM = re.compile(r"(?im)^(\s*FROM\s+(?:--\S+\s+)*)(\S+)")


def _led(text: str, images: Mapping[str, str]) -> str:
    """FROM lines with the image that the map has for theirs; others are the daemon's to find."""

    def lead(found: re.Match[str]) -> str:
        try:
            base = parse_base(find_base(found[2], images))
        except ConfigError:
            return found[0]
        return found[1] + base.path if base.kind == IMAGE else found[0]

    return _FROM.sub(lead, text)


class _Stop(ConfigError):
    """A problem after which the rest of the file cannot be read with sense."""


class _NextStage(NeedsDaemon):
    """The rest is of another stage."""


class _NoBase(ConfigError):
    """The map of bases has none for an image."""


class _Reader:
    """The state Docker carries from line to line."""

    def __init__(
        self,
        context: Path,
        dockerfile: Path,
        images: Mapping[str, str],
        budget: Budget,
        build_args: Mapping[str, str],
        setting_of: Callable[[str], Setting],
    ) -> None:
        self.base = HOST
        self.base_problem: tuple[str, str] | None = None
        """Where and why there is no base; no problem for a daemon, which may have the image."""
        self.steps: list[BuildStep] = []
        self.stages: list[str] = []
        """Names and numbers of the stages so far."""
        self.images = images
        self.build_args = build_args
        self.hidden = read_ignore(context, dockerfile)
        self._budget = budget
        self._setting_of = setting_of
        self._context = context.resolve()
        self._global_args: dict[str, str] = {}
        self._args: dict[str, str] = {}
        self._base_env: dict[str, str] = {"PATH": USUAL_PATH}
        self._env: dict[str, str] = {}
        self._workdir = "/"
        self._user = ""
        self._shell: tuple[str, ...] = SHELL
        self._line = Line(0, "", "")
        self._verbs: dict[str, Callable[[str], None]] = {
            "FROM": self._from,
            "RUN": self._run,
            "SHELL": self._set_shell,
            "ONBUILD": self._on_build,
            "ARG": self._arg,
            "ENV": self._set_env,
            "WORKDIR": self._set_workdir,
            "USER": self._set_user,
            "VOLUME": self._volume,
            "COPY": lambda value: self._copy("COPY", value),
            "ADD": lambda value: self._copy("ADD", value),
        }

    def apply(self, line: Line, where: str) -> None:
        """One instruction; ConfigError says what is wrong with it."""
        verb = line.instruction
        if verb in _PASSED_OVER:
            return
        if verb not in self._verbs:
            raise ConfigError(f"unknown instruction {verb}{nearest(verb, self._verbs)}")
        if not self.stages and verb not in ("FROM", "ARG"):
            raise _Stop(f"{verb} stands before FROM")
        self._line = line
        try:
            self._verbs[verb](line.value)
        except _NoBase as exc:
            self.base_problem = where, str(exc)

    @property
    def _variables(self) -> dict[str, str]:
        return {**self._args, **self._base_env, **self._env}

    def _from(self, value: str) -> None:
        if self.stages:
            raise _NextStage("a second FROM")
        words = value.split()
        while words and words[0].startswith("--"):
            _check_platform(expand(words.pop(0), self._global_args))
        if len(words) not in (1, 3) or (len(words) == 3 and words[1].upper() != "AS"):
            raise ConfigError(f"FROM {value!r} is not `FROM image` or `FROM image AS name`")
        self.stages += ["0", *words[2:]]
        try:
            self.base = find_base(expand(words[0], self._global_args), self.images)
        except ConfigError as exc:
            raise _NoBase(str(exc)) from exc
        setting = self._setting_of(self.base)
        self._base_env.update(setting.env)
        self._workdir = setting.workdir
        self._user = "" if setting.user == "root" else setting.user

    def _arg(self, value: str) -> None:
        for word in value.split() if "=" not in value else [value]:
            name = word.partition("=")[0].strip()
            if _PLATFORM_ARGS.fullmatch(name):
                raise NeedsDaemon(f"ARG {name}, which BuildKit sets")
            if name in self.build_args:
                self._declare([(name, self.build_args[name])])
            elif "=" in word:
                self._declare(pairs(word, self._variables if self.stages else self._global_args))
            elif self.stages and word in self._global_args:
                self._args[word] = self._global_args[word]

    def _declare(self, values: list[tuple[str, str]]) -> None:
        (self._args if self.stages else self._global_args).update(values)

    def _set_env(self, value: str) -> None:
        for key, text in pairs(value, self._variables):
            if not key:
                raise ConfigError(f"ENV {value!r} has a value without a name")
            self._env[key] = text
            self.steps.append(BuildStep(op="env", key=key, value=text))

    def _set_workdir(self, value: str) -> None:
        folder = expand(value.strip(), self._variables)
        if not folder:
            raise ConfigError(f"WORKDIR {value!r} comes to nothing")
        self._workdir = posixpath.normpath(posixpath.join(self._workdir, folder))
        self.steps.append(BuildStep(op="workdir", dest=self._workdir, owner=self._user))

    def _set_user(self, value: str) -> None:
        user = expand(value.strip(), self._variables)
        if not user or user.startswith(":"):
            raise ConfigError(f"USER {value!r}: use a user's name or number, or user:group")
        self._user = user
        self.steps.append(BuildStep(op="user", value=user))

    def _set_shell(self, value: str) -> None:
        self._shell = words_of(value)
        if not self._shell:
            raise ConfigError(f'SHELL {value!r} is not of the form ["program", "argument"]')

    def _on_build(self, value: str) -> None:
        raise NeedsDaemon("ONBUILD")

    def _run(self, value: str) -> None:
        hidden = {**self._base_env, **self._env}
        self.steps.append(
            run_step(
                value,
                self._line.heredocs,
                shell=self._shell,
                variables=self._variables,
                args={name: text for name, text in self._args.items() if name not in hidden},
            )
        )

    def _volume(self, value: str) -> None:
        for folder in _words(value, self._variables):
            dest = posixpath.normpath(posixpath.join(self._workdir, folder))
            self.steps.append(BuildStep(op="put", dest=dest, tree=Tree()))

    def _copy(self, verb: str, value: str) -> None:
        flags: dict[str, str] = {}
        rest = value.strip()
        while rest.startswith("--"):
            flag, _, rest = rest.partition(" ")
            name, _, setting = flag.removeprefix("--").partition("=")
            flags[name] = expand(setting, self._variables)
            rest = rest.strip()
        words = _words(rest, self._variables)
        if len(words) < 2:
            raise ConfigError(f"{verb} {value!r} needs a source and a destination")
        made = frozenset(folder for step in self.steps for folder in _folders(step))
        inline = {
            heredoc.name: heredoc.body
            if heredoc.literal
            else expand_body(heredoc.body, self._variables)
            for heredoc in self._line.heredocs
        }
        copy = Copy(verb, tuple(words[:-1]), words[-1], flags, self._workdir, made, inline)
        self.steps.append(copy_step(copy, self._context, self.hidden, self._budget))


def _folders(step: BuildStep) -> Iterator[str]:
    """The folders a step is known to make."""
    if step.dest:
        yield step.dest
    for entry in (step.tree or Tree()).entries:
        if entry.kind == "dir":
            yield posixpath.join(step.dest, entry.path)


def _check_platform(flag: str) -> None:
    """`FROM --platform=` is fine where it is this machine's own."""
    wanted = flag.removeprefix("--platform=")
    own = _ARCHITECTURES.get(platform.machine(), (platform.machine(),))
    if wanted not in {f"linux/{architecture}" for architecture in own}:
        raise ConfigError(f"FROM {flag}: this machine is linux/{own[0]}")


def _words(text: str, variables: Mapping[str, str]) -> list[str]:
    """The JSON form if it is one, else words at white space; each with variables put in."""
    return [expand(word, variables) for word in words_of(text) or text.split()]
