"""API keys: who has one, what it is good for, and where a request carries it.

Only the SHA-256 of a key is kept. A key is 256 random bits, so that no slow hash is needed to keep it from being
guessed, and a request costs a microsecond; a password would need one (see basic_auth).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Literal

import msgspec
from msgspec import Meta, field

from kairos.config.fields import NAME
from kairos.config.networks import check_networks
from kairos.config.policies import ratelimit
from kairos.config.policies.ratelimit import RateLimit  # noqa: TC001  (msgspec needs it at run time)
from kairos.config.problems import Findings
from kairos.config.spec import Spec
from kairos.config.textfiles import read_bounded, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from kairos.config.problems import Path

Scalar = str | int | float | bool
MOST_BYTES = 256 * 1024 * 1024
GROUP = "group:"
DEFAULT_NAMES = {"header": "X-API-Key", "cookie": "api_key", "query": "api_key"}


class ApiKey(Spec, frozen=True, gc=False):
    """One key; `kairos keys new` makes it with its hash."""

    id: Annotated[str, Meta(min_length=1, max_length=200)]
    """Its name, which is no secret: the claim `key_id`."""
    key_hash: Annotated[str, Meta(pattern="^(sha256:)?[0-9a-fA-F]{64}$")]
    """SHA-256 of the key in hexadecimal."""
    name: str = ""
    subject: str | None = None
    """Whose it is: the caller's name for limits and backends; by default the id."""
    metadata: dict[str, Scalar] = field(default_factory=dict)
    """Claims of the caller, for `claims`, `claims_to_headers` and templates."""
    scopes: list[Annotated[str, Meta(pattern=r"^[!#-\[\]-~]+$")]] = field(default_factory=list)
    """The claim `scope`."""
    enabled: bool = True
    expires: str | None = None
    """Moment from which it is good no more: 2027-01-31T12:00:00Z, or the day's beginning in UTC: 2027-01-31."""
    routes: list[str] = field(default_factory=list)
    """External paths of the routes it may use, `*` for any text, or `group:<name>`; none means all."""
    networks: list[str] = field(default_factory=list)
    """Networks it may be used from; none means all."""
    rate_limit: RateLimit | None = None
    """A limit of its own, over all routes."""


class KeySource(Spec, frozen=True):
    """Where a key may stand."""

    in_: Literal["header", "authorization", "bearer", "cookie", "query"] = field(name="in")
    """`authorization` is `Authorization: ApiKey <key>`, `bearer` is `Authorization: Bearer <key>`: what has dots there
    is a token, and left to the method jwt."""
    name: str | None = None
    """Of the header (X-API-Key), cookie or query parameter (api_key)."""


class ApiKeys(Spec, frozen=True):
    """Keys for routes whose `auth` lists the method api_key."""

    enabled: bool = True
    keys: list[ApiKey] = field(default_factory=list)
    keys_file: str | None = None
    """File with a list of more keys, JSON or YAML by extension; read again at each reload."""
    sources: list[KeySource] = field(default_factory=lambda: [KeySource("header")])
    """Where a key may stand. A request with two keys has none."""
    forward: bool = False
    """Pass the key on to the backend."""


def digest_of(key: ApiKey) -> bytes:
    """The SHA-256 as bytes."""
    return bytes.fromhex(key.key_hash.removeprefix("sha256:"))


def expiry_of(key: ApiKey) -> float:
    """Unix seconds; infinite for a key that does not expire.

    Raises:
        ValueError: it is no moment.
    """
    if key.expires is None:
        return float("inf")
    moment = datetime.fromisoformat(key.expires)
    if moment.tzinfo is None and len(key.expires) > 10:
        raise ValueError(f"'{key.expires}' has no time zone: end it with Z for UTC")
    return (moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp()


def read(name: str) -> Iterator[ApiKey]:
    """The keys of a file, one after the other: all at once they would take a kilobyte each.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else.
    """
    data = read_bounded(name, MOST_BYTES)
    if name.endswith((".yaml", ".yml")):
        data = msgspec.json.encode(msgspec.yaml.decode(data))
    for raw in msgspec.json.decode(data, type=list[msgspec.Raw]):
        yield msgspec.json.decode(raw, type=ApiKey)


def check(spec: ApiKeys, keys: Path, found: Findings) -> None:
    """Each key once, moments that are some, places that a request has."""
    taken: dict[object, str] = {}
    _check_keys(spec.keys, (*keys, "keys"), found, taken)
    if not spec.sources:
        found.error((*keys, "sources"), "lists no place where a key may stand")
    for at, source in enumerate(spec.sources):
        _check_source(source, (*keys, "sources", at), found)
    if spec.keys_file is None:
        if not spec.keys:
            found.error(keys, "has no keys: list them in 'keys', or name a 'keys_file'")
        return
    try:
        _check_file(read(spec.keys_file), (*keys, "keys_file"), found, taken)
    except (OSError, ValueError) as error:
        found.error((*keys, "keys_file"), f"cannot read keys from {spec.keys_file}: {reason_of(error)}")


def _check_file(more: Iterable[ApiKey], keys: Path, found: Findings, taken: dict[object, str]) -> None:
    """Problems of a file are told at the setting that names it."""
    for at, key in enumerate(more):
        for where, message in _problems(key, taken):
            found.error(keys, f"key {at + 1} ({key.id}): {'.'.join(map(str, where))} {message}")


def _check_keys(given: Sequence[ApiKey], keys: Path, found: Findings, taken: dict[object, str]) -> None:
    for at, key in enumerate(given):
        for where, message in _problems(key, taken):
            found.error((*keys, at, *where), message)


def _problems(key: ApiKey, taken: dict[object, str]) -> Iterator[tuple[Path, str]]:
    """Of one key; `taken` has the ids and digests of those before it."""
    for name, value in (("id", key.id), ("key_hash", digest_of(key))):
        if value in taken:
            yield (name,), f"is also that of key {taken[value]}"
        taken[value] = key.id
    try:
        expiry_of(key)
    except ValueError as error:
        yield ("expires",), f"is no moment such as 2027-01-31T12:00:00Z: {error}"
    parts = Findings()
    check_networks(key.networks, ("networks",), parts)
    if key.rate_limit is not None:
        ratelimit.check(key.rate_limit, ("rate_limit",), parts)
    for problem in parts.problems:
        if problem.severity == "error":
            yield problem.keys, problem.message
    for at, pattern in enumerate(key.routes):
        if not pattern.startswith(("/", "*", GROUP)):
            yield ("routes", at), f"'{pattern}' is no path and no group: write '/orders/*' or '{GROUP}name'"


def _check_source(source: KeySource, keys: Path, found: Findings) -> None:
    if source.name is not None and source.in_ not in DEFAULT_NAMES:
        found.error((*keys, "name"), f"a key in {source.in_} has no name of its own")
    elif source.name is not None and not NAME.fullmatch(source.name):
        found.error((*keys, "name"), f"'{source.name}' is no name of a {source.in_}")
    elif (source.name or "").lower() == "authorization":
        found.error((*keys, "name"), "write in: authorization, or in: bearer")
    if source.in_ == "query":
        message = "browsers and the logs of others keep URLs: prefer a header"
        found.warning((*keys, "in"), message)


def files(spec: ApiKeys) -> Iterator[str]:
    """What it reads."""
    if spec.keys_file is not None:
        yield spec.keys_file
