"""JSON Schema of the configuration, for editors: made from the model, described by the docstrings below its fields.

It knows the canonical spelling only; the loader also takes older ones (`legacy`) and `${…}` in place of any value.
"""

from __future__ import annotations

import ast
import inspect
from importlib import import_module
from pkgutil import iter_modules
from typing import TYPE_CHECKING, Any

import msgspec

from kairos.config import admin, backend, listeners, log, model, policies, redis, spec

if TYPE_CHECKING:
    from types import ModuleType

DIALECT = "https://json-schema.org/draft/2020-12/schema"
COMMENT_KEYS = r"^(_|//|\$schema$)"


def export() -> dict[str, Any]:
    """The schema, as plain values."""
    (top,), parts = msgspec.json.schema_components([model.Config], ref_template="#/$defs/{name}")
    described = _docstrings()
    for name, part in parts.items():
        _describe(part, described.get(name, {}))
    return {"$schema": DIALECT, "title": "Kairos gateway configuration", **top, "$defs": parts}


def _describe(part: dict[str, Any], fields: dict[str, str]) -> None:
    """Add what the model says of each field, and let comment keys pass as the loader does."""
    if "properties" not in part:
        return
    part["patternProperties"] = {COMMENT_KEYS: {}}
    for name, described in part["properties"].items():
        if name in fields:
            described["description"] = fields[name]


def _docstrings() -> dict[str, dict[str, str]]:
    """Struct → field (by its name in files) → docstring."""
    kinds: dict[str, type] = {}
    own: dict[str, dict[str, str]] = {}
    for module in modules():
        for node in ast.parse(inspect.getsource(module)).body:
            if isinstance(node, ast.ClassDef):
                kinds[node.name] = getattr(module, node.name)
                own[node.name] = _field_docstrings(node)
    return {name: _inherited(kind, own) for name, kind in kinds.items()}


def _inherited(kind: type, own: dict[str, dict[str, str]]) -> dict[str, str]:
    """A Struct's field docstrings, those of its bases included."""
    return {field: text for base in reversed(kind.__mro__) for field, text in own.get(base.__name__, {}).items()}


def modules() -> list[ModuleType]:
    """Where the Structs are defined."""
    parts = [import_module(f"{policies.__name__}.{part.name}") for part in iter_modules(policies.__path__)]
    return [spec, admin, backend, policies, *parts, redis, listeners, log, model]


def _field_docstrings(struct: ast.ClassDef) -> dict[str, str]:
    found: dict[str, str] = {}
    for field, text in zip(struct.body, struct.body[1:], strict=False):
        if (
            isinstance(field, ast.AnnAssign)
            and isinstance(field.target, ast.Name)
            and isinstance(text, ast.Expr)
            and isinstance(text.value, ast.Constant)
        ):
            found[field.target.id.rstrip("_")] = " ".join(str(text.value.value).split())
    return found
