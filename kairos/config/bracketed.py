"""Editing a text in place: edits by character, and what JSON, YAML and TOML have in common: values in brackets.

Comments, order and spacing of what stays are not touched. What cannot be changed piece by piece raises TooFineError up
to the next value around it, which is written anew.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from kairos.config.identity import aligned, same
from kairos.config.writing import INDENT, json_text

if TYPE_CHECKING:
    from kairos.config.identity import Step
    from kairos.config.spans import Member, Node

Plain = dict[str, Any]


class TooFineError(Exception):
    """This cannot be changed piece by piece."""


class Edit(NamedTuple):
    """Characters that give way to others."""

    start: int
    end: int
    text: str


def apply(text: str, edits: list[Edit]) -> str:
    """The text with all edits made; none may overlap another."""
    made, at = [], 0
    for edit in sorted(edits, key=lambda edit: (edit.start, edit.end)):
        if edit.start < at:
            raise TooFineError
        made += [text[at : edit.start], edit.text]
        at = edit.end
    return "".join([*made, text[at:]])


_REST = re.compile(r"[ \t]*(?:#[^\n]*)?(?:\r?\n|\Z)")
_BLANK = re.compile(r"[ \t]*")
_COMMA = re.compile(r"(?:\s|#[^\n]*|//[^\n]*|/\*(?s:.*?)\*/)*,")
_COMMENT_LINE = re.compile(r"[ \t]*(?:(?://|#)[^\n]*|\r)?\n")
_LAST_COMMENT = re.compile(r",?([ \t]*(?://|#)[^\n]*)(?=\n)")


class Editor:
    """Collects the edits of one text. By itself it writes JSON."""

    def __init__(self, text: str, levels: int | None = None) -> None:
        self.text = text
        self.edits: list[Edit] = []
        self._levels = levels
        """How deep to look for what can stay; what differs there is written anew. None: as deep as it goes."""
        self._level = 0
        self._newline = "\r\n" if "\r\n" in text else "\n"

    def made(self) -> str:
        return apply(self.text, self.edits)

    def put(self, start: int, end: int, text: str) -> None:
        self.edits.append(Edit(start, end, text.replace("\n", self._newline)))

    def line(self, value: Any, at: int) -> str:
        """A value in brackets that goes where `at` is."""
        blank = _BLANK.match(self.text, self.line_start(at))
        return json_text(value, blank[0] if blank else "", _unit(self.text), wide="\n" in self.text.strip())

    def member(self, key: str, value: Any, at: int) -> str:
        return f"{self.key(key)}: {self.line(value, at)}"

    def key(self, key: str) -> str:
        return json_text(key)

    # -- values

    def change(self, node: Node, old: Any, new: Any) -> None:
        """Change a value in brackets, or a plain one."""
        if not same(old, new):
            self.finely(
                self._within, lambda: self.put(node.start, node.end, self.line(new, node.start)), node, old, new
            )

    def finely(self, fine: Any, coarse: Any, *arguments: Any) -> None:
        """The fine way or, where there is none, the coarse one."""
        if self._level == self._levels:
            coarse()
            return
        begun = len(self.edits)
        self._level += 1
        try:
            fine(*arguments)
        except TooFineError:
            del self.edits[begun:]
            coarse()
        finally:
            self._level -= 1

    def _within(self, node: Node, old: Any, new: Any) -> None:
        if node.kind == "map" and node.members and new and isinstance(new, dict):
            self._map(node, old, new)
        elif node.kind == "list" and node.members and new and isinstance(new, list):
            self._list(node, old, new)
        else:
            raise TooFineError

    def _map(self, node: Node, old: Plain, new: Plain) -> None:
        stays, added = sorted_out(node, old, new)
        for member, key in stays:
            if key is not None:
                self._member(member, key)
                self.change(member.node, old[member.key], new[key])
        at = node.members[0].start
        written = [self.member(key, item, at) for key, item in added.items()]
        if any("\n" in text for text in written) and "\n" not in self.text[node.start : node.end]:
            raise TooFineError  # would not look like anything
        kept = {node.members.index(member) for member, _ in stays}
        self._members(node, kept, {len(node.members): written})

    def _member(self, member: Member, key: str) -> None:
        """The key of a member that stays."""
        if member.key != key:
            self.put(member.start, member.key_end, self.key(key))

    def _list(self, node: Node, old: list[Any], new: list[Any]) -> None:
        kept: set[int] = set()
        inserted: dict[int, list[str]] = {}
        at = 0
        for step in steps(old, new):
            if step.old is not None:
                at = step.old + 1
            if step.old is None and step.new is not None:
                inserted.setdefault(at, []).append(self.line(new[step.new], node.members[0].start))
            elif step.old is not None and step.new is not None:
                kept.add(step.old)
                self.change(node.members[step.old].node, old[step.old], new[step.new])
        self._members(node, kept, inserted)

    def _members(self, node: Node, kept: set[int], inserted: dict[int, list[str]]) -> None:
        """Take out members and put in others, each before the member of its number."""
        if not kept:
            raise TooFineError
        members, last = node.members, max(kept)
        gap = self._gap(node)
        for at in range(last):
            if at not in kept:
                self._remove_member(members[at], members[at + 1])
        waiting: list[str] = []
        for at in range(len(members) + 1):
            waiting += inserted.get(at, [])
            if waiting and at in kept:
                self.put(members[at].start, members[at].start, "".join(f"{text},{gap}" for text in waiting))
                waiting = []
        self._end_members(node, last, [f"{gap}{text}" for text in waiting])

    def _gap(self, node: Node) -> str:
        """What stands between two members."""
        start = node.members[0].start
        begin = self.line_start(start)
        return "\n" + self.text[begin:start] if begin > node.start and not self.text[begin:start].strip() else " "

    def _remove_member(self, member: Member, following: Member) -> None:
        rest = _COMMENT_LINE.match(self.text, self._comma(member.end, following.start))
        whole = self.begins_line(member.start)
        if whole and rest is not None and rest.end() <= following.start:
            self.put(self.line_start(member.start), rest.end(), "")
        elif self.begins_line(following.start):
            self.put(self.line_start(member.start) if whole else member.start, self.line_start(following.start), "")
        else:
            self.put(member.start, following.start, "")

    def _comma(self, end: int, limit: int) -> int:
        """Where the comma behind a member ends."""
        found = _COMMA.match(self.text, end, limit)
        if found is None:
            raise TooFineError
        return found.end()

    def _end_members(self, node: Node, last: int, added: list[str]) -> None:
        """What comes behind the last member that stays."""
        text, members = self.text, node.members
        end, tail = members[last].end, members[-1].end
        comment = _LAST_COMMENT.match(text, end)
        if last < len(members) - 1:
            self.put(end, tail, "".join("," + part for part in added))
        elif comment is not None and added and added[0].startswith("\n"):
            self.put(end, comment.end(), "," + comment[1] + ",".join(added))
        elif added:
            self.put(end, end, "".join("," + part for part in added))

    # -- lines

    def line_start(self, at: int) -> int:
        return self.text.rfind("\n", 0, at) + 1

    def begins_line(self, at: int) -> bool:
        return not self.text[self.line_start(at) : at].strip(" \t")

    def line_end(self, at: int) -> int:
        """Where the next line begins, if nothing but a comment follows."""
        if self.text[at - 1 : at] == "\n":
            return at
        found = _REST.match(self.text, at)
        if found is None:
            raise TooFineError
        return found.end()

    def remove_lines(self, start: int, end: int) -> None:
        """Take out what begins at `start`, with the comments right above it and a blank line too many."""
        if not self.begins_line(start):
            raise TooFineError
        begin, end = self.comments_above(start), self.line_end(end)
        above = self.line_start(begin - 1) if begin else 0
        if begin and not self.text[above:begin].strip() and not self.text[end : self.text.find("\n", end) + 1].strip():
            begin = above
        self.put(begin, end, "")

    def comments_above(self, at: int) -> int:
        """The begin of a line, or of the comments on the lines above it; a comment on the first line is the file's."""
        start = top = self.line_start(at)
        margin = self.text[start:at]
        while top:
            above = self.line_start(top - 1)
            if not self.text.startswith(margin + "#", above):
                break
            top = above
        return top or start

    def append_lines(self, end: int, lines: list[str], margin: str = "") -> None:
        """Put lines below the one where something ends."""
        if not lines:
            return
        at = self.line_end(end)
        begin = "" if self.text[at - 1 : at] in ("\n", "") else "\n"
        self.put(at, at, begin + "".join(f"{margin}{line}\n" if line else "\n" for line in lines))


