"""Heads of requests: what has two meanings is refused, and what goes on has one."""

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.egress.head import BadRequest, Request, read_head


def head(*lines: str) -> bytes:
    return "\r\n".join((*lines, "", "")).encode("latin-1")


def get(*headers: str, host: str = "Host: a.org", uri: str = "http://a.org/x") -> Request:
    return read_head(head(f"GET {uri} HTTP/1.1", *([host] if host else []), *headers))


def test_what_goes_on_is_written_anew() -> None:
    request = read_head(
        head(
            "POST HTTP://A.org:8080?q=1 HTTP/1.1",
            "hOST:  a.ORG:8080 ",
            "Content-length: 007",
            "Proxy-Authorization: Basic x",
            "Connection: close, X-Mine",
            "x-mine: gone",
            "Keep-Alive: 5",
            "Upgrade: h2c",
            "TE: trailers",
            "Accept:\t*/* ",
            "X-Latin: \xe9",
        )
    )
    assert (str(request.host), request.port, request.path) == ("a.org", 8080, "/?q=1")
    assert request.onward() == head(
        "POST /?q=1 HTTP/1.1",
        "Host: a.org:8080",
        "Accept: */*",
        "X-Latin: \xe9",
        "Content-Length: 7",
        "Connection: close",
    )


def test_chunks_stay_chunks_and_an_old_version_stays_old() -> None:
    chunked = read_head(
        head("PUT http://a.org/ HTTP/1.1", "Host: a.org:80", "Transfer-Encoding: Chunked")
    )
    assert chunked.length is None
    assert b"\r\nTransfer-Encoding: chunked\r\n" in chunked.onward()
    old = read_head(head("GET http://[2606:4700::1]:81/ HTTP/1.0"))
    assert old.onward() == head("GET / HTTP/1.0", "Host: [2606:4700::1]:81", "Connection: close")


def test_a_tunnel_is_asked_for_by_host_and_port() -> None:
    request = read_head(head("CONNECT Packages.EXAMPLE:443 HTTP/1.1", "Host: other.org", "X: y"))
    assert (str(request.host), request.port) == ("packages.example", 443)


