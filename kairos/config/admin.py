"""How the gateway is managed: the admin listener, and where what outlives a process is kept."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from kairos.config.spec import Seconds, Spec

ADMIN_PORT = 5901


class AdminTls(Spec, frozen=True):
    """HTTPS instead of HTTP on the admin port."""

    cert_file: str
    """PEM file: the certificate, then those of the intermediate authorities."""
    key_file: str | None = None
    """Its private key, when not in cert_file. Not encrypted."""


class AdminSessions(Spec, frozen=True):
    """Sessions of people who logged in."""

    idle: Seconds = 3600.0
    """A session ends after so long without a request."""
    lifetime: Annotated[float, Meta(gt=0, le=30 * 86_400)] = 43_200.0
    """And after so long in any case, in seconds."""


class AdminTokens(Spec, frozen=True):
    """Personal tokens for programs that manage the gateway."""

    days: Annotated[int, Meta(ge=1, le=3650)] = 90
    """How long one is good for where nothing is said."""
    max_days: Annotated[int, Meta(ge=1, le=3650)] = 366
    """And at most."""


class Lockout(Spec, frozen=True):
    """Who guesses passwords has to wait."""

    attempts: Annotated[int, Meta(ge=1, le=1000)] = 5
    """Wrong passwords from one address (of IPv6: a /64), or browser that logged in before, until it has to wait."""
    account_attempts: Annotated[int, Meta(ge=1, le=100_000)] = 50
    """And for one account from everywhere, until all have to wait but browsers that logged in to it before."""
    duration: Seconds = 60.0
    """Doubled with each further wrong one, up to `longest`."""
    longest: Seconds = 3600.0


class AdminAudit(Spec, frozen=True):
    """How long the audit log is kept; the oldest entries go first. Of nodes with one database, the least counts."""

    days: Annotated[int, Meta(ge=0, le=36_500)] = 400
    """0: for ever."""
    entries: Annotated[int, Meta(ge=0, le=1_000_000_000)] = 2_000_000
    """And no more than so many, about half a kilobyte each; 0: however many there are."""


class AdminSso(Spec, frozen=True):
    """People log in at an OpenID provider. There, `https://<admin host>/api/sso/callback` has to be allowed."""

    issuer: str
    """Its address; what it says of itself is read from `/.well-known/openid-configuration` below it."""
    client_id: str
    client_secret: str | None = None
    token_auth: Literal["client_secret_basic", "client_secret_post"] = "client_secret_basic"
    """How the secret is sent."""
    scopes: list[str] = field(default_factory=lambda: ["openid", "profile", "email"])
    redirect_url: str | None = None
    """Where the provider sends browsers back to; by default the address they came by, with `/api/sso/callback`."""
    ca_file: str | None = None
    """PEM file: who may have signed the provider's certificate, instead of the system's authorities."""
    name_claim: str = "preferred_username"
    """Becomes the user's name here, lower case; where it is missing, `email`, then `sub`."""
    roles_claim: str = "groups"
    """A text, or a list of texts."""
    roles: dict[str, list[str]] = field(default_factory=dict)
    """Value of that claim to roles here: they are taken over with each login. Without it users keep the roles they have
    here."""
    default_roles: list[str] = field(default_factory=list)
    """What everybody gets in any case, or a new user where `roles` is empty. Who has no role cannot log in."""
    allowed_domains: list[str] = field(default_factory=list)
    """Of the claim `email`, unless the provider says that it was not verified; empty: all."""
    create_users: bool = True
    """False: only who is a user already, by an earlier login."""
    logout_at_provider: bool = True
    """Who logs out here is told where to log out there, where the provider knows how (RP-initiated logout)."""
    after_logout: str = "/"
    """Path, or address, to which the provider sends the browser back then: it has to be allowed there."""


class Admin(Spec, frozen=True):
    """The admin API: who manages the gateway, and from where."""

    enabled: bool = True
    """False: no port; the kairos command still reaches the gateway through the state folder."""
    host: str = "127.0.0.1"
    """Address to bind."""
    port: Annotated[int, Meta(ge=0, le=65_535)] = ADMIN_PORT
    """TCP port; 0 lets the system choose one, which the log then shows."""
    tls: AdminTls | None = None
    on_gateway: bool = False
    """Serve the admin API on the gateway's own port as well: to people who log in, or hold a token."""
    allowed_hosts: list[str] = field(default_factory=list)
    """Names by which the API may be called (Host), beside `host`, localhost and addresses of this machine: against DNS
    rebinding."""
    allowed_origins: list[str] = field(default_factory=list)
    """Origins of pages that may call the API beside its own, such as `https://ops.example.com`."""
    sessions: AdminSessions = AdminSessions()
    tokens: AdminTokens = AdminTokens()
    lockout: Lockout = Lockout()
    audit: AdminAudit = AdminAudit()
    sso: AdminSso | None = None


class Storage(Spec, frozen=True):
    """The database of the control process: revisions, users, the audit log, historical metrics."""

    url: str | None = None
    """`postgresql://user:password@host/database`, shared by several gateways; by default a SQLite file in the state
    folder."""
    source: Literal["file", "database"] = "file"
    """Where the configuration is: in this file, or in the database that several gateways follow. Sections about this
    machine alone (`server`, `admin`, `storage`, `access_log`) are always this file's."""
    node: str | None = None
    """Name of this gateway among those that share the database; by default the machine's name."""
