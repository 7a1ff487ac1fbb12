"""What Hydra and OmegaConf refuse, said in one or two lines that name the key and the way out."""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import fields, is_dataclass
from typing import Any, cast

from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rollout.checks import nearest
from rollout.config import RunConf
from rollout.plugins import arguments

Recompose = Callable[[Sequence[str]], DictConfig]
NUMBERS = {"Integer": "a whole number", "Float": "a number", "Boolean": "true or false"}


def explain(
    error: Exception,
    overrides: Sequence[str] = (),
    recompose: Recompose | None = None,
) -> str:
    """One message for one refusal; `recompose` lets it look up which keys there are."""
    if isinstance(error, MissingConfigException):
        return _no_such_option(error)
    if isinstance(error, OverrideParseException):
        why = "" if "=" not in error.override else f": {_first_line(error)}"
        return f"{error.override!r} cannot be read as key=value{why}"
    if isinstance(error, OmegaConfBaseException):
        return _bad_value(error, overrides, recompose)
    if isinstance(error, ConfigCompositionException):
        return _bad_override(error, overrides, recompose)
    below_a_list = re.match(r"invalid literal for int\(\) with base 10: '(.+)'", str(error))
    if below_a_list:
        return _below_a_list(below_a_list[1], overrides)
    return _first_line(error)


def _below_a_list(name: str, overrides: Sequence[str]) -> str:
    """A list takes numbers for keys, so OmegaConf tried to read one."""
    word = next((word.lstrip("+") for word in overrides if f".{name}=" in word), name)
    parent = word.partition("=")[0].removesuffix(f".{name}")
    return f"{parent}: is a list and has no key {name!r}; take it away first: '~{parent}' '+{word}'"


def _no_such_option(error: MissingConfigException) -> str:
    missing, options = error.missing_cfg_file, list(error.options or ())
    if not missing or not options:
        return _first_line(error)
    group, _, name = missing.rpartition("/")
    hint = nearest(name, options)
    return f"{group}: there is no {name!r}{hint or ''}; there are: {', '.join(options)}".replace(
        "?;", "?"
    )


def _bad_override(
    error: ConfigCompositionException,
    overrides: Sequence[str],
    recompose: Recompose | None,
) -> str:
    text, cause = str(error), error.__cause__ or error.__context__
    unmatched = re.match(r"Could not override '([^']+)'", text)
    if unmatched and "defaults list" in text:
        key = unmatched[1]
        if key == "experiment":
            wanted = re.search(r"\+experiment=\S+", text)
            return f"experiment: is added with a plus: {wanted[0] if wanted else '+experiment=…'}"
        return f"{key}: unknown group{nearest(key, _groups())}"
    if unmatched:
        full = getattr(cause, "full_key", None) or unmatched[1]
        return _unknown_key(str(full), overrides, recompose)
    doubled = re.search(r"An item is already at '([^']+)'", text)
    if doubled:
        return f"{doubled[1]}: is there already, write it without the plus: {doubled[1]}=…"
    ambiguous = re.match(r"Ambiguous value for argument '([^=]+)=(.*)'", text)
    if ambiguous:
        key, value = ambiguous.groups()
        return (
            f"{key}: {value!r} is several values; quote it for one text, [{value}] is a list, "
            f"sweep.{key}=[{value}] makes arms where {key} may be swept, --multirun makes runs"
        )
    if isinstance(cause, OmegaConfBaseException):
        found = re.match(r"In '([^']+)':", text)
        where = f"conf {found[1]}: " if found else ""
        return where + _bad_value(cause, overrides, recompose)
    return _first_line(error)


def _unknown_key(
    key: str,
    overrides: Sequence[str],
    recompose: Recompose | None,
) -> str:
    """Look up what stands beside the unknown key in the config without the words that name it."""
    parent, _, name = key.rpartition(".")
    others = [word for word in overrides if not _sets(word, key)]
    cfg: DictConfig = OmegaConf.structured(RunConf)
    if recompose is not None:
        with suppress(HydraException, OmegaConfBaseException):  # the schema is hint enough
            cfg = recompose(others)
    known = known_keys(cfg, parent)
    if not known:
        return f"{key}: unknown key"
    return f"{key}: unknown key{nearest(name, known) or '; known: ' + ', '.join(known)}"


def _sets(word: str, key: str) -> bool:
    own, _, value = word.lstrip("+~").partition("=")
    return own == key or (key.startswith(f"{own}.") and value.startswith("{"))


def known_keys(cfg: DictConfig, path: str) -> list[str]:
    """The keys that may stand below `path`: the schema's, or the arguments of its `_target_`."""
    node = OmegaConf.select(cfg, path) if path else cfg
    if not isinstance(node, DictConfig):
        return []
    schema = OmegaConf.get_type(node)
    if is_dataclass(schema):
        return [item.name for item in fields(schema)]
    plain = cast(dict[str, Any], OmegaConf.to_container(node))
    return list(dict.fromkeys([*map(str, plain), *arguments(plain)]))


def _bad_value(
    error: OmegaConfBaseException,
    overrides: Sequence[str],
    recompose: Recompose | None,
) -> str:
    key, line = error.full_key or "", _first_line(error)
    if re.match(r"Key '[^']+' (?:not in '\w+'|is not in struct)", line):
        return _unknown_key(key, overrides, recompose)
    found = re.match(r"Value '(.*)' of type '(\w+)' could not be converted to (\w+)", line)
    if found:
        line = f"must be {NUMBERS.get(found[3], found[3])}, was {found[1]!r}"
    line = re.sub(r"^Cannot merge DictConfig with \w+", "must be a map of keys and values", line)
    return f"{key}: {line}" if key and not line.startswith(key) else line


def _groups() -> list[str]:
    return [item.name for item in fields(RunConf)] + ["experiment"]


def _first_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
