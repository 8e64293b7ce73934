"""API keys: known by the hash of what a request carries, so that nothing is compared byte by byte with a secret.

One ring of keys per section and snapshot, shared by its routes; a file is read again where it has changed. What a key
may do on a route is worked out when it is first used there.
"""

from __future__ import annotations

import os
import re
import time
from array import array
from bisect import bisect_left
from fnmatch import translate
from functools import partial
from hashlib import sha256
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote_to_bytes

import msgspec

from kairos.config.policies import api_keys
from kairos.config.policies.api_keys import DEFAULT_NAMES, GROUP, ApiKey, digest_of, expiry_of
from kairos.proxy.filters.authenticate import Authenticator, Refusal
from kairos.proxy.filters.authn.carried import cookies, drop_cookie, parameters, without
from kairos.proxy.identity import Identity
from kairos.proxy.peers import Networks

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    from kairos.config.model import Route
    from kairos.config.policies.api_keys import ApiKeys, KeySource
    from kairos.proxy.exchange import Exchange
    from kairos.proxy.site import Site

MOST_KEY_BYTES = 512
CHALLENGE = b'ApiKey realm="kairos"'
UNKNOWN = Refusal("unauthorized", "API key is not valid")
TWO = Refusal("unauthorized", "More than one API key")
DISABLED = Refusal("unauthorized", "API key is disabled")
EXPIRED = Refusal("unauthorized", "API key has expired")
WRONG_ROUTE = Refusal("forbidden", "API key may not be used here")
WRONG_NETWORK = Refusal("forbidden", "API key may not be used from this address")


class Known(NamedTuple):
    """A key that was used: what every request with it needs."""

    key: ApiKey
    identity: Identity
    expires: float
    networks: Networks | None


class Ring:
    """The keys of one section, by their digests."""

    def __init__(self, spec: ApiKeys, more: Table | None) -> None:
        self.spec = spec
        self._own = {digest_of(key): key for key in spec.keys}
        self._more = more
        self._known: dict[bytes, Known] = {}

    def find(self, text: bytes) -> Known | None:
        """The key with this text."""
        digest = sha256(text).digest()
        known = self._known.get(digest)
        if known is None:
            key = self._own.get(digest) or (self._more.find(digest) if self._more is not None else None)
            if key is not None:
                known = self._known[digest] = _known(key)
        return known


def _known(key: ApiKey) -> Known:
    claims: dict[str, Any] = {**key.metadata, "sub": key.subject or key.id, "key_id": key.id}
    if key.name:
        claims["key_name"] = key.name
    if key.scopes:
        claims["scope"] = " ".join(key.scopes)
    identity = Identity(key.subject or key.id, "api_key", claims, key=key)
    return Known(key, identity, expiry_of(key), Networks(key.networks) if key.networks else None)


class Table:
    """Many keys, of which few are in use: their digests sorted in one piece of bytes, their records in another.

    A tenth of a kilobyte or two each; as objects they would take a kilobyte.
    """

    def __init__(self, keys: Iterable[ApiKey]) -> None:
        records = sorted((digest_of(key), msgspec.json.encode(key)) for key in keys)
        self._digests = b"".join(digest for digest, _ in records)
        self._records = b"".join(record for _, record in records)
        self._ends = array("Q", accumulate(len(record) for _, record in records))

    def find(self, digest: bytes) -> ApiKey | None:
        at = bisect_left(range(len(self._ends)), digest, key=self._digest)
        if at == len(self._ends) or self._digest(at) != digest:
            return None
        return msgspec.json.decode(self._records[self._ends[at - 1] if at else 0 : self._ends[at]], type=ApiKey)

    def _digest(self, at: int) -> bytes:
        return self._digests[32 * at : 32 * at + 32]


