"""Judges the routes: paths, hosts, backends, and what they are to each other.

Errors name their route. Warnings and hints that may concern many routes are told once, with the first of them and how
many more there are. Names of messages that kairos-rs has are kept, as scripts look for them. Linear in the number of
routes; only the search for overlapping patterns compares pairs, and stops at OVERLAP_ROUTES.
"""

from __future__ import annotations

import difflib
import os
import re
from typing import TYPE_CHECKING

from kairos._speedups.patterns import Pattern, RouteError, host_key
from kairos.config.check_resilience import Named, Resilience
from kairos.config.origin import Origin, OriginError, ascii_name, parse_backend
from kairos.config.overlaps import Candidate, surprises
from kairos.config.policies import check_policies, effective
from kairos.config.problems import Notes
from kairos.config.serving import ADMIN_PATHS, builtin_paths

if TYPE_CHECKING:
    from kairos.config.model import Backend, Config, Route, UpstreamTls
    from kairos.config.problems import Findings, Path

MANY_DYNAMIC = 50
MANY_METHODS = 4
MANY_PARAMETERS = 3

_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BRACES = re.compile(r"\{([^{}]*)\}")
_DOT_SEGMENTS = frozenset({".", ".."})
_NOT_IN_EFFECT = ("ai_policy",)


class _Survey:
    """What is learned from route to route."""

    def __init__(self, config: Config, found: Findings) -> None:
        self.found = found
        self.notes = Notes()
        self.resilience = Resilience(config, found, self.notes)
        self.builtin = builtin_paths(config)
        self.taken: dict[tuple[object, bytes, str], int] = {}
        """(segments, host, method) → the route that has it."""
        self.dynamic: list[Candidate] = []
        self.static = 0
        self.plain = 0
        """Backends reached without TLS, and with."""
        self.secure = 0
        self.files: dict[str, str | None] = {}


def check_routes(config: Config, found: Findings) -> None:
    survey = _Survey(config, found)
    survey.resilience.check_sections()
    if not config.routers:
        found.error(("routers",), "No routers configured: the gateway would answer 404 to everything")
    for at, route in enumerate(config.routers):
        _check_route(route, ("routers", at), config, survey)
    _check_whole(survey)
    _check_overlaps(config, survey)
    survey.notes.tell(found)


def _check_route(route: Route, keys: Path, config: Config, survey: _Survey) -> None:
    pattern = _check_external(route, keys, survey.found)
    _check_internal(route, keys, pattern, survey)
    if pattern is not None:
        _count_pattern(route, keys, pattern, survey)
        _check_taken(route, keys, pattern, survey)
        _check_builtin(route, keys, survey)
        _check_admin(route, keys, config, survey)
    _check_methods(route, keys, survey)
    backends = _check_backends(route, keys, survey, needed=_asks_backends(route, config))
    survey.resilience.check_route(route, keys, backends)
    _check_policies(route, keys, config, survey)
    if route.tls is not None:
        check_tls(route.tls, (*keys, "tls"), survey.found, survey.files)


# ---- paths


def _check_external(route: Route, keys: Path, found: Findings) -> Pattern | None:
    """The parsed pattern, if the path can be matched at all."""
    path, here = route.external_path, (*keys, "external_path")
    if not path.startswith("/"):
        found.error(here, "External path must start with '/'")
    elif _has_dots(path):
        found.error(here, f"Path traversal detected in route: {path} -> {route.internal_path}")
    elif _CONTROL.search(path) or "?" in path or "#" in path:
        found.error(here, "holds a character that no request path has (a control character, '?' or '#')")
    elif "}{" in path:
        found.error(here, "Invalid path pattern: two parameters touch: put text between them")
    else:
        try:
            return Pattern(path)
        except RouteError as error:
            found.error(here, f"Invalid path pattern: {error}")
    return None


def _has_dots(path: str) -> bool:
    """A dot segment, also a percent-encoded one: no normalised request path has one."""
    if "." not in path and "%" not in path:
        return False
    plain = re.sub("%2e", ".", path.partition("?")[0], flags=re.IGNORECASE)
    return not _DOT_SEGMENTS.isdisjoint(plain.split("/"))


