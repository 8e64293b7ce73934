"""Older spellings, rewritten to the canonical one before anything is decoded.

Every spelling that kairos-rs's files, READMEs and release notes use has one row here (docs/configuration.md lists them
for users). Functions take plain dicts and give new ones; what is of the wrong type is left alone, for the decoder to
report. `Rewriting` remembers where a value stood, so that problems are told in the words of the file.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, get_args

from kairos.config.interpolate import Expanded
from kairos.config.model import Protocol, Strategy
from kairos.config.policies.jwt import Algorithm
from kairos.config.policies.ratelimit import LimitStrategy, RateLimit, WindowType
from kairos.config.problems import render

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

Plain = dict[str, Any]


def _squash(text: str) -> str:
    return re.sub(r"[-_ ]", "", text).lower()


_STRATEGIES = {_squash(name): name for name in get_args(Strategy)}
_PROTOCOLS = {_squash(name): name for name in get_args(Protocol)}
_LIMIT_STRATEGIES = {_squash(name): name for name in get_args(LimitStrategy)}
_WINDOWS = {_squash(name): name for name in get_args(WindowType)}
_ALGORITHMS = {_squash(name): name for name in get_args(Algorithm)}
_SPANS = {"second": 1, "minute": 60, "hour": 3600}

_METRICS = {
    "endpoint": "path",
    "prometheus_endpoint": "path",
    "enable_per_route_metrics": "per_route",
    "collect_per_route": "per_route",
}
_CORS = {"max_age_secs": "max_age"}
_RETRY = {
    "base_delay_ms": "initial_backoff_ms",
    "retry_delay_ms": "initial_backoff_ms",
    "max_delay_ms": "max_backoff_ms",
    "retryable_status_codes": "retry_on_status_codes",
    "max_attempts": "max_retries",
}
_ROUTE = {"retry_config": "retry"}
_LIMIT = {"max_requests": "requests_per_window"}


class Rewriting:
    """Where rewritten values stood, and what could not be rewritten."""

    def __init__(self, found: Findings) -> None:
        self.found = found
        self._origins: dict[Path, Path] = {}

    def moved(self, new: Path, old: Path) -> None:
        self._origins[new] = old

    def origin(self, keys: Path) -> Path:
        """The path in the file of what stands at `keys` in canonical form; moves nest, so from the front."""
        written: Path = ()
        for length in range(1, len(keys) + 1):
            moved = self._origins.get(keys[:length])
            written = (*written, keys[length - 1]) if moved is None else moved
        return written

    def put(self, target: Plain, keys: Path, name: str, value: Any, old: Path) -> None:
        """Give `target` (at `keys`) the canonical `name`, unless another spelling has given it another value."""
        if target.get(name) is None:
            target[name] = value
            self.moved((*keys, name), old)
        elif target[name] != value:
            self.found.error(old, f"says the same as '{render(self.origin((*keys, name)))}': keep one of them")

    def rename(self, section: Plain, keys: Path, table: dict[str, str]) -> Plain:
        """A copy of `section` with the keys of `table` in canonical form; nulls are dropped on the way."""
        made = {key: value for key, value in section.items() if key not in table}
        for key, value in section.items():
            if key in table and value is not None:
                self.put(made, keys, table[key], value, (*self.origin(keys), key))
        return made


def normalise(document: Plain, found: Findings) -> tuple[Plain, Rewriting]:
    """The canonical form of a whole file."""
    rewriting = Rewriting(found)
    made = _top(dict(document), rewriting)
    return made, rewriting


# ---- top level


def _top(made: Plain, rewriting: Rewriting) -> Plain:
    _jwt_secret(made, rewriting)
    _keep_alive(made, rewriting)
    if isinstance(made.get("metrics"), dict):
        made["metrics"] = rewriting.rename(made["metrics"], ("metrics",), _METRICS)
    _policies(made, (), rewriting)
    if isinstance(made.get("groups"), dict):
        made["groups"] = {name: _group(group, ("groups", name), rewriting) for name, group in made["groups"].items()}
    if isinstance(made.get("jwt"), dict):
        made["jwt"] = _jwt(made["jwt"], rewriting)
    if isinstance(made.get("routers"), list):
        made["routers"] = [
            _route(route, ("routers", at), rewriting) if isinstance(route, dict) else route
            for at, route in enumerate(made["routers"])
        ]
    return made


def _group(group: Any, keys: Path, rewriting: Rewriting) -> Any:
    if not isinstance(group, dict):
        return group
    made = dict(group)
    _policies(made, keys, rewriting)
    return made


def _policies(made: Plain, keys: Path, rewriting: Rewriting) -> None:
    """Older spellings of policies, wherever they stand: for all, a group or a route."""
    if isinstance(made.get("cors"), dict):
        made["cors"] = rewriting.rename(made["cors"], (*keys, "cors"), _CORS)
    if "rate_limit" in made:
        made["rate_limit"] = _rate_limit(made["rate_limit"], (*keys, "rate_limit"), rewriting)


def _jwt_secret(made: Plain, rewriting: Rewriting) -> None:
    """`jwt_secret` beside the sections is `jwt.secret`."""
    secret = made.pop("jwt_secret", None)
    jwt = made.get("jwt")
    if secret is None or not isinstance(jwt, dict | None):
        return
    made["jwt"] = dict(jwt or {})
    rewriting.put(made["jwt"], ("jwt",), "secret", secret, ("jwt_secret",))


def _jwt(section: Plain, rewriting: Rewriting) -> Plain:
    """`algorithm` is the one of `algorithms`; names of algorithms in any case."""
    made = {key: value for key, value in section.items() if key != "algorithm"}
    single = section.get("algorithm")
    if single is not None:
        rewriting.put(made, ("jwt",), "algorithms", [single], ("jwt", "algorithm"))
        rewriting.moved(("jwt", "algorithms", 0), ("jwt", "algorithm"))
    if isinstance(made.get("algorithms"), list):
        made["algorithms"] = [
            _ALGORITHMS.get(_squash(name), name) if isinstance(name, str) else name for name in made["algorithms"]
        ]
    return made


def _keep_alive(made: Plain, rewriting: Rewriting) -> None:
    """`server.keep_alive` is how long an idle connection is kept: `timeouts.idle`."""
    server = made.get("server")
    if not isinstance(server, dict):
        return
    given = [key for key in ("keep_alive", "keep_alive_secs") if server.get(key) is not None]
    made["server"] = {key: value for key, value in server.items() if key not in ("keep_alive", "keep_alive_secs")}
    timeouts = made.get("timeouts")
    if not given or not isinstance(timeouts, dict | None):
        return
    made["timeouts"] = dict(timeouts or {})
    for key in given:
        rewriting.put(made["timeouts"], ("timeouts",), "idle", server[key], ("server", key))


def _folded(section: Plain, key: str, names: dict[str, str]) -> Plain:
    """A name written in any case, with or without `_`, in its canonical form."""
    value = section.get(key)
    name = names.get(_squash(value)) if isinstance(value, str) else None
    return section if name is None or name == value else {**section, key: name}


# ---- routes


def _route(route: Plain, keys: Path, rewriting: Rewriting) -> Plain:
    made = rewriting.rename(route, keys, _ROUTE)
    made = _folded(made, "load_balancing_strategy", _STRATEGIES)
    made = _folded(made, "protocol", _PROTOCOLS)
    _single_backend(made, keys, rewriting)
    _missing_keys(made, keys, rewriting)
    if isinstance(made.get("retry"), dict):
        _retry(made, keys, rewriting)
    _policies(made, keys, rewriting)
    if isinstance(made.get("ai_policy"), dict):
        made["ai_policy"] = _ai_policy(made["ai_policy"], (*keys, "ai_policy"), rewriting)
    return made


def _single_backend(made: Plain, keys: Path, rewriting: Rewriting) -> None:
    """`host` and `port` on the route itself are its one backend; `backends` wins where both are given."""
    single = {name: made.pop(name, None) for name in ("host", "port")}
    if made.get("backends") is not None or single == {"host": None, "port": None}:
        return
    made["backends"] = [{name: value for name, value in single.items() if value is not None}]
    made["legacy"] = True
    rewriting.moved((*keys, "backends"), keys)
    rewriting.moved((*keys, "backends", 0), keys)
    for name in made["backends"][0]:
        rewriting.moved((*keys, "backends", 0, name), (*keys, name))


def _missing_keys(made: Plain, keys: Path, rewriting: Rewriting) -> None:
    """What samples leave out: the internal path (the same), the methods of a WebSocket or AI route."""
    external = made.get("external_path")
    if made.get("internal_path") is None and isinstance(external, str):
        made["internal_path"] = external.replace(":path}", "}")
        rewriting.moved((*keys, "internal_path"), (*keys, "external_path"))
    if made.get("methods") is not None:
        return
    if made.get("protocol") == "websocket":
        made["methods"] = ["GET"]
    elif made.get("ai_policy") is not None:
        made["methods"] = ["GET", "POST"]
        rewriting.found.warning(keys, "no methods given: a route with an ai_policy then serves GET and POST")


def _retry(made: Plain, keys: Path, rewriting: Rewriting) -> None:
    """Key variants; the breaker's settings leave for a section of their own."""
    here = (*keys, "retry")
    retry = rewriting.rename(made["retry"], here, _RETRY)
    threshold = retry.pop("circuit_breaker_threshold", None)
    timeout = retry.pop("circuit_breaker_timeout_ms", None)
    made["retry"] = retry
    breaker = made.get("circuit_breaker")
    if (threshold is None and timeout is None) or not isinstance(breaker, dict | None):
        return
    made["circuit_breaker"] = dict(breaker or {})
    there, written = (*keys, "circuit_breaker"), rewriting.origin(here)
    if breaker is None:
        rewriting.moved(there, written)
    if threshold is not None:
        old = (*written, "circuit_breaker_threshold")
        rewriting.put(made["circuit_breaker"], there, "failure_threshold", threshold, old)
    if timeout is not None:
        milliseconds = _number(timeout)
        seconds = timeout if milliseconds is None else milliseconds / 1000
        rewriting.put(
            made["circuit_breaker"], there, "reset_timeout", seconds, (*written, "circuit_breaker_timeout_ms")
        )


