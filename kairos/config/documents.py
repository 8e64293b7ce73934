"""JSON Schema and OpenAPI documents: files with references into each other, read once and compiled to validators.

References stay within the folder of the document they begin in: nothing is fetched, no other file is read. Everything
that can be wrong is told when a configuration is judged, with the file and the JSON pointer; a validator that was made
never fails. Patterns are run by an engine whose time is linear in the text.
"""

from __future__ import annotations

import os
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urljoin, urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_BYTES = 10 * 1024 * 1024
MAX_FILES = 200
INLINE = "inline:/"
"""Where a schema is that stands in the configuration itself."""
MAX_DETAIL = 200

_HIDDEN = "the value"
"""What stands for a client's value in messages, which may be logged or shown."""


class DocumentError(Exception):
    """What is wrong with a document, for the people who wrote it."""

    def __init__(self, message: str, place: str = "") -> None:
        super().__init__(f"{place}: {message}" if place else message)


class Found(NamedTuple):
    """How a value violates its schema."""

    pointer: str
    detail: str


class Documents:
    """A document and all it refers to, by URI."""

    def __init__(self, root: str, values: dict[str, Any]) -> None:
        self.root = root
        self.values = values

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Documents:
        """A file and the files it refers to.

        Raises:
            DocumentError: one of them cannot be used.
        """
        file = Path(path).absolute()
        made = cls(file.as_uri(), {})
        made._follow(made.root, Path(os.path.realpath(file.parent)))
        return made

    @classmethod
    def inline(cls, value: Any) -> Documents:
        """A schema that stands in the configuration: it refers to itself only.

        Raises:
            DocumentError: it refers to something else.
        """
        for pointer, target in references(value):
            if not target.startswith("#"):
                message = f"'{target}' is another file: give the schema in a file of its own (schema_file)"
                raise DocumentError(message, pointer)
        return cls(INLINE, {INLINE: value})

    @cached_property
    def registry(self) -> Any:
        """All of them as validators know them: made once, for it costs as much as the documents are large."""
        return library_of_schemas().Registry(list(self.values.items()), retriever=_nowhere)

    @property
    def files(self) -> list[str]:
        """Of all documents."""
        return [unquote(urlsplit(uri).path) for uri in self.values if uri != INLINE]

    def _follow(self, root: str, folder: Path) -> None:
        waiting = [root]
        while waiting:
            uri = waiting.pop()
            if uri in self.values:
                continue
            if len(self.values) == MAX_FILES:
                raise DocumentError(f"more than {MAX_FILES} files refer to each other")
            self.values[uri] = value = _read(uri, folder)
            for pointer, target in references(value):
                waiting += self._other_file(uri, pointer, target)

    def _other_file(self, uri: str, pointer: str, target: str) -> list[str]:
        if target.startswith("#"):
            return []
        absolute = urljoin(uri, target).partition("#")[0]
        if urlsplit(absolute).scheme != "file" or urlsplit(absolute).netloc:
            raise DocumentError(f"'{target}' is not in this folder: nothing is fetched", f"{shown(uri)}#{pointer}")
        return [absolute]

    def resolve(self, uri: str, pointer: str, value: Any) -> tuple[str, str, Any]:
        """Follow the `$ref` of a value, however many there are in a row: where it leads to.

        Raises:
            DocumentError: it leads nowhere, or in a circle.
        """
        place = f"{shown(uri)}#{pointer}"
        for _ in range(100):
            if not isinstance(value, dict) or not isinstance(value.get("$ref"), str):
                return uri, pointer, value
            target, _, pointer = value["$ref"].partition("#")
            uri, pointer = urljoin(uri, target) if target else uri, unquote(pointer)
            value = self.at(uri, pointer, place)
        raise DocumentError("references lead in a circle", place)

    def at(self, uri: str, pointer: str, place: str) -> Any:
        """The value a JSON pointer leads to (RFC 6901)."""
        value: Any = self.values[uri]
        for token in pointer.split("/")[1:] if pointer else []:
            key = token.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and key in value:
                value = value[key]
            elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
                value = value[int(key)]
            else:
                raise DocumentError(f"the reference to {shown(uri)}#{pointer} leads nowhere", place)
        return value


