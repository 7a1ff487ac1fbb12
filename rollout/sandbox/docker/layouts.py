"""An OCI layout as the archive that every daemon loads, for older ones know no other.

The daemon holds each layer to the digest that the image's config names.
"""

import io
import json
import os
import tarfile
from pathlib import Path
from typing import IO

from rollout.sandbox.oci import opened, read_image

CONFIG = "config.json"


def pack_layout(folder: Path, target: IO[bytes]) -> None:
    """Write the one image for this machine in `folder`; `target` is rewound. Blocks.

    ConfigError says what is wrong with the folder.
    """
    image = read_image(folder)
    names = [f"{number}/layer.tar" for number in range(len(image.layers))]
    manifest = [{"Config": CONFIG, "RepoTags": None, "Layers": names}]
    with tarfile.open(fileobj=target, mode="w") as tar:
        _add(tar, "manifest.json", io.BytesIO(json.dumps(manifest).encode()))
        _add(tar, CONFIG, io.BytesIO(image.config))
        for name, blob in zip(names, image.layers, strict=True):
            with opened(folder, blob.name) as layer:
                _add(tar, name, layer)
    target.seek(0)


def _add(tar: tarfile.TarFile, name: str, content: IO[bytes]) -> None:
    info = tarfile.TarInfo(name)
    info.size = content.seek(0, os.SEEK_END)
    content.seek(0)
    tar.addfile(info, content)
