"""`kairos`: looks at configurations, manages the gateway that runs, and says what this installation is."""

from __future__ import annotations

import platform

import click

from kairos import __version__
from kairos.cli import (
    audit,
    backends,
    backup,
    cache,
    connections,
    limits,
    logs,
    metrics,
    nodes,
    revisions,
    routes,
    running,
    shell,
    top,
    users,
    whole,
)
from kairos.cli.config import config, generate, try_route, validate
from kairos.cli.keys import keys
from kairos.config.log import Log
from kairos.telemetry.log import configure


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
    whole.status, whole.health, whole.reload, whole.upgrade, backends.backends,
    connections.connections, limits.bans, limits.limits, cache.cache,
    revisions.revisions, keys, backup.backup, backup.restore,
    config, validate, try_route, routes.routes, nodes.nodes, metrics.metrics, top.top, logs.logs, logs.events,
    users.users, users.roles, users.tokens, audit.audit, shell.shell, shell.completion,
):  # fmt: skip
    main.add_command(verb)
main.add_command(generate, "init")
for verb in (running.apply, running.running):
    config.add_command(verb)
config.add_command(revisions.list_revisions, "history")
config.add_command(revisions.rollback)


@main.command()
def version() -> None:
    """What is installed, as a bug report needs it."""
    click.echo(f"kairos {__version__}, Python {platform.python_version()}, {platform.platform()}")


if __name__ == "__main__":
    main()
