"""How clients reach the gateway beside plain HTTP: the TLS listener, and the PROXY protocol in front of it."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from kairos.config.spec import Seconds, Spec

TLS_PORT = 5943
CIPHERS = "ECDHE+AESGCM+AES128:ECDHE+AESGCM:ECDHE+CHACHA20"
"""TLS 1.2: forward secrecy and authenticated encryption only. AES-128 first: it goes with SHA-256, for which processors
have instructions."""
CIPHERSUITES = "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256"


class ClientCertificates(Spec, frozen=True):
    """Certificates of clients (mutual TLS)."""

    mode: Literal["off", "optional", "required"] = "off"
    """`optional`: one that is shown must be good; `required`: no handshake without one."""
    ca_file: str | None = None
    """PEM file of the authorities that may have signed them. Needed unless mode is off."""
    crl_file: str | None = None
    """PEM file with the revocation lists of all these authorities; whoever stands there is refused."""
    depth: Annotated[int, Meta(ge=0, le=20)] = 3
    """Intermediate authorities between a client's certificate and one in ca_file, at most."""


class ServerCertificate(Spec, frozen=True):
    """One certificate and the names it is shown for."""

    cert_file: str
    """PEM file: the certificate, then those of the intermediate authorities."""
    key_file: str | None = None
    """Its private key, when not in cert_file. Not encrypted."""
    ocsp_file: str | None = None
    """OCSP response (DER) to be stapled, for as long as it is good; whoever fetches it replaces the file."""
    names: list[str] = field(default_factory=list)
    """Server names (SNI) it is for, `*.example.com` for any one label; by default those in the certificate."""
    client_auth: ClientCertificates | None = None
    """Own settings instead of server.tls.client_auth, for these names."""


class SessionTickets(Spec, frozen=True):
    """Session tickets: clients that come back within their lifetime skip the expensive part of the handshake."""

    enabled: bool = True
    lifetime: Annotated[int, Meta(ge=60, le=86_400)] = 7200
    """Seconds for which a ticket may be used."""
    rotate: Annotated[int, Meta(ge=60, le=86_400)] = 43_200
    """Seconds after which new tickets are made with a new key; those made with the one before stay good as long."""


class ServerTls(Spec, frozen=True):
    """HTTPS: a port of its own beside the plain one."""

    port: Annotated[int, Meta(ge=0, le=65_535)] = TLS_PORT
    """TCP port; 0 lets the system choose one."""
    certificates: list[ServerCertificate] = field(default_factory=list)
    """The first one is also for clients that name no server, and for names nobody lists. Two with the same names and
    keys of different kinds (ECDSA, RSA) are both offered."""
    self_signed: bool = False
    """Make a certificate for this machine on first start, and keep it in the state folder. For trying things out."""
    min_version: Literal["1.2", "1.3"] = "1.2"
    ciphers: str = CIPHERS
    """Cipher suites of TLS 1.2, in OpenSSL's words."""
    ciphersuites: str | None = CIPHERSUITES
    """Cipher suites of TLS 1.3; null means OpenSSL's, which begin with AES-256."""
    groups: str | None = None
    """Groups of the key exchange, such as `X25519:P-256`; null means OpenSSL's."""
    client_auth: ClientCertificates = ClientCertificates()
    unknown_names: Literal["default", "reject"] = "default"
    """Server names nobody lists: the first certificate, or no handshake."""
    handshake_timeout: Seconds = 10.0
    """From the connection (or its PROXY header) to the end of the handshake."""
    tickets: SessionTickets = SessionTickets()


class ProxyProtocol(Spec, frozen=True):
    """Who sends a PROXY protocol header (version 1 or 2) in front of everything else, and is believed."""

    networks: list[str] = field(default_factory=list)
    """Addresses of those proxies, in CIDR form; `unix` for all of the unix socket. Their connections must begin with a
    header; all others' bytes are taken as they come."""
    timeout: Seconds = 5.0
    """From the connection to the end of the header."""
