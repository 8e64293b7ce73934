"""An OpenAPI document (3.0 or 3.1) as the operations it describes, each ready to judge requests.

Paths stand below the path of each server of the document. Of 3.0, schemas are brought into the form of 3.1 (JSON Schema
2020-12): `nullable`, exclusive bounds, nothing beside `$ref`. What is `readOnly` need not be in a request, nor what is
`writeOnly` in a response. `discriminator`, links, callbacks and security say nothing here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from kairos._speedups.routes import RouteTable
from kairos.config.documents import DocumentError, Documents, Validator, joined, shown
from kairos.config.parameters import Parameter, Shape

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Direction = Literal["readOnly", "writeOnly"]

METHODS = ("get", "put", "post", "delete", "options", "head", "patch", "trace")
_VERSION = re.compile(r"3\.[01]\.\d+")
_TEMPLATE = re.compile(r"\{([^{}]*)\}")
_NO_SCHEMAS = frozenset(("example", "examples", "default", "enum", "const"))
_STYLES = {"path": "simple", "query": "form", "header": "simple", "cookie": "form"}
_KNOWN_STYLES = {
    "path": {"simple", "label", "matrix"},
    "query": {"form", "spaceDelimited", "pipeDelimited", "deepObject"},
    "header": {"simple"},
    "cookie": {"form"},
}
_IGNORED_HEADERS = frozenset(("accept", "content-type", "authorization"))  # OpenAPI 3.1 section 4.8.12.1


class Body(NamedTuple):
    """What an operation takes or gives, by media range in lower case; None: anything of that type."""

    required: bool
    content: dict[str, Media]


class Media(NamedTuple):
    """One media range of a body."""

    validator: Validator | None
    shape: Shape
    """Of forms, whose fields are text."""


class Operation(NamedTuple):
    """One method of one path."""

    method: str
    path: str
    """With the server's path in front and placeholders `{p0}`, `{p1}`, …"""
    shown: str
    """As the document has it."""
    names: tuple[str, ...]
    """Of the placeholders."""
    parameters: tuple[Parameter, ...]
    body: Body | None
    responses: dict[str, Body]
    """By status, `4XX` or `default`."""


class _Node(NamedTuple):
    """A value of the document and where it is."""

    uri: str
    pointer: str
    value: Any


