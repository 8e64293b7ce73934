"""`${NAME}`, `${NAME:-default}` and `${file:/path}` in the string values of a configuration; `$${` is a plain `${`.
`${1}` stays as it is: no variable has such a name, and replacement texts of regular expressions do.

What is put in is not looked at again. An empty variable counts as missing for `:-`, as in a shell.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path as FilePath

    from kairos.config.problems import Findings, Path

MAX_FILE = 1 << 20
"""Bytes of a `${file:...}`: a secret or a certificate, not a log."""

PRIVATE = "KAIROS_ADMIN_PASSWORD"
"""Nothing for a configuration, whose author need not be an administrator; nor is the file of `…_FILE`."""

_REFERENCE = re.compile(r"\$\$\{|\$\{(?!\d+\})([^{}]*)\}|\$\{(?!\d+\})")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class Expanded(str):
    """A string that came out of interpolation: it may stand where a number or boolean is expected."""

    __slots__ = ()


class MissingReferenceError(Exception):
    """A reference that stands for nothing; the text says which."""


def interpolate(value: Any, found: Findings, environ: Mapping[str, str], folder: FilePath, keys: Path = ()) -> Any:
    """A copy of `value` with every reference in it resolved; relative files are looked up in `folder`."""
    if isinstance(value, dict):
        return {key: interpolate(item, found, environ, folder, (*keys, key)) for key, item in value.items()}
    if isinstance(value, list):
        return [interpolate(item, found, environ, folder, (*keys, at)) for at, item in enumerate(value)]
    if not isinstance(value, str) or "${" not in value:
        return value
    try:
        return Expanded(_REFERENCE.sub(lambda match: _resolve(match, environ, folder), value))
    except MissingReferenceError as error:
        found.error(keys, str(error))
        return value


def _resolve(match: re.Match[str], environ: Mapping[str, str], folder: FilePath) -> str:
    inner = match[1]
    if inner is None:
        if match[0] == "$${":
            return "${"
        raise MissingReferenceError("'${' without a closing '}' (write '$${' for a plain '${')")
    if inner.startswith("file:"):
        return _read(folder / inner.removeprefix("file:"), environ.get(f"{PRIVATE}_FILE"))
    name, has_default, default = inner.partition(":-")
    if not _NAME.fullmatch(name):
        raise MissingReferenceError(f"'${{{inner}}}' is neither ${{NAME}}, ${{NAME:-default}} nor ${{file:/path}}")
    if name == PRIVATE:
        raise MissingReferenceError(f"{PRIVATE} is the first account's alone")
    text = environ.get(name)
    if has_default:
        return text or default
    if text is None:
        raise MissingReferenceError(
            f"the environment variable {name} is not set (${{{name}:-default}} gives a default)"
        )
    return text


def _read(path: FilePath, private: str | None) -> str:
    """The text of a file without its last newline. Anything that could block or never end is refused."""
    try:
        if private and os.path.exists(private) and os.path.samefile(path, private):
            raise MissingReferenceError(f"{path} is the first account's alone ({PRIVATE}_FILE)")
        if not stat.S_ISREG(path.stat().st_mode):
            raise MissingReferenceError(f"{path} is not a regular file")
        with path.open("rb") as file:
            data = file.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise MissingReferenceError(f"{path} is larger than {MAX_FILE} bytes")
        return data.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise MissingReferenceError(f"cannot read {path}: {os.strerror(error.errno or 0)}") from None
    except ValueError:
        raise MissingReferenceError(f"{str(path)!r} is not a text file in UTF-8") from None
