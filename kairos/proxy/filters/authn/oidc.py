"""Login at an OpenID provider: the method `oidc`, for the routes whose browsers have sessions (kairos/proxy/oidc)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kairos.proxy.filters.authenticate import Authenticator
    from kairos.proxy.site import Site


def build(site: Site) -> Authenticator:
    """The authenticator of a route."""
    # Here, for it brings in cryptography: workers without such a route do without its 8 MB and 0.2 s.
    from kairos.proxy.oidc.handlers import provider_of
    from kairos.proxy.oidc.login import Login

    spec = site.policies.auth
    name = spec.oidc if spec is not None and spec.oidc is not None else next(iter(site.config.oidc), "")
    if name not in site.config.oidc:
        raise ValueError(f"route {site.name} wants a login at '{name}', which is not in the section oidc")
    provider = provider_of(name, site.config, site.services)
    return Login(provider, site.services, sends=spec is None or not spec.optional)
