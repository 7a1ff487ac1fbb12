"""From `conf/` and the words of a command line to plain, checked dataclasses. The edge of Hydra.

A `Composed` is all that travels on: the run's own config, one config for each arm, and the form
in which it is saved beside the dataset, where `${oc.env:…}` stands unresolved.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, cast

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rollout import checks, plugins
from rollout.checks import nearest
from rollout.compose_errors import explain, known_keys
from rollout.config import Point, RunConf, Settings, arm_name
from rollout.errors import ConfigError

SWEPT_GROUPS = ("agent", "scorer", "model", "blueprint")
ARM_KEYS = (*SWEPT_GROUPS, "verifier", "timeouts", "budget")
"""What an arm may set for itself: these are saved for each arm."""

SWEPT_TIMEOUTS = ("timeouts.agent_override_s", "timeouts.multiplier")
PLUGIN_METHODS = {
    "task": "load",
    "agent": "run",
    "scorer": "score",
    "sampler": "choose",
    "learner": "learn",
}
Recompose = Callable[[Sequence[str]], DictConfig]


@dataclass(frozen=True, slots=True, kw_only=True)
class Composed:
    conf: RunConf
    points: tuple[Point, ...]
    saved: dict[str, Any]
    """Plain data, secrets unresolved; `restore` makes the same `Composed` of it."""


def conf_dir() -> Path:
    """The shipped configuration: inside an installed package, else the checkout's `conf/`."""
    packaged = Path(__file__).parent / "conf"
    return packaged if packaged.is_dir() else Path(__file__).parents[1] / "conf"


def register() -> None:
    """Tell Hydra the schema that `conf/config.yaml` names first."""
    ConfigStore.instance().store("run_schema", RunConf, provider="rollout")


def compose(overrides: Sequence[str], config_dir: str | None = None) -> Composed:
    """What a command line with these overrides means, without being one."""
    register()
    words = spelled_for_hydra(overrides)
    extra = [f"hydra.searchpath=[file://{Path(config_dir).resolve()}]"] if config_dir else []
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose_here([*words, *extra])


def compose_here(overrides: Sequence[str], config_name: str = "config") -> Composed:
    """The same where Hydra is already set up, as in a job of `@hydra.main`."""

    def recompose(words: Sequence[str]) -> DictConfig:
        return hydra.compose(config_name, list(words))

    with explained(overrides, recompose):
        cfg = recompose(overrides)
        _refuse_lists_of_groups(overrides)
        _name_after_experiment(cfg, overrides)
        refuse_unknown_keys(cfg)
        sweep = flat_sweep(OmegaConf.to_container(cfg.sweep) if "sweep" in cfg else {})
        _refuse_set_and_swept(overrides, sweep)
        arms = []
        for settings in _settings(sweep):
            with explained(overrides, recompose, settings):
                arms.append((settings, _arm_config(overrides, settings, recompose)))
                arms[-1][1].name = cfg.name
        return _composed(cfg, arms)


def composed_of(conf: RunConf) -> Composed:
    """A config made in Python. Its sweep may set keys; options of `conf/` need `compose`."""
    cfg = OmegaConf.structured(conf)
    sweep = flat_sweep(conf.sweep)
    groups = [key for key in sweep if "." not in key]
    if groups:
        raise ConfigError(f"sweep.{groups[0]}: names options of conf/; give overrides instead")
    with explained((), lambda words: cfg):
        refuse_unknown_keys(cfg)
        return _composed(
            cfg, [(settings, _with(cfg.copy(), settings)) for settings in _settings(sweep)]
        )


def diagnose(error: Exception, words: Sequence[str]) -> ConfigError:
    """What to tell when Hydra itself refused a command line."""

    def recompose(overrides: Sequence[str]) -> DictConfig:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose("config", list(overrides))

    overrides = [word for word in words if "=" in word and not word.startswith("-")]
    return ConfigError(explain(error, overrides, recompose))


def restore(saved: Mapping[str, Any]) -> Composed:
    """The run that a dataset's `run.json` tells of; environment variables are read anew."""
    schema = OmegaConf.structured(RunConf)
    try:
        cfg = cast(DictConfig, OmegaConf.merge(schema, saved["config"]))
        arms = [
            (
                tuple((key, value) for key, value in arm["settings"]),
                cast(DictConfig, OmegaConf.merge(schema, {**saved["config"], **arm["config"]})),
            )
            for arm in saved["arms"]
        ]
        return _composed(cfg, arms)
    except (OmegaConfBaseException, KeyError, TypeError) as exc:
        raise ConfigError(f"the saved config does not fit this version: {exc}") from exc


