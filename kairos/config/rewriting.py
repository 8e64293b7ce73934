"""A text becomes another that says something else, and stays as it was wherever it says the same.

`rewrite` compares the values a JSON, YAML or TOML text holds with those wanted, and changes the characters of what
differs: comments, order, indentation, quotes and `${…}` of the rest are not touched. Whatever comes of it is parsed and
compared; if it does not say exactly what is wanted, coarser ways are tried, down to writing a whole section anew. So a
result may have lost a comment, but never means something else.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from kairos.config.bracketed import Editor, TooFineError
from kairos.config.identity import same
from kairos.config.spans import tree
from kairos.config.syntax import FormatError, parse
from kairos.config.tomltext import rewritten as rewritten_toml
from kairos.config.writing import dumps, without_nulls
from kairos.config.yamltext import rewritten as rewritten_yaml
from kairos.config.yamltext import unshared

if TYPE_CHECKING:
    from collections.abc import Callable

    from kairos.config.syntax import Format

Plain = dict[str, Any]


def rewrite(text: str, format_: Format, wanted: Plain, held: Plain | None = None) -> str:
    """`text` as it has to be for `wanted`; `held` is what it says, if that was parsed already.

    Raises:
        FormatError: the text is not of its format, or has keys twice.
        UnwritableError: the format cannot say what is wanted.
    """
    if held is None and text.strip():
        held, doubled = parse(text, format_)
        if doubled:
            raise doubled[0]
    if held is None:
        return _joined(text, dumps(wanted, format_))  # comments, if anything
    if not isinstance(held, dict):
        raise FormatError("the text must hold an object")
    if format_ == "toml":
        wanted = without_nulls(wanted)
    if same(held, wanted):
        return text
    for way in _WAYS[format_]:
        made = _tried(way, text, held, wanted)
        if made is not None and _says(made, format_, wanted):
            return made
    return dumps(wanted, format_)


def _joined(text: str, more: str) -> str:
    return text + ("\n" if text and not text.endswith("\n") else "") + more


def _tried(way: Callable[[str, Plain, Plain], str], text: str, held: Plain, wanted: Plain) -> str | None:
    try:
        return way(text, held, wanted)
    except (TooFineError, FormatError, RecursionError):
        return None


def _says(text: str, format_: Format, wanted: Plain) -> bool:
    try:
        value, doubled = parse(text, format_)
    except FormatError:
        return False
    return not doubled and same(value, wanted)


def _rewritten_json(text: str, held: Plain, wanted: Plain, levels: int | None = None) -> str:
    root = tree(text, "json")
    assert root is not None
    editor = Editor(text, levels)
    editor.change(root, held, wanted)
    return editor.made()


_WAYS: dict[Format, tuple[Callable[[str, Plain, Plain], str], ...]] = {
    "json": (_rewritten_json, partial(_rewritten_json, levels=1)),
    "yaml": (rewritten_yaml, unshared, partial(rewritten_yaml, levels=1)),
    "toml": (rewritten_toml, partial(rewritten_toml, levels=0)),
}
"""Finest first; the last keeps sections that say the same."""
