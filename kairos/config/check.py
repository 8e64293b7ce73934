"""Judges a Config as a whole: what its types cannot say. Reads files that it names, touches nothing else.

`check_routes` does the part that is about routes. Sections that this version loads but does not act on are warned of,
so that nobody takes a setting for a protection.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from kairos.config import oidc, redis
from kairos.config.check_admin import check_admin
from kairos.config.check_listeners import check_listeners
from kairos.config.check_logs import check_logs
from kairos.config.check_routes import check_routes, check_tls
from kairos.config.fields import REQUEST_OWN, field_problem
from kairos.config.networks import check_networks
from kairos.config.policies import cache, check_policies, effective, jwt, ratelimit
from kairos.config.policies.auth import SECTIONS
from kairos.config.problems import Findings

if TYPE_CHECKING:
    from kairos.config.model import Config
    from kairos.config.problems import Path, Problem

_NOT_IN_EFFECT = ("ai",)
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~:-]*")
_HOST = re.compile(r"[^\s/@?#\x00-\x1f]+")


def check(config: Config, *, insecure_dev: bool = False) -> list[Problem]:
    """Everything to say about `config`; it can be used if none of it is an error."""
    found = Findings()
    _check_jwt(config, found, insecure_dev=insecure_dev)
    _check_oidc(config, found, insecure_dev=insecure_dev)
    _check_identity(config, found)
    _check_methods(config, found)
    _check_server(config, found)
    _check_networks(config, found)
    check_listeners(config.server, found)
    check_logs(config, found)
    check_admin(config, found)
    check_tls(config.tls, ("tls",), found)
    _check_metrics(config, found)
    _check_sections(config, found)
    if config.redis is not None:
        redis.check(config.redis, ("redis",), found)
    check_policies(config, (), found)
    for name, group in config.groups.items():
        check_policies(group, ("groups", name), found)
    ratelimit.check_whole(config, found)
    cache.check_whole(config, found)
    check_routes(config, found)
    return found.problems


def _check_jwt(config: Config, found: Findings, *, insecure_dev: bool) -> None:
    """The section, and that it is there where routes want tokens."""
    if config.jwt is not None:
        jwt.check(config.jwt, ("jwt",), found, insecure_dev=insecure_dev)
    for at, route in enumerate(config.routers):
        auth = effective(route, config).auth
        keys: Path = ("routers", at, "auth_required")
        if route.auth_required and route.auth is not None and not route.auth.enabled:
            found.error(keys, "is true, but this route's auth section is turned off: remove one of them")
        if config.jwt is None and ("jwt" in auth.methods if auth is not None else route.auth_required):
            message = "add a section jwt with a secret or a public key"
            found.error(keys, f"JWT configuration is required when routes have auth_required=true: {message}")
            return


def _check_oidc(config: Config, found: Findings, *, insecure_dev: bool) -> None:
    """The providers, that routes name one, and that nobody else serves their paths."""
    oidc.check(config.oidc, ("oidc",), found, insecure_dev=insecure_dev)
    for name, provider in config.oidc.items():
        if provider.share_endings and config.redis is None:
            found.error(("oidc", name, "share_endings"), "there is no section redis: add redis with its url")
    taken = set(oidc.paths(config.oidc))
    for at, route in enumerate(config.routers):
        auth = effective(route, config).auth
        if route.external_path in taken:
            found.error(("routers", at, "external_path"), "is a path of a login: choose another callback_path there")
        if auth is not None and "oidc" in auth.methods and (message := _provider_problem(auth.oidc, config)):
            found.error(("routers", at, "auth"), message)


def _provider_problem(name: str | None, config: Config) -> str | None:
    if name is None:
        return None if len(config.oidc) == 1 else "say in oidc at which provider of the section oidc one logs in"
    return None if name in config.oidc else f"there is no provider '{name}' in the section oidc"


def _check_methods(config: Config, found: Findings) -> None:
    """What the methods of a route are made of is there."""
    for at, route in enumerate(config.routers):
        policies = effective(route, config)
        for method in policies.auth.methods if policies.auth is not None else ():
            section = SECTIONS.get(method)
            if section is not None and getattr(policies, section) is None:
                message = f"its auth wants the method {method}, but no section {section} holds for this route"
                found.error(("routers", at), message)


def _check_identity(config: Config, found: Findings) -> None:
    """Names that can be taken out."""
    for at, name in enumerate(config.headers.identity):
        problem = field_problem(name, "", REQUEST_OWN)
        if problem is not None:
            found.error(("headers", "identity", at), problem)


def _check_server(config: Config, found: Findings) -> None:
    server = config.server
    if not _HOST.fullmatch(server.host):
        found.error(("server", "host"), f"'{server.host}' is no address to bind: write an IP address or a name only")
    if server.unix is not None:
        _check_socket(server.unix, found)
    if not _TOKEN.fullmatch(config.headers.via):
        found.error(("headers", "via"), "must be a host name or a word, as it stands in a header")


def _check_socket(path: str, found: Findings) -> None:
    folder = os.path.dirname(path) or "."
    if not path or "\0" in path or len(os.fsencode(path)) > 107:
        found.error(("server", "unix"), "must be a path of at most 107 bytes")
    elif not os.path.isdir(folder):
        found.error(("server", "unix"), f"the folder {folder} does not exist")


def _check_networks(config: Config, found: Findings) -> None:
    for keys, networks in (
        (("trusted_proxies",), config.trusted_proxies),
        (("metrics", "allow"), config.metrics.allow),
    ):
        check_networks(networks, keys, found)
    for at, text in enumerate(config.trusted_proxies):
        if text.endswith("/0"):
            found.warning(("trusted_proxies", at), "trusts every client to say who it is: list your proxies only")


def _check_metrics(config: Config, found: Findings) -> None:
    path = config.metrics.path
    if not path.startswith("/") or re.search(r"[\s?#{}\x00-\x1f]", path):
        found.error(("metrics", "path"), "must be a literal path that starts with '/'")


def _check_sections(config: Config, found: Findings) -> None:
    for name in _NOT_IN_EFFECT:
        if getattr(config, name) is not None:
            found.warning((name,), f"{name} is not in effect in this version")
