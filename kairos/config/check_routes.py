"""Judges the routes: paths, hosts, backends, and what they are to each other.

Errors name their route. Warnings and hints that may concern many routes are told once, with the first of them and how
many more there are. Names of messages that kairos-rs has are kept, as scripts look for them. Linear in the number of
routes; only the search for overlapping patterns compares pairs, and stops at OVERLAP_ROUTES.
"""

from __future__ import annotations

import os
import re
from itertools import combinations
from typing import TYPE_CHECKING

from kairos.config.origin import Origin, OriginError, ascii_name, parse_backend
from kairos.config.pattern import Pattern, PatternError, overlap, parse_pattern, placeholders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.model import Backend, Config, Health, Metrics, Route, UpstreamTls
    from kairos.config.problems import Findings, Path

OVERLAP_ROUTES = 300
MANY_DYNAMIC = 50
MANY_METHODS = 4
MANY_PARAMETERS = 3

_HEALTH_PATHS = frozenset({"/health", "/ready", "/live", "/health/ready", "/health/live"})
_LOCAL = frozenset({"localhost", "127.0.0.1", "::1"})
_NOT_IN_PATH = re.compile(r"[\x00-\x20\x7f\\]")
_DOT_SEGMENTS = frozenset({".", ".."})
_NOT_IN_EFFECT = (
    "rate_limit", "retry", "circuit_breaker", "request_transformation", "response_transformation", "ai_policy",
)  # fmt: skip


class _Notes:
    """Remarks that many routes share: the first place of each, and how many there are."""

    def __init__(self) -> None:
        self._first: dict[tuple[str, str], Path] = {}
        self._counts: dict[tuple[str, str], int] = {}

    def warning(self, keys: Path, message: str) -> None:
        self._note(("warning", message), keys)

    def hint(self, keys: Path, message: str) -> None:
        self._note(("hint", message), keys)

    def _note(self, note: tuple[str, str], keys: Path) -> None:
        self._first.setdefault(note, keys)
        self._counts[note] = self._counts.get(note, 0) + 1

    def tell(self, found: Findings) -> None:
        for note, keys in self._first.items():
            severity, message = note
            more = self._counts[note] - 1
            tell = found.warning if severity == "warning" else found.hint
            tell(keys, message + (f" (and {more} more like it)" if more else ""))


class _Survey:
    """What is learned from route to route."""

    def __init__(self, found: Findings) -> None:
        self.found = found
        self.notes = _Notes()
        self.taken: dict[tuple[str, str, str], int] = {}
        """(shape, host, method) → the route that has it."""
        self.dynamic: list[tuple[int, Route, Pattern]] = []
        self.static = 0
        self.plain = 0
        """Backends reached without TLS, and with."""
        self.secure = 0
        self.files: dict[str, str | None] = {}


def check_routes(config: Config, found: Findings) -> None:
    if not config.routers:
        found.error(("routers",), "No routers configured: the gateway would answer 404 to everything")
        return
    survey = _Survey(found)
    for at, route in enumerate(config.routers):
        _check_route(route, ("routers", at), config, survey)
    _check_whole(survey)
    _check_overlaps(survey)
    survey.notes.tell(found)


def _check_route(route: Route, keys: Path, config: Config, survey: _Survey) -> None:
    pattern = _check_external(route, keys, survey.found)
    if pattern is not None:
        _count_pattern(route, keys, pattern, survey)
        _check_internal(route, keys, pattern, survey)
        _check_taken(route, keys, pattern, config, survey)
        _check_builtin(route, keys, config.health, config.metrics, survey.notes)
    _check_methods(route, keys, survey)
    _check_hosts(route, keys, survey.found)
    _check_backends(route, keys, survey)
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
    elif _NOT_IN_PATH.search(path) or "?" in path or "#" in path:
        found.error(here, "holds a character that no request path has (space, control, '\\', '?' or '#')")
    else:
        try:
            return parse_pattern(path)
        except PatternError as error:
            found.error(here, f"Invalid path pattern: {error}")
    return None


def _has_dots(path: str) -> bool:
    """A dot segment, also a percent-encoded one: no normalised request path has one."""
    if "." not in path and "%" not in path:
        return False
    plain = re.sub("%2e", ".", path.partition("?")[0], flags=re.IGNORECASE)
    return not _DOT_SEGMENTS.isdisjoint(plain.split("/"))


def _check_internal(route: Route, keys: Path, pattern: Pattern, survey: _Survey) -> None:
    path, here = route.internal_path, (*keys, "internal_path")
    if not path.startswith("/"):
        survey.found.error(here, "Internal path must start with '/'")
    elif _has_dots(path):
        survey.found.error(here, f"Path traversal detected in route: {route.external_path} -> {path}")
    elif _NOT_IN_PATH.search(path) or "#" in path:
        survey.found.error(here, "holds a character that no request path has (space, control, '\\' or '#')")
    elif "{" in path and path != route.external_path:
        for name in placeholders(path):
            if name not in pattern.names:
                survey.found.warning(here, f"{{{name}}} is not captured by {route.external_path} and stays as written")


def _count_pattern(route: Route, keys: Path, pattern: Pattern, survey: _Survey) -> None:
    if not pattern.dynamic:
        survey.static += 1
        return
    survey.dynamic.append((int(keys[-1]), route, pattern))
    if len(pattern.names) > MANY_PARAMETERS:
        survey.notes.warning((*keys, "external_path"), f"a route has many parameters (more than {MANY_PARAMETERS})")


