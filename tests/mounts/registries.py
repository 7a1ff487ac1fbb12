"""A PyPI index and an npm registry of one package each, for the real clients on 127.0.0.1."""

import base64
import hashlib
import io
import json
import tarfile
import threading
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote

NAME = "tell-agent"
MODULE = "tell_agent"
PROGRAM = "import sys\n\n\ndef main():\n    print('tell-agent', {version!r}, *sys.argv[1:])\n"
SCRIPT = "#!/usr/bin/env node\nconsole.log('tell-agent', {version!r}, ...process.argv.slice(2))\n"
BACKEND = '''\
"""A build backend that needs nothing."""
import zipfile


def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "{wheel}"
    with zipfile.ZipFile(f"{{folder}}/{{name}}", "w") as wheel:
        for path, text in {files!r}.items():
            wheel.writestr(path, text)
    return name
'''


def npm_files(version: str) -> dict[str, str]:
    description = {"name": NAME, "version": version, "bin": {NAME: "bin/tell.js"}}
    return {"package.json": json.dumps(description), "bin/tell.js": SCRIPT.format(version=version)}


def pip_files(version: str) -> dict[str, str]:
    """A project that is built without anything from outside."""
    backend = BACKEND.format(wheel=wheel_name(version), files=wheel_files(version))
    project = (
        f'[project]\nname = "{NAME}"\nversion = "{version}"\n'
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    )
    return {"pyproject.toml": project, "backend.py": backend}


def wheel_name(version: str) -> str:
    return f"{MODULE}-{version}-py3-none-any.whl"


def wheel_files(version: str) -> dict[str, str]:
    info = f"{MODULE}-{version}.dist-info"
    return {
        f"{MODULE}.py": PROGRAM.format(version=version),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {NAME}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        f"{info}/entry_points.txt": f"[console_scripts]\n{NAME} = {MODULE}:main\n",
        f"{info}/RECORD": "",
    }


def wheel(version: str) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for path, text in wheel_files(version).items():
            archive.writestr(path, text)
    return file.getvalue()


def tarball(files: Mapping[str, str], top: str = "package") -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        for path, text in files.items():
            info = tarfile.TarInfo(f"{top}/{path}")
            info.size, info.mode = len(text), 0o755 if path.startswith("bin/") else 0o644
            archive.addfile(info, io.BytesIO(text.encode()))
    return file.getvalue()


@contextmanager
def registries(*versions: str) -> Iterator[dict[str, str]]:
    """The variables by which pip and npm find both. `latest` is the last version."""
    pages: dict[str, tuple[str, bytes]] = {}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            kind, page = pages.get(unquote(self.path.partition("?")[0]), ("", b""))
            self.send_response(200 if kind else 404)
            self.send_header("Content-Type", kind or "text/plain")
            self.send_header("Content-Length", str(len(page)))
            self.end_headers()
            self.wfile.write(page)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    url = f"http://127.0.0.1:{server.server_port}"
    _fill(pages, url, versions)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield {"PIP_INDEX_URL": f"{url}/simple", "NPM_CONFIG_REGISTRY": f"{url}/npm/"}
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def _fill(pages: dict[str, tuple[str, bytes]], url: str, versions: tuple[str, ...]) -> None:
    links, told = "", {}
    for version in versions:
        pages[f"/files/{wheel_name(version)}"] = "application/zip", wheel(version)
        links += f'<a href="/files/{wheel_name(version)}">{wheel_name(version)}</a>\n'
        packed = tarball(npm_files(version))
        pages[f"/npm/{version}.tgz"] = "application/gzip", packed
        digest = base64.b64encode(hashlib.sha512(packed).digest()).decode()
        dist = {"tarball": f"{url}/npm/{version}.tgz", "integrity": f"sha512-{digest}"}
        told[version] = {**json.loads(npm_files(version)["package.json"]), "dist": dist}
    pages[f"/simple/{NAME}/"] = "text/html", f"<html><body>{links}</body></html>".encode()
    packument = {"name": NAME, "dist-tags": {"latest": versions[-1]}, "versions": told}
    pages[f"/npm/{NAME}"] = "application/json", json.dumps(packument).encode()