def _check_internal(route: Route, keys: Path, pattern: Pattern | None, survey: _Survey) -> None:
    path, here = route.internal_path, (*keys, "internal_path")
    if not path.startswith("/"):
        survey.found.error(here, "Internal path must start with '/'")
    elif _has_dots(path):
        survey.found.error(here, f"Path traversal detected in route: {route.external_path} -> {path}")
    elif _CONTROL.search(path) or "#" in path:
        survey.found.error(here, "holds a character that cannot be sent (a control character or '#')")
    elif "{" in path and pattern is not None:
        for name in _BRACES.findall(path):
            if name not in pattern.names:
                survey.found.warning(here, f"{{{name}}} is not captured by {route.external_path} and stays as written")


def _count_pattern(route: Route, keys: Path, pattern: Pattern, survey: _Survey) -> None:
    if pattern.static:
        survey.static += 1
        return
    survey.dynamic.append(Candidate(int(keys[-1]), pattern, frozenset(route.methods), frozenset(route.hosts)))
    if len(pattern.names) > MANY_PARAMETERS:
        survey.notes.warning((*keys, "external_path"), f"a route has many parameters (more than {MANY_PARAMETERS})")


def _check_taken(route: Route, keys: Path, pattern: Pattern, survey: _Survey) -> None:
    """Two routes of one pattern need different methods or hosts; a route without hosts serves what others leave."""
    taken, at = survey.taken, int(keys[-1])
    for host in _hosts(route, keys, survey.found):
        for method in route.methods:
            other = taken.setdefault((pattern.segments, host, method), at)
            if other != at:
                message = f"Duplicate route path detected: {route.external_path} ({method}) is that of routers[{other}]"
                survey.found.error((*keys, "external_path"), message)
                return


def _hosts(route: Route, keys: Path, found: Findings) -> list[bytes]:
    """The hosts as the route table has them; those that are none are reported."""
    names: list[bytes] = []
    for at, host in enumerate(route.hosts):
        try:
            names.append(host_key(host))
        except RouteError as error:
            found.error((*keys, "hosts", at), f"{error}: write a name or *.name, without scheme and port")
    return names if route.hosts else [b""]


def _check_admin(route: Route, keys: Path, config: Config, survey: _Survey) -> None:
    if config.admin.on_gateway and _shape(route.external_path) in _ADMIN:
        advice = "give the route another path, or leave the admin API on its own port"
        survey.found.error((*keys, "external_path"), f"is the admin API's while admin.on_gateway is on: {advice}")


def _shape(path: str) -> str:
    """A path without the names of its parameters."""
    return re.sub(r"\{\w+", "{", path)


_ADMIN = frozenset(map(_shape, ADMIN_PATHS))


def _check_builtin(route: Route, keys: Path, survey: _Survey) -> None:
    path = route.external_path
    if path in survey.builtin:
        survey.notes.warning((*keys, "external_path"), f"{path} is answered by the gateway itself, never by this route")


# ---- methods


def _check_methods(route: Route, keys: Path, survey: _Survey) -> None:
    here = (*keys, "methods")
    if not route.methods:
        survey.found.error(here, "At least one HTTP method must be specified")
    elif len(route.methods) > MANY_METHODS:
        survey.notes.warning(here, f"a route allows many HTTP methods (more than {MANY_METHODS})")
    if route.protocol == "websocket" and "GET" not in route.methods:
        survey.notes.warning(here, "a websocket route without GET can never be opened")
    if route.protocol == "dns" and "POST" not in route.methods:
        survey.notes.warning(here, "a dns route usually takes POST")


# ---- backends


def _asks_backends(route: Route, config: Config) -> bool:
    """Whether requests go to the route's own backends: not where all are answered here, or by variants' own."""
    policies = effective(route, config)
    if any(answer is not None and answer.when is None for answer in (policies.respond, policies.redirect)):
        return False
    split = policies.split
    return split is None or any(not variant.backends for variant in split.variants)


def _check_backends(route: Route, keys: Path, survey: _Survey, *, needed: bool) -> list[Named]:
    """Those that can be connected to."""
    if not route.backends and needed:
        survey.found.error(keys, "At least one backend must be specified: give 'backends', or 'host' and 'port'")
    named: list[Named] = []
    for at, backend in enumerate(route.backends):
        here = (*keys, "backends", at)
        try:
            origin = parse_backend(backend, route.protocol)
        except OriginError as error:
            survey.found.error((*here, "host"), str(error))
        else:
            _judge_origin(backend, route, origin, here, survey)
            named.append(Named(here, backend, origin.key))
    return named


