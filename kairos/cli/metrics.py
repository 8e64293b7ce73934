"""`kairos metrics`: now, over time, or as Prometheus has them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kairos.cli.shown import moment, span, table
from kairos.cli.talk import answering, print_answer, taken, talks, with_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.client import Client


def _snapshot_lines(now: Any) -> Iterable[str]:
    yield f"requests      {now['requests_total']}, {now['requests_error']} errors, {now['success_rate']:.2f} % good"
    yield f"under way     {now['active_connections']}, at most {now['peak_connections']}"
    yield f"connections   {now['connections']}, {now['tunnels']} tunnels"
    yield f"time          {now['avg_response_time']:.2f} ms on average"
    yield f"workers       {now['workers']}, {now['lag_ms']:.1f} ms behind, {now['memory_bytes'] >> 20} MiB"
    yield f"uptime        {span(now['uptime'])}"
    if recent := now["recent"]:
        yield f"last {recent['seconds']:.0f} s".ljust(14) + ", ".join(_recent(recent))


def _recent(recent: Any) -> Iterable[str]:
    """Requests, errors and bytes a second, percentiles where there were requests, cores."""
    per_second = [("requests_per_second", "requests"), ("errors_per_second", "errors"),
                  ("bytes_in_per_second", "bytes in"), ("bytes_out_per_second", "bytes out")]  # fmt: skip
    yield ", ".join(f"{recent[name]:.3g} {what}" for name, what in per_second) + " a second"
    for name in ("p50_ms", "p95_ms", "p99_ms"):
        if recent[name] is not None:
            yield f"{name[:3]} {recent[name]:.3g} ms"
    yield f"{recent['cpu_cores']:.2g} cores"


@click.group(invoke_without_command=True)
@click.option("--format", "format_", type=click.Choice(["text", "json", "prometheus"]), help="Default: text")
@click.option("--filter", "wanted", metavar="TEXT", help="With prometheus: only lines with this in them.")
@with_options
@click.pass_context
def metrics(context: click.Context, /, format_: str | None, wanted: str | None, **given: Any) -> None:
    """Show metrics of this moment; `query` for those of the past."""
    context.obj = given
    if context.invoked_subcommand is not None:
        return
    options = taken(context, dict(given))
    with answering(options) as client:
        if format_ == "prometheus":
            lines = client.prometheus().splitlines()
            click.echo("\n".join(line for line in lines if wanted is None or wanted in line))
            return
        import msgspec

        now = msgspec.to_builtins(client.show_snapshot())
    print_answer(now, _snapshot_lines, "json" if format_ == "json" else options["output"])


def _query_lines(answer: Any) -> Iterable[str]:
    if not answer["series"]:
        yield "nothing of that was counted in this time"
        return
    labels = [_labels(series) for series in answer["series"]]
    rows = [
        [moment(at), *(_cell(series["values"][index]) for series in answer["series"])]
        for index, at in enumerate(answer["timestamps"])
    ]
    yield from table(["FROM", *labels], rows)
    if answer["series_found"] > len(answer["series"]):
        yield f"{len(answer['series'])} of {answer['series_found']} series"


def _labels(series: Any) -> str:
    shown = ",".join(f"{name}={value}" for name, value in series["labels"].items())
    return f"{series['name']}:{series['aggregation']}" + (f"{{{shown}}}" if shown else "")


def _cell(value: Any) -> str:
    return "-" if value is None else "/".join(map(str, value)) if isinstance(value, list) else f"{value:.4g}"


@metrics.command()
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--since", default="-1h", show_default=True, help="-15m, -7d, or a time (RFC 3339).")
@click.option("--until", help="The same; by default now.")
@click.option("--step", type=float, metavar="SECONDS", help="Of each row; by default a few hundred rows.")
@click.option("--as", "aggregations", multiple=True, metavar="KIND", help="rate, p99, max, ...; one for each NAME.")
@click.option(
    "--by", "group_by", multiple=True, metavar="LABEL", help="A column for each route, upstream, node, code, ..."
)
@click.option("--top", type=click.IntRange(1), help="Only so many columns, the largest.")
@click.option("--route", "routes", multiple=True, help="Only of these routes.")
@talks(_query_lines)
def query(
    client: Client,
    names: tuple[str, ...],
    since: str,
    until: str | None,
    step: float | None,
    aggregations: tuple[str, ...],
    group_by: tuple[str, ...],
    top: int | None,
    routes: tuple[str, ...],
) -> Any:
    """Metrics over time: kairos metrics query kairos_http_requests_total --by route --top 5"""
    return client.query_metrics(
        name=list(names),
        start=since,
        end=until,
        step=step,
        aggregation=list(aggregations) or None,
        group_by=list(group_by) or None,
        top=top,
        route=list(routes) or None,
    )


def _names(answer: Any) -> Iterable[str]:
    rows = [[one["name"], one["type"], ",".join(one["labels"]), one["help"]] for one in answer]
    return table(("NAME", "TYPE", "LABELS", "ABOUT"), rows)


@metrics.command("list")
@talks(_names)
def list_metrics(client: Client) -> Any:
    """What can be asked for."""
    return client.show_catalog()
