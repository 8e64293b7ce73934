"""What is wrong with the sections `admin` and `storage` is found at load, not by a control process that dies of it."""

import json
from pathlib import Path

import pytest
import trustme

from kairos.config.load import judged, loads
from kairos.config.problems import ConfigError

ROUTES = [{"external_path": "/", "methods": ["GET"], "backends": [{"host": "https://app.internal", "port": 443}]}]


def found(**sections):
    """Errors and warnings about these sections."""
    document = json.dumps({**sections, "routers": ROUTES}).encode()
    try:
        problems = judged(loads(document, "json", "config.json")).problems
    except ConfigError as error:
        problems = error.problems
    return [(one.severity, ".".join(map(str, one.keys))) for one in problems if one.keys[:1] != ("routers",)]


@pytest.fixture
def files(tmp_path: Path):
    authority = trustme.CA()
    made = {}
    for name in ("one", "other"):
        issued = authority.issue_cert("localhost")
        issued.cert_chain_pems[0].write_to_path(tmp_path / f"{name}.pem")
        issued.private_key_pem.write_to_path(tmp_path / f"{name}.key")
        (tmp_path / f"{name}.key").chmod(0o600)
        made[name] = (str(tmp_path / f"{name}.pem"), str(tmp_path / f"{name}.key"))
    return made


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({}, []),
        ({"storage": {"url": "mysql://a/b"}}, [("error", "storage.url")]),
        ({"storage": {"url": "kairos.db"}}, [("error", "storage.url")]),
        ({"storage": {"source": "database"}}, [("error", "storage.url")]),
        ({"storage": {"url": "postgresql://kairos@db.internal/kairos", "source": "database"}}, []),
        ({"admin": {"tls": {"cert_file": "/nowhere.pem"}}}, [("error", "admin.tls.cert_file")]),
        ({"admin": {"enabled": False, "tls": {"cert_file": "/nowhere.pem"}}}, []),
        ({"admin": {"port": 5900}}, [("error", "admin.port")]),
        ({"admin": {"host": "0.0.0.0"}}, [("warning", "admin.host")]),
        ({"admin": {"host": "::1"}}, []),
        ({"admin": {"lockout": {"duration": 100, "longest": 10}}}, [("error", "admin.lockout.longest")]),
    ],
)
def test_what_is_said(sections, expected):
    assert [one for one in found(**sections) if one[1].startswith(("admin", "storage"))] == expected


def test_a_certificate_and_its_key(files):
    certificate, key = files["one"]
    assert ("error", "admin.tls.key_file") not in found(admin={"tls": {"cert_file": certificate, "key_file": key}})
    wrong = found(admin={"tls": {"cert_file": certificate, "key_file": files["other"][1]}})
    assert ("error", "admin.tls.key_file") in wrong
