"""What the admin API takes and answers.

Written by tools/client.py from the API's description: change that, not this file.
"""

from __future__ import annotations

from typing import Any, Literal

from msgspec import Struct


class AddressBanned(Struct, frozen=True, kw_only=True, tag_field="type", tag="address_banned"):
    """As the API has it."""

    address: str
    jail: str
    seconds: float
    id: str = ""
    time: float = 0.0


class BackendChange(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    state: Literal["active", "drain", "maintenance"] | None = None
    weight: int | None = None
    breaker: Literal["auto", "open", "closed"] | None = None


class BackendEjected(Struct, frozen=True, kw_only=True, tag_field="type", tag="backend_ejected"):
    """As the API has it."""

    upstream: str
    seconds: float
    id: str = ""
    time: float = 0.0


class BackendHealthChanged(Struct, frozen=True, kw_only=True, tag_field="type", tag="backend_health_changed"):
    """As the API has it."""

    upstream: str
    healthy: bool
    reason: str
    id: str = ""
    time: float = 0.0


class BackendSet(Struct, frozen=True, kw_only=True, tag_field="type", tag="backend_set"):
    """As the API has it."""

    upstream: str
    state: Literal["active", "drain", "maintenance"]
    weight: int
    breaker: Literal["auto", "open", "closed"]
    id: str = ""
    time: float = 0.0


class BackendStatus(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    key: str
    routes: list[str]
    state: Literal["healthy", "unhealthy", "draining", "maintenance", "ejected"]
    weight: int
    breaker: Literal["closed", "open", "half_open"]
    breaker_forced: Literal["open", "closed"] | None
    ejected_for: float
    in_flight: int
    connections: int
    connections_idle: int
    attempts: int
    failures: int
    breaker_opened: int
    ejections: int
    checks: int
    checks_failed: int
    check: CheckStatus | None


class BanStatus(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    address: str
    jail: str
    seconds: float
    offences: int


class BreakerChanged(Struct, frozen=True, kw_only=True, tag_field="type", tag="breaker_changed"):
    """As the API has it."""

    upstream: str
    state: Literal["closed", "open", "half_open"]
    was: Literal["closed", "open", "half_open"]
    opened: int
    id: str = ""
    time: float = 0.0


class CacheStatus(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    capacity: int
    bytes: int
    entries: int
    inserts: int
    evictions: int
    rejected: int
    purges: int


class Candidate(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    index: int
    external_path: str
    methods: list[str]
    hosts: list[str]
    chosen: bool
    reason: str


class CertificateExpires(Struct, frozen=True, kw_only=True, tag_field="type", tag="certificate_expires"):
    """As the API has it."""

    certificate: str
    ends_at: float
    days: int
    id: str = ""
    time: float = 0.0


class CertificateStatus(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    file: str
    not_after: float
    days_left: float
    expired: bool


class CheckStatus(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    type: str
    path: str
    healthy: bool
    in_a_row: int
    last_ok: bool | None
    last_reason: str
    last_at: float
    last_seconds: float


class ClosedConnections(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    closed: int
    gently: bool
    states: dict[str, int]
    complete: bool
    workers: list[WorkerAnswer]
    found: list[Connection]


class ConfigChanged(Struct, frozen=True, kw_only=True, tag_field="type", tag="config_changed"):
    """As the API has it."""

    revision: int
    author: str
    message: str
    id: str = ""
    time: float = 0.0


class ConfigReloaded(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    success: bool
    message: str
    version: int
    timestamp: str
    revision: int
    unchanged: bool


class ConfigStatus(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    success: bool
    message: str
    version: int
    timestamp: str
    revision: int
    etag: str
    source: str
    format: Literal["json", "yaml", "toml"]
    author: str
    reason: str
    restart_required: list[str]
    problems: list[str]


class ConfigVerdict(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    valid: bool
    error: str | None = None
    problems: list[Place] | None = None


class Connection(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    id: str
    worker: int
    client: str
    peer: str
    through: str | None
    listener: str
    tls: TlsInUse | None
    protocol: Literal["http", "sse", "websocket"]
    state: Literal["handshake", "idle", "reading", "waiting", "sending", "streaming", "tunnel", "closing"]
    age: float
    idle: float | None
    requests: int
    bytes_received: int | None
    bytes_sent: int | None
    unsent: int
    rtt_ms: float | None
    request: RequestUnderWay | None


class Connections(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    connections: int
    requests: int
    matched: int
    states: dict[str, int]
    complete: bool
    cut: bool
    workers: list[WorkerAnswer]
    found: list[Connection]


class ControlStarted(Struct, frozen=True, kw_only=True, tag_field="type", tag="control_started"):
    """As the API has it."""

    pid: int
    id: str = ""
    time: float = 0.0


class Destination(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    backend: str
    weight: int
    share: float
    max_requests: int | None = None
    variant: str | None = None
    state: str | None = None
    breaker: str | None = None


class Difference(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    op: Literal["add", "remove", "replace"]
    path: str
    before: Any = None
    after: Any = None
    route: str | None = None


class EjectionEnded(Struct, frozen=True, kw_only=True, tag_field="type", tag="ejection_ended"):
    """As the API has it."""

    upstream: str
    id: str = ""
    time: float = 0.0


class Entry(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    number: int
    time: float
    node: str
    actor: str
    method: str
    address: str
    action: str
    target: str
    outcome: Literal["done", "refused", "failed"]
    detail: dict[str, Any]
    request_id: str
    previous: str
    hash: str


class Explanation(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    outcome: Literal[
        "forwarded", "answered", "redirected", "builtin", "not_found", "method_not_allowed", "options", "refused"
    ]
    why: str
    status: int | None = None
    path: str | None = None
    host: str | None = None
    index: int | None = None
    external_path: str | None = None
    group: str | None = None
    params: dict[str, str] | None = None
    upstream_path: str | None = None
    filters: list[Stage] | None = None
    strategy: str | None = None
    backends: list[Destination] | None = None
    candidates: list[Candidate] | None = None
    notes: list[str] | None = None


class HistoryPoint(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    timestamp: str
    value: HistoryValue


class HistoryValue(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    type: Literal["Counter", "Gauge"]
    value: float


class HistoryWindow(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    start_time: str
    end_time: str
    count: float
    sum: float
    min: float
    max: float
    avg: float


class LevelChange(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    levels: dict[str, Literal["debug", "info", "warning", "error"] | None]
    duration: float | None = None


class LevelStatus(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    component: str
    level: Literal["debug", "info", "warning", "error"]
    configured: Literal["debug", "info", "warning", "error"]
    until: float | None


class Lifted(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    address: str
    bans: int


class LimitStatus(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    limit: str
    allowed: int
    limited: int
    unshared: int


class LimitsStatus(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    limits: list[LimitStatus]
    tables: list[TableStatus]
    redis_down: int


class LogLevelsChanged(Struct, frozen=True, kw_only=True, tag_field="type", tag="log_levels_changed"):
    """As the API has it."""

    levels: dict[str, Literal["debug", "info", "warning", "error"]]
    seconds: float | None
    id: str = ""
    time: float = 0.0


class LogLinesLost(Struct, frozen=True, kw_only=True, tag_field="type", tag="log_lines_lost"):
    """As the API has it."""

    lines: int
    id: str = ""
    time: float = 0.0


class LoggedOut(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    location: str | None


class Login(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    name: str
    password: str


class LoginMethods(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    password: bool
    sso: bool


class Me(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    name: str
    method: Literal["local", "session", "token", "none"]
    permissions: list[
        Literal[
            "status:read",
            "metrics:read",
            "config:read",
            "config:write",
            "backends:operate",
            "cache:purge",
            "limits:operate",
            "gateway:operate",
            "logs:operate",
            "tail:read",
            "connections:read",
            "connections:operate",
            "audit:read",
            "users:read",
            "users:write",
            "backup:read",
            "self",
        ]
    ]
    must_change: bool
    csrf: str | None = None


class MetricInfo(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    name: str
    type: Literal["counter", "gauge", "histogram", "ratio"]
    help: str
    labels: list[str]
    aggregations: list[str]


class NewToken(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    name: str
    scopes: (
        list[
            Literal[
                "status:read",
                "metrics:read",
                "config:read",
                "config:write",
                "backends:operate",
                "cache:purge",
                "limits:operate",
                "gateway:operate",
                "logs:operate",
                "tail:read",
                "connections:read",
                "connections:operate",
                "audit:read",
                "users:read",
                "users:write",
                "backup:read",
                "self",
            ]
        ]
        | None
    ) = None
    days: int | None = None


class NewUser(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    name: str
    roles: list[str]
    password: str | None = None
    display_name: str = ""
    email: str = ""


class Node(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    name: str
    this: bool
    alive: bool
    seen_at: float
    started_at: float
    version: str
    revision: int
    current: bool
    problems: list[str]
    url: str
    status: dict[str, Any]


class Nodes(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    source: Literal["file", "database"]
    revision: int
    nodes: list[Node]
    problem: str = ""


class Page(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    entries: list[Entry]
    next: int | None


class PasswordChange(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    current_password: str
    new_password: str
    end_tokens: bool = False


class PasswordReset(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    password: str | None = None


class Place(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    severity: str
    message: str
    path: str = ""
    line: int | None = None


class PluginUse(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    plugin: str
    kind: str
    used_by: list[str]


class Pool(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    backend: str
    open: int
    idle: int
    in_flight: int
    connects: int
    connect_failures: int
    reuses: int
    workers: list[WorkerPool]


class Problem(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    success: bool = False
    message: str = ""
    problems: list[str] | None = None


class PurgeRequest(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    url: str | None = None
    prefix: str | None = None
    tags: list[str] | None = None
    all: bool = False
    soft: bool = False


class Purged(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    purged: int


class QueryAnswer(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    start: int
    end: int
    step: int
    resolution: int
    timestamps: list[int]
    series: list[QuerySeries]
    series_found: int
    buckets: list[float] | None = None


class QuerySeries(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    name: str
    aggregation: str
    labels: dict[str, str]
    total: float | list[int] | None
    values: list[float | list[int] | None]


class Question(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    path: str
    method: str = "GET"
    host: str | None = None
    headers: dict[str, str] | None = None
    client_ip: str | None = None
    scheme: Literal["http", "https"] = "http"


class Recent(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    seconds: float
    requests_per_second: float
    errors_per_second: float
    server_errors_per_second: float
    bytes_in_per_second: float
    bytes_out_per_second: float
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    gateway_p99_ms: float | None
    cpu_cores: float


class ReloadFailed(Struct, frozen=True, kw_only=True, tag_field="type", tag="reload_failed"):
    """As the API has it."""

    revision: int
    problems: list[str]
    id: str = ""
    time: float = 0.0


class ReloadStatus(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    done: int
    failed: int
    last_at: float | None
    problems: list[str]


class Reloaded(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    revision: int
    unchanged: bool


class RequestUnderWay(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    id: str
    method: str
    host: str
    path: str
    route: str
    backend: str | None
    attempts: int
    status: int | None
    age: float
    waits_for: Literal["filter", "queue", "backend", "response", "handler"] | None
    bytes_in: int
    bytes_out: int


class Revision(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    number: int
    time: float
    author: str
    origin: str
    message: str
    parent: int | None
    node: str
    sha256: str
    format: str
    name: str
    version: str


class RevisionDiff(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    before: int
    after: int
    diff: list[Difference]
    text_diff: str


class RevisionInUse(Struct, frozen=True, kw_only=True, tag_field="type", tag="revision_in_use"):
    """As the API has it."""

    revision: int
    reason: str
    id: str = ""
    time: float = 0.0


class RevisionText(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    revision: Revision
    diff: list[Difference]
    config: Any


class Role(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    name: str
    description: str
    permissions: list[
        Literal[
            "status:read",
            "metrics:read",
            "config:read",
            "config:write",
            "backends:operate",
            "cache:purge",
            "limits:operate",
            "gateway:operate",
            "logs:operate",
            "tail:read",
            "connections:read",
            "connections:operate",
            "audit:read",
            "users:read",
            "users:write",
            "backup:read",
            "self",
        ]
    ]
    built_in: bool


class RoleContent(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    permissions: list[
        Literal[
            "status:read",
            "metrics:read",
            "config:read",
            "config:write",
            "backends:operate",
            "cache:purge",
            "limits:operate",
            "gateway:operate",
            "logs:operate",
            "tail:read",
            "connections:read",
            "connections:operate",
            "audit:read",
            "users:read",
            "users:write",
            "backup:read",
            "self",
        ]
    ]
    description: str = ""


class RouteFound(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    success: bool
    message: str
    route: dict[str, Any]
    revision: int


class RouteList(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    success: bool
    message: str
    routes: list[dict[str, Any]]
    total: int
    offset: int
    revision: int


class RouteToJudge(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    route: dict[str, Any]


class RouteVerdict(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    valid: bool
    error: str | None = None
    problems: list[str] | None = None
    warnings: list[str] | None = None


class Session(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    id: str
    created_at: float
    seen_at: float
    expires_at: float
    address: str
    agent: str
    current: bool


class SheddingChanged(Struct, frozen=True, kw_only=True, tag_field="type", tag="shedding_changed"):
    """As the API has it."""

    slot: int
    level: int
    id: str = ""
    time: float = 0.0


class Snapshot(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    timestamp: float
    requests_total: int
    requests_success: int
    requests_error: int
    active_connections: int
    avg_response_time: float
    success_rate: float
    peak_connections: int
    uptime: float
    connections: int
    tunnels: int
    workers: int
    lag_ms: float
    memory_bytes: int
    recent: Recent | None


class Stage(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    name: str
    does: str
    settings: Any = None
    set_by: Literal["route", "group", "all"] | None = None
    refuses: str | None = None


class Status(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    version: str
    pid: int
    phase: Literal["starting", "running", "draining"]
    revision: int
    uptime: float
    config: str
    state_dir: str
    workers: list[WorkerStatus]
    reloads: ReloadStatus


class TableStatus(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    table: str
    keys: int
    places: int
    forgotten: int
    full: int


class TlsInUse(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    version: str | None
    cipher: str | None
    server_name: str | None
    resumed: bool
    client_certificate: bool


class Token(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    id: str
    name: str
    scopes: list[
        Literal[
            "status:read",
            "metrics:read",
            "config:read",
            "config:write",
            "backends:operate",
            "cache:purge",
            "limits:operate",
            "gateway:operate",
            "logs:operate",
            "tail:read",
            "connections:read",
            "connections:operate",
            "audit:read",
            "users:read",
            "users:write",
            "backup:read",
            "self",
        ]
    ]
    created_at: float
    expires_at: float | None
    used_at: float | None
    used_from: str | None


class TokenMade(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    token: str
    info: Token


class UpgradeEnded(Struct, frozen=True, kw_only=True, tag_field="type", tag="upgrade_ended"):
    """As the API has it."""

    pid: int
    problem: str
    id: str = ""
    time: float = 0.0


class Upgraded(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    pid: int


class User(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    name: str
    display_name: str
    email: str
    roles: list[str]
    permissions: list[
        Literal[
            "status:read",
            "metrics:read",
            "config:read",
            "config:write",
            "backends:operate",
            "cache:purge",
            "limits:operate",
            "gateway:operate",
            "logs:operate",
            "tail:read",
            "connections:read",
            "connections:operate",
            "audit:read",
            "users:read",
            "users:write",
            "backup:read",
            "self",
        ]
    ]
    disabled: bool
    must_change: bool
    sso: bool
    created_at: float
    last_login_at: float | None


class UserChange(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    roles: list[str] | None = None
    disabled: bool | None = None
    display_name: str | None = None
    email: str | None = None


class UserMade(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    user: User
    one_time_password: str | None = None


class Verdict(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    intact: bool
    entries: int
    pruned: int
    number: int
    hash: str
    broken_at: int | None = None
    reason: str = ""


class WorkerAnswer(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    slot: int
    pid: int
    connections: int
    requests: int
    matched: int
    complete: bool
    problem: str


class WorkerEnded(Struct, frozen=True, kw_only=True, tag_field="type", tag="worker_ended"):
    """As the API has it."""

    slot: int
    pid: int
    id: str = ""
    time: float = 0.0


class WorkerPool(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    slot: int
    open: int
    idle: int
    in_flight: int
    connects: int
    connect_failures: int
    reuses: int


class WorkerStarted(Struct, frozen=True, kw_only=True, tag_field="type", tag="worker_started"):
    """As the API has it."""

    slot: int
    pid: int
    restarts: int
    id: str = ""
    time: float = 0.0


class WorkerStatus(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    slot: int
    pid: int
    revision: int
    started_at: float
    connections: int
    requests: int


class Written(Struct, frozen=True, kw_only=True):
    """As the API has it."""

    revision: int
    etag: str
    changed: bool
    dry_run: bool
    diff: list[Difference]
    text_diff: str
    warnings: list[str]
    restart_required: list[str]
    notes: list[str] | None = None
    success: bool
    message: str
    route: dict[str, Any] | None = None
