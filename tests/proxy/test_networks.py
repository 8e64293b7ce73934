"""Sets and maps of networks: against a slow model, and on what is no address."""

from __future__ import annotations

import ipaddress
import random

import pytest

from kairos.proxy.peers import AddressMap, Networks

SOURCE = random.Random(5)


def slow(rules: list[tuple[str, int]], text: str) -> int:
    """The longest prefix that holds the address; of equals the greatest value."""
    address = ipaddress.ip_address(text)
    networks = [(ipaddress.ip_network(network, strict=False), value) for network, value in rules]
    holding = [(network.prefixlen, value) for network, value in networks if address in network]
    return max(holding, default=(0, 0))[1]


def any_network() -> str:
    if SOURCE.random() < 0.5:
        return f"10.{SOURCE.choice([0, 1, 255])}.{SOURCE.choice([0, 128])}.{SOURCE.randrange(4)}/{SOURCE.randrange(33)}"
    return f"2001:db8:{SOURCE.randrange(3)}::{SOURCE.randrange(5)}/{SOURCE.randrange(129)}"


def neighbours(network: str) -> list[str]:
    """Its first and last address, and what lies around them."""
    found = ipaddress.ip_network(network, strict=False)
    kind, most = type(found.network_address), (1 << found.max_prefixlen) - 1
    first, last = int(found.network_address), int(found.broadcast_address)
    return [str(kind(number)) for number in (first - 1, first, last, last + 1) if 0 <= number <= most]


@pytest.mark.parametrize("count", [0, 1, 2, 5, 40])
def test_a_map_answers_as_the_longest_prefix_does(count: int) -> None:
    for _ in range(40):
        rules = [(any_network(), SOURCE.randrange(1, 3)) for _ in range(count)]
        made = AddressMap(rules)
        for text in {text for network, _ in [*rules, ("10.0.0.0/8", 0)] for text in neighbours(network)}:
            assert made[text] == slow(rules, text), (rules, text)


def test_the_whole_of_ipv6_is_not_ipv4() -> None:
    assert AddressMap([("::/0", 2)])["192.0.2.1"] == 0
    assert AddressMap([("::/0", 2)])["2001:db8::1"] == 2
    assert AddressMap([("0.0.0.0/0", 2)])["192.0.2.1"] == 2
    assert AddressMap([("0.0.0.0/0", 2)])["2001:db8::1"] == 0
    assert AddressMap([("::/0", 2)], 1)["192.0.2.1"] == 1


def test_a_mapped_address_is_the_ipv4_one() -> None:
    assert AddressMap([("192.0.2.0/24", 2)])["::ffff:192.0.2.7"] == 2


@pytest.mark.parametrize(
    "text", ["", "1", "1.2.3", "1.2.3.4.5", "01.2.3.4", "1.2.3.4:80", "[::1]", "::1%eth0", "x" * 99]
)
def test_what_is_no_address_is_in_no_network(text: str) -> None:
    assert AddressMap([("0.0.0.0/0", 1), ("::/0", 1)])[text] == -1
    assert text not in Networks(["0.0.0.0/0", "::/0"])


@pytest.mark.parametrize("text", ["", "x", "1.2.3.4/33", "::/129", "1.2.3.4/-1", "10.0.0.0/8/8"])
def test_what_is_no_network_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Networks([text])


def test_thousands_of_networks_are_one_search() -> None:
    rules = [(f"10.{n >> 16 & 255}.{n >> 8 & 255}.{n & 255}", 1 + n % 2) for n in range(0, 20_000, 2)]
    made = AddressMap(rules)
    assert made["10.0.0.2"] == 1
    assert made["10.0.0.3"] == 0


CHAINS = [
    ("192.0.2.1", "192.0.2.1"),
    ("9.9.9.9, 192.0.2.1", "192.0.2.1"),
    ("9.9.9.9,192.0.2.1 ,10.0.0.1,\t10.0.0.2", "192.0.2.1"),
    ("10.0.0.1, 10.0.0.2", "10.0.0.1"),
    ("9.9.9.9, nonsense, 10.0.0.1", "10.0.0.1"),
    ("nonsense", None),
    ("", None),
    (" , ,", None),
    ("2001:db8::1", "2001:db8::1"),
    ("::ffff:192.0.2.1", "::ffff:192.0.2.1"),
    # some load balancers write ports
    ("192.0.2.1:41234", "192.0.2.1"),
    ("[2001:db8::1]:41234", "2001:db8::1"),
    ("[2001:db8::1]", "2001:db8::1"),
    ("9.9.9.9, 192.0.2.1:80, 10.0.0.1:443", "192.0.2.1"),
    ("192.0.2.1:", None),
    ("192.0.2.1:x", None),
    ("192.0.2.1:80:80", None),
    ("192.0.2.1:123456", None),
    ("[2001:db8::1", None),
    ("[2001:db8::1]80", None),
    ("[2001:db8::1]:", None),
    ("[]:80", None),
    ("[192.0.2.1:80", None),
    ("2001:db8::1:80", "2001:db8::1:80"),
]


@pytest.mark.parametrize(("chain", "client"), CHAINS)
def test_whom_a_chain_of_proxies_speaks_for(chain: str, client: str | None) -> None:
    assert Networks(["10.0.0.0/8"]).client_of(chain.encode()) == client
