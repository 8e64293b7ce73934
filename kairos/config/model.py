"""The typed configuration: the one form every accepted spelling is loaded into.

Pure data, shared by both planes. `load` decodes files into these Structs, `check` judges them across fields,
`proxy.snapshot` compiles them. All are frozen; unknown keys are refused (`load` lets comment keys pass).
Durations are seconds, sizes bytes. Names of the routes' own keys are those of kairos-rs, whose files load unchanged.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from kairos.config.admin import Admin, Storage
from kairos.config.backend import Backend as Backend  # noqa: TC001  (msgspec needs it at run time)
from kairos.config.listeners import ProxyProtocol, ServerTls  # noqa: TC001  (msgspec needs them at run time)
from kairos.config.log import Log, LogFile
from kairos.config.oidc import OidcProvider  # noqa: TC001
from kairos.config.policies import Policies
from kairos.config.policies.jwt import Jwt  # noqa: TC001
from kairos.config.policies.security_headers import SecurityHeaders
from kairos.config.redis import Redis  # noqa: TC001
from kairos.config.spec import Bytes, Count, Seconds, Spec

Method = Literal["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"]
Protocol = Literal["http", "websocket", "ftp", "dns"]
Strategy = Literal["round_robin", "least_connections", "random", "weighted", "ip_hash", "p2c", "ewma"]
SlashPolicy = Literal["strict", "ignore", "redirect"]
EscapePolicy = Literal["reject", "keep"]
Override = Literal["path", "host", "method", "scheme"]
LogFormat = Literal["json", "combined", "off"]


class Server(Spec, frozen=True):
    """Listeners and processes."""

    host: str = "0.0.0.0"
    """Address to bind: IPv4, IPv6 (`::` serves both) or a name."""
    port: Annotated[int, Meta(ge=0, le=65_535)] = 5900
    """TCP port; 0 lets the system choose one, which the start line then shows."""
    unix: str | None = None
    """Path of a unix socket to listen on as well."""
    tls: ServerTls | None = None
    """HTTPS on a port of its own; none without this section."""
    plain: bool = True
    """False leaves out the port without TLS."""
    proxy_protocol: ProxyProtocol | None = None
    """Load balancers that say with the PROXY protocol whose connections they pass on."""
    workers: Annotated[int, Meta(ge=1, le=512)] | None = None
    """Worker processes; none means one per core."""
    backlog: Count = 4096
    """Listen queue per socket; the kernel caps it at net.core.somaxconn."""
    drain_delay: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    """How long /ready fails before the listeners close, so that load balancers look away first."""
    drain_timeout: Seconds = 30.0
    """How long requests in flight may take to finish once the listeners are closed."""
    watch: bool = True
    """Reload when the configuration file changes."""
    rate_limit_keys: Annotated[int, Meta(ge=64, le=1 << 26)] = 262_144
    """Addresses, users and other keys whose limits are remembered at once, rounded to a power of two; read at the
    start only. Each takes 32 bytes once it is used, 144 with a sliding window."""


class Limits(Spec, frozen=True):
    """What one client may ask of the gateway. Exceeding any of them is answered by the error table."""

    head_bytes: Annotated[int, Meta(ge=256, le=1 << 20)] = 32 * 1024
    """Request or response head, start line included (431, or 502 from an upstream)."""
    line_bytes: Annotated[int, Meta(ge=64, le=1 << 20)] = 8 * 1024
    """Request target (414) and any one header line (431)."""
    header_count: Annotated[int, Meta(ge=8, le=10_000)] = 100
    """Header fields in one head (431)."""
    body_bytes: Bytes = 16 * 1024 * 1024
    """Request body (413); 0 means no limit. A route may set its own."""
    requests_per_connection: Count = 10_000
    """After so many requests the connection is closed politely."""
    connections: Annotated[int, Meta(ge=0)] = 0
    """Client connections per worker; 0 derives it from RLIMIT_NOFILE."""
    connections_per_ip: Annotated[int, Meta(ge=0)] = 0
    """Client connections per worker and peer address; 0 means no limit."""
    body_rate: Annotated[int, Meta(ge=0)] = 1024
    """Least bytes per second, on average, of a request body that takes longer than timeouts.body_idle (408)."""


class Timeouts(Spec, frozen=True):
    """How long the gateway waits, by phase."""

    head: Seconds = 10.0
    """From a request's first byte to the end of its head (408)."""
    idle: Seconds = 75.0
    """Between requests of a kept-alive connection."""
    body_idle: Seconds = 30.0
    """Between two reads of a request body (408)."""
    write_idle: Seconds = 30.0
    """Without progress while writing to a client that does not read."""
    connect: Seconds = 3.0
    """Upstream connect, TLS handshake included (504)."""
    first_byte: Seconds = 30.0
    """From the request sent to the upstream's response head (504)."""
    read_idle: Seconds = 30.0
    """Between two reads of a response body (504, or the connection cut once the head went out)."""
    total: Seconds | None = 60.0
    """Whole exchange but for tunnels and event streams; null means no limit."""
    tunnel_idle: Seconds = 300.0
    """Without a byte either way in a WebSocket or other upgraded connection."""


