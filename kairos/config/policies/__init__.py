"""The policies: one file each, with its spec and the judgement of what its types cannot say.

A policy may be set for all routes, for a group of them and for one. The nearest one counts, whole:
the route's own, else its group's, else that of the whole file. Each can be turned off with `enabled: false`.

To add one: a file here, a field below, a row in CHECKS; then its filter (`kairos/proxy/filters/`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kairos.config.policies import (
    access,
    answers,
    api_keys,
    auth,
    basic_auth,
    cache,
    compression,
    cors,
    csrf,
    forward_auth,
    https_only,
    mirror,
    mtls,
    plugins,
    ratelimit,
    security_headers,
    signatures,
    sizes,
    split,
    transform,
    validation,
)
from kairos.config.policies.access import Access  # noqa: TC001  (msgspec needs them at run time)
from kairos.config.policies.answers import Maintenance, Redirect, Respond  # noqa: TC001
from kairos.config.policies.api_keys import ApiKeys  # noqa: TC001
from kairos.config.policies.auth import Auth  # noqa: TC001
from kairos.config.policies.basic_auth import BasicAuth  # noqa: TC001
from kairos.config.policies.cache import Cache  # noqa: TC001
from kairos.config.policies.compression import Compression  # noqa: TC001
from kairos.config.policies.cors import Cors  # noqa: TC001
from kairos.config.policies.csrf import Csrf  # noqa: TC001
from kairos.config.policies.forward_auth import ForwardAuth  # noqa: TC001
from kairos.config.policies.https_only import HttpsOnly  # noqa: TC001
from kairos.config.policies.mirror import Mirror  # noqa: TC001
from kairos.config.policies.mtls import Mtls  # noqa: TC001
from kairos.config.policies.plugins import Plugin  # noqa: TC001
from kairos.config.policies.ratelimit import RateLimit  # noqa: TC001
from kairos.config.policies.security_headers import SecurityHeaders  # noqa: TC001
from kairos.config.policies.signatures import Signatures  # noqa: TC001
from kairos.config.policies.sizes import SizeLimits  # noqa: TC001
from kairos.config.policies.split import Split  # noqa: TC001
from kairos.config.policies.transform import RequestTransformation, ResponseTransformation  # noqa: TC001
from kairos.config.policies.validation import Validation  # noqa: TC001
from kairos.config.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kairos.config.model import Config, Route
    from kairos.config.problems import Findings, Path


class Policies(Spec, frozen=True):
    """What may be set for all routes, a group or one."""

    https_only: HttpsOnly | None = None
    access: Access | None = None
    auth: Auth | None = None
    cache: Cache | None = None
    compression: Compression | None = None
    api_keys: ApiKeys | None = None
    basic_auth: BasicAuth | None = None
    signatures: Signatures | None = None
    forward_auth: ForwardAuth | None = None
    mtls: Mtls | None = None
    cors: Cors | None = None
    csrf: Csrf | None = None
    security_headers: SecurityHeaders | None = None
    rate_limit: RateLimit | None = None
    request_transformation: RequestTransformation | None = None
    response_transformation: ResponseTransformation | None = None
    size_limits: SizeLimits | None = None
    validation: Validation | None = None
    maintenance: Maintenance | None = None
    respond: Respond | None = None
    redirect: Redirect | None = None
    split: Split | None = None
    mirror: Mirror | None = None
    plugins: list[Plugin] | None = None


CHECKS: dict[str, Callable[[Any, Path, Findings], None]] = {
    "access": access.check,
    "auth": auth.check,
    "cache": cache.check,
    "compression": compression.check,
    "api_keys": api_keys.check,
    "basic_auth": basic_auth.check,
    "signatures": signatures.check,
    "forward_auth": forward_auth.check,
    "https_only": https_only.check,
    "mtls": mtls.check,
    "cors": cors.check,
    "csrf": csrf.check,
    "rate_limit": ratelimit.check,
    "security_headers": security_headers.check,
    "size_limits": sizes.check,
    "validation": validation.check,
    "request_transformation": transform.check_request,
    "response_transformation": transform.check_response,
    "maintenance": answers.check_maintenance,
    "respond": answers.check_respond,
    "redirect": answers.check_redirect,
    "split": split.check,
    "mirror": mirror.check,
    "plugins": plugins.check,
}
"""Field → what judges its value, at the place where it stands."""

FILES: dict[str, Callable[[Any], Iterable[str]]] = {
    "access": access.files,
    "api_keys": api_keys.files,
    "basic_auth": basic_auth.files,
    "validation": validation.files,
    "maintenance": answers.files,
    "respond": answers.files,
    "plugins": plugins.files,
}
"""Field → the files that its value names: what they hold is read again at each reload."""


def effective(route: Route, config: Config) -> Policies:
    """The policies of a route; those turned off are left out."""
    group = config.groups.get(route.group) if route.group is not None else None
    levels: list[Policies] = [level for level in (route, group, config) if level is not None]
    return Policies(**{name: _nearest(name, levels) for name in Policies.__struct_fields__})


def _nearest(name: str, levels: list[Policies]) -> Any:
    for level in levels:
        value = getattr(level, name)
        if value is not None:
            return value if getattr(value, "enabled", True) else None
    return None


def files_of(holder: Policies) -> Iterator[str]:
    """Every file that a policy set here reads."""
    for name, files in FILES.items():
        value = getattr(holder, name)
        if value is not None:
            yield from files(value)


def check_policies(holder: Policies, keys: Path, found: Findings) -> None:
    """Judge each policy that is set here."""
    for name, check in CHECKS.items():
        value = getattr(holder, name)
        if value is not None:
            check(value, (*keys, name), found)
