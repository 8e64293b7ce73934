"""OpenAPI documents and JSON Schemas as they are read: what they come to, and what is wrong with them, and where."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kairos.config.documents import INLINE, DocumentError, Documents, Validator
from kairos.config.openapi import OpenApi

PETS = """
openapi: 3.0.3
info: {title: Pets, version: "1"}
servers:
  - url: https://api.example.com/{version}
    variables: {version: {default: v1}}
  - url: /beta/
paths:
  x-note: ignored
  /pets:
    parameters:
      - {name: limit, in: query, schema: {type: integer, minimum: 1}}
      - {name: Accept, in: header, schema: {type: string}}
    get:
      parameters: [{name: limit, in: query, schema: {type: integer, minimum: 5}}]
      responses: {'200': {description: all}}
    post:
      requestBody:
        required: true
        content:
          application/json: {schema: {$ref: '#/components/schemas/Pet'}}
      responses:
        '201': {description: made, content: {application/json: {schema: {$ref: '#/components/schemas/Pet'}}}}
  /pets/{pet-id}.{format}:
    get: {responses: {default: {description: one}}}
components:
  schemas:
    Pet:
      type: object
      required: [id, name, secret]
      properties:
        id: {type: integer, readOnly: true}
        secret: {type: string, writeOnly: true}
        name: {type: string}
        age: {type: integer, minimum: 0, exclusiveMinimum: true, nullable: true}
        kind: {type: string, nullable: true, enum: [cat, dog]}
        owner: {$ref: 'parts/owner.yaml#/Owner', description: ignored}
      additionalProperties: false
"""
OWNER = """
Owner:
  type: object
  properties: {mail: {type: string, format: email}, pet: {$ref: '../pets.yaml#/components/schemas/Pet'}}
