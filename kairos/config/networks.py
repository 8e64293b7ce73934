"""Networks as they are written: addresses and CIDRs, in the configuration and in files with one a line."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from kairos.config.textfiles import read_bounded, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kairos.config.problems import Findings, Path

MOST_BYTES = 64 * 1024 * 1024


def check_networks(networks: Iterable[str], keys: Path, found: Findings) -> None:
    """Report what is no network, and what has bits set behind its prefix: a slip that widens a list."""
    for at, text in enumerate(networks):
        reason = problem_of(text)
        if reason is not None:
            found.error((*keys, at), reason)


def problem_of(text: str) -> str | None:
    """What is wrong with a network, if anything."""
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        return f"'{text}' is no network: write an address or CIDR such as 10.0.0.0/8"
    if "/" in text and str(ipaddress.ip_interface(text).ip) != str(network.network_address):
        return f"'{text}' has bits set after the prefix: write {network}"
    return None


def check_files(names: Iterable[str], keys: Path, found: Findings) -> None:
    """Report files that cannot be read, and their first line that is no network."""
    for at, name in enumerate(names):
        try:
            read(name)
        except (OSError, ValueError) as error:
            found.error((*keys, at), f"cannot read networks from {name}: {reason_of(error)}")


def read(name: str) -> list[str]:
    """The networks of a file: one a line, `#` and `;` begin a comment.

    Raises:
        OSError: it cannot be read.
        ValueError: a line is no network, or the file too large.
    """
    return list(_networks(read_bounded(name, MOST_BYTES).decode()))


def _networks(text: str) -> Iterator[str]:
    for number, line in enumerate(text.splitlines(), 1):
        network = line.partition("#")[0].partition(";")[0].strip()
        if not network:
            continue
        reason = problem_of(network)
        if reason is not None:
            raise ValueError(f"line {number}: {reason}")
        yield network