def _check_taken(route: Route, keys: Path, pattern: Pattern, config: Config, survey: _Survey) -> None:
    """Two routes of one shape need different methods or hosts; a route without hosts is the rest of all hosts."""
    policy = route.trailing_slash or config.paths.trailing_slash
    shape = pattern.shape if policy == "strict" else pattern.shape.rstrip("/") or "/"
    taken, at = survey.taken, int(keys[-1])
    for host in route.hosts or ("",):
        for method in route.methods:
            other = taken.setdefault((shape, host.lower(), method), at)
            if other != at:
                message = f"Duplicate route path detected: {route.external_path} ({method}) is that of routers[{other}]"
                survey.found.error((*keys, "external_path"), message)
                return


def _check_builtin(route: Route, keys: Path, health: Health, metrics: Metrics, notes: _Notes) -> None:
    path = route.external_path
    if (health.enabled and path in _HEALTH_PATHS) or (metrics.enabled and path == metrics.path):
        notes.warning((*keys, "external_path"), f"{path} is answered by the gateway itself, never by this route")


# ---- methods, hosts


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


def _check_hosts(route: Route, keys: Path, found: Findings) -> None:
    for at, host in enumerate(route.hosts):
        name = host.removeprefix("*.")
        if not (name.startswith("[") and name.endswith("]")) and ascii_name(name) is None:
            found.error((*keys, "hosts", at), f"'{host}' is no host: write a name without scheme or port, or *.name")


# ---- backends


def _check_backends(route: Route, keys: Path, survey: _Survey) -> None:
    if not route.backends:
        survey.found.error(keys, "At least one backend must be specified: give 'backends', or 'host' and 'port'")
    for at, backend in enumerate(route.backends):
        here = (*keys, "backends", at)
        path = backend.health_check_path
        if path is not None and (not path.startswith("/") or _NOT_IN_PATH.search(path)):
            survey.found.error((*here, "health_check_path"), "must be a path that starts with '/'")
        try:
            origin = parse_backend(backend, route.protocol)
        except OriginError as error:
            survey.found.error((*here, "host"), str(error))
        else:
            _judge_origin(backend, route, origin, here, survey)


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
    for name in _NOT_IN_EFFECT:
        if getattr(route, name) is not None:
            survey.notes.warning((*keys, name), f"{name} is not in effect in this version")
    if route.protocol in ("ftp", "dns"):
        survey.notes.warning((*keys, "protocol"), f"protocol {route.protocol} is not in effect in this version")
    retry, policy = route.retry, route.ai_policy
    if retry is not None and retry.initial_backoff_ms > retry.max_backoff_ms:
        message = "initial_backoff_ms cannot be greater than max_backoff_ms"
        survey.found.error((*keys, "retry", "initial_backoff_ms"), message)
    if policy is not None and (policy.fallback_backend_index or 0) >= max(len(route.backends), 1):
        here = (*keys, "ai_policy", "fallback_backend_index")
        survey.found.error(here, f"there are only {len(route.backends)} backends, counted from 0")
    if policy is not None and policy.enabled and config.ai is None and policy.strategy.kind == "content_analysis":
        survey.notes.warning((*keys, "ai_policy"), "ai_policy needs the section ai, which says whom to ask")


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


def _check_overlaps(survey: _Survey) -> None:
    """Kairos prefers literal text from the left, kairos-rs the most parameters: say where that differs."""
    if len(survey.dynamic) > OVERLAP_ROUTES:
        return
    groups: dict[int, list[tuple[int, Route, Pattern]]] = {}
    for entry in survey.dynamic:
        if ":path" not in entry[2].shape:
            groups.setdefault(entry[2].shape.count("/"), []).append(entry)
    for (at, one, pattern), (later, other, other_pattern) in _pairs(groups):
        if pattern.shape != other_pattern.shape and overlap(pattern.shape, other_pattern.shape):
            ours, theirs = _preferred(pattern, other_pattern)
            if ours != theirs and set(one.methods) & set(other.methods) and _share_host(one, other):
                winner = one if ours == 0 else other
                message = (
                    f"Potential route conflict between '{one.external_path}' and '{other.external_path}' "
                    f"(routers[{at}]): {winner.external_path} wins, kairos-rs took the other"
                )
                survey.notes.warning(("routers", later, "external_path"), message)


def _pairs(
    groups: dict[int, list[tuple[int, Route, Pattern]]],
) -> Iterator[tuple[tuple[int, Route, Pattern], tuple[int, Route, Pattern]]]:
    for group in groups.values():
        yield from combinations(group, 2)


def _preferred(one: Pattern, other: Pattern) -> tuple[int, int]:
    """Which of two overlapping patterns Kairos takes, and which kairos-rs (0 or 1, file order on a tie)."""
    ours = 0
    for left, right in zip(one.shape.split("/"), other.shape.split("/"), strict=True):
        if ("{" in left) != ("{" in right):
            ours = 1 if "{" in left else 0
            break
    return ours, 1 if len(other.names) > len(one.names) else 0


def _share_host(one: Route, other: Route) -> bool:
    return not one.hosts or not other.hosts or not set(one.hosts).isdisjoint(other.hosts)
