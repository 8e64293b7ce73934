"""`kairos keys`: what it prints is what a configuration takes, and nothing of a secret is kept or shown twice."""

from __future__ import annotations

import hashlib
import json

import pytest
from argon2 import PasswordHasher, extract_parameters
from click.testing import CliRunner

from kairos.cli.manage import main


def run(*arguments: str, typed: str = "", code: int = 0) -> str:
    done = CliRunner().invoke(main, ["keys", *arguments], input=typed)
    assert done.exit_code == code, done.output
    return done.output


def test_a_new_key_and_its_entry() -> None:
    key, entry = run("new", "billing", "--expires", "2030-01-31").splitlines()
    assert key.startswith("kairos_")
    assert len(key) >= 50
    assert json.loads(entry) == {
        "id": "billing",
        "key_hash": "sha256:" + hashlib.sha256(key.encode()).hexdigest(),
        "expires": "2030-01-31",
    }
    assert run("new", "billing").splitlines()[0] != key


def test_a_key_of_ones_own() -> None:
    key, entry = run("new", "billing", "--prefix", "acme", "--subject", "accounts").splitlines()
    assert key.startswith("acme_")
    assert json.loads(entry)["subject"] == "accounts"
    assert run("hash", typed=f"{key}\n").strip() == json.loads(entry)["key_hash"]


def test_the_hash_of_a_password() -> None:
    stored = run("hash-password", "--memory", "64", "--passes", "1", typed="pässword \n").strip()
    assert PasswordHasher().verify(stored, "pässword ")
    assert extract_parameters(stored).memory_cost == 64
    usual = extract_parameters(run("hash-password", typed="x\n").strip())
    assert (usual.type.name, usual.memory_cost, usual.time_cost, usual.parallelism) == ("ID", 19456, 2, 1)


@pytest.mark.parametrize("command", ["hash", "hash-password"])
def test_nothing_typed(command: str) -> None:
    assert "standard input holds no" in run(command, code=2)
