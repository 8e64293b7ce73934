"""What becomes of a request, told without sending one: its route and why not another, its filters, its backends.

The same route table decides as in a worker, with the same normal forms; STAGES is the running order of the filters,
which a test compares with the data plane's own. Pure: nothing is asked, so states of backends, counts of limits and
bodies stay out of it.
"""

from __future__ import annotations

import difflib
import ipaddress
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import msgspec
from msgspec import Struct, field

from kairos._speedups.patterns import Pattern, RouteError, host_key, mixed_rank
from kairos._speedups.routes import RouteTable, Template
from kairos._speedups.target import TargetError, checked_query, normal_host, normal_path
from kairos.config import oidc
from kairos.config.mask import masked_plain
from kairos.config.origin import OriginError, parse_backend
from kairos.config.policies import effective
from kairos.config.policies.auth import Auth
from kairos.config.policies.ratelimit import BY_IDENTITY, rules_of
from kairos.config.serving import builtin_paths

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kairos._speedups.patterns import Segment
    from kairos._speedups.routes import RouteMatch
    from kairos.config.backend import Backend
    from kairos.config.model import Config, Route
    from kairos.config.policies import Policies
    from kairos.config.policies.access import Access

NEAR = 5
"""Routes that nearly match and are told of."""
_SERVED = ("http", "websocket")

Outcome = Literal[
    "forwarded", "answered", "redirected", "builtin", "not_found", "method_not_allowed", "options", "refused"
]


class Question(Struct, frozen=True, forbid_unknown_fields=True):
    """A request that is asked about."""

    path: str
    """As it would stand in the request, with its query."""
    method: str = "GET"
    host: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    client_ip: str | None = None
    scheme: Literal["http", "https"] = "http"


class Candidate(Struct, frozen=True, omit_defaults=True):
    """A route that fits the path, or nearly."""

    index: int
    external_path: str
    methods: list[str]
    hosts: list[str]
    chosen: bool
    reason: str


class Stage(Struct, frozen=True, omit_defaults=True):
    """One filter of the route, in running order."""

    name: str
    does: str
    settings: Any = None
    """In force on this route, secrets masked."""
    set_by: Literal["route", "group", "all"] | None = None
    refuses: str | None = None
    """Why this request would go no further, where that can be told."""


class Destination(Struct, frozen=True, omit_defaults=True):
    """A backend that may be picked."""

    backend: str
    weight: int
    share: float
    """Of the requests while all are well, where the strategy goes by weight or evenly."""
    max_requests: int | None = None
    variant: str | None = None
    """The part of a split that has it."""
    state: str | None = None
    """How it is now, where a running gateway is asked."""
    breaker: str | None = None


class Explanation(Struct, frozen=True, omit_defaults=True):
    """What becomes of a request."""

    outcome: Outcome
    why: str
    status: int | None = None
    """Of the answer, where the gateway gives it."""
    path: str | None = None
    """As routes are compared with it."""
    host: str | None = None
    index: int | None = None
    external_path: str | None = None
    group: str | None = None
    params: dict[str, str] = field(default_factory=dict)
    upstream_path: str | None = None
    filters: list[Stage] = field(default_factory=list)
    strategy: str | None = None
    backends: list[Destination] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


