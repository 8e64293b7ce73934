"""What --check says of validation and size limits, and which files belong to a configuration."""

import json

import pytest
from config_samples import file, problems_of, read, route

from kairos.config.files import digest


def told(**policies):
    problems = problems_of(file(route(**policies)))
    return [(one.severity, one.path, one.message) for one in problems if "validation" in one.path or "size" in one.path]


@pytest.mark.parametrize(
    ("settings", "path", "text"),
    [
        ({"schema": {"type": "strin"}}, "schema", "#/type: "),
        ({"schema": {"properties": {"a": {"pattern": "(?=a)"}}}}, "schema", "look-around"),
        ({"schema": {"$ref": "other.json"}}, "schema", "schema_file"),
        ({"schema": {"$ref": "#/nowhere"}}, "schema", "nowhere"),
        ({"schema": {"type": "object"}, "schema_file": "x"}, "schema_file", "not both"),
        ({"schema_file": "/nowhere/x.json"}, "schema_file", "/nowhere/x.json: cannot be read"),
        ({"openapi": {"file": "/nowhere/x.json"}}, "openapi.file", "cannot be read"),
        ({"openapi": {"file": "examples/users.yaml", "base_path": "v1"}}, "openapi.base_path", "start with '/'"),
        ({"content_types": ["json"]}, "content_types[0]", "no media type"),
        ({"headers": [{"name": "X Y"}]}, "headers[0].name", "no header name"),
        ({"headers": [{"name": "X"}, {"name": "x"}]}, "headers[1].name", "already"),
        ({"query": [{"name": ""}]}, "query[0].name", "empty"),
        ({"query": [{"name": "a", "pattern": "("}]}, "query[0].pattern", "regular expression"),
        ({"query": [{"name": "a", "min": 1}]}, "query[0].min", "set type"),
        ({"query": [{"name": "a", "type": "integer", "min": 2, "max": 1}]}, "query[0].min", "nothing would fit"),
        ({"query": [{"name": "a", "min_length": 2, "max_length": 1}]}, "query[0].min_length", "nothing would fit"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(settings, path, text):
    ((severity, where, message),) = told(validation=settings)
    assert (severity, where) == ("error", f"routers[0].validation.{path}")
    assert text in message


def test_what_is_right_is_passed_over():
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "$comment": "x", "_": 1, "type": "object"}
    assert told(validation={"schema": schema, "openapi": {"file": "examples/users.yaml"}}) == []
    assert told(size_limits={"request_body": 5, "types": {"image/*": 7}}) == []


def test_a_schema_keeps_the_keys_that_are_comments_elsewhere():
    """Its dialect is one of them."""
    schema = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}]}
    config = read(file(route(validation={"schema": schema}))).config
    assert config.routers[0].validation.schema == schema


def test_types_of_size_limits():
    ((severity, where, _),) = told(size_limits={"types": {"image": 1}})
    assert (severity, where) == ("error", "routers[0].size_limits.types.image")


def test_a_change_of_any_file_of_a_document_is_a_change_of_the_configuration(tmp_path):
    part = tmp_path / "part.json"
    part.write_text('{"type": "integer"}')
    for name, document in (
        ("schema.json", {"$ref": "part.json"}),
        ("api.json", {"openapi": "3.1.0", "paths": {"/a": {"get": {"x": {"$ref": "part.json"}}}}}),
    ):
        tmp_path.joinpath(name).write_text(json.dumps(document))
    validation = {"schema_file": str(tmp_path / "schema.json"), "openapi": {"file": str(tmp_path / "api.json")}}
    loaded = read(file(route(validation=validation)))
    before = digest(loaded)
    assert digest(loaded) == before
    part.write_text('{"type": "string"}')
    assert digest(loaded) != before
    part.write_text("{")
    assert digest(loaded) != before
