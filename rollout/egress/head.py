"""The head of a request to the proxy, read so strictly that nobody behind us can read it otherwise.

What has two meanings is refused and never repaired: two lengths, a length and chunks, lines that
end in less than CRLF, folded lines, a Host that is not the URI's. What goes on to the server is
written anew, with `Connection: close`, so there is one request to one connection.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from rollout.egress.rules import Host, read_authority

CONNECT = "CONNECT"
HTTP_PORT = 80
Headers = Sequence[tuple[bytes, bytes]]

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]+) HTTP/1\.([01])")
_HEADER = re.compile(rb"(" + _TOKEN + rb"):([^\x00-\x08\x0a-\x1f\x7f]*)")
_TARGET = re.compile(r"(?i:http)://([^/?#]+)([/?][^#]*)?")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_OURS = frozenset(
    b"connection host content-length transfer-encoding keep-alive te trailer upgrade "
    b"proxy-connection proxy-authorization proxy-authenticate".split()
)
"""Headers that end here; where they matter they are written anew."""
_MUST_STAY = frozenset({b"host", b"content-length", b"transfer-encoding"})


class BadRequest(Exception):
    """It cannot be passed on; `status` and the text are the answer."""

    def __init__(self, reason: str, status: int = 400) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request, understood whole but for its body."""

    method: str
    host: Host
    port: int
    path: str = ""
    """What the server is asked for; empty for CONNECT."""
    minor: int = 1
    """Of HTTP/1."""
    headers: Headers = ()
    """Those to pass on."""
    length: int | None = None
    """Bytes of its body; None: chunks. Without a body it is 0."""

    def onward(self) -> bytes:
        """The head as the server gets it."""
        lines = [f"{self.method} {self.path} HTTP/1.{self.minor}".encode(), b"Host: " + self._host]
        lines += [name + b": " + value for name, value in self.headers]
        if self.length is None:
            lines.append(b"Transfer-Encoding: chunked")
        elif self.length or self.method in ("POST", "PUT", "PATCH"):
            lines.append(b"Content-Length: %d" % self.length)
        return b"\r\n".join((*lines, b"Connection: close", b"", b""))

    @property
    def _host(self) -> bytes:
        port = "" if self.port == HTTP_PORT else f":{self.port}"
        return f"{self.host}{port}".encode()


def read_head(data: bytes) -> Request:
    """`data` up to and with the empty line. BadRequest for all that is not as it should be."""
    first, *lines = data.removesuffix(b"\r\n\r\n").split(b"\r\n")
    found = _REQUEST.fullmatch(first)
    if not found:
        raise BadRequest("the request line is no METHOD URI HTTP/1.1")
    method, target, minor = found[1].decode(), found[2].decode(), int(found[3])
    headers = [_header(line) for line in lines]
    if method == CONNECT:
        return _connect(target, headers)
    parts = _TARGET.fullmatch(target)
    if not parts:
        raise BadRequest("this is a proxy: ask it for http://… or by CONNECT")
    host, port = _authority(parts[1], HTTP_PORT)
    _check_host(headers, (host, port), required=minor == 1)
    path = parts[2] or "/"
    return Request(
        method=method,
        host=host,
        port=port,
        path=path if path.startswith("/") else f"/{path}",
        minor=minor,
        headers=_passed_on(headers),
        length=_length(headers, minor),
    )


def _header(line: bytes) -> tuple[bytes, bytes]:
    found = _HEADER.fullmatch(line)
    if not found:
        raise BadRequest("a header is not written as `Name: value`")
    return found[1], found[2].strip(b" \t")


def _connect(target: str, headers: Headers) -> Request:
    host, port = _authority(target, None)
    if _values(headers, b"transfer-encoding") or _values(headers, b"content-length"):
        raise BadRequest("CONNECT has no body")
    return Request(method=CONNECT, host=host, port=port, length=0)


def _authority(text: str, usual_port: int | None) -> tuple[Host, int]:
    try:
        return read_authority(text, usual_port)
    except ValueError as exc:
        raise BadRequest(f"{text[:300]}: {exc}") from None


def _check_host(headers: Headers, asked: tuple[Host, int], *, required: bool) -> None:
    said = _values(headers, b"host")
    if len(said) > 1 or (required and not said):
        raise BadRequest("there must be one Host")
    if said and _authority(said[0].decode("latin-1"), HTTP_PORT) != asked:
        raise BadRequest("Host is another than the URI's")


def _length(headers: Headers, minor: int) -> int | None:
    lengths = _values(headers, b"content-length")
    codings = _values(headers, b"transfer-encoding")
    if codings:
        if lengths or minor == 0 or [coding.lower() for coding in codings] != [b"chunked"]:
            raise BadRequest("Transfer-Encoding must be chunked, alone and without Content-Length")
        return None
    if len(lengths) > 1 or not all(map(_LENGTH.fullmatch, lengths)):
        raise BadRequest("Content-Length must be one number")
    return int(lengths[0]) if lengths else 0


def _passed_on(headers: Headers) -> Headers:
    """Without what is for this hop alone, which Connection may name more of."""
    named = {
        name.strip().lower()
        for value in _values(headers, b"connection")
        for name in value.split(b",")
    }
    if named & _MUST_STAY:
        raise BadRequest("Connection names a header that must stay")
    return [pair for pair in headers if pair[0].lower() not in _OURS | named]


def _values(headers: Headers, wanted: bytes) -> list[bytes]:
    return [value for name, value in headers if name.lower() == wanted]
