"""The verbs of `kairos cache`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kairos.cli.talk import group, talks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.client import Client


def _cache_lines(answer: Any) -> Iterable[str]:
    used = 100 * answer["bytes"] // max(1, answer["capacity"])
    yield f"entries    {answer['entries']}, {answer['bytes']} of {answer['capacity']} bytes ({used} %)"
    yield f"stored     {answer['inserts']}, evicted {answer['evictions']}, not stored {answer['rejected']}"
    yield f"purges     {answer['purges']}"


@group("stats")
def cache() -> None:
    """Show what is in the cache; throw responses out of it.

    The cache of this node, which all its workers share.
    """


@cache.command("stats")
@talks(_cache_lines)
def cache_stats(client: Client) -> Any:
    """Show how full it is. The same as without a verb."""
    return client.show_cache()


def _purged(answer: Any) -> Iterable[str]:
    yield f"{answer['purged']} entries purged"


@cache.command()
@click.argument("page", metavar="[URL]", required=False)
@click.option("--prefix", help="All URLs that begin so.")
@click.option("--tag", "tags", multiple=True, help="All with this Surrogate-Key or Cache-Tag; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@click.option("--soft", is_flag=True, help="Keep it, but have it validated before its next use.")
@talks(_purged)
def purge(
    client: Client, page: str | None, prefix: str | None, tags: tuple[str, ...], everything: bool, soft: bool
) -> Any:
    """Throw responses out: one URL with all its variants, or by prefix or tag.

    Holds at once for every worker; what is being fetched meanwhile is not stored either.
    """
    return client.purge_cache(url=page, prefix=prefix, tags=list(tags) or None, all=everything, soft=soft)
