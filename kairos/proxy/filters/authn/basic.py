"""Names and passwords in Authorization (HTTP Basic, RFC 7617), checked against Argon2 hashes.

A name that nobody has costs what one costs that somebody has: the password is checked against one of the hashes there
are, which one depends on the name and a secret, and found wrong whatever comes of it.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
from functools import partial
from typing import TYPE_CHECKING

from kairos.config.policies import basic_auth
from kairos.config.secrets import normal
from kairos.proxy.filters.authenticate import Authenticator, Refusal
from kairos.proxy.filters.authn.passwords import BusyError, Passwords
from kairos.proxy.identity import Identity

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from kairos.config.policies.basic_auth import BasicAuth, User
    from kairos.proxy.exchange import Exchange
    from kairos.proxy.site import Site

MOST_PASSWORD = 1024
"""Characters; a longer one is nobody's, and would cost a hash of its length."""
WRONG = Refusal("unauthorized", "Name or password is wrong")
MALFORMED = Refusal("unauthorized", "Authorization is not well-formed Basic")
BUSY = Refusal("auth_busy")
_BASIC = re.compile(rb"basic(?: +(.*))?", re.IGNORECASE | re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def credentials(header: bytes) -> tuple[str, str] | None:
    """Name and password of a Basic credential's part behind the scheme; None where they are malformed."""
    try:
        text = base64.b64decode(header, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return None
    name, colon, password = text.partition(":")
    if not colon or _CONTROL.search(text) or len(password) > MOST_PASSWORD:
        return None
    return normal(name), normal(password)


class Users:
    """The users of one section, by name."""

    def __init__(self, spec: BasicAuth, users: Sequence[User]) -> None:
        self.spec = spec
        self._hashes = sorted({user.password_hash for user in users})
        self._users = {normal(user.name): (user.password_hash, _identity(user, spec)) for user in users}

    def find(self, name: str, chosen: bytes) -> tuple[str, Identity | None]:
        """The hash to check a password against, and who it is; `chosen` picks the hash for a name nobody has."""
        found = self._users.get(name)
        if found is not None:
            return found
        return self._hashes[int.from_bytes(chosen[:8]) % len(self._hashes)], None


def _identity(user: User, spec: BasicAuth) -> Identity:
    name = normal(user.name)
    return Identity(name, "basic", {**user.claims, "sub": name}, realm=spec.realm)


class Basic(Authenticator):
    """Made by build()."""

    def __init__(self, users: Users, passwords: Passwords) -> None:
        self._users = users
        self._passwords = passwords
        self._keep_s = users.spec.cache_time
        self._challenge = f'Basic realm="{users.spec.realm}", charset="UTF-8"'.encode()

    def authenticate(self, x: Exchange) -> Identity | Refusal | Awaitable[Identity | Refusal] | None:
        found = _BASIC.fullmatch(x.header(b"authorization") or b"")
        if found is None:
            return None
        given = credentials(found[1] or b"")
        if given is None:
            return MALFORMED
        name, password = given
        stored, identity = self._users.find(name, self._passwords.mark(name, "", ""))
        mark = self._passwords.mark(name, password, stored)
        right = self._passwords.known(mark)
        if right is None:
            return self._ask(mark, password, stored, identity)
        return identity if right and identity is not None else WRONG

    async def _ask(self, mark: bytes, password: str, stored: str, identity: Identity | None) -> Identity | Refusal:
        try:
            right = await self._passwords.check(mark, password, stored, self._keep_s)
        except BusyError:
            return BUSY
        return identity if right and identity is not None else WRONG

    def withhold(self, x: Exchange) -> None:
        if _BASIC.fullmatch(x.header(b"authorization") or b""):
            x.set_request_header("Authorization", None)

    def challenge(self) -> bytes:
        return self._challenge


def build(site: Site) -> Authenticator:
    """The authenticator of a route whose section basic_auth holds the users."""
    spec = site.policies.basic_auth
    if spec is None:
        raise ValueError(f"route {site.name} wants names and passwords, but there is no basic_auth section")
    bounds = ("passwords", spec.concurrency, spec.queue)
    passwords = site.kept(bounds, partial(Passwords, spec.concurrency, spec.queue))
    # A Users holds its spec: while it lives, no other one has the same id.
    return Basic(site.kept(("basic_auth", id(spec), *_state(spec)), partial(_users, spec)), passwords)


def _state(spec: BasicAuth) -> tuple[int, ...]:
    if spec.users_file is None:
        return ()
    state = os.stat(spec.users_file)
    return state.st_mtime_ns, state.st_size, state.st_ino


def _users(spec: BasicAuth) -> Users:
    more = basic_auth.read(spec.users_file) if spec.users_file is not None else []
    return Users(spec, [*spec.users, *more])
