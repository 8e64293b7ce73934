"""Judges the logs: files that can be named, components that exist, settings that would do nothing."""

from __future__ import annotations

import difflib
import os
from typing import TYPE_CHECKING

from kairos.config.log import COMPONENTS
from kairos.config.logged import MOST_NAME, credentials

if TYPE_CHECKING:
    from kairos.config.log import LogFile
    from kairos.config.model import Config
    from kairos.config.problems import Findings


def check_logs(config: Config, found: Findings) -> None:
    """The sections `log` and `access_log`."""
    log, access = config.log, config.access_log
    _check_file("log", log.file, "standard error", log, found)
    _check_file("access_log", access.file, "standard output", access, found)
    if log.file == access.file != "-" and (log.rotates or access.rotates) and access.format != "off":
        found.error(("log", "file"), "is access_log.file too: only one of them can rotate a file, give each its own")
    for keys, name in [*((("access_log", "redact", at), name) for at, name in enumerate(access.redact)),
                       *credentials(config)]:  # fmt: skip
        if len(name.encode()) > MOST_NAME:
            found.error(keys, f"is longer than the {MOST_NAME} bytes of a name that the access log can redact")
    for component in log.levels:
        if component not in COMPONENTS:
            near = difflib.get_close_matches(component, COMPONENTS, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(COMPONENTS)}"
            found.error(("log", "levels", component), f"no component has this name: {hint}")


def _check_file(section: str, file: str, stream: str, spec: LogFile, found: Findings) -> None:
    if not file or "\0" in file or os.path.basename(file) in ("", ".", ".."):
        found.error((section, "file"), f"must be a path, or '-' for {stream}")
    elif file == "-" and spec.rotates:
        found.warning((section, "file"), f"is {stream}, which is not rotated: name a file")
    elif not spec.rotates and (spec.compress or spec.max_age is not None):
        found.warning((section, "max_bytes"), "nothing is rotated without it or rotate_every: there are no old files")
