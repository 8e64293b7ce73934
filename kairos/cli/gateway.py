"""`kairos-gateway`: command line and environment become Options, Options become one call of the arbiter. `upgrade`
is for a gateway that runs already.

Command line beats environment beats file. Whatever is wrong with any of them is told before anything is started.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kairos import __version__
from kairos.channel import EXIT_BOOT
from kairos.cli.upgrade import UpgradeError, by_folder, by_pid
from kairos.config.log import Log
from kairos.config.problems import ConfigError
from kairos.storage.revisions import Revisions
from kairos.storage.state import REVISIONS, default_folder
from kairos.supervisor.arbiter import EXIT_CRASH, Arbiter, Options
from kairos.supervisor.plan import EXIT_USAGE
from kairos.supervisor.sockets import ListenError
from kairos.telemetry.log import LEVELS, configure

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.config.model import Config
    from kairos.config.problems import Problem

DEFAULT_CONFIG = "./config.json"

PORT = click.IntRange(0, 65_535)
WORKERS = click.IntRange(1, 512)
LEVEL = click.Choice(list(LEVELS), case_sensitive=False)

ENVIRONMENT: dict[str, tuple[str, click.ParamType[Any]]] = {
    "KAIROS_CONFIG_PATH": ("config", click.STRING),
    "KAIROS_HOST": ("host", click.STRING),
    "KAIROS_PORT": ("port", PORT),
    "KAIROS_TLS_PORT": ("tls_port", PORT),
    "KAIROS_WORKERS": ("workers", WORKERS),
    "KAIROS_LOG": ("log", LEVEL),
    "KAIROS_STATE_DIR": ("state_dir", click.STRING),
    "KAIROS_ADMIN_HOST": ("admin_host", click.STRING),
    "KAIROS_ADMIN_PORT": ("admin_port", PORT),
}
"""Variable → the option it stands in for, and its type."""

EPILOG = f"""\b
Environment (the command line beats it, it beats the file; an empty value counts as unset):
  KAIROS_CONFIG_PATH  the configuration file; default {DEFAULT_CONFIG}
  KAIROS_HOST         address to listen on
  KAIROS_PORT         port to listen on
  KAIROS_TLS_PORT     port for HTTPS
  KAIROS_WORKERS      number of workers
  KAIROS_LOG          log level
  KAIROS_STATE_DIR    folder for what outlives the gateway: revisions, the socket of the kairos command
  KAIROS_ADMIN_HOST   address of the admin API
  KAIROS_ADMIN_PORT   its port
  NO_COLOR            no colours, whatever the value

\b
Signals:
  TERM, INT, QUIT     finish what is open (server.drain_delay, server.drain_timeout), then exit
  TERM or INT again   exit at once
  HUP                 read the configuration again; a bad one changes nothing
  USR1                open log files again, after they were rotated
  USR2                start the installed version on the same sockets; it takes over when it is ready
  TTIN, TTOU          one worker more, one less

\b
Exit codes:
  0  ended as asked, or --check found nothing that keeps the gateway from starting
  1  internal error
  2  bad command line, environment or configuration: nothing was started
  3  could not start: no socket, or a worker did not come up
  4  a worker could not load the configuration
