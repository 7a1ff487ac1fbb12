"""`export RUN format=sft|atif`: a run's trajectories as files for other programs."""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rollout import build
from rollout.commands.where import STORE_WORDS, place_of, read_words
from rollout.dataset.reader import RolloutDataset, open_dataset
from rollout.errors import ConfigError, StoreError
from rollout.report.render import show, text

USAGE = """\
python -m rollout export RUN format=sft [out=FILE] [min_reward=1.0] [store.uri=…]
python -m rollout export RUN format=atif [out=FOLDER] [store.uri=…]

RUN         a run's name below store.uri (default: runs), its folder, or s3://bucket/prefix/run
format      sft: one JSON line for each conversation to fine-tune on, with messages and tools, of
            rollouts with at least min_reward. atif: a JSON file for each rollout, as Harbor's
            viewer and traces tools read them
out         what is written, and must not be there yet; default: RUN-sft.jsonl or RUN-atif here
"""
FORMATS = ("sft", "atif")
KNOWN = ("format", "out", "min_reward", *STORE_WORDS)


def main(argv: Sequence[str]) -> int:
    if {"-h", "--help"} & set(argv):
        show(sys.stdout, text(USAGE))
        return 0
    words = read_words(argv, KNOWN, USAGE)
    kind = words.settings.get("format", "")
    if len(words.plain) != 1 or kind not in FORMATS:
        raise ConfigError(f"export takes a run, and format=sft or format=atif\n{USAGE}")
    least = _number(words.settings.get("min_reward", "1.0"))
    parent, name = place_of(words.plain[0], words.store)
    suffix = "sft.jsonl" if kind == "sft" else "atif"
    out = Path(words.settings.get("out") or f"{name}-{suffix}")
    if out.exists():
        raise ConfigError(f"out: {out} is there already; name another, or remove it")
    write: Callable[[RolloutDataset, Path], int]
    write = _write_atif if kind == "atif" else lambda data, path: _write_sft(data, path, least)
    try:
        with open_dataset(
            build.run_uri(parent, name),
            endpoint_url=words.store.endpoint_url,
            region=words.store.region,
        ) as data:
            count = write(data, out)
    except StoreError as exc:
        raise ConfigError(str(exc)) from exc
    what = "conversations" if kind == "sft" else "trajectories"
    show(sys.stdout, text(f"{count:,} {what} of {name} in {out}"))
    return 0


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        raise ConfigError(f"min_reward: {word!r} is no number") from None


def _write_sft(data: RolloutDataset, out: Path, min_reward: float) -> int:
    return _write_lines(data.to_sft(min_reward=min_reward), out)


def _write_lines(rows: Iterator[dict[str, Any]], out: Path) -> int:
    """Whole or not at all: under another name until the last line is written."""
    unfinished = out.with_name(f".{out.name}.unfinished")
    count = 0
    with unfinished.open("w", encoding="utf-8") as file:
        for row in rows:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    unfinished.replace(out)
    return count


def _write_atif(data: RolloutDataset, out: Path) -> int:
    out.mkdir(parents=True)
    count = 0
    for document in data.to_atif():
        path = out / f"{document['trajectory_id']}.json"
        path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")
        count += 1
    return count
