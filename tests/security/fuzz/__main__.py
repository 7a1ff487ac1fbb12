"""`make fuzz`: coverage-guided, for FUZZ_S seconds a target, from a corpus that grows.

    python -m tests.security.fuzz TARGET FOLDER [libFuzzer's own options]

Needs atheris. The corpus is in FOLDER/TARGET; what makes a target fail is kept beside it.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["rollout", "tarfile"]):
    from tests.security.fuzz.targets import TARGETS, seeds


def main() -> None:
    name, folder, *options = sys.argv[1:]
    corpus = Path(folder, name)
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(seeds()[name]):
        (corpus / f"seed-{number}").write_bytes(seed)
    flags = ["-max_len=8192", f"-artifact_prefix={folder}/{name}-", "-print_final_stats=1"]
    atheris.Setup([sys.argv[0], str(corpus), *flags, *options], TARGETS[name])
    atheris.Fuzz()


if __name__ == "__main__":
    main()