"""


def from_environment(options: dict[str, Any]) -> dict[str, Any]:
    """Fill what the command line left open. A value that cannot be read is an error, not a default."""
    filled = dict(options)
    for variable, (option, kind) in ENVIRONMENT.items():
        value = os.environ.get(variable, "")
        if value and options[option] is None:
            filled[option] = _converted(variable, value, kind)
    return filled


def default_config() -> str:
    """The file that is used when none is named, if it is there."""
    if not os.path.exists(DEFAULT_CONFIG):
        raise click.UsageError(
            f"{DEFAULT_CONFIG} does not exist: name a configuration with --config or KAIROS_CONFIG_PATH"
        )
    return DEFAULT_CONFIG


def _converted(variable: str, value: str, kind: click.ParamType[Any]) -> Any:
    try:
        return kind.convert(value, None, None)
    except click.BadParameter as error:
        raise click.UsageError(f"Environment variable {variable}: {error.message}") from error


@click.group(
    invoke_without_command=True,
    subcommand_metavar="[upgrade]",
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("-c", "--config", metavar="FILE", help=f"Configuration: JSON, YAML or TOML. Default: {DEFAULT_CONFIG}")
@click.option("-w", "--workers", type=WORKERS, metavar="N", help="Worker processes. Default: one per core")
@click.option("--host", metavar="H", help="Address to listen on; :: serves IPv4 too. Default: server.host of the file")
@click.option("-p", "--port", type=PORT, metavar="P", help="Port to listen on, 0 for any. Default: server.port")
@click.option("--tls-port", type=PORT, metavar="P", help="Port for HTTPS, 0 for any. Default: server.tls.port")
@click.option(
    "--self-signed",
    is_flag=True,
    help="Serve HTTPS with a certificate that is made on first start and kept. For trials.",
)
@click.option("--admin-host", metavar="H", help="Address of the admin API. Default: admin.host, which is 127.0.0.1")
@click.option("--admin-port", type=PORT, metavar="P", help="Its port, 0 for any. Default: admin.port, which is 5901")
@click.option(
    "-l", "--log", type=LEVEL, metavar="LEVEL", help=f"{', '.join(LEVELS)}. Default: log.level, which is info"
)
@click.option(
    "--state-dir",
    metavar="DIR",
    help="Where revisions are kept and the kairos command connects; one gateway each. "
    "Default: $STATE_DIRECTORY, $XDG_STATE_HOME/kairos, /var/lib/kairos for root or ~/.local/state/kairos",
)
@click.option(
    "--last-good", is_flag=True, help="Where the file cannot be used, start with the revision that was in use last."
)
@click.option("--check", is_flag=True, help="Judge the configuration, print what is found, start nothing.")
@click.option("--insecure-dev", is_flag=True, help="Accept weak secrets, for development only.")
@click.version_option(__version__, message="kairos-gateway %(version)s")
@click.pass_context
def main(context: click.Context, /, **given: Any) -> None:
    """Kairos, an API gateway and reverse proxy.

    Listens, forks the workers and looks after them until it is told to end. Runs in the foreground and as PID 1; under
    systemd it reports its state (Type=notify-reload) and accepts sockets that were opened for it.
    """
    if context.invoked_subcommand is not None:
        return
    chosen = from_environment(given)
    options = Options(
        config_path=chosen["config"] or default_config(),
        insecure_dev=chosen["insecure_dev"],
        host=chosen["host"],
        port=chosen["port"],
        tls_port=chosen["tls_port"],
        self_signed=chosen["self_signed"],
        workers=chosen["workers"],
        admin_host=chosen["admin_host"],
        admin_port=chosen["admin_port"],
        log_level=chosen["log"].lower() if chosen["log"] else None,
        state_dir=default_folder() if chosen["state_dir"] is None else chosen["state_dir"],
        last_good=chosen["last_good"],
    )
    configure(Log(level=options.log_level or "info"))  # until the configuration is read
    sys.exit(check(options) if chosen["check"] else serve(options))


@main.command()
@click.option("--state-dir", metavar="DIR", help="Of the gateway. Default: as for starting one")
@click.option("--pid", type=click.IntRange(1), metavar="PID", help="Supervisor of a gateway without a state folder")
def upgrade(state_dir: str | None, pid: int | None) -> None:
    """Replace a running gateway by the version that is installed now, without losing a connection.

    Waits until the new one serves (exit code 0) or is given up and the old one serves on (exit code 1).
    """
    if state_dir is not None and pid is not None:
        raise click.UsageError("--state-dir and --pid name two gateways: give one of them")
    folder = state_dir or os.environ.get("KAIROS_STATE_DIR") or default_folder()
    try:
        if pid is not None:
            by_pid(pid)
            click.echo(f"process {pid} has handed over to a new gateway")
        else:
            click.echo(f"process {by_folder(folder)} serves now")
    except UpgradeError as error:
        click.secho(f"not upgraded: {error}", err=True, fg="red", **_colors())
        sys.exit(EXIT_CRASH)


def check(options: Options) -> int:
    """Everything there is to say about a configuration, and a verdict."""
    try:
        loaded = options.load()
    except ConfigError as error:
        refuse(error)
        click.secho(f"{options.config_path}: cannot be used: {count(error.problems)}", fg="red", **_colors())
        return EXIT_USAGE
    tell(loaded.problems)
    verdict = f"{options.config_path}: good: {summary(loaded.config)}; {count(loaded.problems)}"
    click.secho(verdict, fg="green", **_colors())
    return 0


def serve(options: Options) -> int:
    """Run the gateway until it ends."""
    # Here, so that --check and --help go without the data plane; before the forks, so that its pages are shared.
    from kairos.control.main import main as control_main
    from kairos.worker import main as worker_main

    try:
        arbiter = Arbiter(options, entry=worker_main, control_entry=control_main)
    except ConfigError as error:
        refuse(error)
        point_to_last_good(options)
        return EXIT_USAGE
    except ListenError as error:
        click.secho(str(error), err=True, fg="red", **_colors())
        return EXIT_BOOT
    return arbiter.run()


def refuse(error: ConfigError) -> None:
    """Why a configuration cannot be used."""
    if error.heading:
        click.secho(error.heading, err=True, fg="red", **_colors())
    tell(error.problems)


def point_to_last_good(options: Options) -> None:
    """That there is something to start with after all, or that there is not."""
    stored = Revisions(Path(options.state_dir, REVISIONS)).newest() if options.state_dir else None
    if stored is not None and not options.last_good:
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(stored.time))
        click.echo(f"Revision {stored.number} of {when} is the last good one: --last-good starts with it.", err=True)
    if stored is None and options.last_good:
        click.echo(f"--last-good: no revision is kept in {options.state_dir or 'the state folder'}.", err=True)


def tell(problems: Iterable[Problem]) -> None:
    """One line each: `config.json:12: error: routers[2].methods: message`."""
    shades = {"error": "red", "warning": "yellow", "hint": "cyan"}
    for problem in problems:
        click.secho(str(problem), err=True, fg=shades[problem.severity], **_colors())


def summary(config: Config) -> str:
    """What a configuration amounts to."""
    routes = len(config.routers)
    return f"{_plural(routes, 'route')}, {_plural(sum(len(route.backends) for route in config.routers), 'backend')}"


def count(problems: list[Problem]) -> str:
    """`1 error, 2 hints`."""
    tally: dict[str, int] = {}
    for problem in problems:
        tally[problem.severity] = tally.get(problem.severity, 0) + 1
    return ", ".join(_plural(number, severity) for severity, number in tally.items()) or "no remarks"


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _colors() -> dict[str, Any]:
    """click itself looks whether there is a terminal, but not at NO_COLOR (no-color.org)."""
    return {"color": False} if os.environ.get("NO_COLOR") else {}


if __name__ == "__main__":
    main()
