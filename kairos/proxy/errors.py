"""The error table: every way an exchange can fail, and what the client is told.

A row is four facts (kind, source, retryable, status) and how the access log names it. Bodies are problem+json
(RFC 9457) with the members kairos-rs clients know (`error`, `type`, `timestamp`, `request_id`) and never an internal
address. `flag` follows Envoy's response flags.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Literal, NamedTuple

import orjson

Source = Literal["client", "upstream", "kairos"]
Retryable = Literal["no", "idempotent", "yes"]


class Kind(NamedTuple):
    """One row of the table."""

    status: int
    source: Source
    retryable: Retryable
    """Whether another attempt may be made: never, where doing it twice is harmless, or always: nothing was sent."""
    type: str
    """kairos-rs's name where it has one."""
    flag: str
    message: str
    close: bool = False
    """The connection cannot be used further: its framing is in doubt or the peer misbehaves."""


KINDS: dict[str, Kind] = {
    # what a client does wrong
    "bad_start_line": Kind(400, "client", "no", "bad_request", "DPE", "Malformed request line", close=True),
    "bad_field": Kind(400, "client", "no", "bad_request", "DPE", "Malformed header field", close=True),
    "bad_length": Kind(400, "client", "no", "bad_request", "DPE", "Ambiguous or malformed Content-Length", close=True),
    "bad_encoding": Kind(400, "client", "no", "bad_request", "DPE", "Transfer-Encoding must be chunked", close=True),
    "bad_chunk": Kind(400, "client", "no", "bad_request", "DPE", "Malformed chunked body", close=True),
    "bad_host": Kind(400, "client", "no", "bad_request", "DPE", "Exactly one valid Host is required", close=True),
    "bad_target": Kind(400, "client", "no", "bad_request", "DPE", "Request target is not acceptable", close=True),
    "bad_upgrade": Kind(400, "client", "no", "bad_request", "DPE", "Malformed WebSocket handshake", close=True),
    "tls_required": Kind(400, "client", "no", "bad_request", "DPE", "This port speaks HTTPS only", close=True),
    "misdirected": Kind(421, "client", "no", "misdirected", "DPE", "This connection was made for another host name"),
    "request_timeout": Kind(408, "client", "no", "request_timeout", "DT", "Request did not arrive in time", close=True),
    "payload_too_large": Kind(413, "client", "no", "payload_too_large", "DPE", "Request body is too large", close=True),
    "bad_body": Kind(400, "client", "no", "bad_request", "DPE", "Request body is malformed"),
    "invalid_request": Kind(400, "client", "no", "invalid_request", "DPE", "Request does not fit this route's rules"),
    "unsupported_media_type": Kind(415, "client", "no", "unsupported_media_type", "DPE", "Type of body is not taken"),
    "invalid_body": Kind(422, "client", "no", "invalid_request", "DPE", "Request body does not fit its schema"),
    "uri_too_long": Kind(414, "client", "no", "uri_too_long", "DPE", "Request target is too long", close=True),
    "bad_value": Kind(400, "client", "no", "bad_request", "DPE", "A value of the request cannot be sent on"),
    "expectation_failed": Kind(417, "client", "no", "expectation_failed", "DPE", "Only Expect: 100-continue is met"),
    "upgrade_required": Kind(426, "client", "no", "upgrade_required", "DPE", "This route speaks WebSocket only"),
    "head_too_large": Kind(431, "client", "no", "head_too_large", "DPE", "Request head is too large", close=True),
    "method_unknown": Kind(501, "client", "no", "not_implemented", "DPE", "Method is not implemented", close=True),
    "http_version": Kind(505, "client", "no", "http_version", "DPE", "HTTP version is not supported", close=True),
    "client_gone": Kind(499, "client", "no", "client_gone", "DC", "Client closed the connection", close=True),
    # what the configuration answers
    "route_not_found": Kind(404, "kairos", "no", "route_not_found", "NR", "No route found"),
    "method_not_allowed": Kind(405, "kairos", "no", "method_not_allowed", "NR", "Method not allowed"),
    "unauthorized": Kind(401, "kairos", "no", "authentication_error", "UAEX", "Authentication required"),
    "login_failed": Kind(400, "client", "no", "login_failed", "UAEX", "Login could not be completed"),
    "login_denied": Kind(403, "client", "no", "login_denied", "UAEX", "The identity provider refused the login"),
    "csrf": Kind(403, "client", "no", "csrf", "UAEX", "Another site may have made the browser send this"),
    "https_required": Kind(403, "kairos", "no", "forbidden", "UAEX", "This is served over HTTPS only"),
    "forbidden": Kind(403, "kairos", "no", "forbidden", "UAEX", "Forbidden"),
    "access_denied": Kind(403, "kairos", "no", "forbidden", "UAEX", "Forbidden: this address may not use it"),
    "banned": Kind(403, "kairos", "no", "forbidden", "UAEX", "Forbidden: this address failed too often"),
    "banned_for_now": Kind(429, "kairos", "no", "forbidden", "UAEX", "This address failed too often: come back later"),
    "auth_unavailable": Kind(503, "kairos", "no", "auth_unavailable", "UAEX", "Credentials cannot be verified now"),
    "rate_limited": Kind(429, "client", "no", "rate_limit_error", "RL", "Rate limit exceeded"),
    "limits_unavailable": Kind(503, "kairos", "no", "rate_limit_error", "RLSE", "Rate limits cannot be checked now"),
    "auth_busy": Kind(503, "kairos", "no", "overloaded", "UAEX", "Too many passwords are being checked"),
    "not_cached": Kind(504, "kairos", "no", "cache", "RFCF", "Nothing that is stored may answer this request"),
    "not_served": Kind(501, "kairos", "no", "config", "NC", "This protocol is not served by this version"),
    "maintenance": Kind(503, "kairos", "no", "maintenance", "LR", "Closed for maintenance"),
    "closed_by_operator": Kind(503, "kairos", "no", "closed", "LR", "An operator closed the connection", close=True),
    # what an upstream does wrong
    "no_backend": Kind(503, "kairos", "no", "upstream", "UH", "No backend is available"),
    "circuit_open": Kind(503, "kairos", "no", "circuit_breaker", "UO", "Every backend's circuit breaker is open"),
    "queue_full": Kind(503, "kairos", "no", "overloaded", "UO", "Every backend has as many requests as it may have"),
    "queue_timeout": Kind(503, "kairos", "no", "overloaded", "UO", "No backend had room in time"),
    "shed": Kind(503, "kairos", "no", "overloaded", "OM", "The gateway is overloaded and sheds this route's requests"),
    "overloaded": Kind(503, "kairos", "no", "overloaded", "OM", "The gateway is overloaded", close=True),
    "resolve_failed": Kind(502, "upstream", "yes", "upstream", "DF", "Upstream name could not be resolved"),
    "connect_failed": Kind(502, "upstream", "yes", "upstream", "UF", "Upstream refused the connection"),
    "tls_failed": Kind(502, "upstream", "yes", "upstream", "UF", "Upstream TLS handshake failed"),
    "connect_timeout": Kind(504, "upstream", "yes", "timeout", "UF,URX", "Upstream connection timed out"),
    "upstream_reset": Kind(502, "upstream", "idempotent", "upstream", "UC", "Upstream closed the connection early"),
    "upstream_too_large": Kind(502, "upstream", "no", "upstream", "UPE", "Upstream's answer is larger than it may be"),
    "upstream_body": Kind(502, "upstream", "no", "upstream", "UPE", "Upstream's answer is not one that may be shown"),
    "upstream_protocol": Kind(502, "upstream", "idempotent", "upstream", "UPE", "Upstream sent a malformed response"),
    "upstream_timeout": Kind(504, "upstream", "idempotent", "timeout", "UT", "Upstream did not answer in time"),
    "total_timeout": Kind(504, "upstream", "no", "timeout", "UT", "Request took too long"),
    "internal": Kind(500, "kairos", "no", "internal", "LR", "Internal error"),
}


def render(kind: str, request_id: str, detail: str | None = None, errors: list[dict[str, str]] | None = None) -> bytes:
    """The problem+json body of an error; `detail` says more than the row's message, `errors` what is wrong where."""
    row = KINDS[kind]
    message = detail or row.message
    return orjson.dumps(
        {
            "type": row.type,
            "title": row.message,
            "status": row.status,
            "detail": message,
            "code": kind,
            "error": message,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "request_id": request_id,
        }
        | ({"errors": errors} if errors else {})
    )
