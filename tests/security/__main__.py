"""`make security`: the matrix of this machine. With `--all` every probe by name.

Exit code 1 when anything is not as the engines declare it.
"""

import sys
import tempfile
from pathlib import Path

from rollout.sandbox.walls import WALLS
from tests.security.matrix import (
    ALL,
    OPEN,
    UNSHOWN,
    deviations,
    each_table,
    found_table,
    status,
)
from tests.security.probes.table import ABSENT
from tests.security.survey import survey


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="rollout-security-") as folder:
        Path(folder).chmod(0o755)
        shipped, weak = survey(Path(folder))
    print((each_table if "--all" in sys.argv else found_table)(shipped))
    for mode in WALLS.keys() - shipped.keys():
        print(f"\n{mode}: not run: this machine or this user cannot")
    for mode, found in shipped.items():
        for name in ALL:
            if status(found, mode, name) == OPEN:
                print(f"\nopen on {mode}: {name}: {found[name][1]}")
    for mode, found in weak.items():
        names = [name for name in ALL if status(found, mode, name) == OPEN]
        unshown = UNSHOWN.get(mode, {})
        absent = sorted(name for name in found if found[name][0] == ABSENT and name not in unshown)
        print(f"\nweakened {mode}: {len(names)} of {len(ALL)} get out, as they should", end="")
        print(f"; this kernel has nothing to show for {', '.join(absent)}")
        for name, why in unshown.items():
            if status(found, mode, name) != OPEN:
                print(f"  not shown: {name}: {why}")
    wrong = deviations(shipped)
    print("\n".join(["", *wrong]) if wrong else "\nas declared")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
