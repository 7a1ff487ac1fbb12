"""The proxy with real sockets on both sides: who gets where, and what the hostile get."""

import asyncio
import re
import socket
from asyncio import StreamReader, StreamWriter

import pytest

from rollout.egress import access, log
from rollout.egress.reach import Limits
from tests.egress.outside import OTHER, PUBLIC, Line, Listener, echo, hello, line, server_of


def status(answer: bytes) -> int:
    found = re.match(rb"HTTP/1\.1 (\d{3}) ", answer)
    assert found, answer
    return int(found[1])


async def until_told(made: Line, count: int = 1) -> list[tuple[str, str]]:
    """The events, once there are so many: they are told when a connection has ended."""
    async with asyncio.timeout(20):
        while len(made.events) < count:
            await asyncio.sleep(0.01)
    return made.events


# ---------------------------------------------------------------- what is let out


async def test_http_is_passed_on_and_told() -> None:
    async with line(hello) as made:
        answer = await made.get("http://a.org/x")
        assert answer == b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
        assert made.outside.dialed == [(PUBLIC, 80)]
        (event,) = await until_told(made)
    assert event[0] == "egress_allowed"
    assert re.fullmatch(rf"GET a\.org:80 at {PUBLIC}, \d+ bytes out, {len(answer)} in", event[1])


async def test_a_tunnel_carries_anything_both_ways_to_its_end() -> None:
    async with line(echo) as made:
        said, (reader, writer) = await made.tunnel("a.org:443")
        assert status(said) == 200
        data = bytes(range(256)) * 20_000
        writer.write(data)
        writer.write_eof()
        assert await reader.read() == data
        (event,) = await until_told(made)
    assert made.outside.dialed == [(PUBLIC, 443)]
    told = f"CONNECT a.org:443 at {PUBLIC}, {len(data)} bytes out, {len(data)} in"
    assert event == ("egress_allowed", told)


async def test_bodies_by_length_and_in_chunks_and_nothing_behind_them() -> None:
    heard = Listener()
    async with line(heard) as made:
        smuggled = b"GET http://b.org/ HTTP/1.1\r\nHost: b.org\r\n\r\n"
        answer = await made.get(
            "http://a.org/", "Content-Length: 5", method="POST", body=b"body!" + smuggled
        )
        assert answer.endswith(b"thanks")
        await heard.ended.wait()
        assert bytes(heard.heard).partition(b"\r\n\r\n")[2] == b"body!"
    heard = Listener()
    async with line(heard) as made:
        chunks = b"4;a=b\r\nbody\r\n1\r\n!\r\n0\r\nX-Trailer: y\r\n\r\n"
        sending = made.get(
            "http://a.org/", "Transfer-Encoding: chunked", method="POST", body=chunks + smuggled
        )
        answering = asyncio.create_task(sending)
        async with asyncio.timeout(20):
            while not heard.heard.endswith(b"0\r\n\r\n"):
                await asyncio.sleep(0.01)
    assert bytes(heard.heard).partition(b"\r\n\r\n")[2] == b"4\r\nbody\r\n1\r\n!\r\n0\r\n\r\n"
    await answering


