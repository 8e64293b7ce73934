"""`kairos`: looks at configurations, manages the gateway that runs, and says what this installation is."""

from __future__ import annotations

import json
import os
import platform
import sys

import click

from kairos import __version__
from kairos.cli import backends, backup, cache, limits, revisions, whole
from kairos.cli.gateway import check, default_config, tell
from kairos.cli.keys import keys
from kairos.config import schema
from kairos.config.load import load
from kairos.config.log import Log
from kairos.config.mask import masked
from kairos.config.problems import ConfigError
from kairos.supervisor.arbiter import Options
from kairos.supervisor.plan import EXIT_USAGE
from kairos.telemetry.log import configure

INSECURE_DEV = click.option("--insecure-dev", is_flag=True, help="Accept weak secrets, for development only.")
FILE = click.argument("file", required=False)


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, message="kairos %(version)s")
def main() -> None:
    """Manage Kairos. The gateway itself is run by kairos-gateway.

    FILE is a configuration in JSON, YAML or TOML; by default KAIROS_CONFIG_PATH or ./config.json.

    A running gateway is found by its state folder, --state-dir or KAIROS_STATE_DIR; by default the one that
    kairos-gateway takes for the same user.
    """
    configure(Log(level="warning"))


for verb in (
    whole.status, whole.reload, whole.upgrade, backends.backends, limits.bans, limits.limits, cache.cache,
    revisions.revisions, keys, backup.backup, backup.restore,
):  # fmt: skip
    main.add_command(verb)


@main.command()
def version() -> None:
    """What is installed, as a bug report needs it."""
    click.echo(f"kairos {__version__}, Python {platform.python_version()}, {platform.platform()}")


@main.group()
def config() -> None:
    """Look at configurations."""


@config.command()
@FILE
@INSECURE_DEV
def validate(file: str | None, insecure_dev: bool) -> None:
    """Print every problem and a verdict, like kairos-gateway --check. Exit code 2 means it cannot be used."""
    sys.exit(check(Options(_path(file), insecure_dev=insecure_dev)))


@config.command("schema")
def print_schema() -> None:
    """Print the JSON Schema, for editors: put its path under "$schema" in the file."""
    click.echo(json.dumps(schema.export(), indent=2))


@config.command()
@FILE
def show(file: str | None) -> None:
    """Print the canonical form, secrets masked."""
    try:
        loaded = load(_path(file))
    except ConfigError as error:
        tell(error.problems)
        sys.exit(EXIT_USAGE)
    click.echo(json.dumps(masked(loaded.config), indent=2, ensure_ascii=False))


def _path(given: str | None) -> str:
    return given or os.environ.get("KAIROS_CONFIG_PATH") or default_config()


if __name__ == "__main__":
    main()
