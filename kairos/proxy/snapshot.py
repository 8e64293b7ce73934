"""A Config compiled for one worker: route table, plans, pools. Immutable and numbered; reload builds a new one.

Everything that can fail fails here, before the snapshot is put in force; what outlives a snapshot (pools of upstream
connections) is kept by `Origins` under a key and taken over.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from msgspec.structs import replace

from kairos._speedups.balance import make as make_balancer
from kairos._speedups.cells import U_IN_FLIGHT
from kairos._speedups.patterns import Growth, Pattern
from kairos._speedups.routes import RouteTable, Template
from kairos.config.model import CircuitBreaker
from kairos.config.origin import parse_backend
from kairos.config.policies import effective
from kairos.config.policies.sizes import widest
from kairos.config.serving import ADMIN_PATHS, ADMIN_SUFFIX, branches, builtin_paths
from kairos.config.tls import client_context, tls_key
from kairos.proxy.exchange import Plan, Settings, Target
from kairos.proxy.filters import filters_of, public_filters
from kairos.proxy.handlers import builtin
from kairos.proxy.handlers.forward import Forward
from kairos.proxy.peers import Networks
from kairos.proxy.site import Services, Site
from kairos.proxy.tls import tls_server
from kairos.proxy.upstream.connection import Origin
from kairos.proxy.upstream.hedge import Hedger
from kairos.proxy.upstream.policy import Policy
from kairos.proxy.upstream.queue import WaitQueue
from kairos.scoreboard import NO_ROUTE, route_key, upstream_key

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Hashable, Iterable, Iterator

    from kairos._speedups.balance import Balancer
    from kairos.config.model import Config, Method, Route, RouteTimeouts, Timeouts, UpstreamTls
    from kairos.config.origin import Origin as Address
    from kairos.config.tls import TlsKey
    from kairos.proxy.exchange import Filter, Handler, Runtime
    from kairos.scoreboard import Assignment, Scoreboard

_T = TypeVar("_T")
CONTROL = "control"
"""Name of the control process in logs."""

_ADMIN_METHODS: list[Method] = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]
_ADMIN_S = 150.0  # for an answer: an upgrade takes its time
_PROXY = {None: 0, "v1": 1, "v2": 2}
FORWARD = Forward()
_UNSAID = CircuitBreaker()
_LONE = CircuitBreaker(failure_status_codes=[])
_ProtocolHandlers = {"http": FORWARD, "websocket": FORWARD}


@dataclass(frozen=True)
class Revision:
    """What a snapshot is made from."""

    number: int
    config: Config
    series: Assignment
    control_path: str | None = None
    """Unix socket of the control process, which serves /metrics."""


class Origins:
    """The upstream pools of this worker by key; a pool lives as long as some snapshot names it."""

    def __init__(self, runtime: Runtime, scoreboard: Scoreboard, slot: int) -> None:
        self._runtime = runtime
        self._scoreboard = scoreboard
        self._slot = slot
        self._pools: dict[tuple[str, TlsKey | None, int], Origin] = {}
        self._kept: dict[tuple[Hashable, ...], Any] = {}
        self._contexts: dict[TlsKey, ssl.SSLContext] = {}

    def pool(self, address: Address, tls: UpstreamTls, config: Config, upstream: int, announce: int = 0) -> Origin:
        """The pool for an address; TLS settings and the state of their files are part of its identity."""
        key = (address.key, tls_key(tls) if address.tls else None, announce)
        pool = self._pools.get(key)
        if pool is None:
            pool = Origin(
                self._runtime,
                address,
                self._context(key[1]) if key[1] is not None else None,
                tls.server_name or address.host if address.tls else None,
                config.keepalive,
                self._scoreboard.page,
                self._scoreboard.upstream_block(self._slot, upstream),
                announce,
            )
            self._pools[key] = pool
        return pool

    @property
    def runtime(self) -> Runtime:
        return self._runtime

    def keep(self, key: tuple[Hashable, ...], make: Callable[[], Any]) -> Any:
        """What filters keep over reloads."""
        if key not in self._kept:
            self._kept[key] = make()
        return self._kept[key]

    async def close(self) -> None:
        """The process ends: what filters kept is closed in order."""
        kept, self._kept = self._kept, {}
        for value in kept.values():
            _retire(value)
            closed = getattr(value, "closed", None)
            if closed is not None:
                await closed()

    def _context(self, key: TlsKey) -> ssl.SSLContext:
        if key not in self._contexts:
            self._contexts[key] = client_context(key[0])
        return self._contexts[key]

    def settle(self, snapshot: Snapshot) -> None:
        """A snapshot is in force: give pools its settings, close those it does not name."""
        for key, pool in list(self._pools.items()):
            if pool in snapshot.origins:
                pool.configure(snapshot.config.keepalive)
            else:
                pool.retire()
                del self._pools[key]
        for unnamed in self._kept.keys() - snapshot.kept_keys:
            _retire(self._kept.pop(unnamed))
        used = {tls for _, tls, _ in self._pools}
        self._contexts = {key: context for key, context in self._contexts.items() if key in used}


def _retire(value: object) -> None:
    """Who keeps something open for filters may want to close it."""
    retire = getattr(value, "retire", None)
    if retire is not None:
        retire()


class Snapshot:
    """One revision, ready to serve: at once, or when all steps of `work` were taken, between which others have a turn.

    A thousand routes take a tenth of a second, and clients wait for as long as nobody else has a turn.
    """

    def __init__(
        self, revision: Revision, origins: Origins, scoreboard: Scoreboard, slot: int, *, at_once: bool = True
    ) -> None:
        self.revision = revision.number
        self.config = config = revision.config
        self.origins: set[Origin] = set()
        self._pools = origins
        self.series = revision.series
        self._scoreboard = scoreboard
        self._slot = slot
        self._policies: dict[tuple[int, int, int], Policy] = {}
        self.kept_keys: set[tuple[Hashable, ...]] = set()
        trusted = Networks(config.trusted_proxies) if config.trusted_proxies else None
        self.settings = Settings(config, trusted)
        self.tls = None if config.server.tls is None else tls_server(config.server.tls)
        self.services = Services(origins.runtime, self, scoreboard, slot)
        self.control_plan = self._control_plan(revision.control_path) if revision.control_path is not None else None
        self.unrouted = self._plan(NO_ROUTE, None, builtin.NotFound(), [], config.timeouts)
        self.plans: tuple[Plan, ...] = ()
        self.routed: list[Plan] = []
        self.work = self._compile(revision)
        for _ in self.work if at_once else ():
            pass

    def _compile(self, revision: Revision) -> Iterator[None]:
        rows = list(self._builtin_rows(revision))
        for row in self._route_rows():
            rows.append(row)
            yield
        growth = Growth(rows)
        yield from growth.steps
        self.table = RouteTable(growth)
        yield
        self.plans = tuple(self.table.values)
        self.routed = [plan for plan in self.plans if plan.route is not None]

    def dismantle(self) -> Iterator[None]:
        """Let go of plans and routes, step by step: this one is in force no more. Exchanges under way keep theirs."""
        plans, routes = list(self.plans), self.config.routers
        self.plans, self.routed = (), []
        self.table.values.clear()
        for parts in plans, routes:
            while parts:
                parts.pop()
                yield

    # -- rows of the table: hosts, path, methods, trailing slash, plan ------------------------------------------------

    def _builtin_rows(self, revision: Revision) -> Iterator[tuple[list[str], str, list[str], str, Plan]]:
        for path, handler in builtin.endpoints(self, self._scoreboard).items():
            yield [], path, ["GET"], "strict", self._plan(NO_ROUTE, None, handler, [], self.config.timeouts)
        yield from self._login_rows()
        if self.config.metrics.enabled and revision.control_path is not None:
            yield [], self.config.metrics.path, ["GET"], "strict", self._metrics_plan(revision.control_path)
        if self.config.admin.on_gateway and revision.control_path is not None:
            for path in ADMIN_PATHS:
                yield [], path, list(_ADMIN_METHODS), "strict", self._admin_plan(path, revision.control_path)

    def _login_rows(self) -> Iterator[tuple[list[str], str, list[str], str, Plan]]:
        """Where logins come back to and end, behind what a route has before it asks who one is."""
        if not self.config.oidc:
            return
        from kairos.config.model import Route
        from kairos.proxy.oidc.handlers import endpoints

        for path, methods, handler in endpoints(self.config, self.services):
            route = Route(external_path=path, internal_path=path, methods=methods)
            site = Site(path, route, effective(route, self.config), self.config, self.services)
            plan = self._plan(NO_ROUTE, None, handler, list(public_filters(site)), self.config.timeouts)
            yield [], path, list(methods), "strict", plan

    def _route_rows(self) -> Iterator[tuple[list[str], str, list[str], str, Plan]]:
        taken = builtin_paths(self.config)
        for route in self.config.routers:
            methods = [m for m in route.methods if m != "GET"] if route.external_path in taken else route.methods
            if methods:
                slash = route.trailing_slash or self.config.paths.trailing_slash
                yield route.hosts, route.external_path, list(methods), slash, self._route_plan(route)

    # -- plans --------------------------------------------------------------------------------------------------------

    def _route_plan(self, route: Route) -> Plan:
        handler = _ProtocolHandlers.get(route.protocol)
        if handler is None:
            return self._plan(route_key(route), route, builtin.NotServed(), [], self.config.timeouts)
        site = Site(route_key(route), route, effective(route, self.config), self.config, self.services)
        filters = list(filters_of(site))
        plans = [
            self._plan(route_key(part), part, handler, filters, merged(self.config.timeouts, part.timeouts))
            for part in (route, *branches(route, site.policies))
        ]
        named = {plan.variant: plan for plan in plans[1:]}
        for plan in plans:
            plan.branches = named
        return plans[0]

    def kept(self, key: tuple[Hashable, ...], make: Callable[[], _T]) -> _T:
        """What an earlier snapshot made under this key, else made now."""
        self.kept_keys.add(key)
        kept: _T = self._pools.keep(key, make)
        return kept

    def plan_for(self, url: str, timeout_s: float, tls: UpstreamTls | None) -> Plan:
        """A plan to ask the server of a URL."""
        from kairos.config.model import Backend, Route

        scheme, _, rest = url.partition("://")
        backend = Backend(host=f"{scheme}://{re.split('[/?#]', rest, maxsplit=1)[0]}")
        route = Route(external_path="/", internal_path="/", methods=["GET"], backends=[backend], tls=tls)
        timeouts = replace(self.config.timeouts, total=timeout_s, first_byte=timeout_s)
        return self._plan(NO_ROUTE, route, FORWARD, [], timeouts)

    def _control_plan(self, control_path: str) -> Plan:
        """What the control process does once for all workers is asked of it here."""
        from kairos.config.model import Backend, Route

        backend = Backend(host=f"unix:{control_path}")
        route = Route(external_path="/", internal_path="/", methods=["GET"], backends=[backend])
        return self._plan(NO_ROUTE, route, FORWARD, [], self.config.timeouts, upstream_name=CONTROL)

    def _metrics_plan(self, control_path: str) -> Plan:
        """/metrics is answered by the control process: counting is every worker's, reading is nobody's hot path."""
        from kairos.config.model import Backend, Route
        from kairos.proxy.filters.allow import Allow

        route = Route(
            external_path=self.config.metrics.path,
            internal_path="/metrics",
            methods=["GET"],
            backends=[Backend(host=f"unix:{control_path}")],
            priority=10,  # an overloaded gateway is the one to look at
        )
        allow = Allow(self.config.metrics.allow)
        return self._plan(NO_ROUTE, route, FORWARD, [allow], self.config.timeouts, upstream_name=CONTROL)

    def _admin_plan(self, path: str, control_path: str) -> Plan:
        """The admin API on the gateway's port: who asks is the control process's to find out. Its streams may last."""
        from kairos.config.model import Backend, Route

        route = Route(
            external_path=path,
            internal_path=path.replace(":path", ""),
            methods=_ADMIN_METHODS,
            backends=[Backend(host=f"unix:{control_path}{ADMIN_SUFFIX}")],
            priority=9,
            upgrade=True,  # feeds come over WebSocket, too
        )
        timeouts = replace(self.config.timeouts, total=None, first_byte=_ADMIN_S)
        return self._plan(NO_ROUTE, route, FORWARD, [], timeouts, upstream_name=CONTROL)

    def route_block(self, name: str) -> int:
        """Where this worker counts what happens on a route."""
        return self._scoreboard.route_block(self._slot, self._route_number(name))

    def _route_number(self, name: str) -> int:
        return self.series.route(name) if self.config.metrics.per_route else 0

    def _plan(
        self,
        name: str,
        route: Route | None,
        handler: Handler,
        filters: Iterable[Filter],
        timeouts: Timeouts,
        upstream_name: str | None = None,
    ) -> Plan:
        board, slot = self._scoreboard, self._slot
        forwards = handler is FORWARD and route is not None
        targets = self._targets(name, route, upstream_name) if forwards and route is not None else []
        return Plan(
            name,
            route,
            self.settings,
            handler,
            list(filters),
            timeouts,
            board.page,
            self.route_block(name),
            board.pair_block(slot, self.series.pair(name)),
            template=Template(route.internal_path, Pattern(route.external_path).names) if route else None,
            balancer=self._balancer(name, route) if route is not None and len(targets) > 1 else None,
            targets=targets,
            body_limit=self._body_limit(route),
            policy=self._policy(route) if forwards and route is not None else None,
            queue=self._queue(route, self._route_number(name)) if forwards and route is not None else None,
            hedge=partial(Hedger, route.hedge) if forwards and route is not None and route.hedge else None,
        )

    def _body_limit(self, route: Route | None) -> int:
        """The widest there is: what holds for a type of body is looked up once that is known (filters.sizes)."""
        own = route.body_bytes if route is not None else None
        sizes = effective(route, self.config).size_limits if route is not None else None
        if own is None and sizes is not None:
            own = widest(sizes)
        return self.config.limits.body_bytes if own is None else own

    def _policy(self, route: Route) -> Policy:
        """Routes with the same settings share one."""
        breaker = self._breaker(route)
        key = (id(breaker), id(route.retry), len(route.backends))
        if key not in self._policies:
            self._policies[key] = Policy(breaker, route.retry, len(route.backends))
        return self._policies[key]

    def _breaker(self, route: Route) -> CircuitBreaker:
        """The 5xx of a lone backend are no reason to refuse it where a cache is in front, unless somebody said so: the
        cache keeps some of them, answers stale for others, and there is nobody else to ask."""
        if route.circuit_breaker is not None:
            return route.circuit_breaker
        cache = effective(route, self.config).cache
        cached = cache is not None and cache.enabled
        lone = len(route.backends) == 1 and self.config.circuit_breaker == _UNSAID
        return _LONE if cached and lone else self.config.circuit_breaker

    def _queue(self, route: Route, number: int) -> WaitQueue | None:
        if all(backend.max_requests is None for backend in route.backends):
            return None
        board = self._scoreboard
        own, first = board.route_block(self._slot, number), board.route_block(0, number)
        return WaitQueue(route.queue, board.page, own, first, board.capacity.workers, board.row_stride)

    def _targets(self, name: str, route: Route, shown: str | None) -> list[Target]:
        """The backends of a route; `shown` is written in logs instead of an address that is nobody's business."""
        board, slot, series = self._scoreboard, self._slot, self.series
        targets = []
        for index, backend in enumerate(route.backends):
            address = parse_backend(backend, route.protocol)
            key = upstream_key(backend)
            upstream = series.upstream(key)
            pool = self._pools.pool(
                address, route.tls or self.config.tls, self.config, upstream, _PROXY[route.proxy_protocol]
            )
            self.origins.add(pool)
            pair = board.pair_block(slot, series.pair(name, key))
            row = board.upstream_block(slot, upstream)
            target = Target(
                pool,
                shown or key,
                board.page,
                pair,
                row,
                board.shared_upstream(upstream),
                index,
                guarded=upstream != 0,  # index 0 is shared by all that have no series of their own
                limit=backend.max_requests or 0,
                in_flight=board.upstream_block(0, upstream) + U_IN_FLIGHT,
                workers=board.capacity.workers,
                stride=board.row_stride,
            )
            targets.append(target)
        return targets

    def _balancer(self, name: str, route: Route) -> Balancer:
        board, series = self._scoreboard, self.series
        backends = []
        for backend in route.backends:
            key = upstream_key(backend)
            upstream = series.upstream(key)
            in_flight = board.upstream_block(0, upstream) + U_IN_FLIGHT
            limit = backend.max_requests or 0
            backends.append((board.shared_upstream(upstream), in_flight, backend.weight, key, limit))
        return make_balancer(
            route.load_balancing_strategy,
            board.page,
            cursor=board.shared_route(series.route(name)),
            workers=board.capacity.workers,
            stride=board.row_stride,
            backends=backends,
            seed=hash((name, self._slot)) & (1 << 63) - 1,
            slow_us=int(route.slow_start * 1e6),
            panic_percent=route.panic_threshold,
            breakers=(route.circuit_breaker or self.config.circuit_breaker).enabled,
        )


def merged(base: Timeouts, own: RouteTimeouts | None) -> Timeouts:
    """The timeouts of a route: its own where it has some (a total of 0 is none)."""
    if own is None:
        return base
    given = {name: value for name in own.__struct_fields__ if (value := getattr(own, name)) is not None}
    if given.get("total") == 0:
        given["total"] = None
    return replace(base, **given)