async def test_a_server_may_answer_before_it_has_heard_all() -> None:
    async def refuse(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 413 Too Large\r\n\r\nno")
        await writer.drain()
        writer.write_eof()
        await reader.read(1)

    async with line(refuse) as made:
        reader, writer = await made.open()
        writer.write(b"POST http://a.org/ HTTP/1.1\r\nHost: a.org\r\nContent-Length: 9\r\n\r\n")
        assert (await reader.read()).endswith(b"no")


async def test_the_next_address_is_tried_where_one_is_dead() -> None:
    async with line(hello) as made:
        made.outside.names["a.org"] = [[PUBLIC, OTHER]]
        made.outside.dead = {PUBLIC}
        assert status(await made.get("http://a.org/")) == 200
        assert made.outside.dialed == [(PUBLIC, 80), (OTHER, 80)]
        made.outside.dead = {PUBLIC, OTHER}
        assert status(await made.get("http://a.org/")) == 502
    assert made.events[1] == ("egress_failed", "GET a.org:80: Connection refused")


async def test_a_server_that_hangs_up_is_a_bad_gateway() -> None:
    async def hang_up(reader: StreamReader, writer: StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with line(hang_up) as made:
        answer = await made.get("http://a.org/")
    assert status(answer) == 502
    assert b"without an answer" in answer
    assert made.events[0][1].endswith(" 0 in, it hung up without an answer")


# ---------------------------------------------------------------- what is not


@pytest.mark.parametrize(
    ("uri", "why"),
    [
        ("http://b.org/", "no rule allows it"),
        ("http://a.org.b.org/", "no rule allows it"),
        ("http://a.org:8080/", "port 8080 is not allowed for it"),
        ("http://8.8.8.8/", "no rule allows it"),
        ("http://127.0.0.1/", "its address is never reached: loopback"),
        ("http://[::ffff:7f00:1]/", "its address is never reached: loopback"),
        ("http://169.254.169.254/latest/meta-data/", "never reached: link-local"),
        ("http://[fd00:ec2::254]/", "never reached: a cloud's metadata"),
        ("http://10.0.0.1/", "its address is private"),
    ],
)
async def test_what_no_rule_allows_is_refused_unasked(uri: str, why: str) -> None:
    """No name server hears of it: a lookup carries data out, too."""
    async with line(hello) as made:
        answer = await made.get(uri)
        assert status(answer) == 403
        assert why in answer.decode()
        assert (made.outside.asked, made.outside.dialed) == ([], [])
    assert [kind for kind, _ in made.events] == ["egress_refused"]
    assert why in made.events[0][1]


@pytest.mark.parametrize("target", ["a.org:22", "a.org:25", "a.org:8443", "8.8.8.8:22"])
async def test_a_tunnel_to_another_port_is_refused(target: str) -> None:
    async with line(echo, network="public") as made:
        said, _ = await made.tunnel(target)
        assert status(said) == 403
        assert made.outside.dialed == []
    assert made.events == [
        ("egress_refused", f"CONNECT {target}: port {target.split(':')[1]} is not allowed for it")
    ]


async def test_a_name_is_looked_up_once_and_cannot_be_bound_anew() -> None:
    async with line(hello) as made:
        made.outside.names["a.org"] = [[PUBLIC], ["127.0.0.1"]]
        assert status(await made.get("http://a.org/")) == 200
        assert (made.outside.asked, made.outside.dialed) == (["a.org"], [(PUBLIC, 80)])
        assert status(await made.get("http://a.org/")) == 403
        assert made.outside.dialed == [(PUBLIC, 80)]


@pytest.mark.parametrize("network", ["allowlist", "public"])
@pytest.mark.parametrize(
    "found",
    [
        ["10.0.0.7"],
        ["127.0.0.1"],
        ["169.254.169.254"],
        ["::ffff:10.0.0.7"],
        ["64:ff9b::a00:7"],
        ["fd00:ec2::254"],
        [PUBLIC, "192.168.0.1"],
        ["192.168.0.1", PUBLIC],
    ],
)
async def test_a_name_that_leads_inside_is_refused(network: str, found: list[str]) -> None:
    """Whichever way it does, by a CNAME or by itself; and where is not told to the sandbox."""
    async with line(hello, network=network) as made:
        made.outside.names["a.org"] = [found]
        answer = await made.get("http://a.org/")
        assert status(answer) == 403
        assert made.outside.dialed == []
        assert not [address for address in found if address.encode() in answer]
    (event,) = made.events
    assert event[0] == "egress_refused"
    assert event[1].endswith(")")


async def test_a_private_range_is_open_to_names_where_a_rule_names_it() -> None:
    async with line(hello, "a.org", "10.1.0.0/16") as made:
        made.outside.names["a.org"] = [["10.1.2.3"], ["10.2.0.1"]]
        assert status(await made.get("http://a.org/")) == 200
        assert status(await made.get("http://a.org/")) == 403
        assert status(await made.get("http://10.1.0.9/")) == 200
        assert made.outside.dialed == [("10.1.2.3", 80), ("10.1.0.9", 80)]


async def test_a_name_that_is_not_there() -> None:
    async with line(hello, network="public") as made:
        assert status(await made.get("http://nowhere.org/")) == 502
        made.outside.names["a.org"] = [[]]
        assert status(await made.get("http://a.org/")) == 502
    assert [kind for kind, _ in made.events] == ["egress_failed"] * 2


# ---------------------------------------------------------------- hostile callers


@pytest.mark.parametrize(
    "lines",
    [
        ["GET http://a.org/ HTTP/1.1", "Host: b.org"],
        ["POST http://a.org/ HTTP/1.1", "Host: a.org", "Content-Length: 3", "Content-Length: 4"],
        [
            *("POST http://a.org/ HTTP/1.1", "Host: a.org"),
            *("Transfer-Encoding: chunked", "Content-Length: 4"),
        ],
        ["GET / HTTP/1.1", "Host: a.org"],
        ["CONNECT a.org HTTP/1.1"],
        ["hello"],
    ],
)
async def test_what_has_two_meanings_reaches_nobody(lines: list[str]) -> None:
    async with line(hello) as made:
        answer = await made.ask("\r\n".join([*lines, "", "0\r\n\r\n"]).encode())
        assert status(answer) == 400
        assert (made.outside.asked, made.outside.dialed) == ([], [])
    assert made.events[0][0] == "egress_refused"
    assert made.events[0][1].startswith("a request that cannot be passed on: ")


@pytest.mark.parametrize(
    "body",
    [b"x\r\n", b"\r\n", b"-1\r\n", b"0x1\r\n", b"f" * 16 + b"\r\n", b"2\r\nabc\r\n", b"1" * 5000],
)
async def test_broken_chunks_end_the_connection(body: bytes) -> None:
    heard = Listener()
    async with line(heard) as made:
        reader, writer = await made.open()
        chunked = (
            b"POST http://a.org/ HTTP/1.1\r\nHost: a.org\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        writer.write(chunked + body)
        writer.write_eof()
        assert status(await reader.read()) == 400
        await until_told(made)
    assert b"\r\n0\r\n" not in heard.heard, "nobody takes it for whole"


async def test_a_huge_head_is_refused() -> None:
    async with line(hello) as made:
        reader, writer = await made.open()
        writer.write(b"GET http://a.org/ HTTP/1.1\r\nHost: a.org\r\nX: " + b"x" * (1 << 20))
        assert status(await reader.read()) == 431
    assert made.events[0][1].endswith("its head has more than 65536 bytes")


async def test_half_a_request_is_told_and_none_is_not() -> None:
    async with line(hello) as made:
        reader, writer = await made.open()
        writer.write(b"GET http://a.org/ HTTP/1.1\r\nHost: a.")
        writer.write_eof()
        assert status(await reader.read()) == 400
        reader, writer = await made.open()
        writer.write_eof()
        assert await reader.read() == b""
    assert made.events == [
        ("egress_refused", "a request that cannot be passed on: its head ends too soon")
    ]


async def test_half_a_body_is_no_request() -> None:
    heard = Listener()
    async with line(heard) as made:
        reader, writer = await made.open()
        writer.write(b"POST http://a.org/ HTTP/1.1\r\nHost: a.org\r\nContent-Length: 9\r\n\r\nabc!")
        writer.write_eof()
        await reader.read()
        (event,) = await until_told(made)
    assert event[1].endswith("the body ends too soon")


async def test_a_slow_head_ends_at_its_time() -> None:
    async with line(hello, limits=Limits(head_s=0.1)) as made:
        reader, writer = await made.open()
        writer.write(b"GET http://a.org/ HTTP")
        assert status(await reader.read()) == 408
    assert made.events[0][1].endswith("its head took longer than 0.1 s")


async def test_the_slow_hold_up_no_more_than_their_own_connection() -> None:
    async with line(hello, limits=Limits(connections=3)) as made:
        slow = [await made.open() for _ in range(2)]
        for _, writer in slow:
            writer.write(b"GET http://a.org/ HT")
        assert status(await made.get("http://a.org/")) == 200
        slow.append(await made.open())
        waiting = asyncio.create_task(made.get("http://a.org/"))
        done, _ = await asyncio.wait({waiting}, timeout=0.3)
        assert not done, "more than three at once"
        slow[0][1].close()
        assert status(await waiting) == 200


async def test_a_lookup_that_hangs_holds_up_no_other_request() -> None:
    async with line(hello, network="public", limits=Limits(lookups=1, lookup_s=0.3)) as made:
        made.outside.hangs = {"b.org"}
        assert status(await made.get("http://b.org/")) == 504
        assert status(await made.get("http://a.org/")) == 504, "the one place is still taken"
        assert status(await made.get(f"http://{PUBLIC}/")) == 200
        assert made.outside.asked == ["b.org"]


@pytest.mark.parametrize(
    ("limits", "end"),
    [
        (Limits(idle_s=1.0), "nothing moved for 1 s"),
        (Limits(total_s=2.0), "cut off"),
    ],
)
async def test_what_does_not_end_is_ended(limits: Limits, end: str) -> None:
    async with line(echo, limits=limits) as made:
        _, (reader, writer) = await made.tunnel("a.org:443")
        writer.write(b"x")
        assert await reader.read() == b"x"
        (event,) = await until_told(made)
    assert event[1] == f"CONNECT a.org:443 at {PUBLIC}, 1 bytes out, 1 in, {end}"


async def test_who_does_not_read_is_not_read_ahead_for() -> None:
    sent = 0

    async def pour(reader: StreamReader, writer: StreamWriter) -> None:
        nonlocal sent
        writer.transport.set_write_buffer_limits(0)
        while True:
            writer.write(bytes(65536))
            await writer.drain()
            sent += 65536

    async with line(pour, limits=Limits(idle_s=1.0)) as made:
        sock = socket.socket()
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", made.port))
        await asyncio.get_running_loop().sock_sendall(sock, b"CONNECT a.org:443 HTTP/1.1\r\n\r\n")
        (event,) = await until_told(made)
        sock.close()
    assert event[1].endswith("nothing moved for 1 s")
    assert sent < 64 << 20


async def test_the_log_has_so_many_lines_and_counts_the_rest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(log, "MOST_EVENTS", 2)
    async with line(hello) as made:
        for _ in range(5):
            await made.get("http://b.org/")
        answers = [await made.get("http://a.org/") for _ in range(3)]
        await until_told(made, 4)
    kinds = [kind for kind, _ in made.events]
    assert kinds == ["egress_refused"] * 2 + ["egress_allowed"] * 2 + [
        "egress_refused", "egress_allowed",
    ]  # fmt: skip
    assert made.events[-2][1] == "and 3 more, 0 bytes out, 0 in in all"
    assert re.fullmatch(
        rf"and 1 more, \d+ bytes out, {len(answers[0])} in in all", made.events[-1][1]
    )


async def test_the_end_closes_all_and_tells_of_it() -> None:
    async with line(echo) as made:
        _, (reader, writer) = await made.tunnel("a.org:443")
        writer.write(b"abc")
        assert await reader.readexactly(3) == b"abc"
    assert made.events == [
        ("egress_allowed", f"CONNECT a.org:443 at {PUBLIC}, 3 bytes out, 3 in, cut off")
    ]
    assert await reader.read() == b""
    with pytest.raises(ConnectionRefusedError):
        await made.open()


async def test_a_sandbox_that_ends_first_ends_it() -> None:
    async with line(hello) as made:
        made.sock.shutdown(socket.SHUT_RDWR)
        with pytest.raises(ConnectionRefusedError):
            await made.open()


# ---------------------------------------------------------------- the host's own means


async def test_names_are_the_hosts_and_what_is_dialed_is_an_address() -> None:
    assert "127.0.0.1" in await access.resolve("localhost")
    async with server_of(echo) as port:
        _, writer = await access.dial("127.0.0.1", port)
        writer.close()
        await writer.wait_closed()
        with pytest.raises(socket.gaierror):
            await access.dial("localhost", port)
