"""Titles for addresses."""

import re
import unicodedata


def slug(title, limit=60):
    """The title in a form fit for an address."""
    plain = unicodedata.normalize("NFKD", title.casefold())
    plain = "".join(char for char in plain if not unicodedata.combining(char))
    plain = unicodedata.normalize("NFKC", plain).casefold()
    plain = re.sub(r"(?<=[^\W\d_])['\u2019](?=[^\W\d_])", "", plain)
    whole = "-".join(re.findall(r"[^\W_]+", plain)) or "untitled"
    if len(whole) <= limit:
        return whole
    cut = whole[: limit + 1].rfind("-")
    return whole[:cut] if cut > 0 else whole[:limit]
