"""`rescore RUN scorer=…`: score what the agents of a run left, without running them again."""

import copy
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rollout import build
from rollout.commands.retry import saved_run
from rollout.commands.run import run
from rollout.commands.where import place_of, read_words
from rollout.compose import Composed, compose, restore
from rollout.config import StoreConf
from rollout.errors import ConfigError
from rollout.report.render import show, text

USAGE = """\
python -m rollout rescore RUN scorer=NAME [scorer.KEY=… …] [name=NEW] [key=value …]

A new run that scores what the agents of RUN left, as a scorer of today sees it. It has a row for
each rollout whose files were kept (keep_on=[all], or the outcomes you care for), with what was said
then, the new reward, and the rollout it comes of in `extra`. No agent runs and no model of an agent
is asked. Starting it again does what is missing. In mode shared what was kept includes what the
first scorer did.

RUN          a run's name below store.uri (default: runs), its folder, or s3://bucket/prefix/run
scorer=NAME  an option of conf/scorer, with its keys; left out: the run's own, as the tasks are now
name=NEW     default: RUN-rescored
key=value    of scorer, verifier, timeouts, retry, executor, pool, engine; all else is as RUN had
             it, and store.uri= store.endpoint_url= store.region= say where both runs are
--config-dir DIR  a folder with more options
"""
OF_ARMS = ("scorer", "verifier", "timeouts")
CHANGED = (*OF_ARMS, "retry", "executor", "pool", "engine", "store")
"""What a run that scores again may have of its own."""


def main(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        show(sys.stdout, text(USAGE))
        return 0
    argv, config_dir = _config_dir(argv)
    roots = [word for word in argv if word.lstrip("+~").partition("=")[0].split(".")[0] in CHANGED]
    words = read_words(
        [word for word in argv if word not in roots or word.startswith("store.")],
        ("name", "dry_run", "store.uri", "store.endpoint_url", "store.region"),
        USAGE,
    )
    if len(words.plain) != 1:
        raise ConfigError(f"rescore takes one run\n{USAGE}")
    parent, name = place_of(words.plain[0], words.store)
    composed = rescoring(
        saved_run(parent, name, words.store),
        parent,
        words.settings.get("name", f"{name}-rescored"),
        [word for word in roots if not word.startswith("store.")],
        words.store,
        config_dir,
    )
    composed.conf.dry_run = words.settings.get("dry_run", "false").lower() == "true"
    return run(composed)


def rescoring(
    source: Composed,
    parent: str,
    name: str,
    overrides: Sequence[str],
    store: StoreConf,
    config_dir: str | None = None,
) -> Composed:
    """The source's own config, with what is asked for otherwise laid over it."""
    conf = source.conf
    if conf.rescore.uri is not None:
        raise ConfigError(f"rescore: {conf.name} scores {conf.rescore.uri} again; name that one")
    if name == conf.name:
        raise ConfigError(f"name: {name!r} is the run that is scored again; choose another")
    swept = {key for point in source.points for key, _ in point.settings if _root(key) == "scorer"}
    if swept and any(_root(word) == "scorer" for word in overrides):
        raise ConfigError(f"scorer: {conf.name} sweeps over {', '.join(swept)}; leave scorer out")
    saved = copy.deepcopy(source.saved)
    # What these words mean on their own: the tasks and the agent stay the source's.
    asked = compose(["task=quickstart", "agent=nop", *overrides], config_dir).saved["config"]
    for node in (saved["config"], *(arm["config"] for arm in saved["arms"])):
        _lay(node, asked, overrides)
    saved["config"]["keep_on"] = []
    saved["config"]["name"] = name
    saved["config"]["rescore"] = {
        "uri": build.run_uri(parent, conf.name),
        "endpoint_url": conf.store.endpoint_url,
        "region": conf.store.region,
    }
    made = restore(saved)
    for each in (made.conf, *(point.conf for point in made.points)):
        each.store.uri = parent
        each.store.endpoint_url = store.endpoint_url or each.store.endpoint_url
        each.store.region = store.region or each.store.region
    return made


def _lay(node: dict[str, Any], asked: Mapping[str, Any], overrides: Sequence[str]) -> None:
    """What `overrides` name goes from `asked` over `node`; a scorer does as a whole."""
    for word in overrides:
        key = word.lstrip("+~").partition("=")[0]
        root, _, below = key.partition(".")
        if root not in node:
            continue
        if root == "scorer" or not below:
            node[root] = asked[root]
        else:
            into, value = node[root], asked[root]
            *path, last = below.split(".")
            for part in path:
                into, value = into[part], value[part]
            into[last] = value[last]


def _root(word: str) -> str:
    return word.lstrip("+~").partition("=")[0].split(".")[0]


def _config_dir(argv: Sequence[str]) -> tuple[list[str], str | None]:
    words, found = [], None
    rest = iter(argv)
    for word in rest:
        name, equals, value = word.partition("=")
        if name != "--config-dir":
            words.append(word)
            continue
        found = value if equals else next(rest, "")
        if not found:
            raise ConfigError(f"--config-dir: must be followed by a folder\n{USAGE}")
    return words, found
