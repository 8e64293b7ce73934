"""A Lua script as a filter, in a sandbox of its own: no files, no system, no other Python object than its API.

Each route has a runtime of its own. A hook may execute so many instructions, the runtime may hold so much memory; what
takes more costs its request a 500. Calls are synchronous: the API acts on the one exchange that is being filtered.
Bodies are held for a script only where it has a hook for them.
"""

from __future__ import annotations

from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import orjson
from lupa.lua54 import LuaError, LuaRuntime, lua_type

from kairos.config.policies.transform import NO_BODY
from kairos.config.regex import Regex, Replacement
from kairos.config.values import Template
from kairos.proxy.decoding import DecodeError, decoded_body
from kairos.proxy.exchange import Exchange, Filter, Response
from kairos.proxy.rewriting import PLAIN, rewrite_response
from kairos.proxy.values import as_bytes, query_pairs, step_into
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kairos.config.policies.plugins import Plugin

SANDBOX = Path(__file__).with_name("sandbox.lua").read_text()
MAX_LINE = 1000
log = get_logger("plugins")


def _deny(_obj: object, name: object, _setting: bool) -> NoReturn:
    raise AttributeError(f"{name} cannot be reached from a script")


@lru_cache(256)
def _regex(pattern: str) -> Regex:
    return Regex(pattern)


HOOKS = ("on_request", "on_request_body", "on_response", "on_response_body")


