"""HTTP message signatures (RFC 9421) and digests of bodies (RFC 9530), verifier's side: bytes in, verdicts out.

What is signed is built from the request as it was sent: its raw target, its fields joined in order. Everything that
could be read in two ways is refused: components named twice, query parameters that occur twice, parameters of
components that are not understood (`sf`, `tr`, `req`).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import parse_qsl, quote

from kairos.proxy.structured import Item, StructureError, parse_dictionary, write_bare, write_item

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

MOST_SIGNATURES = 4
"""Of one request; more are refused, for each costs work."""
MOST_COMPONENTS = 64
ALGORITHM = "hmac-sha256"

_DIGESTS = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512}
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
IMPLIED = {
    "@target-uri": frozenset({"@scheme", "@authority", "@path", "@query", "@request-target"}),
    "@request-target": frozenset({"@path", "@query"}),
}
"""What a component covers beside itself."""


class SignatureError(Exception):
    """A signature or digest that is no good; the text may be shown."""


class Message(NamedTuple):
    """A request as it was sent."""

    method: str
    scheme: str
    authority: str
    """Host as sent."""
    target: str
    """Path and query as sent."""
    fields: Sequence[tuple[str, str]]
    """Name in lower case, value, in order."""

    @property
    def path(self) -> str:
        return self.target.partition("?")[0] or "/"

    @property
    def query(self) -> str:
        """With its `?`, which is there where nothing follows it, too (section 2.2.7)."""
        return "?" + self.target.partition("?")[2]

    def values(self, name: str) -> list[str]:
        return [value.strip(" \t") for key, value in self.fields if key == name]


class Signature(NamedTuple):
    """One signature of a request, as it claims to be."""

    label: str
    covered: Item
    """The inner list of components, with the parameters of the signature."""
    value: bytes

    @property
    def key_id(self) -> str | None:
        found = self.covered[1].get("keyid")
        return found if isinstance(found, str) else None

    def number(self, name: str) -> int | None:
        """`created` or `expires`, in unix seconds."""
        found = self.covered[1].get(name)
        if found is not None and type(found) is not int:
            raise SignatureError(f"the signature's {name} is no whole number")
        return found

    @property
    def nonce(self) -> str | None:
        found = self.covered[1].get("nonce")
        return found if isinstance(found, str) else None

    @property
    def names(self) -> set[str]:
        """What is covered as a whole, by name."""
        plain = {name for name, parameters in self.covered[0] if not parameters}
        return plain.union(*(IMPLIED[name] for name in plain if name in IMPLIED))


def signatures_of(inputs: str, values: str) -> list[Signature]:
    """The signatures of the fields Signature-Input and Signature.

    Raises:
        SignatureError: they are malformed, or not each other's.
    """
    try:
        described, given = parse_dictionary(inputs), parse_dictionary(values)
    except StructureError as error:
        raise SignatureError(f"the signature fields are malformed: {error}") from None
    if described.keys() != given.keys() or not described:
        raise SignatureError("Signature-Input and Signature have different labels")
    if len(described) > MOST_SIGNATURES:
        raise SignatureError(f"more than {MOST_SIGNATURES} signatures")
    return [_signature(label, covered, given[label][0]) for label, covered in described.items()]


def _signature(label: str, covered: Item, value: object) -> Signature:
    components = covered[0]
    if not isinstance(value, bytes) or not isinstance(components, list):
        raise SignatureError(f"the signature {label} is malformed")
    if len(components) > MOST_COMPONENTS or not all(type(name) is str for name, _ in components):
        raise SignatureError(f"the signature {label} covers what is no component")
    return Signature(label, covered, value)


def base(covered: Item, message: Message) -> bytes:
    """The signature base (section 2.5): one line per component, then how it was signed.

    Raises:
        SignatureError: a component is not there, or cannot be told.
    """
    lines: dict[str, str] = {}
    for component in covered[0]:
        identifier = write_item(component)
        if identifier in lines:
            raise SignatureError(f"{identifier} is covered twice")
        lines[identifier] = _value(component, message)
    text = "".join(f"{identifier}: {value}\n" for identifier, value in lines.items())
    return (text + f'"@signature-params": {write_item(covered)}').encode("latin-1", "replace")


def _value(component: Item, message: Message) -> str:
    name, parameters = component
    if name.startswith("@"):
        return _derived(name, parameters, message)
    values = message.values(name)
    if not values:
        raise SignatureError(f"the signature covers {name}, which the request does not have")
    if parameters == {"bs": True}:
        return ", ".join(write_bare(value.encode("latin-1")) for value in values)
    if parameters.keys() == {"key"}:
        return _member(name, ", ".join(values), parameters["key"])
    if parameters:
        raise SignatureError(f"{write_item(component)} has parameters that are not supported")
    return ", ".join(values)


def _member(name: str, text: str, key: object) -> str:
    """One member of a dictionary field (section 2.1.2)."""
    try:
        members = parse_dictionary(text)
    except StructureError:
        members = {}
    if not isinstance(key, str) or key not in members:
        raise SignatureError(f"the signature covers the member {key} of {name}, which the request does not have")
    return write_item(members[key])


_DERIVED: dict[str, Callable[[Message], str]] = {
    "@method": lambda message: message.method,
    "@authority": lambda message: _authority(message),
    "@scheme": lambda message: message.scheme,
    "@target-uri": lambda message: f"{message.scheme}://{_authority(message)}{message.target}",
    "@request-target": lambda message: message.target,
    "@path": lambda message: message.path,
    "@query": lambda message: message.query,
}


def _derived(name: str, parameters: dict[str, object], message: Message) -> str:
    if name == "@query-param" and parameters.keys() == {"name"}:
        return _query_parameter(parameters["name"], message)
    if parameters or name not in _DERIVED:
        raise SignatureError(f"the signature covers {name}, which is not supported")
    return _DERIVED[name](message)


def _authority(message: Message) -> str:
    """In lower case, without the scheme's own port (section 2.2.3)."""
    return message.authority.lower().removesuffix(_DEFAULT_PORTS.get(message.scheme, ""))


