"""Checks of passwords, which are slow on purpose: few at once, the rest in a bounded line, what was found remembered.

A check takes a core for some 20 ms and the memory its hash was made with, so no more than `concurrency` run in a worker
at once, in threads; `queue` may wait, further ones are Busy. What is remembered is a keyed hash of name, password and
stored hash, never a password: a changed one is another entry.
"""

from __future__ import annotations

import asyncio
import hashlib
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING

from kairos.proxy.filters.authn.memory import Once, Recent

if TYPE_CHECKING:
    from collections.abc import Callable

REMEMBERED = 4096
WRONG_FOR = 5.0
"""Seconds for which a wrong password is known to be wrong: a client that repeats it costs nothing."""


class BusyError(Exception):
    """Too many checks wait already."""


class Passwords:
    """Checks for all routes of a worker with the same bounds."""

    def __init__(
        self,
        concurrency: int,
        queue: int,
        check: Callable[[str, str], bool] | None = None,
        remembered: int = REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._check = check or verify
        self._room = concurrency + queue
        self._threads = ThreadPoolExecutor(concurrency, "passwords")
        self._secret = secrets.token_bytes(32)
        self._right = Recent[bool](remembered, clock)
        self._wrong = Recent[bool](remembered, clock)  # apart: a flood of guesses forgets nobody who is known
        self._once = Once[bool]()

    def mark(self, name: str, password: str, stored: str) -> bytes:
        """What stands for the three of them here."""
        parts = (part.encode("utf-8", "surrogatepass") for part in (name, password, stored))
        text = b"".join(len(part).to_bytes(4) + part for part in parts)
        return hashlib.blake2b(text, key=self._secret, digest_size=32).digest()

    @property
    def under_way(self) -> int:
        return len(self._once)

    def known(self, mark: bytes) -> bool | None:
        """What was found not long ago."""
        return self._right.find(mark) or self._wrong.find(mark)

    async def check(self, mark: bytes, password: str, stored: str, keep_s: float) -> bool:
        """Whether it is the password of the stored hash. Requests with the same one wait for the same check.

        Raises:
            BusyError: there is no room.
        """
        if mark not in self._once and len(self._once) >= self._room:
            raise BusyError
        return await self._once.do(mark, partial(self._run, mark, password, stored, keep_s))

    async def _run(self, mark: bytes, password: str, stored: str, keep_s: float) -> bool:
        loop = asyncio.get_running_loop()
        right = await loop.run_in_executor(self._threads, self._check, password, stored)
        if right:
            self._right.keep(mark, True, keep_s)
        else:
            self._wrong.keep(mark, False, min(keep_s, WRONG_FOR))
        return right


def verify(password: str, stored: str) -> bool:
    """Whether a password is that of an Argon2 hash; takes its time."""
    from argon2 import PasswordHasher
    from argon2.exceptions import InvalidHashError, VerificationError

    try:
        return PasswordHasher().verify(stored, password)
    except (InvalidHashError, VerificationError):
        return False
