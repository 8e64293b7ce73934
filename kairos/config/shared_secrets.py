"""What a secret in the configuration has to be, and how to make a good one."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kairos.config.problems import Findings, Path

SECRET_BYTES = 32
SECRET_COMMAND = "python3 -c 'import secrets; print(secrets.token_urlsafe(48))'"


def check_secrets(secrets: Sequence[str], keys: Path, found: Findings, *, insecure_dev: bool = False) -> None:
    """A list of which the first is in use and the others are still taken."""
    if not secrets:
        found.error(keys, f"must hold at least one secret: make one with {SECRET_COMMAND}")
    for at, secret in enumerate(secrets):
        if len(secret.encode()) >= SECRET_BYTES:
            continue
        message = f"has fewer than {SECRET_BYTES} bytes: make one with {SECRET_COMMAND}"
        if insecure_dev and secret:
            found.warning((*keys, at), f"{message}; accepted because of --insecure-dev")
        else:
            found.error((*keys, at), message)