def _query_parameter(name: object, message: Message) -> str:
    """The one value of a parameter (section 2.2.8)."""
    try:
        pairs = parse_qsl(message.query[1:], keep_blank_values=True, max_num_fields=1000)
    except ValueError:
        pairs = []
    values = [value for key, value in pairs if quote(key, safe="") == name]
    if len(values) != 1:
        raise SignatureError(f"the signature covers the query parameter {name}, which is there {len(values)} times")
    return quote(values[0], safe="")


# --- judging --------------------------------------------------------------------------------------------------------


def check_time(signature: Signature, now: float, max_age: float, skew: float) -> None:
    """Made not long ago, and still good; clocks may differ by `skew` seconds.

    Raises:
        SignatureError: it is too old, from the future, or has no time.
    """
    created, expires = signature.number("created"), signature.number("expires")
    if created is None:
        raise SignatureError("the signature does not say when it was created")
    if created > now + skew:
        raise SignatureError("the signature was created in the future: compare the clocks")
    if created + max_age + skew < now or (expires is not None and expires + skew < now):
        raise SignatureError("the signature has expired")


def check_covered(signature: Signature, required: Collection[str]) -> None:
    """All that has to be signed is."""
    missing = sorted(set(required) - signature.names)
    if missing:
        raise SignatureError(f"the signature has to cover {', '.join(missing)}")


def matches(signature: Signature, message: Message, secret: bytes) -> bool:
    """Whether it was made with this secret; compared in constant time."""
    if signature.covered[1].get("alg", ALGORITHM) != ALGORITHM:
        raise SignatureError(f"the signature's algorithm is not {ALGORITHM}")
    expected = hmac.digest(secret, base(signature.covered, message), "sha256")
    return hmac.compare_digest(expected, signature.value)


def sign(covered: Item, message: Message, secret: bytes) -> bytes:
    """What a client would send."""
    return hmac.digest(secret, base(covered, message), "sha256")


def check_digest(field: str, body: bytes) -> None:
    """The body is the one that Content-Digest speaks of; every digest that is understood has to be right.

    Raises:
        SignatureError: it is another one, or nothing in the field is understood.
    """
    given = list(_digests(field))
    if not given:
        raise SignatureError(f"Content-Digest needs one of {', '.join(_DIGESTS)}")
    for name, value in given:
        if not hmac.compare_digest(_DIGESTS[name](body).digest(), value):
            raise SignatureError("the body is not the one of Content-Digest")


def _digests(field: str) -> Iterator[tuple[str, bytes]]:
    try:
        members = parse_dictionary(field)
    except StructureError as error:
        raise SignatureError(f"Content-Digest is malformed: {error}") from None
    for name, (value, _) in members.items():
        if name in _DIGESTS:
            if not isinstance(value, bytes):
                raise SignatureError("Content-Digest is malformed: a digest is written :base64:")
            yield name, value


def digest_field(body: bytes, algorithms: Iterable[str] = ("sha-256",)) -> str:
    """What a client would send as Content-Digest."""
    encoded = ((name, base64.b64encode(_DIGESTS[name](body).digest()).decode()) for name in algorithms)
    return ", ".join(f"{name}=:{value}:" for name, value in encoded)