class LuaFilter(Filter):
    """Calls the HOOKS of a script, as far as it has them."""

    def __init__(self, code: bytes, plugin: Plugin, route: str) -> None:
        self._route = route
        self._instructions = plugin.instructions
        self._seconds = plugin.seconds
        self._x: Exchange | None = None
        self._headed = False
        self._answer: Response | None = None
        self._lua: Any = LuaRuntime(
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            encoding="latin-1",
            attribute_filter=_deny,
            max_memory=plugin.memory,
        )
        sandbox = self._lua.execute(SANDBOX)
        self._unhook, self._grant, env = sandbox["unhook"], sandbox["allow"], sandbox["env"]
        for name, functions in self._api().items():
            env[name] = self._lua.table_from(functions)
        env["settings"] = self._table(orjson.loads(orjson.dumps(plugin.settings)))
        env["respond"], env["log"] = self._respond, self._write
        env["match"], env["replace"] = self._match, self._replace
        self._allow()
        sandbox["run"](code.decode("latin-1"), f"={Path(plugin.file or '').name}")
        self._hooks = {name: env[name] for name in HOOKS if lua_type(env[name]) == "function"}
        self._limit = plugin.body_limit
        self._passes = plugin.body_others == "pass"

    def on_request(self, x: Exchange) -> Response | Awaitable[Response | None] | None:
        if "on_response_body" in self._hooks:
            x.add_request_edits(PLAIN)
        answer = self._answer_of("on_request", x)
        if answer is not None or "on_request_body" not in self._hooks or not x.has_body:
            return answer
        if self._passes and int(x.header(b"content-length") or 0) > self._limit:
            return None
        return self._with_body(x)

    async def _with_body(self, x: Exchange) -> Response | None:
        try:
            body = await decoded_body(x, self._limit)
        except DecodeError as error:
            # What of a body of unknown length was read past the limit is not there any more.
            if not self._passes or (error.kind == "payload_too_large" and x.header(b"content-length") is None):
                x.fail_as(error.kind, error.detail, error.headers)
            return None
        if x.finished or not body:
            return None
        made = self._call("on_request_body", x, body.decode("latin-1"))
        if self._answer is None and made is not None:
            x.set_request_header("Content-Encoding", None)
            x.replace_request_body(_body(made))
        return self._answer

    def on_response(self, x: Exchange) -> Response | None:
        answer = self._answer_of("on_response", x)
        if answer is None and "on_response_body" in self._hooks and _has_whole_body(x):
            rewrite_response(x, partial(self._new_body, x), self._limit, passes=self._passes)
        return answer

    def _new_body(self, x: Exchange, body: bytes) -> bytes:
        self._headed = True
        try:
            made = self._call("on_response_body", x, body.decode("latin-1"))
            return body if made is None else _body(made)
        except Exception as error:  # whatever a script does; nothing but its own response suffers
            log.exception("a script failed", route=self._route)
            raise ValueError(str(error)) from None
        finally:
            self._headed = False

    def _allow(self) -> None:
        """A new budget; what stopped the last script must not stop this."""
        self._unhook()
        self._grant(self._instructions, self._seconds)

    def _answer_of(self, name: str, x: Exchange) -> Response | None:
        if name not in self._hooks:
            return None
        self._call(name, x)
        return self._answer

    def _call(self, name: str, x: Exchange, *arguments: str) -> Any:
        """What the hook gives; what it answered stands in `_answer`."""
        self._x, self._answer = x, None
        try:
            self._allow()
            return self._hooks[name](*arguments)
        finally:
            self._x = None

    # -- what a script sees -------------------------------------------------------------------------------------------

    def _api(self) -> dict[str, dict[str, Callable[..., Any]]]:
        return {
            "request": {
                "method": lambda: self._now.method,
                "path": lambda: self._now.path_str,
                "target": lambda: _text(self._now.upstream_target),
                "set_target": self._set_target,
                "host": lambda: self._now.host,
                "client": lambda: self._now.client,
                "id": lambda: self._now.request_id_str,
                "header": lambda name: _text(self._now.upstream_header(_name(name))),
                "set_header": lambda name, value=None: self._now.set_request_header(_word(name), _value(value)),
                "query": self._query,
                "param": lambda name: _text(self._now.params.get(_word(name))),
                "claim": self._claim,
            },
            "response": {
                "status": lambda: self._now.status,
                "set_status": lambda status: self._unsent.set_status(int(status)),
                "header": lambda name: next(map(_text, self._now.shown_values(_name(name))), None),
                "set_header": lambda name, value=None: self._unsent.set_response_header(_word(name), _value(value)),
            },
        }

    @property
    def _unsent(self) -> Exchange:
        if self._headed:
            raise ValueError("the head is made before the body is there: change it in on_response")
        return self._now

    @property
    def _now(self) -> Exchange:
        if self._x is None:
            raise ValueError("there is no request now: use this within on_request and on_response")
        return self._x

    def _set_target(self, target: str) -> None:
        self._now.upstream_target = _word(target).encode("latin-1")

    def _query(self, name: str) -> str | None:
        wanted = _name(name, lower=False)
        return next((_text(value) for key, value in query_pairs(self._now.query_string) if key == wanted), None)

    def _claim(self, *path: str | int) -> str | None:
        identity = self._now.identity
        value = None if identity is None else step_into(identity.claims, path)
        return None if value is None else _text(as_bytes(value))

    def _respond(self, status: int, body: str = "", headers: Any = None) -> None:
        fields = [] if headers is None else [(_word(k).encode("latin-1"), _value(v) or b"") for k, v in headers.items()]
        if not 200 <= int(status) <= 599:
            raise ValueError("an answer's status is between 200 and 599")
        self._unsent  # noqa: B018  (raises outside of a request)
        self._answer = Response(int(status), _value(body) or b"", fields)

    def _write(self, text: Any) -> None:
        log.info("script", route=self._route, text=str(text)[:MAX_LINE])

    def _match(self, text: str, pattern: str) -> bool:
        return _regex(_word(pattern)).search(_word(text).encode("latin-1"))

    def _replace(self, text: str, pattern: str, replacement: str) -> str:
        regex = _regex(_word(pattern))
        made = Replacement(Template((_word(replacement),)), regex)
        return regex.replace(_word(text).encode("latin-1"), made).decode("latin-1")

    def _table(self, value: Any) -> Any:
        """A JSON value as Lua has it; text outside latin-1 as the bytes of UTF-8."""
        if isinstance(value, dict):
            return self._lua.table_from({_lua_text(key): self._table(item) for key, item in value.items()})
        if isinstance(value, list):
            return self._lua.table_from([self._table(item) for item in value])
        return _lua_text(value) if isinstance(value, str) else value


def _lua_text(text: str) -> str:
    return text.encode().decode("latin-1")


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("latin-1")


def _word(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"expected a string, got {type(value).__name__}")
    return value


def _name(value: Any, lower: bool = True) -> bytes:
    name = _word(value).encode("latin-1")
    return name.lower() if lower else name


def _body(made: Any) -> bytes:
    return _word(made).encode("latin-1")


def _has_whole_body(x: Exchange) -> bool:
    """One that ends: events go on for ever."""
    kind = (x.response_header(b"content-type") or b"").lower()
    own = x.from_upstream and x.method != "HEAD" and x.status not in NO_BODY and x.status != 101
    return own and not kind.startswith(b"text/event-stream")


def _value(value: Any) -> bytes | None:
    if value is None:
        return None
    return (value if isinstance(value, str) else str(value)).encode("latin-1")


__all__ = ["LuaError", "LuaFilter"]
