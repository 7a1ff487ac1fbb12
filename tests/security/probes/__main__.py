"""Inside a sandbox: try the probes named, print how each went as one JSON object.

stdin: {"probes": [name…], "facts": {…}}
"""

import json
import os
import sys
from pathlib import Path


def inherited() -> dict[str, str]:
    """What this process was started with beyond stdin, stdout and stderr: descriptor, target."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        if int(name) > 2 and (link := Path("/proc/self/fd", name)).is_symlink():
            found[name] = str(link.readlink())
    return found


def main() -> None:
    descriptors = inherited()  # before this process opens any itself
    from tests.security.probes.table import PROBES, attempt

    asked = json.load(sys.stdin)
    facts = {**asked["facts"], "descriptors": descriptors}
    results = {name: attempt(PROBES[name], facts) for name in asked["probes"]}
    json.dump(results, sys.stdout)


if __name__ == "__main__":
    main()
