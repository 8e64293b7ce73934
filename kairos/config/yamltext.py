"""YAML edited in place: mappings and lists in block style, what is in brackets as in every format.

A section whose values stand for several (anchors, aliases, merges) is written anew where it has to change.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from kairos.config.bracketed import Editor, TooFineError, sorted_out, steps
from kairos.config.identity import same
from kairos.config.spans import tree
from kairos.config.writing import yaml_block, yaml_item, yaml_line, yaml_lines, yaml_member

if TYPE_CHECKING:
    from kairos.config.spans import Member, Node

Plain = dict[str, Any]
_COLON = re.compile(r"[ \t]*:")
_SHARED = re.compile(r"[&*][^\s]|<<")


def rewritten(text: str, held: Plain, wanted: Plain, levels: int | None = None) -> str:
    """
    Raises:
        TooFineError: there is no way to do it in place.
    """
    root = tree(text, "yaml")
    if root is None:
        raise TooFineError
    editor = YamlEditor(text, levels)
    editor.value(root, held, wanted, Place(0, -1))
    return editor.made()


def unshared(text: str, held: Plain, wanted: Plain) -> str:
    """As `rewritten`, once no value stands for several any more."""
    root = tree(text, "yaml")
    if root is None or root.flow or root.kind != "map" or any(member.merge for member in root.members):
        raise TooFineError
    editor = YamlEditor(text)
    for member in root.members:
        if _SHARED.search(text, member.key_end, member.end):
            editor.anew(member.node, held[member.key], Place(editor.colon(member), 0))
    return rewritten(editor.made(), held, wanted)


class Place(NamedTuple):
    """What is around a value in block style."""

    after: int
    """Where the colon or dash before it ends; 0 for the document itself."""
    column: int
    """Of what holds it; -1 for the document."""


class YamlEditor(Editor):
    """Edits of a YAML text."""

    def line(self, value: Any, at: int) -> str:
        return yaml_line(value)

    def key(self, key: str) -> str:
        return yaml_line(key)

    def value(self, node: Node, old: Any, new: Any, place: Place) -> None:
        """Change a value that does not stand in brackets."""
        if not same(old, new):
            self.finely(self._block, lambda: self.anew(node, new, place), node, old, new)

    def _block(self, node: Node, old: Any, new: Any) -> None:
        if node.flow:
            self._within(node, old, new)
        elif node.kind == "map" and new and isinstance(new, dict):
            self._block_map(node, old, new)
        elif node.kind == "list" and new and isinstance(new, list):
            self._block_list(node, old, new)
        else:
            raise TooFineError

    # -- a value written anew

    def anew(self, node: Node, new: Any, place: Place) -> None:
        if yaml_block(new):
            self._block_anew(node, new, place)
        else:
            start, gap = self._inline_start(node, place)
            self.put(start, node.end, gap + yaml_line(new))

    def _inline_start(self, node: Node, place: Place) -> tuple[int, str]:
        """Where a value on one line begins, and what goes before it."""
        if node.start == place.after or "\n" in self.text[place.after : node.start]:
            return place.after, " " if place.column >= 0 else ""
        return node.start, ""

    def _block_anew(self, node: Node, new: Any, place: Place) -> None:
        text, lines = self.text, yaml_lines(new)
        margin = " " * (place.column + 2) if place.column >= 0 else ""
        own_line = self.line_start(node.start)
        if text[place.after - 1 : place.after] == "-":
            self.put(place.after, node.end, " " + f"\n{margin}".join(lines))
        elif place.column < 0:
            self.put(node.start, node.end, "\n".join(lines))
        elif own_line > place.after and not node.flow:
            self.put(own_line, node.end, margin + f"\n{margin}".join(lines))
        else:
            self.put(place.after, node.end, f"\n{margin}" + f"\n{margin}".join(lines))

    # -- mappings in block style

    def _block_map(self, node: Node, old: Plain, new: Plain) -> None:
        stays, added = sorted_out(node, old, new)
        column = node.members[0].start - self.line_start(node.members[0].start)
        for member, key in stays:
            if key is not None:
                self._member(member, key)
                self.value(member.node, old[member.key], new[key], Place(self.colon(member), column))
        self._remove_lines(node.members, [member for member, _ in stays])
        lines = [line for key, item in added.items() for line in yaml_member(key, item)]
        self.append_lines(node.members[-1].end, lines, " " * column)

    def colon(self, member: Member) -> int:
        """Where the colon behind a key ends."""
        found = _COLON.match(self.text, member.key_end)
        if found is None:
            raise TooFineError  # `? key`
        return found.end()

    def _remove_lines(self, members: list[Member], kept: list[Member]) -> None:
        """Take out what is not kept, with the comments that stand right above it."""
        keeps = set(map(id, kept))
        first = members.index(kept[0])
        if first and not self.begins_line(members[0].start):  # `- a: 1`: the next key takes its place
            self.put(members[0].start, kept[0].start, "")
            members = members[first:]
        for member in members:
            if id(member) not in keeps:
                self.remove_lines(member.start, member.end)

    # -- lists in block style

    def _block_list(self, node: Node, old: list[Any], new: list[Any]) -> None:
        dashes = [self._dash(member) for member in node.members]
        column = dashes[0] - self.line_start(dashes[0])
        before: int | None = None
        for step in steps(old, new):
            if step.old is None:
                assert step.new is not None
                self._insert_item(dashes, node.members, before, yaml_item(new[step.new]), column)
                continue
            member, before = node.members[step.old], step.old
            if step.new is None:
                self.remove_lines(dashes[step.old], member.end)
            else:
                self.value(member.node, old[step.old], new[step.new], Place(dashes[step.old] + 1, column))

    def _dash(self, member: Member) -> int:
        """Where the dash of an item is."""
        at = len(self.text[: member.start].rstrip(" \t\r\n")) - 1
        if self.text[at] != "-" or "#" in self.text[self.line_start(at) : at]:
            raise TooFineError
        return at

    def _insert_item(
        self, dashes: list[int], members: list[Member], before: int | None, lines: list[str], column: int
    ) -> None:
        if before is not None:
            self.append_lines(members[before].end, lines, " " * column)
        elif self.begins_line(dashes[0]):
            at, margin = self.line_start(dashes[0]), " " * column
            self.put(at, at, "".join(f"{margin}{line}\n" for line in lines))
        else:
            raise TooFineError
