"""Synchronous operations of the admin API.

Written by tools/client.py from the API's description: change that, not this file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import UNSET, UnsetType

from kairos.client import models
from kairos.client.transport import Event, Transport, given, quoted

if TYPE_CHECKING:
    from collections.abc import Iterator


class Operations(Transport):
    """A method for each operation."""

    def search_audit(
        self,
        *,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
        outcome: Literal["done", "refused", "failed"] | None = None,
        since: str | None = None,
        until: str | None = None,
        text: str | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> models.Page:
        """What was done, and tried. `action` may be the start of one, `text` stands anywhere; times in ISO 8601."""
        return self.call(
            models.Page,
            "GET",
            "/api/audit",
            query=given(
                {
                    "actor": actor,
                    "action": action,
                    "target": target,
                    "outcome": outcome,
                    "since": since,
                    "until": until,
                    "text": text,
                    "before": before,
                    "limit": limit,
                }
            ),
        )

    def export_audit(
        self,
        *,
        format: Literal["jsonl", "csv"] | None = None,
        actor: str | None = None,
        action: str | None = None,
        target: str | None = None,
        outcome: Literal["done", "refused", "failed"] | None = None,
        since: str | None = None,
        until: str | None = None,
        text: str | None = None,
    ) -> str:
        """All entries that fit, oldest first: a JSON object a line, or CSV."""
        return self.call(
            str,
            "GET",
            "/api/audit/export",
            query=given(
                {
                    "format": format,
                    "actor": actor,
                    "action": action,
                    "target": target,
                    "outcome": outcome,
                    "since": since,
                    "until": until,
                    "text": text,
                }
            ),
        )

    def verify_audit(self) -> models.Verdict:
        """Walk along the chain of hashes: what was changed, removed or put in shows."""
        return self.call(models.Verdict, "GET", "/api/audit/verify")

    def list_backends(self) -> list[models.BackendStatus]:
        """All backends of the configuration in use."""
        return self.call(list[models.BackendStatus], "GET", "/api/backends")

    def get_backend(self, key: str) -> models.BackendStatus:
        """One of them."""
        return self.call(models.BackendStatus, "GET", f"/api/backends/{quoted(key)}")

    def change_backend(
        self,
        key: str,
        *,
        state: Literal["active", "drain", "maintenance"] | UnsetType | None = UNSET,
        weight: int | UnsetType | None = UNSET,
        breaker: Literal["auto", "open", "closed"] | UnsetType | None = UNSET,
    ) -> models.BackendStatus:
        """Take it out or back in, give it another share, force its breaker: at once in every worker, and over
        restarts.
        """
        return self.call(
            models.BackendStatus,
            "PATCH",
            f"/api/backends/{quoted(key)}",
            body=given({"state": state, "weight": weight, "breaker": breaker}),
        )

    def probe_backend(self, key: str) -> models.BackendStatus:
        """Check its health now; the result counts like any other."""
        return self.call(models.BackendStatus, "POST", f"/api/backends/{quoted(key)}/probe")

    def get_backup(self, *, metrics: bool | None = None) -> bytes:
        """Everything that is kept, as one file: secrets of the configuration and hashes of passwords are in it."""
        return self.call(bytes, "GET", "/api/backup", query=given({"metrics": metrics}))

    def list_bans(self) -> list[models.BanStatus]:
        """Bans in force."""
        return self.call(list[models.BanStatus], "GET", "/api/bans")

    def lift_ban(self, address: str) -> models.Lifted:
        """Let an address in again."""
        return self.call(models.Lifted, "DELETE", f"/api/bans/{quoted(address)}")

    def show_cache(self) -> models.CacheStatus:
        """How full it is."""
        return self.call(models.CacheStatus, "GET", "/api/cache")

    def purge_cache(
        self,
        *,
        url: str | UnsetType | None = UNSET,
        prefix: str | UnsetType | None = UNSET,
        tags: list[str] | UnsetType | None = UNSET,
        all: bool | UnsetType = UNSET,
        soft: bool | UnsetType = UNSET,
    ) -> models.Purged:
        """Throw responses out, by URL, prefix or tag: at once for every worker."""
        return self.call(
            models.Purged,
            "POST",
            "/api/cache/purge",
            body=given({"url": url, "prefix": prefix, "tags": tags, "all": all, "soft": soft}),
        )

    def list_certificates(self) -> list[models.CertificateStatus]:
        """Those that are served, and when they end."""
        return self.call(list[models.CertificateStatus], "GET", "/api/certificates")

    def get_config(
        self, *, effective: bool | None = None, format: Literal["json", "yaml", "toml"] | None = None
    ) -> dict[str, Any]:
        """All of it in canonical form, as it is in use: references as written, secrets masked."""
        return self.call(dict[str, Any], "GET", "/api/config", query=given({"effective": effective, "format": format}))

    def put_config(
        self,
        data: bytes,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
        verbatim: bool | None = None,
        content_type: str = "application/json",
    ) -> models.Written:
        """Another configuration in place of this one: JSON, YAML or TOML, by its Content-Type. Comments of the file
        stay
        where it says the same.
        """
        return self.call(
            models.Written,
            "PUT",
            "/api/config",
            query=given({"dry_run": dry_run, "message": message, "verbatim": verbatim}),
            headers=given(
                {
                    "X-Kairos-Message": x_kairos_message,
                    "X-Kairos-Client": x_kairos_client,
                    "If-Match": if_match,
                    "Content-Type": content_type,
                }
            ),
            body=data,
        )

    def replace_ai(
        self,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """The model that helps to route. What is not said is what it is by default."""
        return self.call(
            models.Written,
            "PUT",
            "/api/config/ai",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def set_ai(
        self,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """The model that helps to route. What is not said stays as it is."""
        return self.call(
            models.Written,
            "POST",
            "/api/config/ai",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def replace_cors(
        self,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """Cross-origin requests. What is not said is what it is by default."""
        return self.call(
            models.Written,
            "PUT",
            "/api/config/cors",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def set_cors(
        self,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """Cross-origin requests. What is not said stays as it is."""
        return self.call(
            models.Written,
            "POST",
            "/api/config/cors",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def config_history(self, *, before: int | None = None, limit: int | None = None) -> list[models.Revision]:
        """The same as /api/revisions."""
        return self.call(
            list[models.Revision], "GET", "/api/config/history", query=given({"before": before, "limit": limit})
        )

    def replace_jwt(
        self,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """JSON Web Tokens. What is not said is what it is by default."""
        return self.call(
            models.Written,
            "PUT",
            "/api/config/jwt",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def set_jwt(
        self,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """JSON Web Tokens. What is not said stays as it is."""
        return self.call(
            models.Written,
            "POST",
            "/api/config/jwt",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def replace_metrics(
        self,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """Metrics for Prometheus. What is not said is what it is by default."""
        return self.call(
            models.Written,
            "PUT",
            "/api/config/metrics",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def set_metrics(
        self,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """Metrics for Prometheus. What is not said stays as it is."""
        return self.call(
            models.Written,
            "POST",
            "/api/config/metrics",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def replace_rate_limit(
        self,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """The rate limit of all routes; null for none. What is not said is what it is by default."""
        return self.call(
            models.Written,
            "PUT",
            "/api/config/rate-limit",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def set_rate_limit(
        self,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """The rate limit of all routes; null for none. What is not said stays as it is."""
        return self.call(
            models.Written,
            "POST",
            "/api/config/rate-limit",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def reload_config(self) -> models.ConfigReloaded:
        """Read the file again and put it in use, in every worker."""
        return self.call(models.ConfigReloaded, "POST", "/api/config/reload")

    def config_schema(self) -> dict[str, Any]:
        """JSON Schema of the configuration."""
        return self.call(dict[str, Any], "GET", "/api/config/schema")

    def get_section(self, name: str) -> Any:
        """One section as it is written, in canonical form; null where nothing is said of it."""
        return self.call(Any, "GET", f"/api/config/sections/{quoted(name)}")

    def put_section(
        self,
        name: str,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """Another value for a section."""
        return self.call(
            models.Written,
            "PUT",
            f"/api/config/sections/{quoted(name)}",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def delete_section(
        self,
        name: str,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """Nothing said of a section: its defaults."""
        return self.call(
            models.Written,
            "DELETE",
            f"/api/config/sections/{quoted(name)}",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
        )

    def replace_server(
        self,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """Listeners and processes. `workers` holds at once, addresses with the next start: `restart_required`. What
        is not said is what it is by default.
        """
        return self.call(
            models.Written,
            "PUT",
            "/api/config/server",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def set_server(
        self,
        data: Any,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """Listeners and processes. `workers` holds at once, addresses with the next start: `restart_required`. What
        is not said stays as it is.
        """
        return self.call(
            models.Written,
            "POST",
            "/api/config/server",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def config_status(self) -> models.ConfigStatus:
        """Which one is in use, since when, and whether the last reload went well."""
        return self.call(models.ConfigStatus, "GET", "/api/config/status")

    def validate_config(self, data: bytes, *, content_type: str = "application/json") -> models.ConfigVerdict:
        """Whether a configuration could be used here: JSON, YAML or TOML, by its Content-Type."""
        return self.call(
            models.ConfigVerdict,
            "POST",
            "/api/config/validate",
            headers=given({"Content-Type": content_type}),
            body=data,
        )

    def list_connections(
        self,
        *,
        client: list[str] | None = None,
        route: str | None = None,
        backend: str | None = None,
        state: list[Literal["handshake", "idle", "reading", "waiting", "sending", "streaming", "tunnel", "closing"]]
        | None = None,
        protocol: Literal["http", "sse", "websocket"] | None = None,
        port: int | None = None,
        min_age: float | None = None,
        min_idle: float | None = None,
        min_request: float | None = None,
        worker: int | None = None,
        sort: Literal["oldest", "newest", "idle", "request", "requests", "bytes"] | None = None,
        limit: int | None = None,
    ) -> models.Connections:
        """Those of clients, in all workers.

        The first `limit` are shown, all that fit are counted. A worker that does not answer is named, and the
        answer is
        not `complete`.
        """
        return self.call(
            models.Connections,
            "GET",
            "/api/connections",
            query=given(
                {
                    "client": client,
                    "route": route,
                    "backend": backend,
                    "state": state,
                    "protocol": protocol,
                    "port": port,
                    "min_age": min_age,
                    "min_idle": min_idle,
                    "min_request": min_request,
                    "worker": worker,
                    "sort": sort,
                    "limit": limit,
                }
            ),
        )

    def close_connections(
        self,
        *,
        client: list[str] | None = None,
        route: str | None = None,
        backend: str | None = None,
        state: list[Literal["handshake", "idle", "reading", "waiting", "sending", "streaming", "tunnel", "closing"]]
        | None = None,
        protocol: Literal["http", "sse", "websocket"] | None = None,
        port: int | None = None,
        min_age: float | None = None,
        min_idle: float | None = None,
        min_request: float | None = None,
        worker: int | None = None,
        gently: bool | None = None,
    ) -> models.ClosedConnections:
        """Close all that fit; there has to be a condition.

        A request under way on one fails with 503 `closed_by_operator`, or is cut where its answer has begun.
        """
        return self.call(
            models.ClosedConnections,
            "DELETE",
            "/api/connections",
            query=given(
                {
                    "client": client,
                    "route": route,
                    "backend": backend,
                    "state": state,
                    "protocol": protocol,
                    "port": port,
                    "min_age": min_age,
                    "min_idle": min_idle,
                    "min_request": min_request,
                    "worker": worker,
                    "gently": gently,
                }
            ),
        )

    def close_connection(self, connection_id: str, *, gently: bool | None = None) -> models.Connection:
        """Close one by its id; it is answered as it was."""
        return self.call(
            models.Connection, "DELETE", f"/api/connections/{quoted(connection_id)}", query=given({"gently": gently})
        )

    def watch_events(self, *, type: list[str] | None = None, after: str | None = None) -> Iterator[Event]:
        """Events as they happen (SSE).

        Those behind `after` come first, or behind Last-Event-ID, which browsers send by themselves when they
        come
        back; `lost` says that some are not kept any more.
        """
        return self.stream("GET", "/api/events", query=given({"type": type, "after": after}))

    def stream_metrics(self, *, interval: float | None = None) -> Iterator[Event]:
        """Server-sent events, each with a snapshot."""
        return self.stream("GET", "/api/events/metrics", query=given({"interval": interval}))

    def list_events(
        self, *, type: list[str] | None = None, limit: int | None = None
    ) -> list[
        models.BackendHealthChanged
        | models.BreakerChanged
        | models.BackendEjected
        | models.EjectionEnded
        | models.BackendSet
        | models.ControlStarted
        | models.WorkerStarted
        | models.WorkerEnded
        | models.SheddingChanged
        | models.RevisionInUse
        | models.ReloadFailed
        | models.ConfigChanged
        | models.UpgradeEnded
        | models.CertificateExpires
        | models.AddressBanned
        | models.LogLevelsChanged
        | models.LogLinesLost
    ]:
        """The newest events that are kept, in the order of their coming."""
        return self.call(
            list[
                models.BackendHealthChanged
                | models.BreakerChanged
                | models.BackendEjected
                | models.EjectionEnded
                | models.BackendSet
                | models.ControlStarted
                | models.WorkerStarted
                | models.WorkerEnded
                | models.SheddingChanged
                | models.RevisionInUse
                | models.ReloadFailed
                | models.ConfigChanged
                | models.UpgradeEnded
                | models.CertificateExpires
                | models.AddressBanned
                | models.LogLevelsChanged
                | models.LogLinesLost
            ],
            "GET",
            "/api/events/recent",
            query=given({"type": type, "limit": limit}),
        )

    def show_limits(self) -> models.LimitsStatus:
        """What rate limits did, and how many keys they remember."""
        return self.call(models.LimitsStatus, "GET", "/api/limits")

    def login(self, *, password: str, name: str) -> models.Me:
        """Start a session: a cookie, and the token that its writes have to show."""
        return self.call(models.Me, "POST", "/api/login", body=given({"name": name, "password": password}))

    def login_methods(self) -> models.LoginMethods:
        """How people log in here."""
        return self.call(models.LoginMethods, "GET", "/api/login/methods")

    def logout(self) -> models.LoggedOut:
        """End this session, and say where the one at the identity provider ends."""
        return self.call(models.LoggedOut, "POST", "/api/logout")

    def list_log_levels(self) -> list[models.LevelStatus]:
        """From which level on each component logs, now and as configured."""
        return self.call(list[models.LevelStatus], "GET", "/api/logs/levels")

    def set_log_levels(
        self,
        *,
        levels: dict[str, Literal["debug", "info", "warning", "error"] | None],
        duration: float | UnsetType | None = UNSET,
    ) -> list[models.LevelStatus]:
        """Set levels in all processes at once, for a while or until the gateway ends; null: as configured again."""
        return self.call(
            list[models.LevelStatus], "PUT", "/api/logs/levels", body=given({"levels": levels, "duration": duration})
        )

    def list_recent_lines(
        self,
        *,
        route: str | None = None,
        upstream: str | None = None,
        method: list[str] | None = None,
        status: list[str] | None = None,
        host: str | None = None,
        path: str | None = None,
        client: str | None = None,
        request_id: str | None = None,
        trace_id: str | None = None,
        min_ms: float | None = None,
        flagged: bool | None = None,
        text: str | None = None,
        level: Literal["debug", "info", "warning", "error"] | None = None,
        component: list[str] | None = None,
        log: Literal["requests", "program"] | None = None,
        limit: int | None = None,
    ) -> list[dict[str, Any]]:
        """The newest lines in memory, the oldest first: requests, or with `log=program` the program's log.

        Requests are there as long as the access log has all of them as JSON, else since somebody watches.
        """
        return self.call(
            list[dict[str, Any]],
            "GET",
            "/api/logs/recent",
            query=given(
                {
                    "route": route,
                    "upstream": upstream,
                    "method": method,
                    "status": status,
                    "host": host,
                    "path": path,
                    "client": client,
                    "request_id": request_id,
                    "trace_id": trace_id,
                    "min_ms": min_ms,
                    "flagged": flagged,
                    "text": text,
                    "level": level,
                    "component": component,
                    "log": log,
                    "limit": limit,
                }
            ),
        )

    def watch_log(
        self,
        *,
        level: Literal["debug", "info", "warning", "error"] | None = None,
        component: list[str] | None = None,
        text: str | None = None,
        rate: float | None = None,
        recent: int | None = None,
    ) -> Iterator[Event]:
        """Lines of the program's log as they are written (SSE, events `line`), of all processes."""
        return self.stream(
            "GET",
            "/api/logs/tail",
            query=given({"level": level, "component": component, "text": text, "rate": rate, "recent": recent}),
        )

    def show_me(self) -> models.Me:
        """Who asks."""
        return self.call(models.Me, "GET", "/api/me")

    def change_my_password(
        self, *, new_password: str, current_password: str, end_tokens: bool | UnsetType = UNSET
    ) -> models.Me:
        """Another password: all sessions end, and a new one starts."""
        return self.call(
            models.Me,
            "POST",
            "/api/me/password",
            body=given({"current_password": current_password, "new_password": new_password, "end_tokens": end_tokens}),
        )

    def list_my_sessions(self) -> list[models.Session]:
        """Where one is logged in."""
        return self.call(list[models.Session], "GET", "/api/me/sessions")

    def end_my_session(self, session_id: str) -> None:
        """Log out there."""
        self.call(None, "DELETE", f"/api/me/sessions/{quoted(session_id)}")

    def list_my_tokens(self) -> list[models.Token]:
        """Without their secrets."""
        return self.call(list[models.Token], "GET", "/api/me/tokens")

    def make_my_token(
        self,
        *,
        name: str,
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
        | UnsetType
        | None = UNSET,
        days: int | UnsetType | None = UNSET,
    ) -> models.TokenMade:
        """For a program that manages the gateway in one's name. Only who is logged in makes one."""
        return self.call(
            models.TokenMade, "POST", "/api/me/tokens", body=given({"name": name, "scopes": scopes, "days": days})
        )

    def revoke_my_token(self, token_id: str) -> None:
        """At once."""
        self.call(None, "DELETE", f"/api/me/tokens/{quoted(token_id)}")

    def show_catalog(self) -> list[models.MetricInfo]:
        """The same with types, labels and aggregations."""
        return self.call(list[models.MetricInfo], "GET", "/api/metrics/catalog")

    def show_history(
        self, *, start: str, name: str, end: str | None = None, interval: str | None = None
    ) -> list[models.HistoryPoint] | list[models.HistoryWindow]:
        """Samples of one metric of this gateway, as kairos-rs has them; with an interval statistics over windows
        from
        `start` on, those without a sample and a last one that is not over left out.
        """
        return self.call(
            list[models.HistoryPoint] | list[models.HistoryWindow],
            "GET",
            "/api/metrics/history",
            query=given({"name": name, "start": start, "end": end, "interval": interval}),
        )

    def list_metrics(self) -> list[str]:
        """Names of what can be asked for, kairos-rs's four first."""
        return self.call(list[str], "GET", "/api/metrics/list")

    def query_metrics(
        self,
        *,
        name: list[str],
        start: str | None = None,
        end: str | None = None,
        step: float | None = None,
        aggregation: list[str] | None = None,
        group_by: list[str] | None = None,
        top: int | None = None,
        node: list[str] | None = None,
        route: list[str] | None = None,
        upstream: list[str] | None = None,
        method: list[str] | None = None,
        code: list[str] | None = None,
        limit: list[str] | None = None,
        process: list[str] | None = None,
    ) -> models.QueryAnswer:
        """Metrics over time, by any of their labels, of all gateways that share the database."""
        return self.call(
            models.QueryAnswer,
            "GET",
            "/api/metrics/query",
            query=given(
                {
                    "name": name,
                    "start": start,
                    "end": end,
                    "step": step,
                    "aggregation": aggregation,
                    "group_by": group_by,
                    "top": top,
                    "node": node,
                    "route": route,
                    "upstream": upstream,
                    "method": method,
                    "code": code,
                    "limit": limit,
                    "process": process,
                }
            ),
        )

    def show_snapshot(self) -> models.Snapshot:
        """The gateway at this moment."""
        return self.call(models.Snapshot, "GET", "/api/metrics/snapshot")

    def list_nodes(self) -> models.Nodes:
        """Every gateway with the same database; this one alone while that cannot be reached."""
        return self.call(models.Nodes, "GET", "/api/nodes")

    def list_permissions(
        self,
    ) -> list[
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
    ]:
        """Of which roles and tokens are made."""
        return self.call(
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
            ],
            "GET",
            "/api/permissions",
        )

    def list_plugins(self) -> list[models.PluginUse]:
        """Those that the configuration in use names."""
        return self.call(list[models.PluginUse], "GET", "/api/plugins")

    def list_pools(self) -> list[models.Pool]:
        """Connections to backends, open and idle, by worker."""
        return self.call(list[models.Pool], "GET", "/api/pools")

    def reload(self) -> models.Reloaded:
        """Read the configuration file again and put it in use."""
        return self.call(models.Reloaded, "POST", "/api/reload")

    def list_revisions(
        self,
        *,
        author: str | None = None,
        origin: str | None = None,
        since: float | None = None,
        until: float | None = None,
        before: int | None = None,
        limit: int | None = None,
    ) -> list[models.Revision]:
        """The newest first. Further pages: `before` the number of the last one."""
        return self.call(
            list[models.Revision],
            "GET",
            "/api/revisions",
            query=given(
                {"author": author, "origin": origin, "since": since, "until": until, "before": before, "limit": limit}
            ),
        )

    def get_revision(self, number: int) -> models.RevisionText:
        """One of them, in the canonical form: references as written, secrets masked."""
        return self.call(models.RevisionText, "GET", f"/api/revisions/{quoted(number)}")

    def diff_revision(self, number: int, *, against: int | None = None) -> models.RevisionDiff:
        """What changed from `against` to this revision, or from this revision to what is in use."""
        return self.call(
            models.RevisionDiff, "GET", f"/api/revisions/{quoted(number)}/diff", query=given({"against": against})
        )

    def rollback_revision(
        self,
        number: int,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
    ) -> models.Written:
        """Use this revision's text again, as a new revision."""
        return self.call(
            models.Written,
            "POST",
            f"/api/revisions/{quoted(number)}/rollback",
            query=given({"dry_run": dry_run, "message": message}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
        )

    def list_roles(self) -> list[models.Role]:
        """Those that are always there, and one's own."""
        return self.call(list[models.Role], "GET", "/api/roles")

    def put_role(
        self,
        name: str,
        *,
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
        ],
        description: str | UnsetType = UNSET,
    ) -> models.Role:
        """Make or change a role of one's own."""
        return self.call(
            models.Role,
            "PUT",
            f"/api/roles/{quoted(name)}",
            body=given({"permissions": permissions, "description": description}),
        )

    def remove_role(self, name: str) -> None:
        """One that nobody has any more."""
        self.call(None, "DELETE", f"/api/roles/{quoted(name)}")

    def list_routes(
        self,
        *,
        limit: int | None = None,
        offset: int | None = None,
        path: str | None = None,
        method: str | None = None,
        host: str | None = None,
        protocol: str | None = None,
        group: str | None = None,
        backend: str | None = None,
    ) -> models.RouteList:
        """In the order of the configuration."""
        return self.call(
            models.RouteList,
            "GET",
            "/api/routes",
            query=given(
                {
                    "limit": limit,
                    "offset": offset,
                    "path": path,
                    "method": method,
                    "host": host,
                    "protocol": protocol,
                    "group": group,
                    "backend": backend,
                }
            ),
        )

    def create_route(
        self,
        data: dict[str, Any],
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
        at: int | None = None,
    ) -> models.Written:
        """One route more, at the end or as number `at`: 201, and how it is now."""
        return self.call(
            models.Written,
            "POST",
            "/api/routes",
            query=given({"dry_run": dry_run, "message": message, "at": at}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def explain_request(
        self,
        *,
        path: str,
        method: str | UnsetType = UNSET,
        host: str | UnsetType | None = UNSET,
        headers: dict[str, str] | UnsetType = UNSET,
        client_ip: str | UnsetType | None = UNSET,
        scheme: Literal["http", "https"] | UnsetType = UNSET,
    ) -> models.Explanation:
        """Which route a request would take in the configuration in use, through which filters, to which backends,
        and why
        no other.
        """
        return self.call(
            models.Explanation,
            "POST",
            "/api/routes/explain",
            body=given(
                {
                    "path": path,
                    "method": method,
                    "host": host,
                    "headers": headers,
                    "client_ip": client_ip,
                    "scheme": scheme,
                }
            ),
        )

    def validate_route(self, *, route: dict[str, Any]) -> models.RouteVerdict:
        """Whether a route could be used, in place of the one that serves the same requests now, if there is one."""
        return self.call(models.RouteVerdict, "POST", "/api/routes/validate", body=given({"route": route}))

    def get_route(
        self, path: str, *, methods: str | None = None, host: str | None = None, id: str | None = None
    ) -> models.RouteFound:
        """One route."""
        return self.call(
            models.RouteFound,
            "GET",
            f"/api/routes/{quoted(path)}",
            query=given({"methods": methods, "host": host, "id": id}),
        )

    def replace_route(
        self,
        path: str,
        data: dict[str, Any],
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
        methods: str | None = None,
        host: str | None = None,
        id: str | None = None,
    ) -> models.Written:
        """Another route in place of this one. Masks in it stand for the secrets it has."""
        return self.call(
            models.Written,
            "PUT",
            f"/api/routes/{quoted(path)}",
            query=given({"dry_run": dry_run, "message": message, "methods": methods, "host": host, "id": id}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
            body=data,
        )

    def delete_route(
        self,
        path: str,
        *,
        dry_run: bool | None = None,
        message: str | None = None,
        x_kairos_message: str | None = None,
        x_kairos_client: str | None = None,
        if_match: str | None = None,
        methods: str | None = None,
        host: str | None = None,
        id: str | None = None,
    ) -> models.Written:
        """One route less."""
        return self.call(
            models.Written,
            "DELETE",
            f"/api/routes/{quoted(path)}",
            query=given({"dry_run": dry_run, "message": message, "methods": methods, "host": host, "id": id}),
            headers=given(
                {"X-Kairos-Message": x_kairos_message, "X-Kairos-Client": x_kairos_client, "If-Match": if_match}
            ),
        )

    def status(self) -> models.Status:
        """How the gateway is at this moment."""
        return self.call(models.Status, "GET", "/api/status")

    def watch_requests(
        self,
        *,
        route: str | None = None,
        upstream: str | None = None,
        method: list[str] | None = None,
        status: list[str] | None = None,
        host: str | None = None,
        path: str | None = None,
        client: str | None = None,
        request_id: str | None = None,
        trace_id: str | None = None,
        min_ms: float | None = None,
        flagged: bool | None = None,
        text: str | None = None,
        rate: float | None = None,
        sample: float | None = None,
        recent: int | None = None,
    ) -> Iterator[Event]:
        """Requests as they end (SSE, events `request`), as the access log tells of them.

        Whatever the section access_log says; `dropped` says how many lines were left out for you.
        """
        return self.stream(
            "GET",
            "/api/tail",
            query=given(
                {
                    "route": route,
                    "upstream": upstream,
                    "method": method,
                    "status": status,
                    "host": host,
                    "path": path,
                    "client": client,
                    "request_id": request_id,
                    "trace_id": trace_id,
                    "min_ms": min_ms,
                    "flagged": flagged,
                    "text": text,
                    "rate": rate,
                    "sample": sample,
                    "recent": recent,
                }
            ),
        )

    def upgrade(self) -> models.Upgraded:
        """Replace the program by the one that is installed now, without losing a connection."""
        return self.call(models.Upgraded, "POST", "/api/upgrade")

    def list_users(self) -> list[models.User]:
        """Everybody."""
        return self.call(list[models.User], "GET", "/api/users")

    def add_user(
        self,
        *,
        roles: list[str],
        name: str,
        password: str | UnsetType | None = UNSET,
        display_name: str | UnsetType = UNSET,
        email: str | UnsetType = UNSET,
    ) -> models.UserMade:
        """Somebody more."""
        return self.call(
            models.UserMade,
            "POST",
            "/api/users",
            body=given(
                {"name": name, "roles": roles, "password": password, "display_name": display_name, "email": email}
            ),
        )

    def get_user(self, name: str) -> models.User:
        """One of them."""
        return self.call(models.User, "GET", f"/api/users/{quoted(name)}")

    def remove_user(self, name: str) -> None:
        """For good, with sessions and tokens."""
        self.call(None, "DELETE", f"/api/users/{quoted(name)}")

    def change_user(
        self,
        name: str,
        *,
        roles: list[str] | UnsetType = UNSET,
        disabled: bool | UnsetType = UNSET,
        display_name: str | UnsetType = UNSET,
        email: str | UnsetType = UNSET,
    ) -> models.User:
        """Roles, names, disabled: who is disabled loses sessions and tokens."""
        return self.call(
            models.User,
            "PATCH",
            f"/api/users/{quoted(name)}",
            body=given({"roles": roles, "disabled": disabled, "display_name": display_name, "email": email}),
        )

    def reset_password(self, name: str, *, password: str | UnsetType | None = UNSET) -> models.UserMade:
        """Another password: sessions and tokens end, and it has to be changed at the next login."""
        return self.call(
            models.UserMade, "POST", f"/api/users/{quoted(name)}/password", body=given({"password": password})
        )

    def end_sessions(self, name: str) -> None:
        """Log somebody out everywhere."""
        self.call(None, "DELETE", f"/api/users/{quoted(name)}/sessions")

    def list_tokens(self, name: str) -> list[models.Token]:
        """A user's, without their secrets."""
        return self.call(list[models.Token], "GET", f"/api/users/{quoted(name)}/tokens")

    def make_token(
        self,
        name: str,
        *,
        name_: str,
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
        | UnsetType
        | None = UNSET,
        days: int | UnsetType | None = UNSET,
    ) -> models.TokenMade:
        """For a user who is a program. Who makes it may do everything that the user may."""
        return self.call(
            models.TokenMade,
            "POST",
            f"/api/users/{quoted(name)}/tokens",
            body=given({"name": name_, "scopes": scopes, "days": days}),
        )

    def revoke_token(self, name: str, token_id: str) -> None:
        """A user's."""
        self.call(None, "DELETE", f"/api/users/{quoted(name)}/tokens/{quoted(token_id)}")

    def list_workers(self) -> list[models.WorkerStatus]:
        """Each worker process: its revision, connections, requests."""
        return self.call(list[models.WorkerStatus], "GET", "/api/workers")

    def prometheus(self) -> str:
        """Prometheus' text format, or OpenMetrics where Accept asks for it."""
        return self.call(str, "GET", "/metrics")
