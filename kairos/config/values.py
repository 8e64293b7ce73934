"""What a setting may take from a request or its answer: `params.id`, `headers["x-user"]`, `client_ip`; and templates.

    text {{ claims.sub ?? headers.x-user ?? 'nobody' }} text

Between `{{` and `}}` stand one or more alternatives: the first that is there counts, none is the empty text. A source
is a name of SOURCES, most of them with a path behind it: `.name`, `.0` or `["any text"]`. A quoted text is itself, so
`{{ '{{' }}` is how two braces are written. Single braces are text. Parsed at load; errors tell the character.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCES = {
    "params": True, "claims": True, "headers": True, "query": True, "cookies": True, "body": True,
    "method": False, "host": False, "path": False, "scheme": False, "client_ip": False, "request_id": False,
    "route": False, "subject": False, "variant": False, "status": False, "response_headers": True,
}  # fmt: skip
"""Name and whether a path follows."""
WHOLE = frozenset({"body", "claims"})
"""Sources that mean something without a path."""
REQUEST = frozenset(SOURCES) - {"status", "response_headers", "body"}
"""What is known before anything was sent upstream."""
RESPONSE = REQUEST | {"status", "response_headers"}
CALLS = {
    "param": "params", "claim": "claims", "header": "headers", "cookie": "cookies", "query": "query",
    "response_header": "response_headers",
}  # fmt: skip
"""`header('x')` says the same as `headers["x"]`."""

_TOKEN = re.compile(
    r"\s*(?:(?P<text>'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\")|(?P<number>\d+(?:\.\d+)?(?![\w-]))|(?P<name>[A-Za-z0-9_][\w-]*)"
    r"|(?P<sign>\?\?|==|!=|=~|!~|<=|>=|&&|\|\||[.\[\]()<>!,]))",
    re.ASCII,
)
_ESCAPE = re.compile(r"\\(.)", re.S)


class TextError(ValueError):
    """A text that cannot be parsed; says where."""

    def __init__(self, message: str, at: int, text: str) -> None:
        near = text[at : at + 12] or "its end"
        super().__init__(f"{message} at character {at + 1} (before {near!r})" if text[at:] else f"{message} at its end")


class Source(NamedTuple):
    """Something to be looked up."""

    name: str
    path: tuple[str | int, ...] = ()


Value = tuple[Source | str, ...]
"""Alternatives, the first that is there counts; a str is itself."""


class Token(NamedTuple):
    kind: str
    text: str
    at: int


class Tokens:
    """A text as tokens, taken one by one."""

    def __init__(self, text: str, start: int = 0, end: int | None = None) -> None:
        self.text = text if end is None else text[:end]
        self._tokens = list(_split(self.text, start))
        self._next = 0

    def peek(self) -> Token:
        return self._tokens[self._next]

    def take(self) -> Token:
        token = self._tokens[self._next]
        if token.kind != "end":
            self._next += 1
        return token

    def skip(self, *signs: str) -> bool:
        """Take the next token if it is one of these."""
        token = self.peek()
        found = token.kind in ("sign", "name") and token.text in signs
        if found:
            self.take()
        return found

    def need(self, sign: str) -> None:
        if not self.skip(sign):
            raise self.problem(f"'{sign}' is missing")

    def finish(self) -> None:
        if self.peek().kind != "end":
            raise self.problem("does not belong here:")

    def problem(self, message: str) -> TextError:
        return TextError(message, self.peek().at, self.text)


def _split(text: str, at: int) -> Iterator[Token]:
    while text[at:].strip():
        found = _TOKEN.match(text, at)
        if found is None or found.lastgroup is None:
            at += len(text[at:]) - len(text[at:].lstrip())
            raise TextError("cannot be read", at, text)
        yield Token(found.lastgroup, found[found.lastgroup], found.start(found.lastgroup))
        at = found.end()
    yield Token("end", "", len(text))


def unquoted(token: str) -> str:
    """A quoted text without its quotes and backslashes."""
    return _ESCAPE.sub(r"\1", token[1:-1])


# ---- sources


def take_value(tokens: Tokens, allowed: frozenset[str]) -> Value:
    """Alternatives between `??`."""
    found = [_alternative(tokens, allowed)]
    while tokens.skip("??"):
        found.append(_alternative(tokens, allowed))
    return tuple(found)


def _alternative(tokens: Tokens, allowed: frozenset[str]) -> Source | str:
    token = tokens.peek()
    if token.kind == "text":
        return unquoted(tokens.take().text)
    if token.kind == "number":
        return tokens.take().text
    return _source(tokens, allowed)


def _source(tokens: Tokens, allowed: frozenset[str]) -> Source:
    token = tokens.peek()
    if token.kind != "name":
        raise tokens.problem("a value is missing")
    if token.text not in SOURCES and token.text not in CALLS:
        raise tokens.problem(f"'{token.text}' is not known: use one of {', '.join(sorted(allowed))};")
    name = CALLS.get(token.text, token.text)
    if name not in allowed:
        raise tokens.problem(f"'{token.text}' is not known yet where this is used,")
    tokens.take()
    if token.text in CALLS and tokens.skip("("):
        path: tuple[str | int, ...] = (_argument(tokens),)
    elif token.text not in SOURCES:
        raise tokens.problem(f"{token.text}('name') is how that is written,")
    else:
        path = tuple(_path(tokens))
    return _checked(Source(name, path), tokens)


def _argument(tokens: Tokens) -> str:
    token = tokens.take()
    if token.kind not in ("text", "name"):
        raise TextError("a name is missing", token.at, tokens.text)
    tokens.need(")")
    return unquoted(token.text) if token.kind == "text" else token.text


def _path(tokens: Tokens) -> Iterator[str | int]:
    while True:
        if tokens.skip("."):
            token = tokens.take()
            if token.kind not in ("name", "number") or "." in token.text:
                raise TextError("a name is missing", token.at, tokens.text)
            yield _step(token.text)
        elif tokens.skip("["):
            token = tokens.take()
            if token.kind not in ("text", "number"):
                raise TextError("a quoted name or a number is missing", token.at, tokens.text)
            yield unquoted(token.text) if token.kind == "text" else _step(token.text)
            tokens.need("]")
        else:
            return


def _step(text: str) -> str | int:
    return int(text) if text.isdigit() and len(text) < 10 else text


def _checked(source: Source, tokens: Tokens) -> Source:
    """A path where one is needed; names of headers in lower case, as they are looked up."""
    takes_path = SOURCES[source.name]
    if takes_path and not source.path and source.name not in WHOLE:
        raise tokens.problem(f"'{source.name}' needs a name behind it,")
    if source.path and not takes_path:
        raise tokens.problem(f"'{source.name}' has nothing behind it,")
    if source.name in ("body", "claims"):
        return source
    if len(source.path) > 1:
        raise tokens.problem(f"'{source.name}' has one name behind it,")
    path = tuple(str(step) for step in source.path)
    if source.name in ("headers", "response_headers"):
        path = tuple(step.lower() for step in path)
        if not all(step.isascii() for step in path):
            raise tokens.problem("no header has such a name,")
    return Source(source.name, path)


# ---- templates


class Template(NamedTuple):
    """Texts and the values between them."""

    parts: tuple[str | Value, ...]

    @property
    def constant(self) -> str | None:
        """The whole text, where it takes nothing from a request."""
        return "".join(map(str, self.parts)) if all(isinstance(part, str) for part in self.parts) else None

    @property
    def single(self) -> Value | None:
        """The one value it consists of, if that is all."""
        only = self.parts[0] if len(self.parts) == 1 else ""
        return None if isinstance(only, str) else only

    def sources(self) -> Iterator[Source]:
        for part in self.parts:
            if not isinstance(part, str):
                yield from (source for source in part if isinstance(source, Source))


def parse_template(text: str, allowed: frozenset[str] = REQUEST) -> Template:
    """The template a text is.

    Raises:
        TextError: a value in it cannot be parsed, or is not among the `allowed` sources.
    """
    parts: list[str | Value] = []
    at = 0
    while (start := text.find("{{", at)) >= 0:
        parts.append(text[at:start])
        value, at = _between_braces(text, start + 2, allowed)
        parts.append(value[0] if isinstance(value[0], str) else value)
    parts.append(text[at:])
    return Template(tuple(_joined(parts)))


def _between_braces(text: str, start: int, allowed: frozenset[str]) -> tuple[Value, int]:
    end = _closing(text, start)
    tokens = Tokens(text, start, end)
    value = take_value(tokens, allowed)
    tokens.finish()
    return value, end + 2


def _closing(text: str, at: int) -> int:
    """Where the `}}` stands, which may not be in quotes."""
    quote = ""
    while at < len(text):
        if quote and text[at] == "\\":
            at += 1
        elif quote:
            quote = "" if text[at] == quote else quote
        elif text[at] in "'\"":
            quote = text[at]
        elif text.startswith("}}", at):
            return at
        at += 1
    raise TextError("'}}' is missing", len(text), text)


def _joined(parts: list[str | Value]) -> Iterator[str | Value]:
    """Texts side by side as one."""
    text = ""
    for part in parts:
        if isinstance(part, str):
            text += part
            continue
        if text:
            yield text
        text = ""
        yield part
    if text:
        yield text
