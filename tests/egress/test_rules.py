"""What rules open and what nothing opens, whatever it is spelled like."""

import socket
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.egress.addresses import NAT64, closed, never, read_address
from rollout.egress.rules import Rules, problems, read_authority, read_host

PUBLIC = Rules("public")
LISTED = Rules(
    "allowlist",
    [
        "packages.example",
        "*.Example.COM.",
        "api.example.net:8443",
        "bücher.example",
        "10.1.0.0/16:5432",
        "93.184.216.34",
        "[2606:4700::]:443",
        "2606:4701::/32",
        "0.0.0.0/0:81",
        "[::/0]:81",
    ],
)


def asked(rules: Rules, authority: str) -> str:
    """Why not, as of a request for a host and port that is not looked up."""
    return rules.refuses(*read_authority(authority, None))


@pytest.mark.parametrize(
    "authority",
    [
        "packages.example:443",
        "packages.example:80",
        "Packages.Example.:443",
        "files.example.com:443",
        "a.b.example.com:80",
        "api.example.net:8443",
        "xn--bcher-kva.example:443",
        "10.1.2.3:5432",
        "[::ffff:10.1.2.3]:5432",
        "93.184.216.34:443",
        "[2606:4700::]:443",
        "[2606:4700:0:0:0:0:0:0]:443",
        "[2606:4701:1::5]:80",
        "8.8.8.8:81",
    ],
)
def test_what_is_listed_is_reached(authority: str) -> None:
    assert asked(LISTED, authority) == ""


@pytest.mark.parametrize(
    ("authority", "why"),
    [
        ("example.com:443", "no rule allows it"),
        ("notexample.com:443", "no rule allows it"),
        ("packages.example.evil.net:443", "no rule allows it"),
        ("evilpackages.example:443", "no rule allows it"),
        ("sub.packages.example:443", "no rule allows it"),
        ("packages.example:22", "port 22 is not allowed for it"),
        ("api.example.net:443", "port 443 is not allowed for it"),
        ("8.8.8.8:443", "port 443 is not allowed for it"),
        ("[2606:4700::1]:443", "port 443 is not allowed for it"),
        ("10.1.2.3:443", "its address is private, and no rule names that range for port 443"),
        ("10.2.0.1:5432", "its address is private"),
        ("10.2.0.1:81", "its address is private"),
        ("[fd00::1]:81", "its address is private"),
        ("169.254.169.254:81", "never reached: link-local"),
        ("127.0.0.1:81", "never reached: loopback"),
    ],
)
def test_what_is_not_listed_is_refused(authority: str, why: str) -> None:
    assert why in asked(LISTED, authority)


def test_public_is_every_name_and_public_address_at_the_usual_ports() -> None:
    for authority in ("a.org:443", "a.org:80", "8.8.8.8:443", "[2606:4700::1111]:443"):
        assert asked(PUBLIC, authority) == ""
    assert asked(PUBLIC, "a.org:22") == "port 22 is not allowed for it"
    more = Rules("public", ["git.example.org:22", "192.168.7.0/24"])
    assert asked(more, "git.example.org:22") == ""
    assert asked(more, "192.168.7.1:443") == ""
    assert "private" in asked(more, "192.168.8.1:443")


HIDDEN = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "100.100.100.200", "127.0.0.1",
    "127.255.255.254", "168.63.129.16", "169.254.169.254", "169.254.0.1", "172.16.0.1",
    "172.31.255.255", "192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
    "255.255.255.255",
]  # fmt: skip
HIDDEN_V6 = [
    "::", "::1", "::7f00:1", "100::1", "2001::1", "2001:2::1", "2001:db8::1", "3fff::1", "4000::1",
    "5f00::1", "64:ff9b:1::a00:1", "fc00::1", "fd00:ec2::254", "fd12:3456::1", "fd20:ce::254",
    "fe80::1", "febf::1", "fec0::1", "ff02::1", "2002:808:808::1", "::ffff:0:808:808",
    "2001:0:808:808::1",
]  # fmt: skip


def forms_of(address: IPv4Address) -> dict[str, str]:
    """IPv6 addresses that some network takes for it."""
    number = int(address)
    inner = f"{number >> 16:x}:{number & 0xFFFF:x}"
    return {
        "mapped": f"::ffff:{address}",
        "mapped, in hex": f"0:0:0:0:0:ffff:{inner}",
        "nat64": f"64:ff9b::{inner}",
        "compatible": f"::{inner}",
        "translated": f"::ffff:0:{inner}",
        "nat64 of a network's own": f"64:ff9b:1::{inner}",
        "6to4": f"2002:{inner}::1",
        "teredo": f"2001:0:{inner}::1",
    }


@pytest.mark.parametrize("address", [*HIDDEN, *HIDDEN_V6])
def test_what_is_not_the_public_internet_is_closed_to_names_and_as_an_address(address: str) -> None:
    for rules in (PUBLIC, Rules("public", ["0.0.0.0/0", "::/0", "*.org"])):
        assert rules.refuses_address(read_address(address), 443)
        host = f"[{address}]" if ":" in address else address
        assert asked(rules, f"{host}:443")


