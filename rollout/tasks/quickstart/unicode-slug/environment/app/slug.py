"""Titles for addresses."""


def slug(title, limit=60):
    """The title in a form fit for an address."""
    return title.lower().replace(" ", "-")[:limit]
