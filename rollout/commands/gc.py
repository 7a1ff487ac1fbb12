"""`gc RUN`: remove what kills left in a run's folder and no row or commit names."""

import sys
from collections.abc import Sequence

from rollout import build
from rollout.commands.where import one_run, place_of, switch
from rollout.dataset.litter import litter
from rollout.dataset.reader import open_dataset
from rollout.errors import ConfigError, StoreError
from rollout.report.render import show, text

USAGE = """\
python -m rollout gc RUN [dry_run=true] [store.uri=…] [store.endpoint_url=…] [store.region=…]

RUN      a run's name below store.uri (default: runs), its folder, or s3://bucket/prefix/run
dry_run  only list what would go

Parts that no commit names and artifacts that no row names. A run may be at work meanwhile: what it
may still name is left alone, and so is everything whose name is not spelt as ours.
"""


def main(argv: Sequence[str]) -> int:
    words = one_run("gc", argv, ("dry_run",), USAGE)
    if words is None:
        return 0
    dry, store = switch(words, "dry_run"), words.store
    uri = build.run_uri(*place_of(words.plain[0], store))
    try:
        with open_dataset(uri, endpoint_url=store.endpoint_url, region=store.region) as dataset:
            found = litter(dataset)
            for path in found:
                if dry:
                    show(sys.stdout, text(path))
                else:
                    dataset.store.delete(path)
    except StoreError as exc:
        raise ConfigError(str(exc)) from exc
    would = "would be" if dry else "are"
    show(sys.stdout, text(f"{uri}: {len(found)} objects {would} removed"))
    return 0
