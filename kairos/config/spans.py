"""Where each value of a JSON or YAML text stands, character by character: what editing in place needs.

The text has been parsed before and is good. Nothing is decoded here but keys; values come from `syntax.parse`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import yaml

from kairos.config.syntax import MERGE, YamlLoader, json_key, json_tokens, plain_json, yaml_steps


@dataclass(slots=True)
class Node:
    """A value in a text."""

    kind: Literal["value", "alias", "map", "list"]
    start: int
    end: int
    """Of a collection in block style: where its last value ends."""
    flow: bool = True
    """In brackets, or no collection."""
    members: list[Member] = field(default_factory=list)


@dataclass(slots=True)
class Member:
    """A value of a collection, with its key if that is a mapping."""

    start: int
    node: Node
    key: str = ""
    key_end: int = 0
    merge: bool = False
    """`<<` of YAML."""

    @property
    def end(self) -> int:
        return self.node.end


def tree(text: str, format_: Literal["json", "yaml"]) -> Node | None:
    """The values of a text; none where a YAML text holds nothing."""
    build = _Builder()
    (_read_json if format_ == "json" else _read_yaml)(text, build)
    return build.root


class _Builder:
    """Nodes become a tree."""

    def __init__(self) -> None:
        self.root: Node | None = None
        self._open: list[Node] = []
        self._key: Member | None = None

    def wants_key(self) -> bool:
        return bool(self._open) and self._open[-1].kind == "map" and self._key is None

    def key(self, text: str, start: int, end: int, *, merge: bool = False) -> None:
        self._key = Member(start, Node("value", end, end), text, end, merge)

    def add(self, node: Node) -> Node:
        if not self._open:
            self.root = node
        elif self._key is None:
            self._open[-1].members.append(Member(node.start, node))
        else:
            self._key.node = node
            self._open[-1].members.append(self._key)
            self._key = None
        return node

    def open(self, node: Node) -> None:
        self._open.append(self.add(node))

    def close(self, end: int) -> None:
        node = self._open.pop()
        node.end = end if node.flow or not node.members else node.members[-1].end


def _read_json(text: str, build: _Builder) -> None:
    for match in json_tokens(plain_json(text)):
        token, start, end = match[0], match.start(), match.end()
        if token in ("{", "["):
            build.open(Node("map" if token == "{" else "list", start, end))
        elif token in ("}", "]"):
            build.close(end)
        elif build.wants_key():
            build.key(json_key(token), start, end)
        else:
            build.add(Node("value", start, end))


def _read_yaml(text: str, build: _Builder) -> None:
    for event, _ in yaml_steps(YamlLoader(text)):
        start, end = event.start_mark.index, event.end_mark.index  # type: ignore[union-attr]
        if isinstance(event, yaml.CollectionStartEvent):
            kind: Literal["map", "list"] = "map" if isinstance(event, yaml.MappingStartEvent) else "list"
            build.open(Node(kind, start, end, bool(event.flow_style)))
        elif isinstance(event, yaml.CollectionEndEvent):
            build.close(end)
        elif isinstance(event, yaml.ScalarEvent) and build.wants_key():
            build.key(event.value, start, end, merge=event.value == MERGE and event.implicit[0])
        elif isinstance(event, yaml.ScalarEvent):
            build.add(Node("value", start, end))
        elif isinstance(event, yaml.AliasEvent):
            build.add(Node("alias", start, end))
