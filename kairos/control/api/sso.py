"""Logging in at the identity provider, and coming back from there."""

from __future__ import annotations

from typing import Any

from litestar import MediaType, Request, Response, get, post
from litestar.datastructures import Cookie
from litestar.di import NamedDependency
from msgspec import Struct

from kairos.control.access.access import Access
from kairos.control.access.accounts import DeniedError
from kairos.control.access.logins import Logins
from kairos.control.access.sso import LIFE_S, SingleSignOn
from kairos.control.api.credentials import session_cookie
from kairos.control.api.guards import public
from kairos.control.api.recording import address_of, note
from kairos.control.commands import CommandError
from kairos.openid.flow import form_value

TAGS = ["Account"]
COOKIE = "kairos_sso"
CALLBACK = "/api/sso/callback"
FORM = "application/x-www-form-urlencoded"
MAX_FORM = 16_384
# The browser comes from another site: a cookie that is SameSite=Strict goes only with what this page asks for.
PAGE = '<!doctype html><html><head><meta http-equiv="refresh" content="0; url=/"></head><body></body></html>'
Asked = Request[Any, Any, Any]


class LoginMethods(Struct, frozen=True):
    """How people log in here."""

    password: bool
    sso: bool


@get("/api/login/methods", tags=TAGS, sync_to_thread=False, **public())
def login_methods(sso: NamedDependency[SingleSignOn]) -> LoginMethods:
    """How people log in here."""
    return LoginMethods(True, sso.on)


@get("/api/sso/login", include_in_schema=False, status_code=302, **public())
async def begin_sso(request: Asked, sso: NamedDependency[SingleSignOn]) -> Response[None]:
    """To the identity provider."""
    here = f"{request.scope['scheme']}://{request.headers.get('host', '')}{CALLBACK}"
    url, kept = await sso.begin(here)
    return Response(None, status_code=302, headers={"Location": url}, cookies=[_cookie(request, kept, int(LIFE_S))])


@get(CALLBACK, include_in_schema=False, media_type=MediaType.HTML, **public(action="login"))
async def finish_sso(
    request: Asked, access: NamedDependency[Access], logins: NamedDependency[Logins], sso: NamedDependency[SingleSignOn]
) -> Response[str]:
    """Back from there, with a session."""
    note(request, {"by": "sso"}, target="sso")
    try:
        who = await sso.finish(request.scope["query_string"], request.cookies.get(_name(request), ""))
    except DeniedError as error:
        note(request, {"reason": str(error)})
        raise
    agent = request.headers.get("user-agent", "")
    made = await logins.open_session(who.user_id, address_of(request.scope), agent, who.id_token, who.sid)
    note(request, {"session": made.id}, actor=made.user, target=made.user)
    session = session_cookie(request.scope, made.secret, int(access.admin.sessions.lifetime))
    return Response(PAGE, media_type=MediaType.HTML, cookies=[session, _cookie(request, "", 0)])


@post(
    "/api/sso/backchannel-logout", include_in_schema=False, status_code=200, request_max_body_size=MAX_FORM,
    **public(action="session.end"),
)  # fmt: skip
async def end_sso(
    request: Asked, logins: NamedDependency[Logins], sso: NamedDependency[SingleSignOn]
) -> Response[None]:
    """The provider says that sessions ended there (OpenID Connect Back-Channel Logout 1.0 section 2.5)."""
    note(request, {"by": "sso"}, target="sso")
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != FORM:
        raise CommandError("bad", f"a logout token comes as {FORM}")
    ended = await sso.told_of(form_value(await request.body(), "logout_token"))
    count = await logins.end_sessions_there(ended)
    note(request, {"by": "sso", "sessions": count}, target=ended.subject or ended.sid or "")
    return Response(None)


def _name(request: Asked) -> str:
    return f"__Host-{COOKIE}" if request.scope["scheme"] == "https" else COOKIE


def _cookie(request: Asked, value: str, seconds: int) -> Cookie:
    """Sent when the provider sends the browser back, which is another site."""
    cookie = Cookie(key=_name(request), value=value, path="/", max_age=seconds, httponly=True, samesite="lax")
    cookie.secure = request.scope["scheme"] == "https"
    return cookie


HANDLERS = [login_methods, begin_sso, finish_sso, end_sso]