class Explainer:
    """Answers for one configuration.

    Raises:
        RouteError: its routes cannot be served together; `check` says more.
    """

    def __init__(self, config: Config) -> None:
        self._config = config
        self._builtin = builtin_paths(config)
        self._table = RouteTable(self._rows())

    def _rows(self) -> Iterator[tuple[list[str], str, list[str], str, int]]:
        for index, route in enumerate(self._config.routers):
            taken = route.external_path in self._builtin
            methods: list[str] = [method for method in route.methods if not (taken and method == "GET")]
            if methods:
                yield route.hosts, route.external_path, methods, self._slash(route), index

    def _slash(self, route: Route) -> str:
        return route.trailing_slash or self._config.paths.trailing_slash

    def explain(self, request: Question) -> Explanation:
        """
        Raises:
            ValueError: client_ip is no address.
        """
        if request.client_ip is not None:
            ipaddress.ip_address(request.client_ip)
        try:
            path, query, host = self._normal(request)
        except (TargetError, UnicodeError) as error:
            return Explanation("refused", f"the request target or Host is refused: {error}", 400)
        if path in self._builtin and request.method in ("GET", "HEAD"):
            return Explanation(
                "builtin", f"{path} is answered by the gateway itself, before any route", 200, path, host
            )
        if path in oidc.paths(self._config.oidc):
            return Explanation("builtin", f"{path} is where logins come back to, before any route", None, path, host)
        match = self._table.match(host, path, request.method)
        candidates = list(self._candidates(path, host, request.method, match))
        if match.status == "found":
            return self._found(request, match, path, host, query, candidates)
        return self._not_found(request.method, match, path, host, candidates)

    def _normal(self, request: Question) -> tuple[str, str, str | None]:
        """Path, query and host as a worker makes them."""
        path, mark, query = request.path.partition("?")
        paths = self._config.paths
        made = normal_path(
            path.encode(),
            refuse_encoded_slash=paths.encoded_slash == "reject",
            merge_slashes=paths.merge_slashes,
        )
        host = request.host or next((value for name, value in request.headers.items() if name.lower() == "host"), None)
        wire = normal_host(host.encode("ascii" if host.isascii() else "idna"))[0] if host else None
        checked = checked_query(query.encode()) if query else b""
        return made.decode(), mark + checked.decode(), wire.decode() if wire is not None else None

    # -- no route

    def _not_found(
        self, method: str, match: RouteMatch, path: str, host: str | None, candidates: list[Candidate]
    ) -> Explanation:
        if match.status == "redirect":
            why = f"the route redirects to {match.location}: trailing_slash is 'redirect'"
            return Explanation("redirected", why, 308, path, host, match.value, candidates=candidates)
        if match.status == "options":
            why = f"OPTIONS is answered by the gateway with Allow: {', '.join(match.allowed)}"
            return Explanation("options", why, 204, path, host, candidates=candidates)
        if match.status == "method_not_allowed":
            why = f"no route of this path and host takes {method}: Allow: {', '.join(match.allowed)}"
            return Explanation("method_not_allowed", why, 405, path, host, candidates=candidates)
        why = (
            "routes have this path, but none of them for this host"
            if candidates and any(candidate.reason.startswith("serves only") for candidate in candidates)
            else "no route has this path"
        )
        return Explanation("not_found", why, 404, path, host, candidates=candidates)

    # -- candidates

    def _candidates(self, path: str, host: str | None, method: str, match: RouteMatch) -> Iterator[Candidate]:
        chosen = match.value if match.status in ("found", "redirect") else None
        fitting = [index for index, route in enumerate(self._config.routers) if self._fits(route, path)]
        for index in sorted(fitting, key=lambda index: index != chosen):
            yield self._candidate(index, chosen, self._reason(index, chosen, host, method))
        if not fitting:
            for index, reason in list(self._near(path))[:NEAR]:
                yield self._candidate(index, None, reason)

    def _candidate(self, index: int, chosen: int | None, reason: str) -> Candidate:
        route = self._config.routers[index]
        return Candidate(index, route.external_path, list(route.methods), route.hosts, index == chosen, reason)

    def _fits(self, route: Route, path: str) -> bool:
        try:
            return (
                RouteTable([([], route.external_path, ["GET"], self._slash(route), 0)]).match(None, path, "GET").index
                == 0
            )
        except RouteError:
            return False

    def _reason(self, index: int, chosen: int | None, host: str | None, method: str) -> str:
        route, config = self._config.routers[index], self._config
        if index == chosen:
            return "serves the request"
        if route.hosts and not any(_serves(name, host) for name in route.hosts):
            return f"serves only {', '.join(route.hosts)}" + ("" if host else ": no host is given")
        if method not in _taken(route.methods):
            return f"does not take {method}, only {', '.join(route.methods)}"
        if chosen is None:
            return "is answered by the gateway itself"
        return _precedence(route, config.routers[chosen], host)

    def _near(self, path: str) -> Iterator[tuple[int, str]]:
        other = path[:-1] if path.endswith("/") else path + "/"
        literals = {}
        for index, route in enumerate(self._config.routers):
            literals[route.external_path] = index
            if self._fits(route, other):
                yield index, f"would take {other}: trailing_slash is 'strict'"
            elif route.external_path.lower() == path.lower():
                yield index, "differs in upper and lower case, which count"
        for text in difflib.get_close_matches(path, literals, n=NEAR, cutoff=0.75):
            if text.lower() != path.lower() and text != other:
                yield literals[text], "looks like it, but does not fit the path"

    # -- the route

    def _found(
        self,
        request: Question,
        match: RouteMatch,
        path: str,
        host: str | None,
        query: str,
        candidates: list[Candidate],
    ) -> Explanation:
        config, index = self._config, match.value
        route: Route = config.routers[index]
        policies = effective(route, config)
        stages = list(_stages(route, policies, config, request))
        outcome, status, why = _outcome(route, stages, candidates)
        return Explanation(
            outcome, why, status, path, host, index, route.external_path, route.group, match.params,
            _upstream_path(route, match, query),
            stages,
            route.load_balancing_strategy if len(route.backends) > 1 else None,
            list(_destinations(route, policies)),
            candidates,
            list(_notes(route, policies, request)),
        )  # fmt: skip