class OpenApi:
    """One document."""

    def __init__(
        self, path: str | Path, base_path: str | None = None, *, responses: bool = False, formats: bool = True
    ) -> None:
        """
        Raises:
            DocumentError: it cannot be used.
        """
        self.documents = Documents.read(path)
        self._formats = formats
        self._check_version()
        try:
            self._take(base_path, responses)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise DocumentError(f"is not what OpenAPI says it should be: {error}", self._place()) from None

    def _take(self, base_path: str | None, responses: bool) -> None:
        self._requests = _converted(self.documents, self._old, "readOnly")
        self._responses = _converted(self.documents, self._old, "writeOnly") if responses else None
        self._validators: dict[tuple[int, str, str], Validator] = {}
        self._shapes: dict[tuple[str, str, int], Shape] = {}
        self.bases = [base_path] if base_path is not None else self._bases()
        self.operations = [found for base in self.bases for found in self._operations(base.rstrip("/"))]
        if not self.operations:
            raise DocumentError("describes no operation", self._place("/paths"))
        self.table = RouteTable([([], one.path, [one.method], "strict", one) for one in self.operations])

    def compile(self) -> None:
        """Everything that is otherwise compiled when it is first needed.

        Raises:
            DocumentError: a schema is none.
        """
        for validator in self._validators.values():
            _ = validator.compiled

    # -- the document -------------------------------------------------------------------------------------------------

    @property
    def _root(self) -> Any:
        return self.documents.values[self.documents.root]

    def _place(self, pointer: str = "") -> str:
        return f"{shown(self.documents.root)}#{pointer}"

    def _check_version(self) -> None:
        version = self._root.get("openapi") if isinstance(self._root, dict) else None
        if not isinstance(version, str) or not _VERSION.match(version):
            told = f"is version '{version}'" if isinstance(version, str) else "is no OpenAPI document"
            raise DocumentError(f"{told}: 'openapi: 3.0.x' or '3.1.x' is read", self._place("/openapi"))
        self._old = version.startswith("3.0")

    def _bases(self) -> list[str]:
        """Paths of the servers, each once; variables have their defaults."""
        found: list[str] = []
        for at, server in enumerate(self._root.get("servers") or [{"url": "/"}]):
            if not isinstance(server, dict) or not isinstance(server.get("url"), str):
                raise DocumentError("a server needs a url", self._place(joined("/servers", at)))
            found.append(urlsplit(_with_defaults(server)).path.rstrip("/"))
        return list(dict.fromkeys(found))

    def _node(self, node: _Node, key: str | int) -> _Node:
        """What stands under a key, with references followed."""
        at = joined(node.pointer, key)
        return _Node(*self.documents.resolve(node.uri, at, node.value[key]))

    def _object(self, node: _Node, key: str | int) -> _Node:
        found = self._node(node, key)
        if not isinstance(found.value, dict):
            raise DocumentError("must be an object", f"{shown(found.uri)}#{found.pointer}")
        return found

    def _list(self, node: _Node, key: str) -> Iterator[_Node]:
        """The items of a list, with references followed."""
        found = self._node(node, key)
        if not isinstance(found.value, list):
            raise DocumentError("must be a list", f"{shown(found.uri)}#{found.pointer}")
        for at in range(len(found.value)):
            yield self._node(found, at)

    # -- operations ---------------------------------------------------------------------------------------------------

    def _operations(self, base: str) -> Iterator[Operation]:
        root = _Node(self.documents.root, "", self._root)
        if "paths" not in self._root:
            return
        paths = self._object(root, "paths")
        for path in paths.value:
            if not str(path).startswith("x-"):
                yield from self._path(base, path, self._object(paths, path))

    def _path(self, base: str, path: str, item: _Node) -> Iterator[Operation]:
        if not path.startswith("/"):
            raise DocumentError(f"path '{path}' must start with '/'", f"{shown(item.uri)}#{item.pointer}")
        names = tuple(_TEMPLATE.findall(path))
        numbers = iter(range(len(names)))
        renamed = _TEMPLATE.sub(lambda _: f"{{p{next(numbers)}}}", path)
        shared = self._parameters(item)
        for method in METHODS:
            if method in item.value:
                node = self._object(item, method)
                parameters = {**shared, **self._parameters(node)}
                body = self._body(node, "requestBody", self._requests)
                yield Operation(
                    method.upper(),
                    base + renamed,
                    path,
                    names,
                    tuple(self._parameter(*found) for found in parameters.items()),
                    body,
                    self._answers(node),
                )

    def _parameters(self, node: _Node) -> dict[tuple[str, str], _Node]:
        found: dict[tuple[str, str], _Node] = {}
        if "parameters" not in node.value:
            return found
        for one in self._list(node, "parameters"):
            parameter = one.value if isinstance(one.value, dict) else {}
            where, name = parameter.get("in"), parameter.get("name")
            if not isinstance(where, str) or where not in _STYLES or not isinstance(name, str):
                message = "a parameter needs a name, and 'in': path, query, header or cookie"
                raise DocumentError(message, f"{shown(one.uri)}#{one.pointer}")
            if where != "header" or name.lower() not in _IGNORED_HEADERS:
                found[where, name.lower() if where == "header" else name] = one
        return found

    def _parameter(self, key: tuple[str, str], node: _Node) -> Parameter:
        where, name = key
        place = f"{shown(node.uri)}#{node.pointer}"
        style = node.value.get("style", _STYLES[where])
        if style not in _KNOWN_STYLES[where]:
            raise DocumentError(f"style '{style}' is none of a parameter in {where}", place)
        schema = node
        if "schema" not in node.value and "content" in node.value:
            content = self._object(node, "content")
            schema = self._object(content, next(iter(content.value), ""))
            style = "json"
        validator, shape = None, Shape()
        if "schema" in schema.value:
            validator, shape = self._schema(schema, self._requests)
        explode = node.value.get("explode", style == "form")
        required = bool(node.value.get("required")) or where == "path"
        return Parameter(where, name, required, style, bool(explode), shape, validator)

    def _body(self, node: _Node, key: str, converted: Documents) -> Body | None:
        if key not in node.value:
            return None
        return self._content(self._object(node, key), converted)

    def _content(self, body: _Node, converted: Documents) -> Body:
        content: dict[str, Media] = {}
        if "content" in body.value:
            ranges = self._object(body, "content")
            for name in ranges.value:
                media = self._object(ranges, name)
                validator, shape = self._schema(media, converted) if "schema" in media.value else (None, Shape())
                content[name.partition(";")[0].strip().lower()] = Media(validator, shape)
        return Body(bool(body.value.get("required")), content)

    def _answers(self, node: _Node) -> dict[str, Body]:
        if self._responses is None or "responses" not in node.value:
            return {}
        answers = self._object(node, "responses")
        return {
            str(status).upper(): self._content(self._object(answers, status), self._responses)
            for status in answers.value
            if not str(status).startswith("x-")
        }

    # -- schemas ------------------------------------------------------------------------------------------------------

    def _schema(self, node: _Node, converted: Documents) -> tuple[Validator, Shape]:
        found = _Node(*self.documents.resolve(node.uri, joined(node.pointer, "schema"), node.value["schema"]))
        key = (id(converted), found.uri, found.pointer)
        if key not in self._validators:
            self._validators[key] = Validator(converted, found.uri, found.pointer, formats=self._formats)
        return self._validators[key], self._shape(found)

    def _shape(self, node: _Node, depth: int = 0) -> Shape:
        """What text is read as: types of the value, of an array's items, of an object's members."""
        key = (node.uri, node.pointer, depth)
        if key not in self._shapes:
            self._shapes[key] = self._new_shape(node, depth)
        return self._shapes[key]

    def _new_shape(self, node: _Node, depth: int) -> Shape:
        schema = node.value
        if not isinstance(schema, dict) or depth == 3:
            return Shape()
        given = schema.get("type")
        types = {word for word in (given if isinstance(given, list) else [given]) if isinstance(word, str)}
        if schema.get("nullable"):
            types.add("null")
        items = self._shape(self._node(node, "items"), depth + 1) if "items" in schema else None
        members: dict[str, Shape] = {}
        if "properties" in schema:
            listed = self._object(node, "properties")
            members = {name: self._shape(self._node(listed, name), depth + 1) for name in listed.value}
        for word in ("allOf", "anyOf", "oneOf"):
            for found in self._list(node, word) if word in schema else ():
                part = self._shape(found, depth + 1)
                types |= part.types
                items = items or part.items
                members = {**part.members, **members}
        return Shape(frozenset(types), items, members)


