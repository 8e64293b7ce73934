"""Certificates for tests, and TLS clients: Python's ssl, and the openssl program."""

from __future__ import annotations

import datetime
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.x509 import ocsp

from tests.support.net import Peer

DAY = datetime.timedelta(days=1)


class Authority:
    """A certificate authority in a folder, and what it issued."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ca = trustme.CA()
        self.ca_file = str(folder / "ca.pem")
        self.ca.cert_pem.write_to_path(self.ca_file)
        self.client_file = str(folder / "client.pem")
        self.client_certificate = self.ca.issue_cert("client@test", common_name="client")
        self.client_certificate.private_key_and_cert_chain_pem.write_to_path(self.client_file)

    def server(self, *names: str) -> ssl.SSLContext:
        """A context of Python's ssl for a server."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.ca.issue_cert(*names).configure_cert(context)
        return context

    def file(self, *names: str, name: str = "", **options: Any) -> str:
        """A PEM file with chain and key, for a gateway."""
        path = self.folder / f"{name or names[0].replace('*', 'star')}.pem"
        self.ca.issue_cert(*names, **options).private_key_and_cert_chain_pem.write_to_path(str(path))
        return str(path)

    @property
    def _signing(self) -> tuple[x509.Certificate, Any]:
        key = serialization.load_pem_private_key(self.ca.private_key_pem.bytes(), None)
        return x509.load_pem_x509_certificate(self.ca.cert_pem.bytes()), key

    def crl(self, *revoked: x509.Certificate, ends: datetime.timedelta = DAY) -> str:
        """A file with the list of these certificates."""
        authority, key = self._signing
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateRevocationListBuilder(authority.subject, now - 2 * DAY, now + ends)
        for certificate in revoked:
            entry = x509.RevokedCertificateBuilder(certificate.serial_number, now - DAY).build()
            builder = builder.add_revoked_certificate(entry)
        path = self.folder / "crl.pem"
        path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return str(path)

    def staple(self, certificate_file: str, *, ends: datetime.timedelta = DAY, revoked: bool = False) -> str:
        """A file with an OCSP response for the first certificate of a file."""
        authority, key = self._signing
        certificate = x509.load_pem_x509_certificate(_first_certificate(Path(certificate_file).read_bytes()))
        now = datetime.datetime.now(datetime.UTC)
        status = ocsp.OCSPCertStatus.REVOKED if revoked else ocsp.OCSPCertStatus.GOOD
        builder = (
            ocsp.OCSPResponseBuilder()
            .add_response(
                certificate, authority, hashes.SHA256(), status, now - 2 * DAY, now + ends,
                now - DAY if revoked else None, x509.ReasonFlags.unspecified if revoked else None,
            )
            .responder_id(ocsp.OCSPResponderEncoding.HASH, authority)
        )  # fmt: skip
        path = Path(certificate_file).with_suffix(".ocsp")
        path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.DER))
        return str(path)


def _first_certificate(pem: bytes) -> bytes:
    start = pem.index(b"-----BEGIN CERTIFICATE")
    return pem[start : pem.index(b"-----END CERTIFICATE-----", start) + 26]


def client_context(authority: Authority | None, version: str | None = None, own: str | None = None) -> ssl.SSLContext:
    """Trusts the authority; speaks only `version` (1.2, 1.3) where one is given; shows `own` where asked to."""
    context = ssl.create_default_context(cafile=authority.ca_file if authority else None)
    context.set_alpn_protocols(["http/1.1"])
    if version is not None:
        only = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}[version]
        context.minimum_version = context.maximum_version = only
    if own is not None:
        context.load_cert_chain(own)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def connect_tls(port: int, context: ssl.SSLContext, name: str | None = "shop.test", **options: Any) -> Peer:
    """A peer that has shaken hands."""
    sock = socket.create_connection(("127.0.0.1", port), timeout=25)
    return Peer(context.wrap_socket(sock, server_hostname=name, **options))


def openssl(*arguments: str, data: bytes = b"") -> str:
    """What the openssl program prints, its errors included."""
    done = subprocess.run(
        ["openssl", *arguments], input=data, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=20, check=False
    )
    return done.stdout.decode(errors="replace")


def s_client(port: int, *arguments: str, name: str = "shop.test", data: bytes = b"") -> str:
    """`openssl s_client` to a gateway; it leaves at the end of `data`."""
    where = ["-connect", f"127.0.0.1:{port}"]
    return openssl("s_client", *where, *(["-servername", name] if name else ["-noservername"]), *arguments, data=data)
