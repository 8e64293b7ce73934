"""What --check says of a compression policy."""

import pytest
from msgspec import convert

from kairos.config.policies.compression import Compression, check
from kairos.config.problems import Findings


def told(**settings):
    found = Findings()
    check(convert(settings, Compression), ("compression",), found)
    return [(problem.severity, problem.path, problem.message) for problem in found.problems]


def test_the_defaults_are_fine():
    assert told() == []
    assert told(codings=["br"], types=["*/*"], event_streams=True, breach="avoid", etag="suffix") == []


@pytest.mark.parametrize(
    ("settings", "severity", "path", "text"),
    [
        ({"codings": []}, "error", "compression.codings", "set enabled to false"),
        ({"codings": ["gzip", "gzip"]}, "error", "compression.codings[1]", "twice"),
        ({"types": ["text/plain", "html"]}, "error", "compression.types[1]", "no media type"),
        ({"types": ["text/plain; charset=utf-8"]}, "error", "compression.types[0]", "no media type"),
        ({"types": ["image/png"]}, "warning", "compression.types[0]", "compressed by itself"),
        ({"types": ["text/event-stream"]}, "warning", "compression.types[0]", "event_streams"),
        ({"codings": ["br"], "br_level": 6}, "hint", "compression.br_level", "level 4"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(settings, severity, path, text):
    ((found, where, message),) = told(**settings)
    assert (found, where) == (severity, path)
    assert text in message
