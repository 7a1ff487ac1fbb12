"""Merge the three configurations."""

import json
from functools import reduce
from pathlib import Path


def merge(under, over):
    merged = dict(under)
    for key, value in over.items():
        if value is None:
            merged.pop(key, None)
        elif isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        else:
            merged[key] = value
    return merged


names = ("base", "site", "local")
files = [json.loads(Path(f"/app/conf/{name}.json").read_text("utf-8")) for name in names]
text = json.dumps(reduce(merge, files), indent=2, sort_keys=True, ensure_ascii=False)
Path("/app/merged.json").write_text(text + "\n", "utf-8")
