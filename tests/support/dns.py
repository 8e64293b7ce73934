"""A name server for tests: real UDP, answers from a table, counts what it was asked."""

from __future__ import annotations

import socket
import struct
import threading
from collections import Counter
from ipaddress import ip_address
from typing import Self

A, AAAA = 1, 28
NXDOMAIN, SERVFAIL = 3, 2


class NameServer:
    """`records` maps a name to its addresses; names it does not hold do not exist."""

    def __init__(self, records: dict[str, list[str]], ttl: int = 60) -> None:
        self.records = records
        self.ttl = ttl
        self.code: int | None = None
        """Response code for every question, where set."""
        self.silent = False
        """Questions are heard and not answered."""
        self.asked: Counter[str] = Counter()
        """Questions for IPv4 addresses by name."""
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._sock.getsockname()[1]}"

    def _run(self) -> None:
        while True:
            data, peer = self._sock.recvfrom(4096)
            if not data:
                return
            answer = self._answer(data)
            if not self.silent:
                self._sock.sendto(answer, peer)

    def _answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]])
            at += 1 + query[at]
        name = b".".join(labels).decode().lower()
        (kind,) = struct.unpack_from("!H", query, at + 1)
        question = query[12 : at + 5]
        if kind == A:
            self.asked[name] += 1
        addresses = [ip_address(text) for text in self.records.get(name, [])]
        found = [address for address in addresses if address.version == (4 if kind == A else 6) and kind in (A, AAAA)]
        code = self.code if self.code is not None else (0 if name in self.records else NXDOMAIN)
        found = [] if code else found
        head = query[:2] + struct.pack("!HHHHH", 0x8580 | code, 1, len(found), 0, 0)
        answers = b"".join(
            b"\xc0\x0c" + struct.pack("!HHIH", kind, 1, self.ttl, len(address.packed)) + address.packed
            for address in found
        )
        return head + question + answers

    def close(self) -> None:
        if self._sock.fileno() < 0:
            return
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as waker:
            waker.sendto(b"", self._sock.getsockname())
        self._thread.join(25)
        self._sock.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