def _serves(name: str, host: str | None) -> bool:
    """Whether a configured host is that of a request."""
    if host is None:
        return False
    key = host_key(name).decode()
    return host == key or (key.startswith(".") and host.endswith(key))


def _taken(methods: Iterable[str]) -> set[str]:
    return {*methods, "HEAD"} if "GET" in methods else set(methods)


# ---- why another route wins


def _precedence(route: Route, winner: Route, host: str | None) -> str:
    """Why `winner` is asked first."""
    ranks = [_host_rank(candidate, host) for candidate in (route, winner)]
    if ranks[0] != ranks[1]:
        words = {0: "this very host", 1: "hosts that end so", 2: "any host"}
        return f"{winner.external_path} is for {words[ranks[1][0]]}, which goes before {words[ranks[0][0]]}"
    for own, other in zip(Pattern(route.external_path).segments, Pattern(winner.external_path).segments, strict=False):
        if own != other:
            return f"{winner.external_path} goes first: {_worded(other)} before {_worded(own)}"
    if "HEAD" in winner.methods and "HEAD" not in route.methods:
        return f"{winner.external_path} lists HEAD itself"
    return f"{winner.external_path} is written so, while this route only ignores the last slash"


def _host_rank(route: Route, host: str | None) -> tuple[int, int]:
    """The exact name, then the longest suffix, then any."""
    keys = [host_key(name).decode() for name in route.hosts if _serves(name, host)]
    if not keys:
        return 2, 0
    return (0, 0) if host in keys else (1, -max(map(len, keys)))


def _worded(segment: Segment) -> str:
    if isinstance(segment, bytes):
        return f"the literal '{segment.decode()}'"
    if segment is None:
        return "the rest of the path"
    return "a parameter" if segment == (b"", b"") else f"a part with {-mixed_rank(segment)[0]} literal characters"


# ---- filters


class _Row(NamedTuple):
    """A filter of the data plane, and when a route has it."""

    built_by: str
    name: str
    does: str
    has: Callable[[Route, Policies, Config], Any]
    """Its settings, or none where the route goes without."""


def _policy(name: str) -> Callable[[Route, Policies, Config], Any]:
    return lambda _route, policies, _config: getattr(policies, name)


def _misdirected(_route: Route, _policies: Policies, config: Config) -> Any:
    tls = config.server.tls
    several = tls is not None and len({one.client_auth or tls.client_auth for one in tls.certificates}) > 1
    return {} if several else None


def _lists(_route: Route, policies: Policies, _config: Config) -> Any:
    access = policies.access
    return access if access is not None and access.lists else None


def _bans(_route: Route, policies: Policies, _config: Config) -> Any:
    access = policies.access
    return access.ban if access is not None and access.ban is not None and access.ban.enabled else None


def _cors(route: Route, policies: Policies, _config: Config) -> Any:
    return policies.cors if route.protocol != "websocket" else None


