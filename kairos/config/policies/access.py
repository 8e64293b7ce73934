"""Who may use a route by the address asking: lists of networks, and bans of those that fail too often."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, field

from kairos.config.networks import check_files, check_networks
from kairos.config.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.problems import Findings, Path


class Ban(Spec, frozen=True):
    """Addresses that fail too often are refused for a while, longer each time. An IPv6 client is its /64."""

    enabled: bool = True
    failures: Annotated[int, Meta(ge=1, le=100_000)] = 10
    """So many in a window ban the address."""
    window: Annotated[float, Meta(ge=1, le=86_400)] = 60.0
    """Begins with an address's first failure."""
    time: Annotated[float, Meta(ge=1, le=31_536_000)] = 300.0
    """Length of a first ban."""
    growth: Annotated[float, Meta(ge=1, le=100)] = 2.0
    """Each further ban of the same address is so many times as long."""
    max_time: Annotated[float, Meta(ge=1, le=31_536_000)] = 86_400.0
    """No ban is longer."""
    forget: Annotated[float, Meta(ge=0, le=31_536_000)] = 86_400.0
    """Earlier bans count no more once an address has failed for so long no more."""
    statuses: list[Annotated[int, Meta(ge=400, le=599)]] = field(default_factory=lambda: [401, 403, 429])
    """Answers that are failures, the backend's and the gateway's own."""
    retry_after: bool = False
    """Answer 429 with Retry-After to a banned address, so that it learns how long the ban lasts, instead of 403."""
    exempt: list[str] = field(default_factory=list)
    """Networks never banned: monitoring, offices behind one address."""
    name: Annotated[str, Meta(min_length=1, max_length=100)] = "default"
    """Routes whose bans have the same name share failures and bans."""


class Access(Spec, frozen=True):
    """Which networks may use the routes. The most specific network counts; of the same one, `deny` does."""

    enabled: bool = True
    allow: list[str] = field(default_factory=list)
    """Networks that may."""
    deny: list[str] = field(default_factory=list)
    """Networks that may not (403)."""
    allow_files: list[str] = field(default_factory=list)
    """Files of networks that may, one a line; read again at each reload."""
    deny_files: list[str] = field(default_factory=list)
    """Files of networks that may not."""
    default: Literal["allow", "deny"] | None = None
    """For addresses in none of them; by default deny where networks are allowed, else allow."""
    ban: Ban | None = None

    @property
    def lists(self) -> bool:
        """Whether any address is refused by where it lies."""
        return bool(self.allow or self.deny or self.allow_files or self.deny_files or self.default == "deny")

    @property
    def closed(self) -> bool:
        """Whether addresses in no list are refused."""
        return self.default == "deny" if self.default is not None else bool(self.allow or self.allow_files)


def check(spec: Access, keys: Path, found: Findings) -> None:
    """Lists that can be read, bans that can end."""
    for name in ("allow", "deny"):
        check_networks(getattr(spec, name), (*keys, name), found)
        check_files(getattr(spec, f"{name}_files"), (*keys, f"{name}_files"), found)
    if spec.default == "deny" and not (spec.allow or spec.allow_files):
        found.warning((*keys, "default"), "nobody may use it: no network is allowed")
    if spec.ban is not None:
        _check_ban(spec.ban, (*keys, "ban"), found)


def _check_ban(ban: Ban, keys: Path, found: Findings) -> None:
    check_networks(ban.exempt, (*keys, "exempt"), found)
    if ban.max_time < ban.time:
        found.error((*keys, "max_time"), f"is less than a first ban lasts ({ban.time:g})")
    if not ban.statuses:
        found.error((*keys, "statuses"), "lists no status, so that nobody is ever banned: enabled: false says that")
    for at, status in enumerate(ban.statuses):
        if status >= 500:
            message = f"clients would be banned for {status}, which is hardly ever their fault"
            found.warning((*keys, "statuses", at), message)


def files(spec: Access) -> Iterator[str]:
    """What it reads."""
    yield from (*spec.allow_files, *spec.deny_files)