def _ai_policy(policy: Plain, keys: Path, rewriting: Rewriting) -> Plain:
    """`"latency_prediction"` and `{"content_analysis": {"model": …}}` as `{"kind": …, "model": …}`."""
    strategy = policy.get("strategy")
    here = (*keys, "strategy")
    if isinstance(strategy, str):
        rewriting.moved((*here, "kind"), here)
        return {**policy, "strategy": {"kind": strategy}}
    if not isinstance(strategy, dict) or "kind" in strategy or len(strategy) != 1:
        return policy
    ((kind, settings),) = strategy.items()
    if not isinstance(settings, dict | None):
        return policy
    rewriting.moved((*here, "kind"), (*here, kind))
    for name in settings or {}:
        rewriting.moved((*here, name), (*here, kind, name))
    return {**policy, "strategy": {**(settings or {}), "kind": kind}}


# ---- rate limits


def _rate_limit(limit: Any, keys: Path, rewriting: Rewriting) -> Any:
    """Every form a limit was ever written in."""
    if not isinstance(limit, dict):
        return limit
    made = rewriting.rename(limit, keys, _LIMIT)
    made = _folded(made, "window_type", _WINDOWS)
    _window_type(made, keys, rewriting)
    _composite(made, keys, rewriting)
    made = _folded(made, "strategy", _LIMIT_STRATEGIES)
    _requests_per(made, keys, rewriting)
    _burst_size(made, keys, rewriting)
    return made