def spelled_for_hydra(overrides: Sequence[str]) -> list[str]:
    """Let people write map keys plainly: `+task.images.my:tag=host`, `sweep.agent=[a,b]`."""
    return [_spelled(word) for word in overrides]


_IMAGES = r"task\.images|blueprint\.dockerfile\.images"
_OPEN_MAPS = r"sweep\.|(?:model\.headers|blueprint\.(?:env|secrets|dockerfile\.args))(?=[.=])"
"""Where any key may stand, which to Hydra is one to be added."""


def _spelled(word: str) -> str:
    image = re.match(rf"\+{{0,2}}({_IMAGES})\.(['\"]?)([^={{]+)\2=(.*)", word, re.DOTALL)
    if image:
        name = re.sub(r"([\\(){}\[\]:=, \t])", r"\\\1", image[3])
        return f"++{image[1]}={{{name}:{image[4]}}}"
    if re.fullmatch(r"sweep=(\{\s*\}|null)?", word):
        return "~sweep"  # to Hydra, merging an empty map changes nothing
    return re.sub(rf"^\+{{0,2}}({_OPEN_MAPS})", r"++\1", word)


def read_yaml(path: Path) -> Any:
    """A YAML file outside of `conf/`; ConfigError when it is missing or no YAML."""
    try:
        return yaml.safe_load(path.read_text()) or {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as exc:
        raise ConfigError(f"{path}: {exc}") from exc


def write_yaml(path: Path, comment: str, words: Mapping[str, Any]) -> None:
    """A new YAML file with a comment on top; ConfigError where one is there already."""
    text = "".join(f"# {line}\n" for line in comment.splitlines())
    text += yaml.safe_dump(dict(words), sort_keys=False, allow_unicode=True, width=100)
    try:
        with path.open("x") as file:
            file.write(text)
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror}") from exc


# ---------------------------------------------------------------- the sweep


def flat_sweep(sweep: Any) -> dict[str, list[Any]]:
    """`{agent: {temperature: […]}}` and `{"agent.temperature": […]}` are the same key."""
    flat: dict[str, list[Any]] = {}
    for key, values in _leaves(sweep):
        if key in flat:
            raise ConfigError(f"sweep.{key}: given twice, as a dotted and as a nested key")
        if not isinstance(values, list) or not values:
            raise ConfigError(f"sweep.{key}: must be a list of values, was {values!r}")
        if len({str(value) for value in values}) < len(values):
            raise ConfigError(f"sweep.{key}: the same value twice in {values!r}")
        _check_sweep_key(key, values)
        flat[key] = values
    return flat


