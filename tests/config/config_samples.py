"""Shorthands: a route that is right, and what is said of a file."""

import json
from typing import Any

from kairos.config.load import Loaded, judged, loads
from kairos.config.problems import ConfigError, Problem

Plain = dict[str, Any]
SECRET = "0123456789abcdef0123456789abcdef"


def route(**keys: Any) -> Plain:
    """A route without anything to say about; a key given as `...` is left out."""
    whole = {
        "external_path": "/a",
        "internal_path": "/b",
        "methods": ["GET"],
        "backends": [{"host": "https://up.example", "port": 443}],
        **keys,
    }
    return {key: value for key, value in whole.items() if value is not ...}


def file(*routes: Plain, **sections: Any) -> Plain:
    """A file with a static route, or the given ones."""
    return {"routers": list(routes) or [route()], **sections}


def read(document: Any) -> Loaded:
    return loads(json.dumps(document).encode(), "json", "c.json")


def problems_of(document: Any, *, insecure_dev: bool = False) -> list[Problem]:
    """Everything that loading and checking says."""
    try:
        return judged(read(document), insecure_dev=insecure_dev).problems
    except ConfigError as error:
        return error.problems


def said(document: Any, severity: str = "error", *, insecure_dev: bool = False) -> list[str]:
    """`path: message` of each problem of one severity."""
    found = problems_of(document, insecure_dev=insecure_dev)
    return [f"{problem.path}: {problem.message}" for problem in found if problem.severity == severity]