def _window_type(made: Plain, keys: Path, rewriting: Rewriting) -> None:
    """Three keys have held the kind of window, and `window_type` also its length."""
    span = _named(made.get("window_type"), _SPANS)
    if span is not None:
        del made["window_type"]
        rewriting.put(made, keys, "window_duration", span, (*rewriting.origin(keys), "window_type"))
    if _named(made.get("strategy"), _WINDOWS):
        _move_window(made, "strategy", keys, rewriting)
    _move_window(made, "algorithm", keys, rewriting)


def _move_window(made: Plain, key: str, keys: Path, rewriting: Rewriting) -> None:
    value = made.pop(key, None)
    if value is not None:
        rewriting.put(made, keys, "window_type", _named(value, _WINDOWS) or value, (*rewriting.origin(keys), key))


def _composite(made: Plain, keys: Path, rewriting: Rewriting) -> None:
    """`{"Composite": [...]}` as the strategy's name with its parts beside it."""
    strategy = made.get("strategy")
    if isinstance(strategy, dict) and list(map(_squash, strategy)) == ["composite"]:
        ((name, parts),) = strategy.items()
        written = (*rewriting.origin(keys), "strategy")
        made["strategy"] = "Composite"
        rewriting.put(made, keys, "limits", parts, (*written, name))
    limits = made.get("limits")
    if isinstance(limits, list):
        made["limits"] = [_rate_limit(part, (*keys, "limits", at), rewriting) for at, part in enumerate(limits)]


def _requests_per(made: Plain, keys: Path, rewriting: Rewriting) -> None:
    """`requests_per_minute: n` is n requests in a window of 60 seconds."""
    for name, span in _SPANS.items():
        key = f"requests_per_{name}"
        requests = made.pop(key, None)
        if requests is not None:
            written = (*rewriting.origin(keys), key)
            rewriting.put(made, keys, "requests_per_window", requests, written)
            rewriting.put(made, keys, "window_duration", span, written)


def _burst_size(made: Plain, keys: Path, rewriting: Rewriting) -> None:
    """A burst size of at least the base is the whole capacity, a smaller one comes on top of the base."""
    size = made.pop("burst_size", None)
    if size is None:
        return
    burst, base = _number(size), _number(made.get("requests_per_window", RateLimit().requests_per_window))
    allowance = burst - base if burst is not None and base is not None and burst >= base else size
    rewriting.put(made, keys, "burst_allowance", allowance, (*rewriting.origin(keys), "burst_size"))


def _named(value: Any, names: dict[str, Any]) -> Any:
    return names.get(_squash(value)) if isinstance(value, str) else None


def _number(value: Any) -> int | None:
    """An integer, also one that came out of interpolation."""
    if isinstance(value, Expanded):
        return int(value) if re.fullmatch(r"\d{1,18}", value) else None
    return value if isinstance(value, int) and not isinstance(value, bool) and abs(value) < 1 << 53 else None
