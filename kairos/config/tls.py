"""TLS towards backends: the settings compiled, the same for requests and for health checks."""

from __future__ import annotations

import os
import ssl
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from kairos.config.model import UpstreamTls

TlsKey: TypeAlias = "tuple[UpstreamTls, tuple[tuple[int, int, int], ...]]"


def tls_key(tls: UpstreamTls) -> TlsKey:
    """TLS settings with the state of the files they name, so that a reload takes up a renewed certificate.

    Raises:
        OSError: a file is not there.
    """
    files = [os.stat(path) for path in (tls.ca_file, tls.cert_file, tls.key_file) if path]
    return tls, tuple((file.st_ino, file.st_mtime_ns, file.st_size) for file in files)


def client_context(tls: UpstreamTls) -> ssl.SSLContext:
    """TLS towards upstreams: verified unless told otherwise.

    Raises:
        OSError, ssl.SSLError: a file cannot be read or holds no certificate.
    """
    context = ssl.create_default_context(cafile=tls.ca_file)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if tls.cert_file:
        context.load_cert_chain(tls.cert_file, tls.key_file)
    return context
