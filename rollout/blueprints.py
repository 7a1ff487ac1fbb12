"""From the names of images that others use to the bases this machine has."""

from collections.abc import Mapping
from fnmatch import fnmatchcase

from rollout.errors import ConfigError

HOST = "host"


def find_base(image: str, images: Mapping[str, str]) -> str:
    """The base that stands for `image`: exact names first, then globs, in the map's order.

    `docker.io/library/python:3.11-slim` and `python:3.11-slim` are one name, and no tag means
    `latest`, as for Docker. `host` stands for itself. ConfigError shows the line to add.
    """
    name = image_name(image)
    for known, base in images.items():
        if image_name(known) == name:
            return base
    for known, base in images.items():
        if fnmatchcase(name, known):
            return base
    if image == HOST:
        return HOST
    raise ConfigError(
        f"no base is known for the image {image!r}; "
        f'add to task.images: {{"{image}": {HOST}}} or another base'
    )


def image_name(image: str) -> str:
    """The short spelling of an image's name, always with a tag or digest."""
    name = image.removeprefix("docker.io/").removeprefix("library/")
    if "@" in name or ":" in name.rpartition("/")[2]:
        return name
    return f"{name}:latest"


def check_images(images: Mapping[str, str]) -> dict[str, str]:
    """The map as a plain dict; ConfigError when it is not name to base."""
    for image, base in images.items():
        if not isinstance(base, str) or not base:
            raise ConfigError(f"task.images: {image!r} is mapped to {base!r}; use a base's name")
    return {str(image): base for image, base in images.items()}
