"""`compact RUN`: fewer, larger parts, the same rows."""

import sys
from collections.abc import Sequence

from rollout import build
from rollout.commands.where import one_run, place_of
from rollout.dataset.compaction import compact
from rollout.dataset.reader import open_dataset
from rollout.errors import ConfigError, StoreError
from rollout.report.render import show, text

TARGET_MB = 64.0
USAGE = f"""\
python -m rollout compact RUN [target_mb={TARGET_MB:g}]
                              [store.uri=…] [store.endpoint_url=…] [store.region=…]

RUN        a finished run: its name below store.uri (default: runs), its folder, or
           s3://bucket/prefix/run
target_mb  parts are merged while they fit into so much, as they are stored

Rows, their order and the cursors of readers stay as they are; readers may go on meanwhile.
"""


def main(argv: Sequence[str]) -> int:
    words = one_run("compact", argv, ("target_mb",), USAGE)
    if words is None:
        return 0
    target_bytes = int(_megabytes(words.settings.get("target_mb", str(TARGET_MB))) * 2**20)
    store = words.store
    uri = build.run_uri(*place_of(words.plain[0], store))
    try:
        with open_dataset(uri, endpoint_url=store.endpoint_url, region=store.region) as dataset:
            done = compact(dataset.store, target_bytes=target_bytes, owner="compact")
    except StoreError as exc:
        raise ConfigError(str(exc)) from exc
    told = f"{done.before} parts became {done.after}, {done.bytes / 2**20:.1f} MB"
    show(sys.stdout, text(f"{uri}: {told}"))
    return 0


def _megabytes(word: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = 0.0
    if not 0 < value <= 4096:
        raise ConfigError(f"target_mb: must be a number of MB above 0, at most 4096, was {word!r}")
    return value
