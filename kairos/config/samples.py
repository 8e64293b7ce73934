"""Configurations to begin with: commented, without a warning, with secrets of their own.

A sample is one structure for all formats; comments become `#` or `//`. A test loads every one in every format.
"""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

from kairos.config.writing import is_table, json_text, toml_lines, yaml_item, yaml_member

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kairos.config.syntax import Format

Plain = dict[str, Any]


class Part(NamedTuple):
    """A section or a route, with what is to be said of it."""

    comment: str
    value: Any


class Sample(NamedTuple):
    """Sections by name, then the routes."""

    about: str
    sections: dict[str, Part]
    routes: list[Part]


def sample(kind: str, format_: Format) -> str:
    """A new configuration as text."""
    return _WRITERS[format_](SAMPLES[kind]())


# ---- what is in them


def _route(external: str, internal: str, methods: list[str], *backends: Plain | str, **more: Any) -> Plain:
    made = [{"host": backend} if isinstance(backend, str) else backend for backend in backends]
    return {"external_path": external, "internal_path": internal, "methods": methods, "backends": made, **more}


def _secret() -> str:
    return secrets.token_urlsafe(48)


_SERVER = Part(
    "Where the gateway listens. KAIROS_HOST and KAIROS_PORT, and the command line, go before it.",
    {"host": "0.0.0.0", "port": 5900},
)
_READ = ["GET", "HEAD"]
_ALL = ["GET", "POST", "PUT", "DELETE"]


def _basic() -> Sample:
    return Sample(
        "A gateway with one route. Every key: docs/configuration.md.",
        {
            "version": Part("Of this file, for yourself.", 1),
            "server": _SERVER,
            "rate_limit": Part(
                "So many requests of each address in so many seconds; burst_allowance comes on top.",
                {"strategy": "PerIP", "requests_per_window": 600, "window_duration": 60, "burst_allowance": 100},
            ),
        },
        [
            Part(
                "{id} is one part of the path, {rest:path} would be all that follows.",
                _route("/api/users/{id}", "/users/{id}", _READ, "https://users.internal.example"),
            ),
            Part("A path without parameters.", _route("/", "/", _READ, "https://www.internal.example")),
        ],
    )


def _advanced() -> Sample:
    return Sample(
        "Tokens, limits, CORS, retries, breakers and health checks.",
        {
            "version": Part("Of this file, for yourself.", 1),
            "trusted_proxies": Part("Load balancers in front, whose X-Forwarded-For is believed.", ["10.0.0.0/8"]),
            "server": _SERVER,
            "jwt": Part(
                "Who issues the tokens. Better kept outside of the file: ${JWT_SECRET} or ${file:/run/secrets/jwt}.",
                {"secret": _secret(), "algorithms": ["HS256"], "issuer": "https://login.example.com"},
            ),
            "cors": Part(
                "Web pages that may read answers.",
                {"allowed_origins": ["https://app.example.com"], "allow_credentials": True, "max_age": 600},
            ),
            "rate_limit": Part(
                "For each user, by token; before anybody has logged in, by address.",
                {"strategy": "PerUser", "requests_per_window": 1200, "window_duration": 60},
            ),
            "compression": Part("Answers that shrink, by what clients accept.", {}),
            "health_check": Part(
                "How backends with a health_check_path are probed.", {"interval": 5, "timeout": 1, "rise": 2, "fall": 3}
            ),
            "circuit_breaker": Part(
                "A backend that fails so often in a row is left alone for a while.",
                {"failure_threshold": 5, "reset_timeout": 30},
            ),
            "groups": Part(
                "Policies for the routes that name the group.",
                {"internal": {"access": {"allow": ["10.0.0.0/8", "192.168.0.0/16"]}}},
            ),
        },
        [
            Part(
                "Two backends, three requests of four to the first. What fails is tried on the other.",
                _route(
                    "/api/orders/{rest:path}",
                    "/v2/orders/{rest}",
                    _ALL,
                    {"host": "https://orders-1.internal.example", "weight": 3, "health_check_path": "/healthz"},
                    {"host": "https://orders-2.internal.example", "weight": 1, "health_check_path": "/healthz"},
                    load_balancing_strategy="weighted",
                    auth_required=True,
                    retry={"max_retries": 2, "initial_backoff_ms": 50},
                    timeouts={"first_byte": 5, "total": 20},
                ),
            ),
            Part(
                "Answers that may be kept, and a header that backends may rely on.",
                _route(
                    "/catalog/{rest:path}",
                    "/{rest}",
                    _READ,
                    "https://catalog.internal.example",
                    cache={},
                    request_transformation={"headers": [{"action": "set", "name": "X-Channel", "value": "web"}]},
                ),
            ),
            Part(
                "For the group alone.",
                _route("/admin/{rest:path}", "/{rest}", _ALL, "https://admin.internal.example", group="internal"),
            ),
            Part("A path without parameters.", _route("/", "/", _READ, "https://www.internal.example")),
        ],
    )


def _multi_protocol() -> Sample:
    return Sample(
        "HTTP, WebSocket, event streams and unix sockets side by side.",
        {
            "version": Part("Of this file, for yourself.", 1),
            "server": _SERVER,
            "rate_limit": _basic().sections["rate_limit"],
        },
        [
            Part("HTTP.", _route("/api/{rest:path}", "/{rest}", _ALL, "https://api.internal.example")),
            Part(
                "WebSocket: the handshake is a GET.",
                _route("/ws/chat", "/ws", ["GET"], "wss://chat.internal.example", protocol="websocket"),
            ),
            Part(
                "Requests and WebSocket handshakes on one path.",
                _route("/live/{rest:path}", "/{rest}", ["GET", "POST"], "https://live.internal.example", upgrade=True),
            ),
            Part(
                "Server-sent events stay open: no limit in all, and whoever has the fewest gets the next.",
                _route(
                    "/events",
                    "/stream",
                    ["GET"],
                    "https://events-1.internal.example",
                    "https://events-2.internal.example",
                    load_balancing_strategy="least_connections",
                    timeouts={"total": 0, "read_idle": 120},
                ),
            ),
            Part(
                "A server on this machine, by its socket.",
                _route("/local", "/", _READ, "unix:/run/app.sock"),
            ),
        ],
    )