"""


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    tmp_path.joinpath("parts").mkdir()
    tmp_path.joinpath("parts/owner.yaml").write_text(OWNER)
    tmp_path.joinpath("pets.yaml").write_text(PETS)
    return tmp_path / "pets.yaml"


def written(folder: Path, document: Any, name: str = "api.json") -> Path:
    folder.joinpath(name).write_text(document if isinstance(document, str) else json.dumps(document))
    return folder / name


def minimal(**operation: Any) -> Any:
    return {"openapi": "3.1.0", "paths": {"/a": {"get": operation}}}


# --- what a document comes to ---


def test_every_path_stands_below_every_server(pets: Path) -> None:
    made = OpenApi(pets)
    assert made.bases == ["/v1", "/beta"]
    assert [one.method for one in made.operations] == ["GET", "POST", "GET"] * 2
    assert made.table.match(None, b"/v1/pets", "POST").value.shown == "/pets"
    match = made.table.match(None, b"/beta/pets/7.json", "GET")
    assert (match.value.names, list(match.params.values())) == (("pet-id", "format"), ["7", "json"])
    assert made.table.match(None, b"/pets", "GET").status == "not_found"
    assert OpenApi(pets, "/mine").bases == ["/mine"]
    assert sorted(made.documents.files) == [str(pets.parent / "parts/owner.yaml"), str(pets)]


def test_an_operations_parameters_go_before_those_of_its_path(pets: Path) -> None:
    get = OpenApi(pets).operations[0]
    (limit,) = get.parameters  # Accept is nobody's parameter
    assert limit.validator is not None
    assert not limit.validator.is_valid(4)


def test_schemas_of_3_0_mean_what_they_said(pets: Path) -> None:
    made = OpenApi(pets, responses=True)
    post = made.operations[1]
    assert post.body is not None
    request = post.body.content["application/json"].validator
    answer = post.responses["201"].content["application/json"].validator
    assert request is not None
    assert answer is not None
    assert request.is_valid({"name": "x", "secret": "y", "age": None, "kind": None})
    found = request.problems({"name": "x", "age": 0, "kind": "cow", "owner": {"mail": "q", "pet": {"z": 1}}}, 20)
    assert sorted({one.pointer for one in found}) == ["", "/age", "/kind", "/owner/mail", "/owner/pet"]
    assert "secret" in next(one.detail for one in found if one.pointer == "")
    assert [one.detail for one in answer.problems({"name": "x"}, 9)] == ['"id" is a required property']


def test_values_are_not_in_what_is_told(pets: Path) -> None:
    body = OpenApi(pets).operations[1].body
    assert body is not None
    validator = body.content["application/json"].validator
    assert validator is not None
    told = validator.problems({"name": {"a": "hunter2"}, "secret": ["hunter2"], "kind": "hunter2", "x" * 999: 1}, 20)
    assert told
    assert all("hunter2" not in one.detail and len(one.detail) <= 200 for one in told)


def test_one_that_is_large_is_read_quickly_and_compiled_as_it_is_used(tmp_path: Path) -> None:
    """A worker reads it while it serves."""
    one = {"parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}]}
    paths = {f"/r{number}/{{id}}": {"get": one, "delete": one} for number in range(500)}
    made = OpenApi(written(tmp_path, {"openapi": "3.1.0", "paths": paths}))
    assert len(made.operations) == 1000
    assert "compiled" not in vars(made.operations[0].parameters[0].validator)
    made.compile()
    assert "compiled" in vars(made.operations[0].parameters[0].validator)


# --- what is wrong with one ---

SCHEMA = {"parameters": [{"name": "x", "in": "query", "schema": {}}]}
AT = "/paths/~1a/get/parameters/0"


def schema(**words: Any) -> Any:
    return minimal(parameters=[{"name": "x", "in": "query", "schema": words}])


@pytest.mark.parametrize(
    ("document", "place", "text"),
    [
        ("{", "api.json", ""),
        ("[]", "#/openapi", "no OpenAPI document"),
        ({"swagger": "2.0"}, "#/openapi", "no OpenAPI document"),
        ({"openapi": "2.0.0"}, "#/openapi", "version '2.0.0'"),
        ({"openapi": "3.1.0"}, "#/paths", "no operation"),
        ({"openapi": "3.1.0", "paths": [1]}, "#/paths", "an object"),
        ({"openapi": "3.1.0", "paths": {"a": {"get": {}}}}, "#/paths/a", "start with '/'"),
        ({"openapi": "3.1.0", "paths": {"/a": {"get": 1}}}, "#/paths/~1a/get", "an object"),
        ({"openapi": "3.1.0", "paths": {"/{a}": {"get": {}}, "/{b}": {"get": {}}}}, "#", "OpenAPI says"),
        ({"openapi": "3.1.0", "servers": [{}], "paths": {}}, "#/servers/0", "url"),
        (minimal(parameters=3), "#/paths/~1a/get/parameters", "a list"),
        (minimal(parameters=[{"name": "x"}]), f"#{AT}", "needs a name"),
        (minimal(parameters=[{"name": "x", "in": "query", "style": "matrix"}]), f"#{AT}", "style 'matrix'"),
        (minimal(parameters=[{"$ref": "#/nowhere"}]), f"#{AT}", "leads nowhere"),
        ({"openapi": "3.1.0", "paths": {"/a": {"$ref": "#/b"}}, "b": {"$ref": "#/b"}}, "#/paths/~1a", "circle"),
        (schema(type="strin"), f"#{AT}/schema/type", "type"),
        (schema(pattern="(?=a)"), f"#{AT}/schema/pattern", "look-around"),
        (schema(minimum="x"), f"#{AT}/schema/minimum", "number"),
        (schema(**{"$ref": "https://example.com/x.json"}), f"#{AT}/schema/$ref", "nothing is fetched"),
        (schema(**{"$ref": "file://host/x.json"}), f"#{AT}/schema/$ref", "nothing is fetched"),
        (schema(**{"$ref": "none.json"}), "none.json", "cannot be read"),
        (schema(**{"$ref": "../outside.json"}), "outside.json", "lies outside"),
        (schema(**{"$ref": "/etc/passwd"}), "/etc/passwd", "lies outside"),
        (schema(**{"$ref": "%2e%2e/outside.json"}), "outside.json", "lies outside"),
        (schema(**{"$ref": "link.json"}), "link.json", "lies outside"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_its_place(tmp_path: Path, document: Any, place: str, text: str) -> None:
    folder = tmp_path / "inside"
    folder.mkdir()
    written(tmp_path, {}, "outside.json")
    folder.joinpath("link.json").symlink_to(tmp_path / "outside.json")
    with pytest.raises(DocumentError) as told:
        OpenApi(written(folder, document)).compile()
    where, _, message = str(told.value).partition(": ")
    assert where.endswith(place) or place in where
    assert text in message


def test_a_folder_of_links_is_followed(tmp_path: Path) -> None:
    """As a mounted ConfigMap is made: names that lead to another folder below."""
    written(tmp_path, "", "x").unlink()
    tmp_path.joinpath("..data").mkdir()
    written(tmp_path / "..data", schema(**{"$ref": "part.json"}))
    written(tmp_path / "..data", {"type": "integer"}, "part.json")
    for name in ("api.json", "part.json"):
        tmp_path.joinpath(name).symlink_to(tmp_path / "..data" / name)
    OpenApi(tmp_path / "api.json").compile()


MANGLED = st.sampled_from([None, 1, "x", [], {}, [1], {"$ref": "#/paths"}, {"$ref": 3}, True, {"schema": 1}])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(st.data())
def test_however_a_document_is_spoilt_it_is_told(pets: Path, data: st.DataObject) -> None:
    document = yaml.safe_load(PETS)
    node = document
    for _ in range(data.draw(st.integers(0, 6))):
        inner = [key for key, value in node.items() if isinstance(value, dict)]
        if not inner:
            break
        node = node[data.draw(st.sampled_from(inner))]
    node[data.draw(st.sampled_from([*map(str, node), "parameters", "schema"]))] = data.draw(MANGLED)
    with contextlib.suppress(DocumentError):
        OpenApi(written(pets.parent, document), responses=True).compile()


# --- JSON Schemas ---


def test_a_schema_in_the_configuration_refers_to_itself_only() -> None:
    schema = {"$ref": "#/$defs/a", "$defs": {"a": {"type": "array", "items": {"$ref": "#/$defs/a"}}}}
    assert Validator(Documents.inline(schema), INLINE).is_valid([[[]]])
    with pytest.raises(DocumentError, match="schema_file"):
        Documents.inline({"properties": {"a": {"$ref": "other.json"}}})


def test_the_dialect_is_2020_12_unless_another_is_named() -> None:
    tuples = {"prefixItems": [{"type": "integer"}]}
    old = {"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "integer"}]}
    assert not Validator(Documents.inline(tuples), INLINE).is_valid(["x"])
    assert not Validator(Documents.inline(old), INLINE).is_valid(["x"])
    with pytest.raises(DocumentError, match="meta-schema"):
        _ = Validator(Documents.inline({"$schema": "http://example.com/mine"}), INLINE).compiled


def test_formats_by_choice() -> None:
    documents = Documents.inline({"format": "date-time"})
    assert not Validator(documents, INLINE).is_valid("yesterday")
    assert Validator(documents, INLINE, formats=False).is_valid("yesterday")


def test_files_have_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kairos.config.documents.MAX_FILES", 3)
    for number in range(5):
        written(tmp_path, {"$ref": f"{number + 1}.json"}, f"{number}.json")
    with pytest.raises(DocumentError, match="more than 3 files"):
        Documents.read(tmp_path / "0.json")
    monkeypatch.setattr("kairos.config.documents.MAX_BYTES", 10)
    with pytest.raises(DocumentError, match="larger than"):
        Documents.read(tmp_path / "0.json")
