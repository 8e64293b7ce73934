"""JSON Web Tokens (RFC 7519) in Authorization, for routes with auth_required: HS256 with the configured secret."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos.proxy.exchange import Exchange, Filter

if TYPE_CHECKING:
    from kairos.config.model import Jwt
    from kairos.proxy.site import Site

LEEWAY_S = 60


class JwtAuth(Filter):
    """Refuses requests without a valid token with 401 and WWW-Authenticate (RFC 6750 section 3)."""

    def __init__(self, spec: Jwt) -> None:
        # Here, for it brings in cryptography: workers without such a route do without its 8 MB and 0.2 s.
        from jwt import PyJWTError, decode

        self._decode = decode
        self._refusal = PyJWTError
        self._spec = spec
        claims = ["exp", *spec.required_claims]
        if spec.issuer is not None:
            claims.append("iss")
        if spec.audience is not None:
            claims.append("aud")
        self._options = {"require": sorted(set(claims)), "verify_aud": spec.audience is not None}

    def on_request(self, x: Exchange) -> None:
        header = x.header(b"authorization")
        if header is None:
            return self._refuse(x, "Missing Authorization header", None)
        scheme, _, token = header.partition(b" ")
        if scheme.lower() != b"bearer" or not token:
            return self._refuse(x, "Authorization header must start with 'Bearer '", "invalid_request")
        try:
            self._decode(
                token.strip(),
                self._spec.secret,
                algorithms=[self._spec.algorithm],
                issuer=self._spec.issuer,
                audience=self._spec.audience,
                leeway=LEEWAY_S,
                options=self._options,  # type: ignore[arg-type]
            )
        except self._refusal:
            return self._refuse(x, "Invalid or expired token", "invalid_token")
        return None

    def _refuse(self, x: Exchange, detail: str, error: str | None) -> None:
        challenge = 'Bearer realm="kairos"' + (f', error="{error}"' if error else "")
        x.fail_as("unauthorized", detail, [(b"WWW-Authenticate", challenge.encode())])


def build(site: Site) -> Filter | None:
    """The filter of a route with auth_required."""
    if not site.route.auth_required:
        return None
    if site.config.jwt is None:
        raise ValueError(f"route {site.name} has auth_required, but there is no jwt section")
    return JwtAuth(site.config.jwt)