def _with_defaults(server: dict[str, Any]) -> str:
    variables = server.get("variables") or {}

    def value(found: re.Match[str]) -> str:
        variable = variables.get(found[1])
        return str(variable.get("default", "")) if isinstance(variable, dict) else found[0]

    return unquote(_TEMPLATE.sub(value, server["url"]))


def _converted(documents: Documents, old: bool, absent: Direction) -> Documents:
    """The documents as 2020-12 schemas of one direction. Pointers lead to the same places."""
    change = _Change(documents, old, absent)
    return Documents(documents.root, {uri: change.of(uri, "", value) for uri, value in documents.values.items()})


class _Change:
    def __init__(self, documents: Documents, old: bool, absent: Direction) -> None:
        self._documents = documents
        self._old = old
        self._absent = absent

    def of(self, uri: str, pointer: str, value: Any) -> Any:
        if isinstance(value, list):
            return [self.of(uri, joined(pointer, at), item) for at, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        if self._old and isinstance(value.get("$ref"), str):
            return {"$ref": value["$ref"]}
        made = {
            str(key): item if key in _NO_SCHEMAS else self.of(uri, joined(pointer, key), item)
            for key, item in value.items()
        }
        if self._old:
            _modernise(made)
        if isinstance(made.get("required"), list) and isinstance(made.get("properties"), dict):
            made["required"] = [name for name in made["required"] if not self._is_absent(uri, pointer, value, name)]
        return made

    def _is_absent(self, uri: str, pointer: str, schema: dict[str, Any], name: str) -> bool:
        member = schema["properties"].get(name)
        _, _, member = self._documents.resolve(uri, joined(pointer, "properties", name), member)
        return isinstance(member, dict) and member.get(self._absent) is True


def _modernise(schema: dict[str, Any]) -> None:
    """3.0 to 2020-12, in place."""
    if schema.get("nullable") is True and isinstance(schema.get("type"), str):
        schema["type"] = [schema["type"], "null"]
        if isinstance(schema.get("enum"), list) and None not in schema["enum"]:
            schema["enum"] = [*schema["enum"], None]
    for bound, exclusive in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if schema.get(exclusive) is True and bound in schema:
            schema[exclusive] = schema.pop(bound)
        elif isinstance(schema.get(exclusive), bool):
            del schema[exclusive]