def _leaves(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _check_sweep_key(key: str, values: list[Any]) -> None:
    root, _, below = key.partition(".")
    if not below and root in SWEPT_GROUPS:
        for value in values:
            if not isinstance(value, str):
                raise ConfigError(f"sweep.{key}: names options of conf/{key}, was {value!r}")
        return
    if (below and root in (*SWEPT_GROUPS, "verifier", "budget")) or key in SWEPT_TIMEOUTS:
        return
    known = [*SWEPT_GROUPS, "verifier.mode", "verifier.trust", *SWEPT_TIMEOUTS]
    hint = nearest(key, known) or f"; what can: {', '.join(known)} and keys below {SWEPT_GROUPS}"
    raise ConfigError(f"sweep.{key}: cannot differ between the arms of one run{hint}")


def _settings(sweep: Mapping[str, list[Any]]) -> list[Settings]:
    """Every combination, the last key changing fastest; one empty setting without a sweep."""
    return [tuple(zip(sweep, values, strict=True)) for values in itertools.product(*sweep.values())]


def _arm_config(overrides: Sequence[str], settings: Settings, recompose: Recompose) -> DictConfig:
    groups = [f"{key}={value}" for key, value in settings if "." not in key]
    return _with(recompose([*overrides, *groups]), settings)


def _with(cfg: DictConfig, settings: Settings) -> DictConfig:
    for key, value in settings:
        if "." in key:
            # What a `_target_` takes and its file leaves out may be swept over too.
            part, _, name = key.rpartition(".")
            OmegaConf.update(cfg, key, value, force_add=name in known_keys(cfg, part))
    return cfg


def _refuse_lists_of_groups(overrides: Sequence[str]) -> None:
    for word in overrides:
        found = re.match(r"\+?(\w+)=(\[.*\])$", word)
        if found and (conf_dir() / found[1]).is_dir():
            hint = f"+sweep.{found[1]}={found[2]} makes arms of them"
            raise ConfigError(f"{found[1]}: one option can be chosen, was {found[2]}; {hint}")


def _refuse_set_and_swept(overrides: Sequence[str], sweep: Mapping[str, list[Any]]) -> None:
    for word in overrides:
        key = word.lstrip("+").partition("=")[0]
        if key in sweep:
            raise ConfigError(
                f"{key}: set by {word} and swept over {sweep[key]}; "
                f"write sweep.{key}=[…] for other arms, or '~sweep.{key}' for none"
            )


# ---------------------------------------------------------------- checks


def refuse_unknown_keys(cfg: DictConfig) -> None:
    """`+experimnt=x` is a new key to Hydra; here it is a misspelling. All of them in one error."""
    unknown = list(_unknown(cfg, ""))
    if unknown:
        raise ConfigError("\n".join(unknown))


def _unknown(cfg: DictConfig, prefix: str) -> Iterator[str]:
    schema = OmegaConf.get_type(cfg)
    names = [item.name for item in fields(cast(Any, schema))]
    groups = ["experiment"] if not prefix else []
    for key in map(str, cfg):
        if key not in names:
            hint = nearest(key, [*names, *groups])
            hint = hint.replace('"experiment"', '"+experiment=…"')
            yield f"{prefix}{key}: unknown key{hint or '; known: ' + ', '.join(names)}"
        elif not OmegaConf.is_missing(cfg, key) and not OmegaConf.is_interpolation(cfg, key):
            child = cfg._get_node(key)
            if isinstance(child, DictConfig) and OmegaConf.get_type(child) not in (dict, None):
                yield from _unknown(child, f"{prefix}{key}.")


def _composed(cfg: DictConfig, arms: list[tuple[Settings, DictConfig]]) -> Composed:
    for _, arm in arms:
        _refuse_missing(arm)
        _refuse_secrets(arm)
    points = tuple(
        Point(settings=settings, conf=cast(RunConf, OmegaConf.to_object(arm)))
        for settings, arm in arms
    )
    conf = points[0].conf  # arms differ only below ARM_KEYS, which nobody reads from here
    _refuse_bad_values(conf, points)
    return Composed(conf=conf, points=points, saved=_saved(cfg, arms))


def _refuse_missing(cfg: DictConfig) -> None:
    missing = sorted(OmegaConf.missing_keys(cfg))
    if missing:
        raise ConfigError("\n".join(f"{key}: must be given, {key}=…" for key in missing))


def _refuse_secrets(cfg: DictConfig) -> None:
    """Arms and tasks are recorded with the dataset as they are: no variable's value may be in."""
    for root in ("task", "agent", "scorer", "model", "blueprint", "sweep"):
        for key, value in _leaves(OmegaConf.to_container(cfg[root]) if root in cfg else {}):
            if "${oc.env" in str(value):
                raise ConfigError(
                    f"{root}.{key}: {value} would be saved with the dataset; "
                    "name the variable, without ${oc.env:…}, where a key takes a variable's name"
                )


def _refuse_bad_values(conf: RunConf, points: Sequence[Point]) -> None:
    wrong = checks.problems(conf)
    wrong += plugins.problems("task", conf.task, PLUGIN_METHODS["task"])
    for kind in ("sampler", "learner"):
        if node := getattr(conf, kind):
            wrong += plugins.problems(kind, node, PLUGIN_METHODS[kind])
    for point in points:
        wrong += checks.problems(point.conf)
        for kind in ("agent", "scorer"):
            node = getattr(point.conf, kind)
            wrong += plugins.problems(kind, node, PLUGIN_METHODS[kind])
    if wrong:
        raise ConfigError("\n".join(dict.fromkeys(wrong)))


def _name_after_experiment(cfg: DictConfig, overrides: Sequence[str]) -> None:
    """An experiment that names no run lends it its own name."""
    chosen = [word.partition("=")[2] for word in overrides if re.match(r"\+?experiment=", word)]
    if chosen and cfg.name == RunConf().name:
        cfg.name = chosen[-1].rpartition("/")[2]


def _saved(cfg: DictConfig, arms: list[tuple[Settings, DictConfig]]) -> dict[str, Any]:
    return {
        "config": _plain(cfg),
        "arms": [
            {"settings": [list(pair) for pair in settings], "config": _plain(arm, ARM_KEYS)}
            for settings, arm in arms
        ],
    }


def _plain(cfg: DictConfig, keys: Sequence[str] = ()) -> dict[str, Any]:
    plain = cast(dict[str, Any], OmegaConf.to_container(cfg, resolve=False))
    return {key: value for key, value in plain.items() if not keys or key in keys}


@contextmanager
def explained(
    overrides: Sequence[str], recompose: Recompose, settings: Settings = ()
) -> Iterator[None]:
    """What Hydra or OmegaConf refuse inside comes out as one ConfigError."""
    try:
        yield
    except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as exc:
        where = f"arm {arm_name(settings)}: " if settings else ""
        raise ConfigError(where + explain(exc, overrides, recompose)) from exc
