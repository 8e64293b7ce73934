"""Judges how clients reach the gateway: certificates and keys of the TLS listener, PROXY protocol, ports.

Everything that would fail when the listener is made is found here, with the file and what to do; and what will fail
later: certificates that end soon, keys that are too weak, names that nobody can reach.
"""

from __future__ import annotations

import contextlib
import ipaddress
import time
from pathlib import Path
from typing import TYPE_CHECKING

from kairos._speedups.tls import TlsContext, TlsError, library, staple_good_until
from kairos.config.certificates import CertificateError, list_ends, public_of_key, read
from kairos.config.origin import ascii_name

if TYPE_CHECKING:
    from kairos.config.certificates import Shown
    from kairos.config.listeners import ClientCertificates, ProxyProtocol, ServerCertificate, ServerTls
    from kairos.config.model import Server
    from kairos.config.problems import Findings
    from kairos.config.problems import Path as Keys

SOON = 21 * 86_400
"""Seconds before its end from which on a certificate is warned of."""
SOON_LIST = 3600
"""The same of a revocation list, which is renewed every few days or hours."""
RSA_BITS, EC_BITS = 2048, 224
WEAK_HASHES = ("md5", "sha1")


def check_listeners(server: Server, found: Findings) -> None:
    """Everything about the section `server` that concerns TLS and PROXY."""
    if server.tls is not None:
        _check_tls(server, server.tls, found)
    elif not server.plain:
        found.error(("server", "plain"), "no port is left: set server.tls, or leave server.plain as it is")
    if server.proxy_protocol is not None:
        _check_proxy(server.proxy_protocol, found)


def _check_tls(server: Server, tls: ServerTls, found: Findings) -> None:
    keys: Keys = ("server", "tls")
    try:
        library()
    except TlsError as error:
        found.error(keys, str(error))
        return
    if tls.port == server.port != 0 and server.plain:
        found.error((*keys, "port"), f"port {tls.port} is the plain one: HTTPS needs another, or server.plain false")
    if not tls.certificates and not tls.self_signed:
        found.error((*keys, "certificates"), "is empty: name cert_file and key_file, or set self_signed for a trial")
    if tls.tickets.lifetime > tls.tickets.rotate:
        found.warning((*keys, "tickets", "lifetime"), "is longer than rotate: some tickets end before their time")
    _check_clients(tls.client_auth, (*keys, "client_auth"), found)
    good = True
    for at, certificate in enumerate(tls.certificates):
        good &= check_certificate(certificate, (*keys, "certificates", at), found)
    if good and tls.certificates:
        _try_out(tls, keys, found)


def check_certificate(one: ServerCertificate, keys: Keys, found: Findings) -> bool:
    """Whether its files can be used."""
    if one.client_auth is not None:
        _check_clients(one.client_auth, (*keys, "client_auth"), found)
    for at, name in enumerate(one.names):
        bare = name.removeprefix("*.")
        if ascii_name(bare) is None or "*" in bare:
            found.error((*keys, "names", at), f"'{name}' is no server name: write example.com or *.example.com")
    if one.ocsp_file is not None:
        _check_staple(one.ocsp_file, (*keys, "ocsp_file"), found)
    try:
        shown = read(one.cert_file)
    except (CertificateError, OSError) as error:
        found.error((*keys, "cert_file"), _said(error, one.cert_file))
        return False
    _check_shown(shown, one, keys, found)
    return _check_key(shown, one, keys, found)


def _check_key(shown: Shown, one: ServerCertificate, keys: Keys, found: Findings) -> bool:
    path = one.key_file or one.cert_file
    try:
        fits = public_of_key(path) == shown.public
    except (CertificateError, OSError) as error:
        found.error((*keys, "key_file"), _said(error, path))
        return False
    if not fits:
        found.error((*keys, "key_file"), f"{path} is not the key of {one.cert_file}")
    elif Path(path).stat().st_mode & 0o007:
        found.warning((*keys, "key_file"), f"anybody on this machine can read {path}: chmod o= {path}")
    return fits