@pytest.mark.parametrize(
    ("lines", "why"),
    [
        (["GET / HTTP/1.1", "Host: a.org"], "this is a proxy"),
        (["GET https://a.org/ HTTP/1.1", "Host: a.org"], "this is a proxy"),
        (["GET ftp://a.org/ HTTP/1.1", "Host: a.org"], "this is a proxy"),
        (["GET http://a.org/#x HTTP/1.1", "Host: a.org"], "this is a proxy"),
        (["GET http:///x HTTP/1.1", "Host: a.org"], "this is a proxy"),
        (["GET http://b.org@a.org/ HTTP/1.1", "Host: a.org"], "no name of a host"),
        (["GET http://a.org:80:81/ HTTP/1.1", "Host: a.org"], "have no meaning"),
        (["GET http://a.org\\@b.org/ HTTP/1.1", "Host: a.org"], "no name of a host"),
        (["GET http://a%2eorg/ HTTP/1.1", "Host: a.org"], "no name of a host"),
        (["GET http://2130706433/ HTTP/1.1", "Host: 2130706433"], "no address, and no name"),
        (["GET http://a.org/ HTTP/1.1"], "there must be one Host"),
        (["GET http://a.org/ HTTP/1.1", "Host: a.org", "Host: a.org"], "there must be one Host"),
        (["GET http://a.org/ HTTP/1.1", "Host: b.org"], "Host is another than the URI's"),
        (["GET http://a.org/ HTTP/1.0", "Host: b.org"], "Host is another than the URI's"),
        (["GET http://a.org/ HTTP/1.1", "Host: a.org:81"], "Host is another than the URI's"),
        (["GET http://a.org:81/ HTTP/1.1", "Host: a.org"], "Host is another than the URI's"),
        (["GET http://a.org/ HTTP/1.1", "Host: "], "no name of a host"),
        (["GET http://a.org/ HTTP/2.0", "Host: a.org"], "the request line is no"),
        (["GET  http://a.org/ HTTP/1.1", "Host: a.org"], "the request line is no"),
        (["GET http://a.org/ b HTTP/1.1", "Host: a.org"], "the request line is no"),
        (["G\tT http://a.org/ HTTP/1.1", "Host: a.org"], "the request line is no"),
        (["", "GET http://a.org/ HTTP/1.1", "Host: a.org"], "the request line is no"),
        (["CONNECT a.org HTTP/1.1"], "it names no port"),
        (["CONNECT a.org: HTTP/1.1"], "it names no port"),
        (["CONNECT a.org:https HTTP/1.1"], "its port is no number"),
        (["CONNECT http://a.org:443/ HTTP/1.1"], "host and port have no meaning"),
        (["CONNECT a.org:443 HTTP/1.1", "Content-Length: 5"], "CONNECT has no body"),
    ],
)
def test_what_cannot_be_passed_on(lines: list[str], why: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read_head(head(*lines))
    assert caught.value.status == 400
    assert why in str(caught.value)


@pytest.mark.parametrize(
    "headers",
    [
        ["Content-Length: 5", "Content-Length: 6"],
        ["Content-Length: 5", "Content-Length: 5"],
        ["Content-Length: 5, 5"],
        ["Content-Length: +5"],
        ["Content-Length: -1"],
        ["Content-Length: 0x5"],
        ["Content-Length: "],
        ["Content-Length: 1" + "0" * 20],
        ["Content-Length: 5", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
        ["Transfer-Encoding: gzip, chunked"],
        ["Transfer-Encoding: identity"],
        ["Transfer-Encoding: xchunked"],
        ["Transfer-Encoding: \x0bchunked"],
        ["Transfer-Encoding : chunked"],
        [" Transfer-Encoding: chunked"],
        ["X: y", " folded"],
        ["X: y\nContent-Length: 5"],
        ["X: y\rContent-Length: 5"],
        ["X: y\0"],
        ["X"],
        [": y"],
        ["X Y: z"],
        ["Connection: content-length", "Content-Length: 5"],
        ["Connection: close, Transfer-Encoding", "Transfer-Encoding: chunked"],
        ["Connection: host"],
    ],
)
def test_nothing_of_two_meanings_goes_on(headers: list[str]) -> None:
    with pytest.raises(BadRequest):
        get(*headers)


def test_chunks_are_refused_of_an_old_version() -> None:
    with pytest.raises(BadRequest, match="Transfer-Encoding"):
        read_head(head("POST http://a.org/ HTTP/1.0", "Transfer-Encoding: chunked"))


TEXT = st.text("aA:;, \t\r\n\0/[]@%#?=.-0178", max_size=30)


@given(
    uri=st.one_of(st.just("http://a.org/x"), TEXT.map("http://a.org".__add__)),
    headers=st.lists(
        st.one_of(
            st.tuples(
                st.sampled_from(
                    ["Host", "Content-Length", "Transfer-Encoding", "Connection", "X", "Expect"]
                ),
                st.one_of(st.sampled_from(["a.org", "5", "chunked", "close", "x", "host"]), TEXT),
            ).map(": ".join),
            TEXT,
        ),
        max_size=5,
    ),
)
def test_whatever_is_taken_has_one_meaning(uri: str, headers: list[str]) -> None:
    try:
        request = read_head(head(f"POST {uri} HTTP/1.1", "Host: a.org", *headers))
    except BadRequest:
        return
    onward = request.onward()
    assert onward.count(b"\r\n\r\n") == 1
    first, *lines = onward[:-4].split(b"\r\n")
    names = [line.partition(b":")[0].lower() for line in lines]
    assert names.count(b"host") == 1
    assert names.count(b"connection") == 1
    assert names.count(b"content-length") + names.count(b"transfer-encoding") == 1
    assert first.split(b" ") == [b"POST", request.path.encode(), b"HTTP/1.1"]


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_refused(data: bytes) -> None:
    with suppress(BadRequest):
        assert read_head(data + b"\r\n\r\n").port