def steps(old: list[Any], new: list[Any]) -> list[Step]:
    """How a list becomes another, where something of it stays."""
    found = list(aligned(old, new))
    if not any(step.old is not None and step.new is not None for step in found):
        raise TooFineError
    return found


def sorted_out(node: Node, old: Plain, new: Plain) -> tuple[list[tuple[Member, str | None]], Plain]:
    """The members of a mapping that stay, with the keys they then have (none for a merge), and what is added."""
    own = {member.key for member in node.members if not member.merge}
    if any(key not in own and key not in new for key in old):
        raise TooFineError  # what is merged in can be overridden, not taken away
    added = {key: item for key, item in new.items() if key not in own and not (key in old and same(item, old[key]))}
    stays: list[tuple[Member, str | None]] = []
    for member in node.members:
        key = None if member.merge else member.key if member.key in new else renamed(member.key, old, added)
        if member.merge or key is not None:
            stays.append((member, key))
            added.pop(key or "", None)
    if not stays:
        raise TooFineError
    return stays, added


def renamed(key: str, old: Plain, added: Plain) -> str | None:
    """Which new key has the value of one that goes: the same one, or settings under a longer or shorter name."""
    for name, item in added.items():
        both = isinstance(item, dict) and isinstance(old[key], dict) and bool(item)
        if both and (name.startswith(key) or key.startswith(name)):
            return name
        if item not in (None, True, False) and same(old[key], item):
            return name
    return None


def _unit(text: str) -> str:
    """What a JSON text indents by."""
    found = re.search(r"^([ \t]+)\S", text, re.M)
    return found[1] if found else INDENT