class RouteTimeouts(Spec, frozen=True):
    """Timeouts a route may set for itself; what is not given comes from `timeouts`."""

    connect: Seconds | None = None
    first_byte: Seconds | None = None
    read_idle: Seconds | None = None
    total: Annotated[float, Meta(ge=0, le=86_400)] | None = None
    """0 means no limit."""
    tunnel_idle: Seconds | None = None


class Keepalive(Spec, frozen=True):
    """Pool of idle upstream connections, per worker and origin."""

    idle: Seconds = 55.0
    """An idle connection is closed after this, less up to a tenth of jitter: just under servers' usual 60 s."""
    connections: Annotated[int, Meta(ge=0, le=100_000)] = 256
    """Idle connections kept per origin; 0 turns reuse off."""
    requests: Count = 10_000
    """Requests sent over one upstream connection before it is closed."""
    age: Seconds = 300.0
    """An older connection serves no further request (less up to a tenth of jitter): a name that moved is followed."""


class UpstreamTls(Spec, frozen=True):
    """TLS towards https and wss backends. Certificates are verified against the system's store by default."""

    ca_file: str | None = None
    """PEM file of the authorities to trust instead of the system's."""
    cert_file: str | None = None
    """PEM client certificate (chain), for mutual TLS."""
    key_file: str | None = None
    """Its private key, when not in cert_file."""
    server_name: str | None = None
    """SNI and name to verify; by default the backend's host."""
    verify: bool = True
    """False accepts any certificate: for tests only, reported by --check."""


class Paths(Spec, frozen=True):
    """How request targets are normalised before anything looks at them (RFC 3986 section 6)."""

    encoded_slash: EscapePolicy = "keep"
    """`%2F`: kept as it is and never a separator, or refused with 400."""
    trailing_slash: SlashPolicy = "strict"
    """`/a/` against a route `/a`: different, the same, or answered by a 308 redirect."""
    merge_slashes: bool = False
    """Treat `//` as `/`."""


class Headers(Spec, frozen=True):
    """Which header names pass."""

    identity: list[str] = field(default_factory=list)
    """Request headers by which backends know callers, beside those that `claims_to_headers`,
    `forward_auth.response_headers` and transformations with claims name: what a client sends under any of them reaches
    no backend, on any route."""
    underscores: bool = False
    """Let names through that hold `_` or other characters outside A-Z a-z 0-9 and `-`: applications that fold
    `-` and `_` together can be fooled by them, so they are dropped unless this is set."""
    overrides: list[Override] = field(default_factory=list)
    """Let fields through by which some frameworks take another path, host, method or scheme than the request's own
    (X-Original-URL, X-Host, X-HTTP-Method-Override, X-Url-Scheme and their kin). What is matched and authorised would
    not be what is done, so they are dropped but for the kinds that are listed."""
    request_id: Literal["keep", "replace"] = "keep"
    """X-Request-Id of a client: kept when well formed, or always replaced."""
    via: str = "kairos"
    """Pseudonym in Via; empty leaves Via out."""
    max_informational: Annotated[int, Meta(ge=0, le=100)] = 8
    """1xx responses relayed or swallowed per request before the upstream counts as broken."""


class MetricsHistory(Spec, frozen=True):
    """What the metrics were, up to a year ago: for the admin API."""

    enabled: bool = True
    """Take a sample every ten seconds."""
    series: Annotated[int, Meta(ge=10, le=100_000)] = 1000
    """Routes, backends of routes, backends and rate limits that are kept apart. Those beyond it are counted together,
    as `other`, until one has been idle for an hour."""