def _kubernetes() -> Sample:
    return Sample(
        "In a cluster: secrets from the environment, probes on /live and /ready, services as backends.",
        {
            "version": Part("Of this file, for yourself.", 1),
            "trusted_proxies": Part("The cluster's ingress and pods.", ["10.0.0.0/8"]),
            "server": Part(
                "After SIGTERM /ready fails for drain_delay, so that endpoints are gone before the listener is.",
                {"host": "0.0.0.0", "port": 5900, "drain_delay": 5, "drain_timeout": 25},
            ),
            "health": Part(
                "With require_backends /ready fails while a route has no live backend.", {"require_backends": False}
            ),
            "metrics": Part(
                "Scraped by Prometheus: who may read it on the gateway's port.",
                {"path": "/metrics", "allow": ["10.0.0.0/8", "127.0.0.0/8"]},
            ),
            "access_log": Part("One JSON line a request, on standard output.", {"format": "json", "file": "-"}),
            "jwt": Part(
                "From a Secret, as a variable or as a file that is mounted: ${file:/run/secrets/jwt}.",
                {"secret": f"${{JWT_SECRET:-{_secret()}}}"},
            ),
            "rate_limit": _basic().sections["rate_limit"],
        },
        [
            Part(
                "A Service balances by itself; the name is looked up again as its record expires.",
                _route(
                    "/shop/{rest:path}",
                    "/{rest}",
                    _ALL,
                    {"host": "https://shop.default.svc.cluster.local", "port": 8443},
                    auth_required=True,
                ),
            ),
            Part("A path without parameters.", _route("/", "/", _READ, "https://web.default.svc.cluster.local")),
        ],
    )


def _llm() -> Sample:
    return Sample(
        "In front of a language-model provider: its key stays here, callers have keys of their own.",
        {
            "version": Part("Of this file, for yourself.", 1),
            "server": _SERVER,
            "limits": Part("Prompts with pictures are large.", {"body_bytes": 32 * 1024 * 1024}),
            "api_keys": Part(
                "Callers. Make keys with: kairos keys new NAME. This one is that of nobody: replace it.",
                {"keys": [{"id": "team-a", "key_hash": f"sha256:{secrets.token_hex(32)}"}]},
            ),
            "auth": Part("Every route wants a key, in X-API-Key.", {"methods": ["api_key"]}),
            "request_transformation": Part(
                "The provider's key, from the environment, in place of the caller's.",
                {
                    "headers": [
                        {"action": "set", "name": "Authorization", "value": "Bearer ${OPENAI_API_KEY:-}"},
                        {"action": "remove", "name": "X-API-Key"},
                    ]
                },
            ),
            "rate_limit": Part(
                "For each key.", {"strategy": "ApiKey", "requests_per_window": 60, "window_duration": 60}
            ),
        },
        [
            Part(
                "Answers stream for minutes; what was begun is never sent twice.",
                _route(
                    "/v1/{rest:path}",
                    "/v1/{rest}",
                    ["GET", "POST"],
                    "https://api.openai.com",
                    timeouts={"first_byte": 120, "read_idle": 120, "total": 0},
                    retry={"max_retries": 1, "retry_on_status_codes": [503]},
                ),
            ),
            Part("A path without parameters.", _route("/v1/models", "/v1/models", ["GET"], "https://api.openai.com")),
        ],
    )


SAMPLES: dict[str, Callable[[], Sample]] = {
    "basic": _basic,
    "advanced": _advanced,
    "multi-protocol": _multi_protocol,
    "kubernetes": _kubernetes,
    "llm": _llm,
}


# ---- how they are written


def _json(made: Sample) -> str:
    sections = [
        f'  // {part.comment}\n  "{name}": {json_text(part.value, "  ")}' for name, part in made.sections.items()
    ]
    routes = [f"    // {part.comment}\n    {json_text(part.value, '    ')}" for part in made.routes]
    body = ",\n\n".join([*sections, '  "routers": [\n' + ",\n".join(routes) + "\n  ]"])
    return f"// {made.about}\n{{\n{body}\n}}\n"


def _yaml(made: Sample) -> str:
    lines = [f"# {made.about}"]
    for name, part in made.sections.items():
        lines += ["", f"# {part.comment}", *yaml_member(name, part.value)]
    lines += ["", "routers:"]
    for part in made.routes:
        lines += [f"  # {part.comment}", *(f"  {line}" for line in yaml_item(part.value)), ""]
    return "\n".join(lines).rstrip() + "\n"


def _toml(made: Sample) -> str:
    lines = [f"# {made.about}"]
    for name, part in sorted(made.sections.items(), key=lambda section: is_table(section[1].value)):
        lines += ["", f"# {part.comment}", *_table(toml_lines({name: part.value}))]
    for part in made.routes:
        lines += ["", f"# {part.comment}", *_table(toml_lines({"routers": [part.value]}))]
    return "\n".join(lines) + "\n"


def _table(lines: Iterator[str]) -> list[str]:
    """Without the blank line before its header."""
    made = list(lines)
    return made[1:] if made[0] == "" else made


_WRITERS: dict[Format, Callable[[Sample], str]] = {"json": _json, "yaml": _yaml, "toml": _toml}