def _limits(*, late: bool) -> Callable[[Route, Policies, Config], Any]:
    def found(route: Route, _policies: Policies, config: Config) -> Any:
        rules = rules_of(",".join(route.hosts) + route.external_path, route, config)
        by_identity = {rule.scope for rule in rules if rule.spec.strategy in BY_IDENTITY}
        return [rule.spec for rule in rules if (rule.scope in by_identity) == late] or None

    return found


def _certificates(_route: Route, policies: Policies, config: Config) -> Any:
    holders = (config, *config.groups.values(), *config.routers)
    asked = any(one.mtls is not None or (one.auth is not None and "mtls" in one.auth.methods) for one in holders)
    return (policies.mtls or {}) if asked else None


def _auth(route: Route, policies: Policies, _config: Config) -> Any:
    return policies.auth or (Auth() if route.auth_required else None)


def _cookies(_route: Route, policies: Policies, config: Config) -> Any:
    auth = policies.auth
    own = (auth.oidc or next(iter(config.oidc), None)) if auth is not None and "oidc" in auth.methods else None
    return {} if any(name != own for name in config.oidc) else None


def _answer(_route: Route, policies: Policies, _config: Config) -> Any:
    found = {name: value for name in ("redirect", "respond") if (value := getattr(policies, name)) is not None}
    return found or None


STAGES: tuple[_Row, ...] = (
    _Row("https_only.build", "https_only", "takes requests over HTTPS only", _policy("https_only")),
    _Row("misdirected.build", "misdirected", "refuses hosts whose certificate asks other things", _misdirected),
    _Row("access.build_lists", "access", "lets networks in or not", _lists),
    _Row("access.build_jail", "ban", "keeps out addresses that failed too often", _bans),
    _Row("answers.build_maintenance", "maintenance", "is closed for now", _policy("maintenance")),
    _Row("security_headers.build", "security_headers", "adds headers to answers", _policy("security_headers")),
    _Row("compress.build", "compression", "compresses answers", _policy("compression")),
    _Row("cors.build", "cors", "answers preflights and says whose pages may read answers", _cors),
    _Row("limits.build_before", "rate_limit", "counts requests, whoever asks", _limits(late=False)),
    _Row("mtls.build_header", "mtls", "drops what clients say of certificates", _certificates),
    _Row("__init__.build", "auth", "asks who it is", _auth),
    _Row("session_cookies.build", "session_cookies", "keeps cookies of other logins from the backend", _cookies),
    _Row("csrf.build", "csrf", "refuses what other sites make browsers send", _policy("csrf")),
    _Row("limits.build_after", "rate_limit", "counts requests by who it is", _limits(late=True)),
    _Row("sizes.build", "size_limits", "bounds bodies and heads", _policy("size_limits")),
    _Row("validate.build", "validation", "holds requests against schemas and rules", _policy("validation")),
    _Row("answers.build_answer", "answer", "answers without a backend", _answer),
    _Row("split.build", "split", "divides requests among variants", _policy("split")),
    _Row("transform.build_request", "request_transformation", "changes the request", _policy("request_transformation")),
    _Row(
        "transform.build_response", "response_transformation", "changes the answer", _policy("response_transformation")
    ),
    _Row("mirror.build", "mirror", "sends copies elsewhere", _policy("mirror")),
    _Row("plugins.build", "plugins", "runs the user's own code", _policy("plugins")),
    _Row("cache.build", "cache", "answers from the cache", _policy("cache")),
)
"""In running order; answers pass them backwards."""


def _stages(route: Route, policies: Policies, config: Config, request: Question) -> Iterator[Stage]:
    for row in STAGES:
        settings = row.has(route, policies, config)
        if settings is None or settings == []:
            continue
        shown = masked_plain({row.name: msgspec.to_builtins(settings)})[row.name]
        yield Stage(
            row.name, row.does, shown or None, _set_by(row.name, route, config), _refusal(row.name, settings, request)
        )


