"""Synchronous operations of the admin API.

Written by tools/client.py from the API's description: change that, not this file.
"""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from kairos.client import models
from kairos.client.transport import Transport, given, quoted


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

    def show_limits(self) -> models.LimitsStatus:
        """What rate limits did, and how many keys they remember."""
        return self.call(models.LimitsStatus, "GET", "/api/limits")

    def reload(self) -> models.Reloaded:
        """Read the configuration file again and put it in use."""
        return self.call(models.Reloaded, "POST", "/api/reload")

    def list_revisions(self) -> list[models.Stored]:
        """Those that are kept, newest first."""
        return self.call(list[models.Stored], "GET", "/api/revisions")

    def get_revision(self, number: int) -> models.RevisionText:
        """One of them, in the canonical form: references as written, secrets masked."""
        return self.call(models.RevisionText, "GET", f"/api/revisions/{quoted(number)}")

    def status(self) -> models.Status:
        """How the gateway is at this moment."""
        return self.call(models.Status, "GET", "/api/status")

    def upgrade(self) -> models.Upgraded:
        """Replace the program by the one that is installed now, without losing a connection."""
        return self.call(models.Upgraded, "POST", "/api/upgrade")
