"""Small statistics."""


def median(values):
    """The middle value in order of size."""
    values.sort()
    return values[len(values) // 2]