def _read(uri: str, folder: Path) -> Any:
    from kairos.config.syntax import FORMATS, FormatError, parse  # brings in YAML, which few workers need

    path = unquote(urlsplit(uri).path)
    real = Path(os.path.realpath(path))
    if folder not in real.parents:
        raise DocumentError(f"lies outside of {folder}, where the first document is", path)
    try:
        with real.open("rb") as opened:
            data = opened.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise DocumentError(f"larger than {MAX_BYTES} bytes", path)
        value, doubled = parse(data.decode("utf-8-sig"), FORMATS.get(real.suffix.lower(), "json"))
    except OSError as error:
        raise DocumentError(f"cannot be read: {error.strerror}", path) from None
    except UnicodeDecodeError:
        raise DocumentError("not UTF-8", path) from None
    except FormatError as error:
        raise DocumentError(f"{error.message} (line {error.line})" if error.line else error.message, path) from None
    if doubled:
        raise DocumentError(doubled[0].message, f"{path}:{doubled[0].line}")
    return value


def references(value: Any, pointer: str = "") -> Iterator[tuple[str, str]]:
    """Where a document refers to something, and to what."""
    if isinstance(value, dict):
        target = value.get("$ref")
        if isinstance(target, str):
            yield f"{pointer}/$ref", target
        for key, item in value.items():
            yield from references(item, joined(pointer, key))
    elif isinstance(value, list):
        for at, item in enumerate(value):
            yield from references(item, joined(pointer, at))


def joined(pointer: str, *keys: str | int) -> str:
    """A JSON pointer, some steps further."""
    return pointer + "".join("/" + str(key).replace("~", "~0").replace("/", "~1") for key in keys)


def shown(uri: str) -> str:
    """A document's place as people know it."""
    return "" if uri == INLINE else unquote(urlsplit(uri).path)


# ---- validators


class Validator:
    """One schema, compiled when it is first needed: a document may have thousands, of which each costs milliseconds.
    It takes what orjson makes of a JSON text.
    """

    def __init__(self, documents: Documents, uri: str, pointer: str = "", *, formats: bool = True) -> None:
        self._documents = documents
        self._uri = uri
        self._pointer = pointer
        self._formats = formats

    @cached_property
    def compiled(self) -> Any:
        """
        Raises:
            DocumentError: the schema, or one it refers to, is none.
        """
        library = library_of_schemas()
        whole = not self._pointer and len(self._documents.values) == 1
        reference = {"$ref": f"{self._uri}#{quote(self._pointer, safe='/~')}"}
        try:
            return library.validator_for(
                self._documents.values[self._uri] if whole else reference,
                registry=self._documents.registry,
                base_uri=self._uri if whole else None,
                validate_formats=self._formats,
                pattern_options=library.RegexOptions(),
                mask=_HIDDEN,
                offline=True,
            )
        except library.ValidationError as error:
            at = joined("", *error.instance_path) or self._pointer  # from the document's beginning
            raise DocumentError(_advice(error.message), f"{shown(self._uri)}#{at}") from None
        except (ValueError, library.ReferencingError) as error:
            raise DocumentError(str(error), f"{shown(self._uri)}#{self._pointer}") from None

    def is_valid(self, value: Any) -> bool:
        return bool(self.compiled.is_valid(value))

    def problems(self, value: Any, limit: int) -> list[Found]:
        """The first `limit` violations."""
        found = []
        for error in self.compiled.iter_errors(value):
            found.append(Found(joined("", *error.instance_path), error.message[:MAX_DETAIL]))
            if len(found) == limit:
                break
        return found


def _nowhere(uri: str) -> Any:
    raise ValueError(f"nothing is fetched: {uri}")


def _advice(message: str) -> str:
    if message.endswith('is not a "regex"'):
        return f"{message} of linear time: look-around and back-references are not supported"
    return message


def library_of_schemas() -> Any:
    """jsonschema-rs, which is an extra.

    Raises:
        DocumentError: it is not installed.
    """
    try:
        import jsonschema_rs
    except ImportError:
        raise DocumentError("JSON Schema needs the extra 'schema': pip install 'kairos-gateway[schema]'") from None
    return jsonschema_rs
