"""Names and passwords (HTTP Basic, RFC 7617): who there is, and how much checking them may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, field

from kairos.config.secrets import normal
from kairos.config.spec import Spec
from kairos.config.textfiles import read_bounded, reason_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.problems import Findings, Path

MOST_BYTES = 16 * 1024 * 1024
MUCH_MEMORY_KIB = 256 * 1024
HASH_COMMAND = "kairos keys hash-password"


class User(Spec, frozen=True):
    """One who may log in."""

    name: Annotated[str, Meta(min_length=1, max_length=500, pattern=r"^[^:\x00-\x1f\x7f]+$")]
    password_hash: str
    """Argon2, as `kairos keys hash-password` makes it."""
    claims: dict[str, str | int | float | bool] = field(default_factory=dict)
    """What else is known of the caller, for `claims`, `claims_to_headers` and templates."""


class BasicAuth(Spec, frozen=True):
    """Users for routes whose `auth` lists the method basic."""

    enabled: bool = True
    users: list[User] = field(default_factory=list)
    users_file: str | None = None
    """File of more, one `name:hash` a line; read again at each reload."""
    realm: Annotated[str, Meta(pattern=r"^[ !#-\[\]-~]*$", max_length=200)] = "kairos"
    """What a browser shows when it asks."""
    cache_time: Annotated[float, Meta(ge=0, le=86_400)] = 300.0
    """How long a password that was right is not checked again, per worker; 0 checks at each request."""
    concurrency: Annotated[int, Meta(ge=1, le=64)] = 2
    """Passwords checked at once, per worker: each takes a core and the memory its hash was made with."""
    queue: Annotated[int, Meta(ge=0, le=10_000)] = 32
    """Checks that may wait for that; further ones get 503."""


def read(name: str) -> list[User]:
    """The users of a file.

    Raises:
        OSError: it cannot be read.
        ValueError: it holds something else.
    """
    return list(_users(read_bounded(name, MOST_BYTES).decode()))


def _users(text: str) -> Iterator[User]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, password_hash = line.strip().partition(":")
        if not (name and colon):
            raise ValueError(f"line {number} is no name:hash")
        yield User(name, password_hash)


def check(spec: BasicAuth, keys: Path, found: Findings) -> None:
    """Each name once, hashes that can be checked."""
    taken: set[str] = set()
    for at, user in enumerate(spec.users):
        for name, message in _problems(user, taken):
            found.error((*keys, "users", at, name), message)
    if spec.users_file is None:
        if not spec.users:
            found.error(keys, "has no users: list them in 'users', or name a 'users_file'")
        return
    here = (*keys, "users_file")
    try:
        more = read(spec.users_file)
    except (OSError, ValueError) as error:
        found.error(here, f"cannot read users from {spec.users_file}: {reason_of(error)}")
        return
    for user in more:
        for name, message in _problems(user, taken):
            found.error(here, f"user {user.name}: {name} {message}")


def _problems(user: User, taken: set[str]) -> Iterator[tuple[str, str]]:
    from argon2 import extract_parameters
    from argon2.exceptions import InvalidHashError

    name = normal(user.name)
    if name in taken:
        yield "name", f"'{user.name}' is there twice"
    taken.add(name)
    try:
        parameters = extract_parameters(user.password_hash)
    except (InvalidHashError, ValueError):
        yield "password_hash", f"is no Argon2 hash: make one with {HASH_COMMAND}"
        return
    if parameters.memory_cost > MUCH_MEMORY_KIB:
        yield "password_hash", f"asks for {parameters.memory_cost} KiB at each check: use at most {MUCH_MEMORY_KIB}"


def files(spec: BasicAuth) -> Iterator[str]:
    """What it reads."""
    if spec.users_file is not None:
        yield spec.users_file
