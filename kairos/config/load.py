"""A configuration file becomes a Config: bytes → plain values → `${…}` → canonical spelling → typed model → checks.

Every step reports all it finds and goes on as long as that makes sense. Nothing here raises anything but ConfigError.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from kairos.config.check import check
from kairos.config.decode import INVALID, decode
from kairos.config.interpolate import interpolate
from kairos.config.legacy import Rewriting, normalise
from kairos.config.model import Config
from kairos.config.problems import SEVERITIES, ConfigError, Findings, Problem
from kairos.config.syntax import FORMATS, Format, FormatError, locate, parse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.config.problems import Path

MAX_BYTES = 10 * 1024 * 1024


class Source:
    """The text of a file, and how it was rewritten: tells problems in the file's own words."""

    def __init__(self, data: bytes, format_: Format, name: str) -> None:
        self.data = data
        self.format: Format = format_
        self.name = name
        self.text = ""
        self.rewriting: Rewriting | None = None

    def told(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems of canonical paths as problems of the file's own."""
        if self.rewriting is None:
            return list(problems)
        return [replace(problem, keys=self.rewriting.origin(problem.keys)) for problem in problems]

    def placed(self, problems: list[Problem]) -> list[Problem]:
        """With the file's name and lines."""
        unknown = [problem.keys for problem in problems if problem.line is None]
        lines = locate(self.text, self.format, unknown) if any(unknown) else {}
        return [
            replace(problem, file=self.name, line=problem.line or _nearest(problem.keys, lines)) for problem in problems
        ]

    def failure(self, *problems: Problem) -> ConfigError:
        """Scripts written for kairos-rs look for this heading of a JSON file."""
        told = [replace(problem, file=self.name) for problem in sorted(problems, key=_rank)]
        return ConfigError(told, f"Invalid {self.format.upper()}: {self.name} cannot be used")


def _rank(problem: Problem) -> tuple[int, int]:
    """Errors first, then by line."""
    return SEVERITIES.index(problem.severity), problem.line or 0


def _nearest(keys: Path, lines: dict[Path, int]) -> int | None:
    """The line of the path, or of the closest thing around it; none for the file as a whole."""
    return next((lines[keys[:length]] for length in range(len(keys), 0, -1) if keys[:length] in lines), None)


@dataclass(frozen=True, slots=True)
class Loaded:
    """A configuration, and what there is to say about it."""

    config: Config
    problems: list[Problem]
    """Warnings and hints: an error would have been raised."""
    source: Source
    fingerprint: str
    """The same for the same settings, however they are spelled."""

    def told(self, problems: Iterable[Problem]) -> list[Problem]:
        """Problems of the Config, by the paths and lines of the file."""
        return self.source.placed(self.source.told(problems))


def load(path: str | os.PathLike[str]) -> Loaded:
    """Decode a file; `load_checked` also judges it. A name without a known extension is taken for JSON."""
    file = FilePath(path)
    return loads(_read(file), FORMATS.get(file.suffix.lower(), "json"), str(path), folder=file.parent)


def loads(data: bytes, format_: Format, name: str, *, folder: FilePath | None = None) -> Loaded:
    """Decode bytes. Relative `${file:…}` references are looked up in `folder`."""
    source = Source(data, format_, name)
    if len(data) > MAX_BYTES:
        raise source.failure(Problem("error", (), f"Config file too large: more than {MAX_BYTES} bytes"))
    source.text = _decode_text(source)
    try:
        config, problems = _decode(source, folder or FilePath())
    except FormatError as problem:
        raise source.failure(Problem("error", problem.keys, problem.message, problem.line)) from None
    except RecursionError:
        raise source.failure(Problem("error", (), "nested too deeply")) from None
    problems = source.placed(problems)
    if config is INVALID or _failed(problems):
        raise source.failure(*problems)
    fingerprint = hashlib.sha256(msgspec.json.encode(config)).hexdigest()[:16]
    return Loaded(config, problems, source, fingerprint)


def load_checked(path: str | os.PathLike[str], *, insecure_dev: bool = False) -> Loaded:
    """Decode and judge a file. Raises ConfigError when it cannot be used."""
    return judged(load(path), insecure_dev=insecure_dev)


def judged(loaded: Loaded, *, insecure_dev: bool = False) -> Loaded:
    """`loaded` with the findings of `check`. Raises ConfigError when one is an error."""
    problems = loaded.problems + loaded.told(check(loaded.config, insecure_dev=insecure_dev))
    if _failed(problems):
        raise loaded.source.failure(*problems)
    return replace_fields(loaded, problems=problems)


def _failed(problems: Iterable[Problem]) -> bool:
    return any(problem.severity == "error" for problem in problems)


def _read(file: FilePath) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_BYTES + 1)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = Problem("error", (), f"Cannot resolve config path: {reason}", None, str(file))
        raise ConfigError([problem]) from None


def _decode_text(source: Source) -> str:
    data = source.data
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"not UTF-8: byte 0x{data[error.start]:02x} at offset {error.start}"
        raise source.failure(Problem("error", (), message, data.count(b"\n", 0, error.start) + 1)) from None
    if not text.strip():
        raise source.failure(Problem("error", (), "the file is empty"))
    return text


def _decode(source: Source, folder: FilePath) -> tuple[Any, list[Problem]]:
    """A Config or INVALID, and problems told by the paths of the file."""
    value, doubled = parse(source.text, source.format)
    found = Findings()
    found.problems += [Problem("error", problem.keys, problem.message, problem.line) for problem in doubled]
    if not isinstance(value, dict):
        found.error((), "the file must hold an object, with the key 'routers' at least")
        return INVALID, found.problems
    if "${" in source.text:
        value = interpolate(value, found, os.environ, folder)
    value, source.rewriting = normalise(value, found)
    typed = Findings()
    config = decode(value, Config, typed)
    known = {problem.keys for problem in found.problems if problem.severity == "error"}
    return config, found.problems + [problem for problem in source.told(typed.problems) if problem.keys not in known]