def _set_by(name: str, route: Route, config: Config) -> Literal["route", "group", "all"] | None:
    """Whose setting is in force."""
    if name == "auth" and route.auth_required and route.auth is None:
        return "route"
    group = config.groups.get(route.group) if route.group is not None else None
    levels: list[tuple[Literal["route", "group", "all"], Any]] = [("route", route), ("group", group), ("all", config)]
    for level, holder in levels:
        if getattr(holder, name, None) is not None:
            return level
    return None


def _refusal(name: str, settings: Any, request: Question) -> str | None:
    """Why a stage ends it, where the request alone tells."""
    if name == "https_only" and request.scheme == "http":
        return "it did not come over HTTPS"
    if name == "access" and request.client_ip is not None:
        return _denied(settings, request.client_ip)
    return None


def _denied(access: Access, client: str) -> str | None:
    """Judged by the networks written in the file; those in files of their own are not read."""
    address = ipaddress.ip_address(client)
    best: tuple[int, bool] | None = None
    for networks, denies in ((access.allow, False), (access.deny, True)):
        for text in networks:
            network = ipaddress.ip_network(text, strict=False)
            if network.version == address.version and address in network:
                best = max(best or (-1, False), (network.prefixlen, denies))
    if best is not None:
        return f"{client} is in a network of deny" if best[1] else None
    default = access.default or ("deny" if access.allow or access.allow_files else "allow")
    unread = access.allow_files or access.deny_files
    return f"{client} is in no network of allow" if default == "deny" and not unread else None


# ---- where it goes


def _outcome(route: Route, stages: list[Stage], candidates: list[Candidate]) -> tuple[Outcome, int | None, str]:
    others = sum(not candidate.chosen for candidate in candidates)
    why = "the only route that fits the path" if not others else f"goes before {others} other that fit the path"
    for stage in stages:
        if stage.refuses is not None:
            return "refused", None, f"{why}; {stage.name} refuses it: {stage.refuses}"
        if stage.name == "maintenance":
            return "answered", stage.settings.get("status", 503) if stage.settings else 503, f"{why}; it is closed"
        if stage.name == "answer" and any(not settings.get("when") for settings in stage.settings.values()):
            return "answered", None, f"{why}; it is answered here"
    if route.protocol not in _SERVED:
        return "answered", 501, f"{why}; protocol {route.protocol} is not in effect in this version"
    return "forwarded", None, why


def _upstream_path(route: Route, match: RouteMatch, query: str) -> str:
    """What the backend is asked for: a query of the internal path goes in front of the client's."""
    template = Template(route.internal_path, Pattern(route.external_path).names)
    made = template.expand(match).decode()
    return made + (("&" + query[1:]) if query[1:] and "?" in made else query)


def _destinations(route: Route, policies: Policies) -> Iterator[Destination]:
    if policies.split is None:
        yield from _shares(route.backends, route, None, 1.0)
        return
    total = sum(variant.weight for variant in policies.split.variants) or 1
    for variant in policies.split.variants:
        yield from _shares(variant.backends or route.backends, route, variant.name, variant.weight / total)


def _shares(backends: list[Backend], route: Route, variant: str | None, part: float) -> Iterator[Destination]:
    weighted = route.load_balancing_strategy in ("weighted", "ip_hash")
    total = sum(backend.weight if weighted else 1 for backend in backends)
    for backend in backends:
        try:
            key = parse_backend(backend, route.protocol).key
        except OriginError:
            key = backend.host
        share = part * (backend.weight if weighted else 1) / total
        yield Destination(key, backend.weight, round(share, 4), backend.max_requests, variant)


def _notes(route: Route, policies: Policies, request: Question) -> Iterator[str]:
    """What else may decide, and is not told from the request alone."""
    if route.load_balancing_strategy == "ip_hash" and len(route.backends) > 1:
        yield "ip_hash: the client's address decides which backend"
    if policies.split is not None and any(variant.when for variant in policies.split.variants):
        yield "split: conditions of variants go before weights"
    if policies.access is not None and (policies.access.allow_files or policies.access.deny_files):
        yield "access: lists in files were not looked at"
    upgrade = any(name.lower() == "upgrade" for name in request.headers)
    if upgrade and route.protocol == "http" and not route.upgrade:
        yield "WebSocket handshakes are refused: the route has neither protocol websocket nor upgrade"
