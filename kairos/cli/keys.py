"""The verbs of `kairos keys`: make API keys and the hashes that configurations keep. Nothing is stored or sent."""

from __future__ import annotations

import json
import sys

import click

from kairos.config.secrets import MEMORY_KIB, PASSES, key_hash, new_key, password_hash


@click.group()
def keys() -> None:
    """Make API keys, and the hashes of keys and passwords that a configuration keeps."""


@keys.command()
@click.argument("name")
@click.option("--prefix", default="kairos", show_default=True, help="What the key begins with.")
@click.option("--subject", help="Whose it is; by default the name.")
@click.option("--expires", metavar="DATE", help="2027-01-31, or 2027-01-31T12:00:00Z.")
def new(name: str, prefix: str, subject: str | None, expires: str | None) -> None:
    """Make a key called NAME: its text, which is shown only now, and its entry for api_keys.keys."""
    key = new_key(prefix)
    given = {"id": name, "key_hash": key_hash(key), "subject": subject, "expires": expires}
    click.echo(key)
    click.echo(json.dumps({member: value for member, value in given.items() if value is not None}))


@keys.command("hash")
def hash_() -> None:
    """Print the hash of a key that is typed, or read from standard input."""
    click.echo(key_hash(_secret("Key", confirm=False)))


@keys.command()
@click.option("--memory", type=click.IntRange(8, 262_144), default=MEMORY_KIB, show_default=True, help="KiB per check.")
@click.option("--passes", type=click.IntRange(1, 100), default=PASSES, show_default=True)
def hash_password(memory: int, passes: int) -> None:
    """Print the Argon2id hash of a password that is typed, or read from standard input."""
    click.echo(password_hash(_secret("Password", confirm=True), memory, passes))


def _secret(what: str, *, confirm: bool) -> str:
    """Typed unseen, or one line of standard input."""
    if sys.stdin.isatty():
        return str(click.prompt(what, hide_input=True, confirmation_prompt=confirm))
    line = sys.stdin.readline().removesuffix("\n")
    if not line:
        raise click.UsageError(f"standard input holds no {what.lower()}")
    return line