def _judge_origin(backend: Backend, route: Route, origin: Origin, keys: Path, survey: _Survey) -> None:
    notes, here = survey.notes, (*keys, "host")
    if origin.tls:
        survey.secure += 1
    elif origin.unix is None and route.protocol in ("http", "websocket"):
        survey.plain += 1
        if origin.host in _LOCAL:
            notes.warning(here, "HTTP backend to localhost detected: right for development and sidecars only")
        else:
            notes.warning(here, "Insecure HTTP backend detected: what is sent to it can be read on the way")
    if route.protocol == "dns" and origin.port != 53:
        notes.warning((*keys, "port"), "a dns backend on another port than 53")
    if route.protocol == "ftp" and origin.port not in (21, 22, 990):
        notes.hint((*keys, "port"), "an ftp backend on another port than 21 or 22")


# ---- policies


def _check_policies(route: Route, keys: Path, config: Config, survey: _Survey) -> None:
    if route.group is not None and route.group not in config.groups:
        survey.found.error((*keys, "group"), _unknown_group(route.group, config))
    check_policies(route, keys, survey.found)
    for name in _NOT_IN_EFFECT:
        if getattr(route, name) is not None:
            survey.notes.warning((*keys, name), f"{name} is not in effect in this version")
    if route.protocol in ("ftp", "dns"):
        survey.notes.warning((*keys, "protocol"), f"protocol {route.protocol} is not in effect in this version")
    policy = route.ai_policy
    if policy is not None and (policy.fallback_backend_index or 0) >= max(len(route.backends), 1):
        here = (*keys, "ai_policy", "fallback_backend_index")
        survey.found.error(here, f"there are only {len(route.backends)} backends, counted from 0")
    if policy is not None and policy.enabled and config.ai is None and policy.strategy.kind == "content_analysis":
        survey.notes.warning((*keys, "ai_policy"), "ai_policy needs the section ai, which says whom to ask")


def _unknown_group(name: str, config: Config) -> str:
    near = difflib.get_close_matches(name, config.groups, n=1)
    return f"there is no group '{name}'" + (f", did you mean '{near[0]}'?" if near else ": add it to 'groups'")


def check_tls(tls: UpstreamTls, keys: Path, found: Findings, known: dict[str, str | None] | None = None) -> None:
    """Files can be read now, so that a typo is not found out by the first request."""
    known = {} if known is None else known
    for name in ("ca_file", "cert_file", "key_file"):
        path = getattr(tls, name)
        if path is None:
            continue
        if path not in known:
            known[path] = _unreadable(path)
        if known[path] is not None:
            found.error((*keys, name), f"cannot read {path}: {known[path]}")
    if tls.key_file is not None and tls.cert_file is None:
        found.error((*keys, "key_file"), "is of no use without cert_file")
    if tls.server_name is not None and ascii_name(tls.server_name) is None:
        found.error((*keys, "server_name"), f"'{tls.server_name}' is no host name")
    if not tls.verify:
        found.warning((*keys, "verify"), "any certificate is accepted: whoever sits in between can read and change all")


def _unreadable(path: str) -> str | None:
    try:
        with open(path, "rb"):
            return None
    except (OSError, ValueError) as error:
        return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)


# ---- routes among each other


def _check_whole(survey: _Survey) -> None:
    found, dynamic = survey.found, len(survey.dynamic)
    if survey.plain and not survey.secure:
        found.warning(("routers",), "All routes use HTTP to their backends: use https where the network is not yours")
    if dynamic > MANY_DYNAMIC:
        found.hint(("routers",), f"High number of dynamic routes ({dynamic}): overlaps between them are easy to miss")
    if dynamic and not survey.static:
        found.hint(("routers",), "no static routes: give paths that you know a route without parameters")


def _check_overlaps(config: Config, survey: _Survey) -> None:
    for winner, loser in surprises(survey.dynamic):
        here, there = (config.routers[entry.number].external_path for entry in (winner, loser))
        message = (
            f"Potential route conflict between '{here}' and '{there}': the first, with the more literal text, wins; "
            "kairos-rs took the second"
        )
        survey.notes.warning(("routers", loser.number, "external_path"), message)
