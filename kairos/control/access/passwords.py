"""Passwords: argon2id in two threads, so that guesses cost the machine a bounded share; a few rules about what is one.

An account that does not exist costs as much time as one that does.
"""

from __future__ import annotations

import asyncio
import functools
import secrets
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from kairos.control.commands import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable

_Result = TypeVar("_Result")
MIN_LENGTH = 12
MAX_LENGTH = 1024
THREADS = 2
ROOM = 32  # that wait for a thread; more are sent away
PATIENCE_S = 10.0
COMMON = frozenset({
    "123456789012", "1234567890123", "12345678901234", "password1234", "password12345", "passwordpassword",
    "password123456", "qwertyuiop12", "qwertyuiop123", "qwertyuiopasdf", "qwerty123456", "administrator",
    "administrator1", "admin1234567", "adminadminadmin", "adminadmin12", "letmeinletmein", "iloveyou1234",
    "changemechangeme", "changeme1234", "welcome12345", "1q2w3e4r5t6y", "1qaz2wsx3edc", "kairoskairos",
    "kairos-gateway", "kairosgateway", "correcthorsebatterystaple", "secretsecret", "secret123456", "trustno1trustno1",
})  # fmt: skip
"""Some of those that are tried first and are long enough for the rest."""


class Passwords:
    """Hashes and verifies away from the loop."""

    def __init__(self, hasher: PasswordHasher | None = None) -> None:
        self._hasher = hasher or PasswordHasher()
        self._pool = ThreadPoolExecutor(THREADS, "password")
        self._under_way = 0

    @functools.cached_property
    def _nobodys(self) -> str:
        """What is verified where there is nothing to verify."""
        return self._hasher.hash(secrets.token_hex(16))

    async def hash(self, password: str) -> str:
        """Raises CommandError where too many wait."""
        return await self._in_thread(lambda: self._hasher.hash(normal(password)))

    async def verify(self, password: str, stored: str | None) -> bool:
        """Without `stored` it takes as long and is False. Raises CommandError where too many wait."""
        right = await self._in_thread(lambda: self._verify(password, stored or self._nobodys))
        return right and stored is not None

    def stale(self, stored: str) -> bool:
        """Whether it was hashed with other parameters than today's."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _verify(self, password: str, stored: str) -> bool:
        try:
            return self._hasher.verify(stored, normal(password))
        except (VerificationError, InvalidHashError):
            return False

    async def _in_thread(self, work: Callable[[], _Result]) -> _Result:
        if self._under_way >= ROOM:
            raise CommandError("unavailable", "too many passwords are being checked; try again")
        self._under_way += 1
        future = asyncio.get_running_loop().run_in_executor(self._pool, work)
        future.add_done_callback(lambda _: self._done())
        try:
            return await asyncio.wait_for(future, PATIENCE_S)
        except TimeoutError as error:
            raise CommandError("unavailable", "passwords take too long to check; try again") from error

    def _done(self) -> None:
        self._under_way -= 1


def normal(password: str) -> str:
    """The same password typed on another keyboard."""
    return unicodedata.normalize("NFKC", password)


def objections(password: str, name: str = "") -> list[str]:
    """Why this is no password; none: it may be one."""
    found = []
    if len(password) < MIN_LENGTH:
        found.append(f"at least {MIN_LENGTH} characters")
    if len(password) > MAX_LENGTH:
        found.append(f"at most {MAX_LENGTH} characters")
    plain = password.casefold()
    if plain in COMMON or (password and len(set(plain)) < 4):
        found.append("not one that everybody tries first")
    if name and (plain == name or plain.replace(name, "").strip("0123456789!.-_") == ""):
        found.append("not the name")
    return found


def accepted(password: str, name: str = "") -> str:
    """Raises CommandError where it is no good one."""
    if found := objections(password, name):
        raise CommandError("invalid", f"a password has {', '.join(found)}", found)
    return password


def one_time() -> str:
    """For one login: easy to read aloud, 100 random bits."""
    letters = "abcdefghjkmnpqrstuvwxyz23456789"
    return "-".join("".join(secrets.choice(letters) for _ in range(5)) for _ in range(4))
