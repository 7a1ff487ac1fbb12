"""How verbs name a run: `RUN` and the few `store.…=` words that say where it is."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rollout.checks import nearest
from rollout.config import StoreConf
from rollout.errors import ConfigError
from rollout.report.render import show, text

STORE_WORDS = ("store.uri", "store.endpoint_url", "store.region")


@dataclass(frozen=True, slots=True, kw_only=True)
class Words:
    """A verb's command line, taken apart."""

    plain: tuple[str, ...]
    settings: dict[str, str]
    """`key=value` words."""

    @property
    def store(self) -> StoreConf:
        default = StoreConf()
        return StoreConf(
            uri=self.settings.get("store.uri", default.uri),
            endpoint_url=self.settings.get("store.endpoint_url"),
            region=self.settings.get("store.region"),
        )


def one_run(verb: str, argv: Sequence[str], known: Sequence[str], usage: str) -> Words | None:
    """The words of a verb that takes one run; None when only help was asked for, which is shown."""
    if {"-h", "--help"} & set(argv):
        show(sys.stdout, text(usage))
        return None
    words = read_words(argv, (*known, *STORE_WORDS), usage)
    if len(words.plain) != 1:
        raise ConfigError(f"{verb} takes one run\n{usage}")
    return words


def switch(words: Words, name: str) -> bool:
    """A setting that is `true` or `false`, which it is unless said."""
    value = words.settings.get(name, "false")
    if value not in ("true", "false"):
        raise ConfigError(f"{name}: must be true or false, was {value!r}")
    return value == "true"


def read_words(argv: Sequence[str], known: Sequence[str], usage: str) -> Words:
    """Positional words and `key=value` ones; ConfigError for a key that is not known."""
    plain = tuple(word for word in argv if "=" not in word)
    settings = dict(word.split("=", 1) for word in argv if "=" in word)
    flags = [word for word in plain if word.startswith("-")]
    unknown = [key for key in settings if key not in known]
    if flags or unknown:
        word = [*flags, *unknown][0]
        raise ConfigError(f"{word}: unknown{nearest(word, tuple(known))}\n{usage}")
    return Words(plain=plain, settings=settings)


def place_of(run: str, store: StoreConf) -> tuple[str, str]:
    """Parent and name of the run's root: a URI, a path, or a name below `store.uri`."""
    if "://" in run:
        parent, _, name = run.rstrip("/").rpartition("/")
        return parent, name
    path = Path(run).expanduser()
    if len(path.parts) > 1 or (path / "run.json").exists():
        return str(path.resolve().parent), path.resolve().name
    return store.uri, run
