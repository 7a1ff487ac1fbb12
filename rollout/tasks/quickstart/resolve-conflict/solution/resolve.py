"""Resolve the conflicts: ours first, then what only theirs sets."""

from pathlib import Path

FILE = Path("/app/service.conf")
MARKS = {"<<<<<<<": "ours", "|||||||": "base", "=======": "theirs", ">>>>>>>": ""}


def key(line):
    return line.partition("=")[0].strip()


side, ours, theirs, out = "", [], [], []
for line in FILE.read_text().splitlines():
    mark = line[:7]
    if mark in MARKS:
        side = MARKS[mark]
        if not side:
            known = {key(kept) for kept in ours}
            out += ours + [added for added in theirs if key(added) not in known]
            ours, theirs = [], []
    elif side:
        {"ours": ours, "base": [], "theirs": theirs}[side].append(line)
    else:
        out.append(line)
FILE.write_text("\n".join(out) + "\n")
