"""A configuration as plain values that may be shown: what is secret reads `***`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import msgspec

from kairos.config.legacy import normalise
from kairos.config.problems import Findings
from kairos.config.syntax import parse

if TYPE_CHECKING:
    from kairos.config.text import ConfigText

MASK = "***"
SECRET_KEYS = frozenset({
    "secret", "secrets", "client_secret", "api_key", "password", "sentinel_password", "key_hash", "password_hash",
})  # fmt: skip
CREDENTIAL = re.compile(
    r"(?i)(.*[_-])?(passwords?|passwd|passphrase|secrets?|token|api[_-]?keys?|private[_-]?key|cookie|authorization|key_hash"
    r"|password_hash)"
)
"""What else people may send, also misspelled, where nobody looks at what it means."""
SECRET_HEADERS = re.compile(r"(?i)(.*-)?(authorization|cookie|token|secret|api-?key|password)")
SECRET_FIELDS = frozenset({"allow_headers"})
_FIELDS = SECRET_FIELDS | {"headers"}
_REFERENCE = re.compile(r"\$\{(?:file:[^{}]+|[A-Za-z_][A-Za-z0-9_]*)\}")
"""Without a default, which might be a secret."""
_PASSWORD = re.compile(r"(?<=://)([^/@\s]*:)?[^/@\s]+(?=@)")


def masked(config: msgspec.Struct) -> dict[str, Any]:
    """The canonical form of a Config or a part of it, without what equals the defaults."""
    shown: dict[str, Any] = _masked(msgspec.to_builtins(config))
    return shown


def masked_text(text: ConfigText) -> Any:
    """A text that was read, in the canonical form. References are not resolved: what they stand for stays out."""
    value, _ = parse(text.data.decode("utf-8-sig"), text.format)
    return masked_plain(normalise(value, Findings())[0]) if isinstance(value, dict) else None


def masked_plain(value: Any) -> Any:
    """Plain values that nothing was resolved in: a reference alone, which gives nothing away, is shown as written."""
    return _masked(value, references=True)


def hidden(value: Any) -> Any:
    """Any plain value as it may be written down: what people send, besides what a configuration has."""
    return _masked(_without_credentials(value))


def _without_credentials(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: MASK if item and CREDENTIAL.fullmatch(str(key)) else _without_credentials(item)
            for key, item in value.items()
        }
    return [_without_credentials(item) for item in value] if isinstance(value, list | tuple) else value


def _masked(value: Any, *, references: bool = False) -> Any:
    if isinstance(value, dict):
        hidden = {"value", "replacement"} if SECRET_HEADERS.fullmatch(str(value.get("name", ""))) else frozenset()
        return {
            key: _hidden(item, references) if item and key in SECRET_KEYS | hidden else _member(key, item, references)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [_masked(item, references=references) for item in value]
    return _PASSWORD.sub(_hide_password, value) if isinstance(value, str) else value


def _hidden(item: Any, references: bool) -> Any:
    return item if references and isinstance(item, str) and _REFERENCE.fullmatch(item) else MASK


def _member(key: str, item: Any, references: bool) -> Any:
    """Fields by name: their values may be what a policy tells friends by, or a credential for a backend."""
    if key not in _FIELDS or not isinstance(item, dict):
        return _masked(item, references=references)
    secret = key in SECRET_FIELDS
    return {
        name: _hidden(field, references)
        if secret or SECRET_HEADERS.fullmatch(str(name))
        else _masked(field, references=references)
        for name, field in item.items()
    }


def _hide_password(found: re.Match[str]) -> str:
    """`user:password` keeps the user; a lone part could be a token."""
    return f"{found[1] or ''}{MASK}"
