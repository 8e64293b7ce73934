"""The configuration page: every example on it loads, every table on it is true."""

import json
import re
from pathlib import Path

import msgspec
import pytest

from kairos.config import model
from kairos.config.load import judged, loads
from kairos.config.policies import api_keys, claims, jwt, transform
from kairos.config.schema import modules
from kairos.config.spec import Spec

PAGE = Path(__file__).parents[2].joinpath("docs", "configuration.md").read_text()
EXAMPLES = re.findall(r"```(json|yaml|toml)\n(.*?)```", PAGE, re.S)
TABLES = re.findall(r"\| key \| default \| meaning \|\n\|---\|---\|---\|\n((?:\|.*\n)+)", PAGE)
STRUCTS = [
    kind
    for module in modules()
    for kind in vars(module).values()
    if isinstance(kind, type) and issubclass(kind, Spec) and kind.__module__ == module.__name__
]
IN_THE_TEXT = {
    Spec, model.AiStrategy, model.Group,
    claims.ClaimRule, jwt.TokenSource, api_keys.KeySource, jwt.Revocation,
    transform.HeaderRule, transform.QueryRule, transform.PathRule, transform.StatusRule,
}  # fmt: skip
"""Items of lists, told in a word where the list is."""


def defaults(kind: type[msgspec.Struct]) -> dict[str, str]:
    """Those of a base stand in a table of their own: of policies once for all, groups and routes."""
    inherited = {name for base in kind.__bases__ for name in base.__struct_fields__}
    return {field.encode_name: shown(field) for field in msgspec.structs.fields(kind) if field.name not in inherited}


def shown(field: msgspec.structs.FieldInfo) -> str:
    if field.required:
        return "required"
    value = field.default_factory() if field.default is msgspec.NODEFAULT else field.default
    return f"`{json.dumps(msgspec.to_builtins(value))}`"


def rows(table: str) -> dict[str, str]:
    return dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", table, re.M))


def test_there_are_examples_of_every_format():
    assert {format_ for format_, _ in EXAMPLES} == {"json", "yaml", "toml"}


@pytest.mark.parametrize(("format_", "text"), EXAMPLES)
def test_examples_load(format_, text):
    assert judged(loads(text.encode(), format_, f"example.{format_}")).config.routers


@pytest.mark.parametrize("kind", [kind for kind in STRUCTS if kind not in IN_THE_TEXT], ids=lambda kind: kind.__name__)
def test_every_key_is_listed_with_its_default(kind):
    expected = defaults(kind)
    (listed,) = [rows(table) for table in TABLES if rows(table).keys() == expected.keys()]
    for key, text in listed.items():
        assert text == expected[key] or (text == "see below" and len(expected[key]) > 80), key