class ApiKeyAuth(Authenticator):
    """Asks for a key of the ring; made per route, for keys may be good for some routes only."""

    def __init__(self, ring: Ring, route: Route) -> None:
        self._ring = ring
        self._route = route
        self._forward = ring.spec.forward
        self._places = [Place(source) for source in ring.spec.sources]
        self._header = self._places[0].raw.lower() if [place.kind for place in self._places] == ["header"] else None
        self._may: dict[tuple[str, ...], bool] = {}

    def authenticate(self, x: Exchange) -> Identity | Refusal | None:
        text = self._text(x)
        if text is None or isinstance(text, Refusal):
            return text
        known = self._ring.find(text) if len(text) <= MOST_KEY_BYTES else None
        if known is None:
            return UNKNOWN
        refusal = self._refusal(known, x)
        if refusal is not None:
            return refusal
        if not self._forward:
            self.withhold(x)
        return known.identity

    def _text(self, x: Exchange) -> bytes | Refusal | None:
        """What the request carries, where it carries one."""
        if self._header is not None and not self._forward:  # the backend sees none, so the first of two is the one
            return x.header(self._header) or None
        found = {text for place in self._places for text in place.find(x) if text}
        return TWO if len(found) > 1 else next(iter(found), None)

    def _refusal(self, known: Known, x: Exchange) -> Refusal | None:
        key = known.key
        if not key.enabled:
            return DISABLED
        if known.expires <= time.time():
            return EXPIRED
        if key.routes and not self._allowed(tuple(key.routes)):
            return WRONG_ROUTE
        if known.networks is not None and x.client not in known.networks:
            return WRONG_NETWORK
        return None

    def _allowed(self, patterns: tuple[str, ...]) -> bool:
        """Whether a key with these patterns may use this route."""
        if patterns not in self._may:
            self._may[patterns] = any(_fits(pattern, self._route) for pattern in patterns)
        return self._may[patterns]

    def withhold(self, x: Exchange) -> None:
        for place in self._places:
            place.withhold(x)

    def challenge(self) -> bytes:
        return CHALLENGE


def _fits(pattern: str, route: Route) -> bool:
    if pattern.startswith(GROUP):
        return route.group == pattern.removeprefix(GROUP)
    return re.fullmatch(translate(pattern.replace("[", "[[]").replace("?", "[?]")), route.external_path) is not None


class Place:
    """One KeySource: finds keys, and takes them out."""

    def __init__(self, source: KeySource) -> None:
        self.kind = source.in_
        self.raw = (source.name or DEFAULT_NAMES.get(source.in_, "Authorization")).encode()
        self._scheme = {"authorization": b"apikey", "bearer": b"bearer"}.get(source.in_)

    def find(self, x: Exchange) -> Iterator[bytes]:
        """All that stand there."""
        if self.kind == "cookie":
            yield from (value for name, value in cookies(x) if name == self.raw)
        elif self.kind == "query":
            yield from (unquote_to_bytes(value) for name, value in parameters(x.query_string) if name == self.raw)
        else:
            lower = self.raw.lower()
            yield from self._credentials(value for name, value in x.headers if name.lower() == lower)

    def _credentials(self, values: Iterator[bytes]) -> Iterator[bytes]:
        for value in values:
            scheme, _, text = value.partition(b" ")
            if self._scheme is None:
                yield value
            elif scheme.lower() == self._scheme and not (self.kind == "bearer" and b"." in text):
                yield text.strip()

    def withhold(self, x: Exchange) -> None:
        """Take the key out of what goes to the backend."""
        if self.kind == "header":
            x.set_request_header(self.raw.decode(), None)
        elif not any(True for _ in self.find(x)):
            return
        elif self.kind == "cookie":
            drop_cookie(x, self.raw)
        elif self.kind == "query":
            x.upstream_target = without(x.upstream_target, self.raw)
        else:
            x.set_request_header("Authorization", None)


# --- building --------------------------------------------------------------------------------------------------------


def build(site: Site) -> Authenticator:
    """The authenticator of a route whose section api_keys holds the keys."""
    spec = site.policies.api_keys
    if spec is None:
        raise ValueError(f"route {site.name} wants API keys, but there is no api_keys section")
    # A ring holds its spec: while it lives, no other one has the same id.
    return ApiKeyAuth(site.kept(("api_keys", id(spec)), partial(_ring, spec, site)), site.route)


def _ring(spec: ApiKeys, site: Site) -> Ring:
    if spec.keys_file is None:
        return Ring(spec, None)
    state = os.stat(spec.keys_file)
    same = ("keys_file", spec.keys_file, state.st_mtime_ns, state.st_size, state.st_ino)
    return Ring(spec, site.kept(same, partial(_read, spec.keys_file)))


def _read(name: str) -> Table:
    return Table(api_keys.read(name))