class Metrics(Spec, frozen=True):
    """Prometheus exposition."""

    enabled: bool = True
    path: str = "/metrics"
    per_route: bool = True
    """Label series by route; false folds all routes into one."""
    allow: list[str] = field(
        default_factory=lambda: ["127.0.0.0/8", "::1/128", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"]
    )
    """Networks that may read it on the gateway's port (others get 403): loopback and private ones by default."""
    history: MetricsHistory = MetricsHistory()


class AccessLog(LogFile, frozen=True):
    """One line per request, written in batches by the control process."""

    format: LogFormat = "json"
    file: str = "-"
    """Path, or `-` for standard output. Reopened on USR1."""
    sample: Annotated[float, Meta(ge=0, le=1)] = 1.0
    """Share of successful requests logged; errors (status 400 and above) always are."""
    redact: list[str] = field(
        default_factory=lambda: [
            "access_token", "api_key", "apikey", "auth", "client_secret", "code", "id_token", "jwt", "key",
            "password", "passwd", "refresh_token", "secret", "session", "sig", "signature", "token",
        ]
    )  # fmt: skip
    """Query parameters whose values are written as `***`."""

    @property
    def complete(self) -> bool:
        """Whether it has every request as JSON: then a live tail needs no lines of its own."""
        return self.format == "json" and self.sample >= 1


class Health(Spec, frozen=True):
    """Built-in health endpoints of the gateway's port: /health, /ready, /live and /health/ready, /health/live."""

    enabled: bool = True
    require_backends: bool = False
    """/ready fails while some route has no live backend."""


class Ai(Spec, frozen=True):
    """Provider used by `ai_policy`."""

    provider: str
    model: str
    api_key: str | None = None


class AiStrategy(Spec, frozen=True):
    """One of the three strategies of an ai_policy, with the model of content_analysis."""

    kind: Literal["content_analysis", "latency_prediction", "anomaly_detection"]
    model: str | None = None


class AiPolicy(Spec, frozen=True):
    """Backend choice by a model."""

    enabled: bool
    strategy: AiStrategy
    provider: str | None = None
    fallback_backend_index: Annotated[int, Meta(ge=0)] | None = None


class Retry(Spec, frozen=True):
    """Further attempts after a failed one, each on another backend while there is one. Without this section a request
    that could not be sent, and an idempotent one whose connection broke, goes to another backend at once."""

    max_retries: Annotated[int, Meta(ge=0, le=10)] = 3
    """0 turns retries off, also those that are made without this section."""
    initial_backoff_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 100
    """Longest wait before the first retry; the wait is chosen evenly between 0 and that (full jitter)."""
    max_backoff_ms: Annotated[int, Meta(ge=0, le=3_600_000)] = 5000
    """No wait is longer; a Retry-After beyond it is not waited for."""
    backoff_multiplier: Annotated[float, Meta(ge=1, le=100)] = 2.0
    retry_on_status_codes: list[Annotated[int, Meta(ge=100, le=999)]] = field(default_factory=lambda: [502, 503, 504])
    """Answers that are not passed on while there are retries left; only for idempotent methods."""
    retry_on_connection_error: bool = True
    """Retry when no connection came about, it broke before the answer, or the answer did not begin in time."""
    retry_non_idempotent: bool = False
    """Send POST and PATCH again too, although the first attempt may have taken effect."""
    buffer_bytes: Annotated[int, Meta(ge=0, le=16 * 1024 * 1024)] = 64 * 1024
    """Request body kept for being sent again; a request with a larger one is not retried once it was begun."""
    budget_percent: Annotated[float, Meta(ge=0, le=100)] = 20.0
    """Retries and hedges under way, as share of a worker's requests under way to the route's backends."""
    budget_min: Annotated[int, Meta(ge=0, le=100_000)] = 10
    """So many are always allowed, per worker and route."""


class Hedge(Spec, frozen=True):
    """A second attempt beside one that is slow, for idempotent requests; the first answer wins, the other attempt is
    cancelled. Counts against the retry budget."""

    percentile: Annotated[float, Meta(ge=50, lt=100)] = 95.0
    """Wait for as long as this share of the route's recent requests needed."""
    min_delay_ms: Annotated[int, Meta(ge=1, le=60_000)] = 10
    """But not less than this; also the delay until enough requests were seen."""


class CircuitBreaker(Spec, frozen=True):
    """Stops asking a backend that keeps failing. The state belongs to the backend and is shared by all workers and
    routes; these settings are those of the route that asks."""

    enabled: bool = True
    failure_threshold: Annotated[int, Meta(ge=1, le=1_000_000)] = 5
    """Failures in a row that open it."""
    success_threshold: Annotated[int, Meta(ge=1, le=1_000_000)] = 3
    """Successes that close it again."""
    reset_timeout: Seconds = 30.0
    """How long it stays open before trial requests."""
    half_open_requests: Annotated[int, Meta(ge=1, le=1_000)] = 3
    """Trial requests at once while it is half-open."""
    failure_status_codes: list[Annotated[int, Meta(ge=400, le=599)]] | None = None
    """Answers that count as failures, beside connect errors, timeouts and aborted bodies; null means every 5xx."""


class HealthCheck(Spec, frozen=True):
    """Active probes of a route's backends, made by the control process. A backend is probed if it has a
    health_check_path, or its route has a section of its own."""

    type: Literal["http", "tcp"] = "http"
    """Ask for a path, or only connect."""
    method: Literal["GET", "HEAD"] = "GET"
    """HEAD spares a backend whose answer is long."""
    path: Annotated[str, Meta(pattern="^/", max_length=2048)] = "/"
    """Where the backend has no health_check_path."""
    host: str | None = None
    """Host header; by default the backend's own."""
    expected_status: list[Annotated[int, Meta(ge=100, le=599)] | Literal["2xx", "3xx", "4xx", "5xx"]] = field(
        default_factory=lambda: ["2xx", "3xx"]
    )
    interval: Annotated[float, Meta(ge=0.1, le=86_400)] = 10.0
    """Between two probes of a backend, give or take a tenth."""
    timeout: Annotated[float, Meta(ge=0.05, le=3_600)] = 2.0
    rise: Annotated[int, Meta(ge=1, le=1_000)] = 2
    """Good probes in a row that bring a backend back."""
    fall: Annotated[int, Meta(ge=1, le=1_000)] = 3
    """Failed probes in a row that take it out."""


class OutlierDetection(Spec, frozen=True):
    """Passive health: a backend that fails or is slow while the others of its route are not is left out for a while."""

    enabled: bool = True
    interval: Annotated[float, Meta(ge=0.5, le=3_600)] = 10.0
    """Window over which backends are compared."""
    min_requests: Annotated[int, Meta(ge=1, le=1_000_000)] = 20
    """A backend with fewer in the window is not judged."""
    error_percent: Annotated[float, Meta(gt=0, le=100)] = 50.0
    """Ejected from this share of failures on, if the others together fail less than half as often."""
    latency_factor: Annotated[float, Meta(ge=0, le=1_000)] = 5.0
    """Ejected when its mean time to the response head is so many times the median of the others; 0 turns it off."""
    ejection_time: Seconds = 30.0
    """Times the number of ejections in a row."""
    max_ejection_time: Seconds = 300.0
    max_ejection_percent: Annotated[float, Meta(ge=0, le=100)] = 50.0
    """Of a route's backends that may be out this way at once, rounded down but at least one; never the last one."""


class Queue(Spec, frozen=True):
    """Where requests wait while every backend of the route has its max_requests, per worker."""

    size: Annotated[int, Meta(ge=0, le=1_000_000)] = 100
    """Further ones get 503; 0 turns waiting off."""
    timeout: Annotated[float, Meta(gt=0, le=3_600)] = 1.0
    """Longest wait (503)."""


class CacheStorage(Spec, frozen=True):
    """Where caches keep responses."""

    memory_bytes: Annotated[int, Meta(ge=0, le=1 << 50)] = 64 << 20
    """Shared by all workers and taken as it fills; made at start, so a change needs a restart. 0: there is no cache."""


class LoadShedding(Spec, frozen=True):
    """What a worker that falls behind no longer takes on: 503 with Retry-After, routes of the lowest priority first."""

    enabled: bool = True
    max_lag: Annotated[float, Meta(ge=0.01, le=60)] = 0.5
    """A worker falls behind when its event loop is so late throughout a second."""


class Route(Policies, frozen=True, kw_only=True):
    """What is served on one external path."""

    external_path: str
    """Literal segments, `{name}` for one segment or part of one, `{name:path}` for the rest of the path."""
    internal_path: str
    """Path sent to the backend; `{name}` stands for what the external path captured. A query of its own is kept
    in front of the client's."""
    methods: list[Method]
    hosts: list[str] = field(default_factory=list)
    """Host names this route serves, `*.example.com` for any one label or more; none means every host."""
    backends: list[Backend] = field(default_factory=list)
    protocol: Protocol = "http"
    load_balancing_strategy: Strategy = "round_robin"
    auth_required: bool = False
    group: str | None = None
    """The group of `groups` whose policies the route has where it has none of its own."""
    upgrade: bool = False
    """Let WebSocket upgrades through on an ordinary http route."""
    preserve_host: bool = False
    """Send the client's Host upstream instead of the backend's."""
    trailing_slash: SlashPolicy | None = None
    """Own policy instead of paths.trailing_slash."""
    proxy_protocol: Literal["v1", "v2"] | None = None
    """Tell the backends whose connection it is by a PROXY protocol header, in front of TLS. Each request then has a
    connection of its own."""
    body_bytes: Bytes | None = None
    """Own limit instead of limits.body_bytes; 0 means no limit."""
    timeouts: RouteTimeouts | None = None
    tls: UpstreamTls | None = None
    retry: Retry | None = None
    hedge: Hedge | None = None
    circuit_breaker: CircuitBreaker | None = None
    """Own settings instead of the section circuit_breaker."""
    health_check: HealthCheck | None = None
    """Own settings instead of the section health_check, and probes for every backend of the route."""
    outlier_detection: OutlierDetection | None = None
    """Own settings instead of the section outlier_detection."""
    queue: Queue = Queue()
    slow_start: Annotated[float, Meta(ge=0, le=3_600)] = 10.0
    """Over so many seconds a backend that came back gets from a tenth of its share up to all of it; 0 turns it off."""
    panic_threshold: Annotated[float, Meta(ge=0, le=100)] = 0.0
    """When no more than this percentage of the backends is healthy, probes and ejections are not believed and all are
    asked; 0 means when none is."""
    priority: Annotated[int, Meta(ge=0, le=10)] = 5
    """The lowest are shed first; 10 is never shed."""
    ai_policy: AiPolicy | None = None
    legacy: bool = False
    """Written as `host` and `port` on the route itself: shown and written back that way."""


class Group(Policies, frozen=True):
    """Policies for all routes that name the group."""


class Config(Policies, frozen=True, kw_only=True):
    """Everything the gateway needs to know."""

    version: Annotated[int, Meta(ge=0, le=255)] = 1
    server: Server = Server()
    admin: Admin = Admin()
    storage: Storage = Storage()
    limits: Limits = Limits()
    timeouts: Timeouts = Timeouts()
    keepalive: Keepalive = Keepalive()
    paths: Paths = Paths()
    headers: Headers = Headers()
    tls: UpstreamTls = UpstreamTls()
    """Towards upstreams, for routes without their own."""
    trusted_proxies: list[str] = field(default_factory=list)
    """Networks whose X-Forwarded-* and Forwarded headers are believed; from all others they are replaced."""
    circuit_breaker: CircuitBreaker = field(default_factory=CircuitBreaker)
    """For routes without their own."""
    health_check: HealthCheck = field(default_factory=HealthCheck)
    """For backends with a health_check_path whose routes have no section of their own."""
    outlier_detection: OutlierDetection = OutlierDetection()
    """For routes without their own."""
    load_shedding: LoadShedding = LoadShedding()
    cache_storage: CacheStorage = CacheStorage()
    health: Health = Health()
    metrics: Metrics = field(default_factory=Metrics)
    log: Log = field(default_factory=Log)
    access_log: AccessLog = field(default_factory=AccessLog)
    jwt: Jwt | None = None
    oidc: dict[str, OidcProvider] = field(default_factory=dict)
    """OpenID providers by name, for routes whose `auth` has the method `oidc`."""
    redis: Redis | None = None
    """What several nodes share."""
    ai: Ai | None = None
    security_headers: SecurityHeaders | None = field(default_factory=SecurityHeaders)
    """For routes and groups without their own: on with its defaults unless it says otherwise."""
    groups: dict[str, Group] = field(default_factory=dict)
    """Policies by the name that routes give as their `group`."""
    routers: list[Route]
