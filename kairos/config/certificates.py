"""What a certificate file says, and certificates made here. For the supervisor and the command line: the library is
slow to load, and workers need none of it.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import ipaddress
import math
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kairos.config.listeners import ServerCertificate

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

    from kairos.config.listeners import ServerTls
    from kairos.config.model import Config

SELF_SIGNED = "self-signed.pem"
VALID_DAYS = 397  # browsers believe none that is good for longer
RENEW_DAYS = 30


class CertificateError(Exception):
    """A file holds no certificate, or not the one it should."""


@dataclass(frozen=True, slots=True)
class Shown:
    """The certificate a server shows."""

    names: tuple[str, ...]
    """DNS names and addresses it is for; the common name of one that has none."""
    not_before: float
    not_after: float
    """Unix seconds."""
    key: str
    """Kind of key: `RSA`, `EC`, ..."""
    bits: int
    public: bytes
    """The public key as DER."""
    signature: str | None
    """Hash of its signature: `sha256`; None where there is none of its own (Ed25519)."""
    self_signed: bool


def list_ends(path: str) -> float:
    """When the first of the revocation lists in a PEM file is over, in Unix seconds; infinity where none says.

    Raises CertificateError or OSError.
    """
    from cryptography import x509

    mark = b"-----BEGIN X509 CRL-----"
    _, *lists = Path(path).read_bytes().split(mark)
    try:
        ends = [x509.load_pem_x509_crl(mark + text).next_update_utc for text in lists]
    except ValueError as error:
        raise CertificateError(f"{path} holds no certificate revocation list: {error}") from None
    return min((end.timestamp() for end in ends if end is not None), default=math.inf)


def read(path: str) -> Shown:
    """The first certificate of a PEM file. Raises CertificateError or OSError."""
    from cryptography import x509

    try:
        return _shown(x509.load_pem_x509_certificate(Path(path).read_bytes()))
    except ValueError as error:
        raise CertificateError(f"{path} holds no certificate in PEM form: {error}") from error


def _shown(found: x509.Certificate) -> Shown:
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    public = found.public_key()
    try:
        used = found.signature_hash_algorithm
    except UnsupportedAlgorithm:
        used = None
    return Shown(
        names=_names(found),
        not_before=found.not_valid_before_utc.timestamp(),
        not_after=found.not_valid_after_utc.timestamp(),
        key=_kind(public),
        bits=getattr(public, "key_size", 0),
        public=public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        signature=used.name if used is not None else None,
        self_signed=found.issuer == found.subject,
    )


def _kind(public: PublicKeyTypes) -> str:
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    if isinstance(public, rsa.RSAPublicKey):
        return "RSA"
    return "EC" if isinstance(public, ec.EllipticCurvePublicKey) else type(public).__name__.strip("_")


def _names(found: x509.Certificate) -> tuple[str, ...]:
    from cryptography import x509

    try:
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        common = found.subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)
        return tuple(str(name.value).lower() for name in common)
    addresses = names.get_values_for_type(x509.IPAddress)
    return tuple(name.lower() for name in (*names.get_values_for_type(x509.DNSName), *map(str, addresses)))


def public_of_key(path: str) -> bytes:
    """The public half of the private key in a PEM file, as DER. Raises CertificateError or OSError."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        key = load_pem_private_key(Path(path).read_bytes(), None)
    except TypeError as error:
        raise CertificateError(f"the key in {path} is encrypted: nobody is there to type its password") from error
    except ValueError as error:
        raise CertificateError(f"{path} holds no private key in PEM form: {error}") from error
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def names_of(path: str) -> tuple[str, ...]:
    """Names of the first certificate in a file; none where it cannot be read."""
    try:
        return read(path).names
    except (CertificateError, OSError):
        return ()


def ends_of(config: Config) -> list[tuple[str, float]]:
    """Each certificate that is served, by its file, and when it ends."""
    found = []
    for one in config.server.tls.certificates if config.server.tls is not None else []:
        with contextlib.suppress(CertificateError, OSError):  # workers have said what is wrong with it
            found.append((one.cert_file, read(one.cert_file).not_after))
    return found


def completed(tls: ServerTls, folder: str, now: float) -> ServerTls:
    """With the names that certificates say they are for, and the one made here where that is asked for.

    Raises:
        CertificateError: that one cannot be kept.
    """
    certificates = [replace(one, names=one.names or list(names_of(one.cert_file))) for one in tls.certificates]
    if tls.self_signed:
        if not folder:
            raise CertificateError("needs a state folder to keep the certificate in: see --state-dir")
        try:
            path = str(self_signed(Path(folder) / "tls", now))
        except OSError as error:
            raise CertificateError(f"the certificate cannot be kept in {folder}: {error}") from error
        certificates.append(ServerCertificate(path, names=list(names_of(path))))
    return replace(tls, certificates=certificates)


# ---- made here ---------------------------------------------------------------------------------------------------


def self_signed(folder: Path, now: float) -> Path:
    """The file of a certificate and key for this machine, made where there is none that is good for a while.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / SELF_SIGNED
    with contextlib.suppress(CertificateError, OSError):
        if read(str(path)).not_after > now + RENEW_DAYS * 86_400:
            return path
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(_made(now, _own_names(), _own_addresses()))
        file.flush()
        os.fsync(file.fileno())
    new.replace(path)
    return path


def _own_names() -> list[str]:
    names = [socket.gethostname().lower(), "localhost"]
    return [name for name in dict.fromkeys(names) if name and name.isascii() and len(name) <= 64]


def _own_addresses() -> list[str]:
    """Those that packets for elsewhere would be sent from, and loopback; nothing is sent."""
    found = ["127.0.0.1", "::1"]
    for family, elsewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.connect((elsewhere, 9))
            found.append(probe.getsockname()[0])
    return list(dict.fromkeys(found))


def _made(now: float, names: list[str], addresses: list[str]) -> bytes:
    """Certificate and key as PEM: P-256, for a server only."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import ExtendedKeyUsageOID

    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, names[0] if names else "localhost")])
    begin = datetime.datetime.fromtimestamp(now, datetime.UTC)
    listed = [x509.DNSName(name) for name in names]
    listed += [x509.IPAddress(ipaddress.ip_address(address)) for address in addresses]  # type: ignore[misc]
    builder = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(begin - datetime.timedelta(hours=1))
        .not_valid_after(begin + datetime.timedelta(days=VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(listed), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
    )
    made = builder.sign(key, hashes.SHA256())
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made.public_bytes(Encoding.PEM) + private


def fingerprint(der: bytes) -> str:
    """SHA-256 of a certificate, in lower-case hexadecimal."""
    return hashlib.sha256(der).hexdigest()