@given(st.sampled_from(HIDDEN).map(IPv4Address), st.sampled_from(list(forms_of(IPv4Address(0)))))
def test_no_form_of_a_closed_address_is_reached(address: IPv4Address, form: str) -> None:
    assert asked(PUBLIC, f"[{forms_of(address)[form]}]:443")


@given(st.ip_addresses(v=4).filter(lambda address: not never(address) and not closed(address)))
def test_a_public_address_is_reached_plainly_mapped_and_by_nat64(address: IPv4Address) -> None:
    forms = forms_of(address)
    for text in (str(address), forms["mapped"], forms["mapped, in hex"], forms["nat64"]):
        assert PUBLIC.refuses_address(read_address(text), 443) == ""


@given(st.ip_addresses())
def test_what_python_knows_to_be_special_is_no_public_address(
    address: IPv4Address | IPv6Address,
) -> None:
    meant = read_address(str(address))
    special = meant.is_private or meant.is_multicast or meant.is_reserved or meant.is_link_local
    if special and meant not in NAT64:
        assert PUBLIC.refuses_address(meant, 443)


@pytest.mark.parametrize(
    "text",
    [
        "2130706433", "0x7f000001", "0X7F000001", "017700000001", "127.1", "0177.0.0.1", "0x7f.1",
        "127.0.0.0x1", "1.2.3.08", "127.0.0.1.", "1.1.1.1.1", "a.0x7f", "0x",
        "１２７.0.0.1", "①.org",
        "[fe80::1%eth0]", "[1.2.3.4]", "[v1.x]", "[::1", "::1",
        "a b", "a%2eb", "a\0b", "a@b", "-a.b",
        "", ".", "a..b", "127.0.0.1..", "bücher.example", "x" * 64 + ".org", "x." * 127 + "org",
    ],
)  # fmt: skip
def test_what_has_no_one_meaning_is_no_host(text: str) -> None:
    with pytest.raises(ValueError, match=r"no name|no address|names an|not appear|brackets"):
        read_host(text)


@given(st.text("0123456789abcdefx.[]:%", min_size=1, max_size=20))
def test_what_is_no_address_to_us_is_none_to_the_system(text: str) -> None:
    """Else it would be looked up, and be an address all the same."""
    with suppress(ValueError):
        host = read_host(text)
        if host.address is None:
            with pytest.raises(socket.gaierror):
                socket.getaddrinfo(host.name, None, flags=socket.AI_NUMERICHOST)


@given(st.text(max_size=30))
def test_a_host_is_plain_or_refused(text: str) -> None:
    with suppress(ValueError):
        host = read_host(text)
        assert str(host).isascii()
        assert read_host(str(host)) == host


def test_an_address_has_one_spelling() -> None:
    assert str(read_host("[0:0:0:0:0:FFFF:0808:0808]")) == "8.8.8.8"
    assert str(read_host("[2606:4700:0::0:1111]")) == "[2606:4700::1111]"
    assert read_host("Example.COM.").name == "example.com"


@pytest.mark.parametrize("port", ["0", "65536", "-1", "+80", "8 0", "٨٠", "000080", ""])
def test_a_port_is_a_plain_number(port: str) -> None:
    with pytest.raises(ValueError, match="port"):
        read_authority(f"a.org:{port}", None)
    with pytest.raises(ValueError, match="port"):
        read_authority("a.org", None)
    assert read_authority("a.org", 80)[1] == 80


@pytest.mark.parametrize(
    ("network", "hosts", "said"),
    [
        ("open", [], "network: 'open' is none of none, allowlist, public"),
        ("none", ["a.org"], "allowed_hosts: nothing is reached with network none"),
        ("allowlist", [], "allowed_hosts: must be given with network=allowlist"),
        ("allowlist", ["https://a.org"], "saw 'https://a.org': "),
        ("allowlist", ["a.org/path"], "saw 'a.org/path': "),
        ("allowlist", ["*"], "saw '*': no name of a host; use a host, *.host, an address"),
        ("allowlist", ["a.org:99999"], "its port is no number from 1 to 65535"),
        ("allowlist", ["10.0.0.1/8"], "10.0.0.1/8 has host bits set"),
        ("allowlist", ["127.0.0.0/8"], "never reached: loopback"),
        ("allowlist", ["169.254.169.254"], "never reached: link-local, where clouds keep metadata"),
        ("public", ["[::1]:80"], "never reached: "),
        ("public", ["::ffff:10.0.0.0/104"], "never reached: reserved, or another address in"),
        ("public", ["fd00:ec2::254"], "never reached: a cloud's metadata"),
        ("public", ["2130706433"], "saw '2130706433': no address"),
        ("public", ["a.org"] * 1001, "1001 of them; at most 1000"),
    ],
)
def test_slips_in_a_blueprint_are_told(network: str, hosts: list[str], said: str) -> None:
    told = list(problems(network, hosts))
    assert said in "\n".join(told)
    key = told[0].partition(":")[0]
    with pytest.raises(ValueError, match=key):
        Rules(network, hosts)