def _check_shown(shown: Shown, one: ServerCertificate, keys: Keys, found: Findings) -> None:
    now, at = time.time(), (*keys, "cert_file")
    if shown.not_after <= now:
        found.warning(at, f"{one.cert_file} ended on {_day(shown.not_after)}: clients refuse it; renew it")
    elif shown.not_after < now + SOON:
        found.warning(at, f"{one.cert_file} ends on {_day(shown.not_after)}: renew it")
    if shown.not_before > now:
        found.warning(at, f"{one.cert_file} is not valid before {_day(shown.not_before)}")
    least = {"RSA": RSA_BITS, "EC": EC_BITS}.get(shown.key, 0)
    if shown.bits < least:
        found.error(at, f"{one.cert_file} has a weak key ({shown.key} of {shown.bits} bits): make one of {least} bits")
    if shown.signature in WEAK_HASHES and not shown.self_signed:
        found.warning(at, f"{one.cert_file} is signed with {shown.signature}, which clients refuse: renew it")
    if not shown.names and not one.names:
        found.warning(at, f"{one.cert_file} is for no name: list its names, or it is only the default")
    missing = [name for name in one.names if not _covers(shown.names, name)]
    if missing:
        found.warning((*keys, "names"), f"{one.cert_file} is not for {', '.join(missing)}: clients refuse it there")


def _covers(names: tuple[str, ...], name: str) -> bool:
    name = name.lower()
    return name in names or f"*.{name.partition('.')[2]}" in names


def _check_staple(path: str, keys: Keys, found: Findings) -> None:
    try:
        until = staple_good_until(Path(path).read_bytes())
    except (TlsError, OSError) as error:
        found.warning(keys, f"not stapled: {_said(error, path)}")
        return
    if until <= time.time():
        found.warning(keys, f"not stapled: {path} ended on {_day(until)}")


def _check_clients(clients: ClientCertificates, keys: Keys, found: Findings) -> None:
    if clients.mode == "off":
        return
    if clients.ca_file is None:
        found.error((*keys, "ca_file"), f"is needed with mode {clients.mode}: the authorities of your clients")
    for name in ("ca_file", "crl_file"):
        path = getattr(clients, name)
        if path is not None:
            _check_readable(path, (*keys, name), found)
    if clients.crl_file is not None:
        _check_list(clients.crl_file, (*keys, "crl_file"), found)


def _check_list(path: str, keys: Keys, found: Findings) -> None:
    """One that is over is as good as one that revokes everybody. What is none at all is told by OpenSSL."""
    with contextlib.suppress(CertificateError, OSError):
        ends = list_ends(path)
        if ends <= time.time():
            found.warning(
                keys, f"{path} ended on {_day(ends)}: no client is let in with a certificate until it is renewed"
            )
        elif ends <= time.time() + SOON_LIST:
            found.warning(keys, f"{path} ends on {_day(ends)}: after that no client gets in with a certificate")


def _check_readable(path: str, keys: Keys, found: Findings) -> None:
    try:
        with open(path, "rb"):
            pass
    except (OSError, ValueError) as error:
        found.error(keys, _said(error, path))


def _try_out(tls: ServerTls, keys: Keys, found: Findings) -> None:
    """What only OpenSSL can judge: its own names of ciphers and groups, authorities, revocation lists."""
    for at, one in enumerate(tls.certificates):
        clients = one.client_auth or tls.client_auth
        asks = clients if clients.mode != "off" and clients.ca_file is not None else None
        try:
            TlsContext(tls, [(one.cert_file, one.key_file or one.cert_file, None)], asks)
        except TlsError as error:
            found.error((*keys, "certificates", at), str(error))


def _check_proxy(proxy: ProxyProtocol, found: Findings) -> None:
    keys: Keys = ("server", "proxy_protocol", "networks")
    if not proxy.networks:
        found.error(keys, "is empty: list the addresses of your load balancers")
    for at, text in enumerate(proxy.networks):
        if text == "unix":
            continue
        try:
            network = ipaddress.ip_network(text, strict=False)
        except ValueError:
            found.error((*keys, at), f"'{text}' is no network: write an address or CIDR such as 10.0.0.0/8, or unix")
            continue
        if network.prefixlen == 0:
            found.warning((*keys, at), "lets every client say who it is: list your load balancers only")


def _day(stamp: float) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(stamp))


def _said(error: Exception, path: str) -> str:
    if isinstance(error, OSError):
        return f"cannot read {path}: {error.strerror}"
    return str(error)
