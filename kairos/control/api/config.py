"""The configuration as a whole and section by section, in use and proposed.

`/api/config/{jwt,rate-limit,cors,metrics,server,ai}` are kairos-rs's, with its field names and those of its web app;
`/api/config/sections/{name}` has every section. What is shown has its secrets masked; a mask that is written back
stands for the secret it hides.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

import msgspec
from litestar import Request, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.handlers import HTTPRouteHandler
from litestar.params import JSONBody, Parameter, QueryParameter
from msgspec import UNSET, Struct, UnsetType

from kairos.config import schema
from kairos.config.editing import (
    EditError,
    canonical,
    document,
    with_everything,
    with_members,
    with_section,
    without_section,
)
from kairos.config.mask import masked_plain
from kairos.config.model import Config
from kairos.config.problems import ConfigError, Findings, Problem, render
from kairos.config.syntax import FORMATS, Format
from kairos.config.text import ConfigText
from kairos.config.unmask import unmasked
from kairos.config.writing import dumps
from kairos.control.api.guards import needs
from kairos.control.api.routes import given, shown
from kairos.control.api.writing import Written, check_references, tagged, told, writes
from kairos.control.changes import Changes, Wish
from kairos.control.commands import CommandError, Commands

TAGS = ["Configuration"]
Plain = dict[str, Any]
Name = Annotated[str, Parameter(max_length=100)]
_TYPES: dict[str, Format] = {
    "application/json": "json", "text/json": "json", "": "json",
    "application/yaml": "yaml", "application/x-yaml": "yaml", "text/yaml": "yaml", "text/x-yaml": "yaml",
    "application/toml": "toml", "text/toml": "toml", "text/x-toml": "toml",
}  # fmt: skip
_MEDIA: dict[Format, str] = {"json": "application/json", "yaml": "application/yaml", "toml": "application/toml"}
_FIRST = ("version", "jwt", "rate_limit", "ai", "routers")
_OVERRIDDEN = {"server": ("host", "port", "workers", "tls"), "admin": ("host", "port")}


class ConfigStatus(Struct, frozen=True):
    """Which configuration is in use."""

    success: bool
    message: str
    version: int
    """Of the revision; it grows with every change."""
    timestamp: str
    """Since when, or since the start of the gateway."""
    revision: int
    etag: str
    source: str
    """The file."""
    format: Format
    author: str
    """Of the last change, as far as that is known."""
    reason: str
    restart_required: list[str]
    """Keys whose new value comes into force with the next start."""
    problems: list[str]
    """Why the last reload was refused; empty when it was not."""


class ConfigReloaded(Struct, frozen=True):
    """The configuration was read again."""

    success: bool
    message: str
    version: int
    timestamp: str
    revision: int
    unchanged: bool


class Place(Struct, frozen=True, omit_defaults=True):
    """Something to say about a configuration."""

    severity: str
    message: str
    path: str = ""
    line: int | UnsetType = UNSET


class ConfigVerdict(Struct, frozen=True, omit_defaults=True):
    """Whether a configuration could be used."""

    valid: bool
    error: str | UnsetType = UNSET
    problems: list[Place] = []
    """Errors, warnings, hints."""


@get("/api/config", tags=TAGS, **needs("config:read"))
async def get_config(
    request: Request[Any, Any, Any],
    changes: NamedDependency[Changes],
    effective: Annotated[
        bool, Parameter(description="With all defaults, and what the command line overrides.")
    ] = False,
    format_: Annotated[Format, QueryParameter(name="format")] = "json",
) -> Response[Plain]:
    """All of it in canonical form, as it is in use: references as written, secrets masked."""
    tag = changes.etag  # first: with a change in between, If-Match has to fail
    shown_now = await asyncio.to_thread(effective_of if effective else document_of, changes)
    if format_ == "json":
        return tagged(request, shown_now, tag)  # type: ignore[no-any-return]
    text = await asyncio.to_thread(dumps, {key: item for key, item in shown_now.items() if item is not None}, format_)
    return tagged(request, text, tag, {"Content-Type": _MEDIA[format_]})  # type: ignore[no-any-return]


@put("/api/config", tags=TAGS, **writes())
async def put_config(
    request: Request[Any, Any, Any],
    changes: NamedDependency[Changes],
    wish: NamedDependency[Wish],
    verbatim: Annotated[bool, Parameter(description="Keep the text as it is, comments and all.")] = False,
) -> Response[Written]:
    """Another configuration in place of this one: JSON, YAML or TOML, by its Content-Type. Comments of the file stay
    where it says the same."""
    body, format_ = await request.body(), format_of(request)
    new = _readable(body, format_)

    def edit(value: Plain) -> Plain:
        said = {name: item for name, item in new.items() if item is not None or name in value}
        return with_everything(value, restored(said, canonical(value)))

    if verbatim:
        if restored(new, changes.document()) != new:
            raise CommandError("invalid", "a text that is kept as it is cannot have masks: write the secrets")
        outcome = await changes.replace(body, format_, wish)
    else:
        outcome = await changes.apply(edit, wish)
    return told(outcome, "Configuration updated")


@post("/api/config/validate", tags=TAGS, status_code=200, **needs("config:read"))
async def validate_config(request: Request[Any, Any, Any], changes: NamedDependency[Changes]) -> ConfigVerdict:
    """Whether a configuration could be used here: JSON, YAML or TOML, by its Content-Type."""
    data, format_ = await request.body(), format_of(request)
    name = f"config.{format_}"
    try:
        new = _asked(data, format_)
        check_references(request, new)
        whole = restored(new, changes.document())
        if whole != new:
            data = dumps(whole, format_).encode()
        loaded = await changes.judge(ConfigText(data, format_, name, "validate"))
    except EditError as error:
        place = Place("error", error.message, render(error.keys), UNSET if error.line is None else error.line)
        return ConfigVerdict(False, error.message, [place])
    except ConfigError as error:
        return ConfigVerdict(False, error.problems[0].message, _places(error.problems))
    return ConfigVerdict(True, problems=_places(loaded.problems))


@get("/api/config/schema", tags=TAGS, sync_to_thread=True, **needs("config:read"))
def config_schema() -> Plain:
    """JSON Schema of the configuration."""
    return schema.export()


@get("/api/config/status", tags=TAGS, sync_to_thread=False, **needs("config:read"))
def config_status(changes: NamedDependency[Changes], commands: NamedDependency[Commands]) -> ConfigStatus:
    """Which one is in use, since when, and whether the last reload went well."""
    status = commands.status()
    problems = status.reloads.problems
    said = "The last reload was refused; the configuration before it is in use" if problems else "Configuration in use"
    text = changes.text
    return ConfigStatus(
        True, said, changes.number, _since(commands), changes.number, changes.etag, text.name, text.format,
        text.author, text.reason, changes.restart_required(), problems,
    )  # fmt: skip


@post("/api/config/reload", tags=TAGS, status_code=200, **needs("gateway:operate"))
async def reload_config(
    request: Request[Any, Any, Any], changes: NamedDependency[Changes], commands: NamedDependency[Commands]
) -> ConfigReloaded:
    """Read the file again and put it in use, in every worker."""
    done = await commands.reload("admin API", author=request.scope["user"].name)
    said = "Nothing has changed" if done.unchanged else "Configuration reloaded successfully"
    return ConfigReloaded(True, said, done.revision, _since(commands), done.revision, done.unchanged)


# ---- sections


async def _section(changes: Changes, wish: Wish, name: str, given: Any, done: str, *, whole: bool) -> Response[Written]:
    """kairos-rs answers 400 where a value does not hold."""

    def edit(value: Plain) -> Plain:
        section = _section_restored(value, name, given)
        if whole or name == "rate_limit" or not isinstance(section, dict):
            return with_section(value, name, section)
        kept = {key: item for key, item in section.items() if item is not None}
        gone = section.keys() - kept.keys()
        made = with_members(value, name, kept)
        if not gone or not isinstance(canonical(made).get(name), dict):
            return made
        return with_section(made, name, {key: item for key, item in canonical(made)[name].items() if key not in gone})

    try:
        outcome = await changes.apply(edit, wish)
    except CommandError as error:
        if error.why != "invalid":
            raise
        raise CommandError("bad", str(error), error.problems) from None
    return told(outcome, done)


def _setters(name: str, about: str, done: str) -> list[HTTPRouteHandler]:
    """POST and PUT of kairos-rs's path for a section."""

    def setter(*, whole: bool) -> Any:
        async def set_it(
            changes: NamedDependency[Changes], wish: NamedDependency[Wish], data: JSONBody[Any]
        ) -> Response[Written]:
            _refuse_zero(name, data)
            return await _section(changes, wish, name, data, done, whole=whole)

        set_it.__name__ = f"{'replace' if whole else 'set'}_{name}"
        left = "is what it is by default" if whole else "stays as it is"
        set_it.__doc__ = f"{about} What is not said {left}."
        return set_it

    path = f"/api/config/{name.replace('_', '-')}"
    return [
        post(path, tags=TAGS, status_code=200, **writes())(setter(whole=False)),
        put(path, tags=TAGS, **writes())(setter(whole=True)),
    ]


def _refuse_zero(name: str, data: Any) -> None:
    """What kairos-rs refuses: a port of the system's choice is for command lines and files."""
    if name == "server" and isinstance(data, dict):
        if data.get("port") == 0:
            raise CommandError("bad", "Port must be between 1 and 65535")
        if data.get("workers") == 0:
            raise CommandError("bad", "Workers must be greater than 0")


_SERVER = "Listeners and processes. `workers` holds at once, addresses with the next start: `restart_required`."
SETTERS = [
    *_setters("jwt", "JSON Web Tokens.", "JWT settings updated"),
    *_setters("rate_limit", "The rate limit of all routes; null for none.", "Rate limit updated"),
    *_setters("cors", "Cross-origin requests.", "CORS settings updated"),
    *_setters("metrics", "Metrics for Prometheus.", "Metrics settings updated"),
    *_setters("server", _SERVER, "Server settings updated"),
    *_setters("ai", "The model that helps to route.", "AI settings updated"),
]


@get("/api/config/sections/{name:str}", tags=TAGS, **needs("config:read"))
async def get_section(request: Request[Any, Any, Any], changes: NamedDependency[Changes], name: Name) -> Response[Any]:
    """One section as it is written, in canonical form; null where nothing is said of it."""
    _known(name)
    tag = changes.etag
    held = await asyncio.to_thread(changes.document)
    return tagged(request, masked_plain(held).get(name), tag)  # type: ignore[no-any-return]


@put("/api/config/sections/{name:str}", tags=TAGS, **writes())
async def put_section(
    changes: NamedDependency[Changes], wish: NamedDependency[Wish], name: Name, data: JSONBody[Any]
) -> Response[Written]:
    """Another value for a section."""
    _known(name)

    def edit(value: Plain) -> Plain:
        return with_section(value, name, _section_restored(value, name, data))

    return told(await changes.apply(edit, wish), f"Section {name} updated")


@delete("/api/config/sections/{name:str}", tags=TAGS, status_code=200, **writes())
async def delete_section(
    changes: NamedDependency[Changes], wish: NamedDependency[Wish], name: Name
) -> Response[Written]:
    """Nothing said of a section: its defaults."""
    _known(name)
    return told(await changes.apply(lambda value: without_section(value, name), wish), f"Section {name} removed")


def _known(name: str) -> None:
    if name not in Config.__struct_fields__:
        raise CommandError("unknown", f"no section is called '{name}'")


def _section_restored(value: Plain, name: str, given: Any) -> Any:
    """With secrets in place of masks."""
    new = canonical({name: given})
    older = (
        {key: item for key, item in given.items() if key in ("keep_alive", "keep_alive_secs")}
        if (name == "server" and isinstance(given, dict))
        else {}
    )  # what canonical() says of another section
    made = restored({name: new.get(name)}, canonical(value))[name]
    return {**made, **older} if older else made


# ---- what is given and shown


def format_of(request: Request[Any, Any, Any]) -> Format:
    """Of the body, by its Content-Type. Raises CommandError."""
    kind = request.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind not in _TYPES:
        raise CommandError("bad", f"Content type error: {kind} is none of {', '.join(_MEDIA.values())}")
    return _TYPES[kind]


def restored(new: Plain, old: Plain) -> Plain:
    """With secrets in place of masks. Raises EditError."""
    found = Findings()
    made: Plain = unmasked(new, old, found)
    if found.problems:
        raise EditError("invalid", found.problems[0].message, found.problems[0].keys)
    return made


def _without_ids(new: Plain) -> Plain:
    """What routes are called in answers is nothing of theirs."""
    routes = new.get("routers")
    if not isinstance(routes, list):
        return new
    return {**new, "routers": [given(one) if isinstance(one, dict) else one for one in routes]}


def document_of(changes: Changes) -> Plain:
    """In kairos-rs's form: its sections are always there."""
    written = changes.document()
    held = masked_plain(written)
    made: Plain = {name: held.get(name) for name in _FIRST} | held
    made["version"] = held.get("version", 1)
    made["routers"] = [shown(one) for one in written.get("routers") or [] if isinstance(one, dict)]
    return made


def effective_of(changes: Changes) -> Plain:
    """With defaults; where the document says something, in its words: what references stand for is not shown."""
    made = _complete(changes.config)
    overridden = {
        name: {key: made[name][key] for key in keys if isinstance(made.get(name), dict)}
        for name, keys in _OVERRIDDEN.items()
    }
    whole = _laid_over(made, changes.document())
    for name, members in overridden.items():
        whole[name] = {**whole[name], **members}
    shown_now: Plain = masked_plain(whole)
    return shown_now


def _complete(value: Any) -> Any:
    if isinstance(value, Struct):
        return {info.encode_name: _complete(getattr(value, info.name)) for info in msgspec.structs.fields(value)}
    if isinstance(value, dict):
        return {key: _complete(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_complete(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else msgspec.to_builtins(value)


def _laid_over(whole: Any, written: Any) -> Any:
    if isinstance(whole, dict) and isinstance(written, dict):
        return {**whole, **{key: _laid_over(whole.get(key), item) for key, item in written.items()}}
    if isinstance(whole, list) and isinstance(written, list) and len(whole) == len(written):
        return [_laid_over(one, other) for one, other in zip(whole, written, strict=True)]
    return written


def _asked(body: bytes, format_: Format) -> Plain:
    """A document that was sent; what GET adds to routes is no part of it. Raises EditError."""
    value = canonical(document(_decoded(body), format_))
    routes = value.get("routers")
    if isinstance(routes, list):
        value["routers"] = [
            {key: item for key, item in route.items() if key != "id"} if isinstance(route, dict) else route
            for route in routes
        ]
    return value


def _readable(body: bytes, format_: Format) -> Plain:
    """The same. Raises CommandError: it is the body that is no document, not the file."""
    try:
        return _asked(body, format_)
    except EditError as error:
        if error.kind != "unreadable":
            raise
        places = [f"line {error.line}"] if error.line else []
        places += [render(error.keys)] if error.keys else []
        raise CommandError("bad", ": ".join([f"the body is no {format_.upper()}", *places, error.message])) from None


def _decoded(data: bytes) -> str:
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise CommandError("bad", "the body is not UTF-8") from None


def _places(problems: list[Problem]) -> list[Place]:
    return [
        Place(found.severity, found.message, found.path, UNSET if found.line is None else found.line)
        for found in problems
    ]


def _since(commands: Commands) -> str:
    status = commands.status()
    at = status.reloads.last_at or (datetime.now(UTC).timestamp() - status.uptime)
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


assert {"json", "yaml", "toml"} == set(FORMATS.values()) == set(_MEDIA)
HANDLERS = [
    get_config, put_config, validate_config, config_schema, config_status, reload_config,
    *SETTERS, get_section, put_section, delete_section,
]  # fmt: skip
