"""The PROXY protocol, versions 1 and 2 (HAProxy's doc/proxy-protocol.txt): who a connection is really from.

Sans-IO. Rules: whoever is to send a header must, and as its very first bytes: nothing is guessed. What is not exactly
such a header ends the connection. TLVs are looked at for their lengths only.
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

SIGNATURE = b"\r\n\r\n\x00\r\nQUIT\n"
MAX_V1 = 107
"""Bytes of the longest line of version 1, its end included."""
MAX_V2 = 16 * 1024
"""Bytes behind the fixed part of version 2: some send certificates as TLVs; nobody sends more."""
_V1 = b"PROXY "
_FIXED = 16
_FAMILIES = {0x1: (socket.AF_INET, "!4s4sHH"), 0x2: (socket.AF_INET6, "!16s16sHH")}
_UNIX_BYTES = 216
_LOCAL, _PROXY = 0x20, 0x21
_MAPPED = bytes(10) + b"\xff\xff"
UNNAMED = (b"unknown", 0)
"""The end of a unix socket."""


class ProxyError(ValueError):
    """Not a header; the text says why."""


class Header(NamedTuple):
    """What a header says, and how long it is."""

    size: int
    source: tuple[bytes, int] | None
    """Address and port of the client; None: the connection speaks for itself (LOCAL, UNKNOWN)."""
    destination: tuple[bytes, int] | None


def parse(data: bytes) -> Header | None:
    """The header at the beginning of `data`; None: there is more to come.

    Raises:
        ProxyError: this is none.
    """
    if data[:1] == b"P":
        return _parse_v1(data)
    if SIGNATURE.startswith(data[: len(SIGNATURE)]):
        return _parse_v2(data) if len(data) >= _FIXED else None
    raise ProxyError("no PROXY header")


# ---- version 1 ---------------------------------------------------------------------------------------------------


def _parse_v1(data: bytes) -> Header | None:
    if not data.startswith(_V1[: len(data)]):
        raise ProxyError("no PROXY header")
    end = data.find(b"\r\n", 0, MAX_V1)
    if end < 0:
        if len(data) >= MAX_V1 or b"\n" in data:
            raise ProxyError("a line of version 1 without its end")
        return None
    words = data[len(_V1) : end].split(b" ")
    if words[0] == b"UNKNOWN":
        return Header(end + 2, None, None)
    if len(words) != 5 or words[0] not in (b"TCP4", b"TCP6"):
        raise ProxyError("a line of version 1 of another form")
    family = socket.AF_INET if words[0] == b"TCP4" else socket.AF_INET6
    source, destination = ((_address_of(family, words[at]), _port_of(words[at + 2])) for at in (1, 2))
    return Header(end + 2, source, destination)


def _address_of(family: socket.AddressFamily, text: bytes) -> bytes:
    """In canonical form."""
    try:
        packed = socket.inet_pton(family, text.decode("ascii"))
    except (OSError, ValueError) as error:
        raise ProxyError("an address that is none") from error
    return _text(family, packed)


def _port_of(text: bytes) -> int:
    if not text.isdigit() or len(text) > 5 or (text[0] == 0x30 and text != b"0") or int(text) > 65535:
        raise ProxyError("a port that is none")
    return int(text)


# ---- version 2 ---------------------------------------------------------------------------------------------------


def _parse_v2(data: bytes) -> Header | None:
    command, kind, length = struct.unpack_from("!BBH", data, len(SIGNATURE))
    if command not in (_LOCAL, _PROXY):
        raise ProxyError("a version or command that there is not")
    if length > MAX_V2:
        raise ProxyError(f"a header of more than {MAX_V2} bytes")
    size = _FIXED + length
    if len(data) < size:
        return None
    if command == _LOCAL:  # whatever stands in it is to be skipped
        return Header(size, None, None)
    return _proxied(kind, data[_FIXED:size], size)


def _proxied(kind: int, block: bytes, size: int) -> Header:
    if kind & 0x0F > 2 or kind >> 4 > 3:
        raise ProxyError("a family that there is not")
    if kind == 0x00:
        return Header(size, None, None)
    if kind & 0x0F != 1:
        raise ProxyError("not about a stream")
    if kind >> 4 == 0x3:
        _check_tlvs(block, _UNIX_BYTES)
        return Header(size, UNNAMED, UNNAMED)
    if kind >> 4 == 0:
        return Header(size, None, None)
    family, form = _FAMILIES[kind >> 4]
    _check_tlvs(block, struct.calcsize(form))
    source, destination, source_port, port = struct.unpack_from(form, block)
    return Header(size, (_text(family, source), source_port), (_text(family, destination), port))


def _check_tlvs(block: bytes, at: int) -> None:
    """Lengths that add up."""
    if len(block) < at:
        raise ProxyError("addresses that are cut off")
    while at < len(block):
        if len(block) - at < 3:
            raise ProxyError("a TLV that is cut off")
        at += 3 + int.from_bytes(block[at + 1 : at + 3], "big")
    if at > len(block):
        raise ProxyError("a TLV that is cut off")


def _text(family: socket.AddressFamily, packed: bytes) -> bytes:
    """IPv4 also where it was mapped into IPv6, as everywhere in the gateway."""
    if family == socket.AF_INET6 and packed.startswith(_MAPPED):
        family, packed = socket.AF_INET, packed[12:]
    return socket.inet_ntop(family, packed).encode()


# ---- written -----------------------------------------------------------------------------------------------------


def write(version: int, source: tuple[bytes, int], destination: tuple[bytes, int]) -> bytes:
    """The header that tells a server of a connection; ends without addresses make it UNKNOWN (LOCAL)."""
    ends = _packed(source[0]), _packed(destination[0])
    if None in ends:
        return b"PROXY UNKNOWN\r\n" if version == 1 else SIGNATURE + bytes((_LOCAL, 0, 0, 0))
    from_, to = (end for end in ends if end is not None)
    six = len(from_) == 16 or len(to) == 16
    if version == 1:
        return _line(six, from_, to, source[1], destination[1])
    form = "!16s16sHH" if six else "!4s4sHH"
    block = struct.pack(form, _widened(from_, six), _widened(to, six), source[1], destination[1])
    return SIGNATURE + struct.pack("!BBH", _PROXY, 0x21 if six else 0x11, len(block)) + block


def _line(six: bool, source: bytes, destination: bytes, source_port: int, port: int) -> bytes:
    family = socket.AF_INET6 if six else socket.AF_INET
    from_, to = (socket.inet_ntop(family, _widened(packed, six)) for packed in (source, destination))
    return f"PROXY {'TCP6' if six else 'TCP4'} {from_} {to} {source_port} {port}\r\n".encode()


def _widened(packed: bytes, six: bool) -> bytes:
    """An IPv4 address beside one of IPv6 is written as one of IPv6."""
    return _MAPPED + packed if six and len(packed) == 4 else packed


def _packed(text: bytes) -> bytes | None:
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            return socket.inet_pton(family, text.decode("ascii"))
        except (OSError, ValueError):
            continue
    return None
