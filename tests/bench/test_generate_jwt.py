"""Tokens of tools/generate_jwt.py are those the gateway's jwt section asks for."""

import json
import subprocess
import sys
from pathlib import Path

import jwt
import pytest

ROOT = Path(__file__).parents[2]
SECRET = "0123456789abcdef0123456789abcdef"


@pytest.fixture
def generate(tmp_path):
    def run(section, *options):
        file = tmp_path / "config.json"
        file.write_text(json.dumps({"version": 1, "routers": [], **({"jwt": section} if section else {})}))
        command = [sys.executable, str(ROOT / "tools" / "generate_jwt.py"), "--config", str(file), *options]
        return subprocess.run(command, capture_output=True, text=True, env={"PYTHONPATH": str(ROOT)}, timeout=60)

    return run


def test_a_token_is_verified_with_the_same_section(generate):
    section = {"secret": SECRET, "issuer": "kairos", "audience": "api", "required_claims": ["role"]}
    done = generate(section, "--sub", "alice", "--claim", "role=admin", "--claim", "level=3")
    claims = jwt.decode(done.stdout.strip(), SECRET, ["HS256"], audience="api", issuer="kairos")
    assert (claims["sub"], claims["role"], claims["level"]) == ("alice", "admin", 3)
    assert claims["exp"] - claims["iat"] == 3600


def test_the_algorithm_and_the_first_of_several_audiences_are_taken(generate):
    section = {"secret": SECRET * 2, "algorithms": ["HS512"], "audience": ["api", "shop"]}
    done = generate(section)
    assert jwt.decode(done.stdout.strip(), SECRET * 2, ["HS512"], audience="api")["sub"] == "tester"


def test_an_expired_token_can_be_made(generate):
    done = generate({"secret": SECRET}, "--expires", "-10")
    with pytest.raises(jwt.ExpiredSignatureError):
        jwt.decode(done.stdout.strip(), SECRET, ["HS256"])


@pytest.mark.parametrize(
    ("section", "options", "complaint"),
    [
        (None, (), "has no jwt section"),
        ({"jwks_url": "https://a.example/keys"}, (), "has no jwt section with a secret"),
        ({"secret": SECRET, "required_claims": ["role"]}, (), "required_claims asks for role"),
        ({"secret": SECRET}, ("--claim", "novalue"), "'novalue' is not name=value"),
    ],
)
def test_what_cannot_work_is_said_and_no_token_printed(generate, section, options, complaint):
    done = generate(section, *options)
    assert (done.returncode != 0, done.stdout) == (True, "")
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr
