"""Writes the typed client's models and operations from the admin API's description.

    python tools/client.py           writes kairos/client/{models,sync,aio}.py
    python tools/client.py --check   exit code 1 where they are not what they should be

What is written is formatted by ruff and committed, so that a client needs nothing of the gateway, and a change of the
API shows in it. A test runs --check.
"""

from __future__ import annotations

import keyword
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kairos.control.api.app import all_handlers, make_app, wanted

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "kairos" / "client"
NOTE = "\n\nWritten by tools/client.py from the API's description: change that, not this file.\n"
SCALARS = {"string": "str", "integer": "int", "number": "float", "boolean": "bool", "null": "None"}
WIDTH = 105  # of a docstring's lines
RAW = {"put_config", "validate_config"}
"""Operations whose body is a document of any format, as bytes: their handlers read it themselves."""
EVENTS = "text/event-stream"
Schema = dict[str, Any]


# --- types ------------------------------------------------------------------------------------------------------------


def type_of(schema: Schema, prefix: str = "") -> str:
    """A Python type; `prefix` stands before the names of models."""
    if "$ref" in schema:
        return prefix + class_name(schema["$ref"].rpartition("/")[2])
    if "const" in schema:
        return f"Literal[{schema['const']!r}]"
    if "enum" in schema:
        shown = ", ".join(repr(value) for value in schema["enum"] if value is not None)
        return union([f"Literal[{shown}]", *(["None"] if None in schema["enum"] else [])])
    for several in ("oneOf", "anyOf"):
        if several in schema:
            return union([type_of(one, prefix) for one in schema[several]])
    kind = schema.get("type")
    if isinstance(kind, list):
        return union([type_of({**schema, "type": one}, prefix) for one in kind])
    if kind == "array":
        return f"list[{type_of(schema.get('items', {}), prefix)}]"
    if kind == "object":
        values = schema.get("additionalProperties")
        return f"dict[str, {type_of(values, prefix) if isinstance(values, dict) and values else 'Any'}]"
    return SCALARS.get(str(kind), "Any")


def union(types: list[str]) -> str:
    if "Any" in types:
        return "Any"
    unique = list(dict.fromkeys(part for one in types for part in alternatives(one)))
    return " | ".join([one for one in unique if one != "None"] + [one for one in unique if one == "None"])


def alternatives(kind: str) -> Iterator[str]:
    """The parts of a union, but not of one inside brackets."""
    part = ""
    for piece in kind.split(" | "):
        part = f"{part} | {piece}" if part else piece
        if part.count("[") == part.count("]"):
            yield part
            part = ""


def class_name(component: str) -> str:
    return re.sub(r"\W", "", component.rpartition(".")[2])


def identifier(name: str) -> str:
    made = re.sub(r"\W", "_", name.lower() if name[:1].isupper() else name)
    return made + "_" if keyword.iskeyword(made) else made


# --- models -----------------------------------------------------------------------------------------------------------


def models(document: Schema) -> Iterator[str]:
    yield f'"""What the admin API takes and answers.{NOTE}"""'
    yield "from __future__ import annotations\nfrom typing import Any, Literal\nfrom msgspec import Struct, field"
    for name, schema in sorted(document["components"]["schemas"].items()):
        yield from model(class_name(name), schema)


def model(name: str, schema: Schema) -> Iterator[str]:
    if schema.get("type") != "object" or "properties" not in schema:
        yield f"{name} = {type_of(schema)}"
        return
    tags = {key: member["const"] for key, member in schema["properties"].items() if "const" in member}
    tagged = "".join(f", tag_field={key!r}, tag={tag!r}" for key, tag in tags.items())
    yield f"class {name}(Struct, frozen=True, kw_only=True{tagged}):"
    yield textwrap.indent(docstring(schema.get("description") or "As the API has it."), "    ")
    required = set(schema.get("required", []))
    for key, member in ((key, member) for key, member in schema["properties"].items() if key not in tags):
        yield f"    {member_line(key, member, required=key in required)}"


def member_line(key: str, schema: Schema, *, required: bool) -> str:
    made = identifier(key)
    kind = type_of(schema)
    renamed = f'name="{key}"' if made != key else ""
    if required:
        return f"{made}: {kind}" + (f" = field({renamed})" if renamed else "")
    default = schema.get("default")
    if default is None and not re.search(r"\bNone\b|^Any$", kind):
        kind += " | None"
    if isinstance(default, list | dict):
        options = [
            f"default_factory={'list' if isinstance(default, list) else 'dict'}",
            *([renamed] if renamed else []),
        ]
        return f"{made}: {kind} = field({', '.join(options)})"
    return f"{made}: {kind} = " + (f"field(default={default!r}, {renamed})" if renamed else repr(default))


def docstring(text: str) -> str:
    text = text.strip().replace("\\", "\\\\").replace('"""', "'''")
    text = "\n".join(part for line in text.splitlines() for part in textwrap.wrap(line, WIDTH) or [""])
    return f'"""{text}"""' if "\n" not in text else f'"""{text}\n"""'


# --- operations -------------------------------------------------------------------------------------------------------


@dataclass
class Operation:
    """One method of the client."""

    name: str
    verb: str
    path: str
    text: str
    answer: str = "None"
    media: str = ""
    positional: list[str] = field(default_factory=list)
    named: list[str] = field(default_factory=list)
    query: dict[str, str] = field(default_factory=dict)
    """Name in the request → argument; the same for headers and members of a body."""
    headers: dict[str, str] = field(default_factory=dict)
    body: dict[str, str] = field(default_factory=dict)
    whole: bool = False
    """The body is one argument, `data`."""


def operations(document: Schema) -> Iterator[Operation]:
    schemas = document["components"]["schemas"]
    for path, item in sorted(document["paths"].items()):
        for verb, described in item.items():
            if verb in ("get", "put", "post", "patch", "delete"):
                yield operation(path, verb.upper(), described, schemas)


def operation(path: str, verb: str, described: Schema, schemas: Schema) -> Operation:
    made = Operation(described["operationId"], verb, path, described.get("description") or described["summary"])
    for parameter in described.get("parameters", []):
        add_parameter(made, parameter)
    content = described.get("requestBody", {}).get("content", {})
    if made.name in RAW:
        made.positional.append("data: bytes")
        made.named.append('content_type: str = "application/json"')
        made.headers["Content-Type"] = "content_type"
        made.whole = True
    elif content:
        add_body(made, content, schemas)
    set_answer(made, described["responses"])
    return made


def add_parameter(made: Operation, parameter: Schema) -> None:
    name, schema = parameter["name"], parameter.get("schema", {})
    argument, kind = identifier(name), type_of(schema, "models.")
    if parameter["in"] == "path":
        made.positional.append(f"{argument}: {kind}")
        made.path = made.path.replace("{" + name + "}", "{quoted(" + argument + ")}")
        return
    if parameter["in"] == "cookie":
        return
    {"query": made.query, "header": made.headers}[parameter["in"]][name] = argument
    if parameter.get("required"):
        made.named.insert(0, f"{argument}: {kind}")
    else:
        made.named.append(f"{argument}: {union([kind, 'None'])} = None")


def add_body(made: Operation, content: Schema, schemas: Schema) -> None:
    schema = next(iter(content.values()))["schema"]
    target = schemas.get(schema.get("$ref", "").rpartition("/")[2], {})
    if "properties" not in target:
        made.positional.append(f"data: {type_of(schema, 'models.')}")
        made.whole = True
        return
    required = set(target.get("required", []))
    taken = {argument.partition(":")[0] for argument in made.positional + made.named}
    for key, member in target["properties"].items():
        argument = identifier(key)
        argument += "_" if argument in taken else ""
        made.body[key] = argument
        kind = type_of(member, "models.")
        if key in required:
            made.named.insert(0, f"{argument}: {kind}")
        else:
            made.named.append(f"{argument}: {union([kind, 'UnsetType'])} = UNSET")


def set_answer(made: Operation, responses: Schema) -> None:
    good = responses[min(status for status in responses if status.startswith("2"))]
    for media, content in good.get("content", {}).items():
        made.media = media
        if media == EVENTS:
            made.answer = "Event"
        elif media.startswith("text/"):
            made.answer = "str"
        elif "json" in media and "jsonl" not in media and "ndjson" not in media:
            made.answer = type_of(content.get("schema", {}), "models.")
        else:
            made.answer = "bytes"
        return


def client(document: Schema, *, asynchronous: bool) -> Iterator[str]:
    kind = "Asynchronous" if asynchronous else "Synchronous"
    yield f'"""{kind} operations of the admin API.{NOTE}"""'
    base = "AsyncTransport" if asynchronous else "Transport"
    iterator = "AsyncIterator" if asynchronous else "Iterator"
    yield "from __future__ import annotations\nfrom typing import TYPE_CHECKING, Any, Literal"
    yield "from msgspec import UNSET, UnsetType\nfrom kairos.client import models"
    yield f"from kairos.client.transport import {base}, Event, given, quoted"
    yield f"if TYPE_CHECKING:\n    from collections.abc import {iterator}"
    yield f"class {'AsyncOperations' if asynchronous else 'Operations'}({base}):"
    yield '    """A method for each operation."""'
    for made in operations(document):
        yield textwrap.indent("\n".join(method(made, asynchronous=asynchronous)), "    ")


def method(made: Operation, *, asynchronous: bool) -> Iterator[str]:
    arguments = ["self", *made.positional, *(["*", *made.named] if made.named else [])]
    streams = made.media == EVENTS
    waits = asynchronous and not streams
    iterator = "AsyncIterator" if asynchronous else "Iterator"
    answer = f"{iterator}[Event]" if streams else made.answer
    yield f"{'async ' if waits else ''}def {made.name}({', '.join(arguments)}) -> {answer}:"
    yield textwrap.indent(docstring(made.text), "    ")
    path = f'{"f" if "{" in made.path else ""}"{made.path}"'
    kind = "None" if made.answer == "None" else made.answer
    call = [repr(made.verb), path] if streams else [kind, repr(made.verb), path]
    call += [
        f"{what}=given({pairs(which)})" for what, which in (("query", made.query), ("headers", made.headers)) if which
    ]
    call += [f"body=given({pairs(made.body)})"] if made.body else ["body=data"] if made.whole else []
    gives = "" if kind == "None" and not streams else "return "
    yield f"    {gives}{'await ' if waits else ''}self.{'stream' if streams else 'call'}({', '.join(call)})"


def pairs(which: dict[str, str]) -> str:
    return "{" + ", ".join(f'"{name}": {argument}' for name, argument in which.items()) + "}"


# --- files ------------------------------------------------------------------------------------------------------------


def document() -> Schema:
    """The API's description, of an app that serves nobody."""
    things: dict[str, Any] = dict.fromkeys(wanted(all_handlers()))
    return make_app(things).openapi_schema.to_schema()


def files() -> dict[Path, str]:
    described = document()
    sources = {
        "models.py": models(described),
        "sync.py": client(described, asynchronous=False),
        "aio.py": client(described, asynchronous=True),
    }
    return {FOLDER / name: formatted("\n".join(lines)) for name, lines in sources.items()}


def formatted(source: str) -> str:
    for command in (["check", "-q", "--fix-only", "--select", "F401,I", "--unsafe-fixes"], ["format", "-q"]):
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename", str(FOLDER / "written.py"), "-"]
        source = subprocess.run(ruff, input=source, capture_output=True, text=True, check=True).stdout
    return source


def main() -> int:
    wrong = [path for path, source in files().items() if not path.exists() or path.read_text() != source]
    if "--check" in sys.argv:
        for path in wrong:
            print(f"{path.relative_to(FOLDER.parents[1])} is not what the API says: run python tools/client.py")
        return bool(wrong)
    for path, source in files().items():
        path.write_text(source)
    return 0


if __name__ == "__main__":
    sys.exit(main())
