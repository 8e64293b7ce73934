"""What --check says about the TLS listener and the PROXY protocol."""

from __future__ import annotations

import datetime
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from kairos.config.certificates import read, self_signed
from kairos.config.check import check
from kairos.config.files import tls_files
from kairos.config.load import loads
from kairos.config.model import Config, Server
from tests.support.tls import Authority

NOW = datetime.datetime.now(datetime.UTC)
DAY = datetime.timedelta(days=1)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("tls"))


def problems(server: dict[str, Any]) -> list[str]:
    """Errors and warnings about the section."""
    config = Config(server=msgspec.convert(server, Server), routers=[])
    return [
        f"{found.severity} {found.path}: {found.message}"
        for found in check(config)
        if found.path.startswith("server") and found.severity != "hint"
    ]


def of_tls(*certificates: Any, **members: Any) -> list[str]:
    listed = [one if isinstance(one, dict) else {"cert_file": one} for one in certificates]
    return problems({"tls": {"certificates": listed, **members}})


def made(path: Path, *, key: Any = None, begins: Any = NOW - DAY, ends: Any = NOW + 90 * DAY, **options: Any) -> str:
    """A certificate as no authority would make it, self-signed."""
    key = key or ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "odd.test")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 1, begins, ends)
    if options.get("names", True):
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName("odd.test")]), critical=False)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, options.get("seal", serialization.NoEncryption())
    )
    path.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(pem) + private)
    path.chmod(options.get("mode", 0o600))
    return str(path)


def test_good_ones_are_not_talked_about(tmp_path: Path) -> None:
    assert of_tls(made(tmp_path / "good.pem"), {"cert_file": made(tmp_path / "b.pem"), "names": ["odd.test"]}) == []
    assert problems({"tls": {"self_signed": True}}) == []
    assert problems({"proxy_protocol": {"networks": ["10.0.0.0/8", "::1", "unix"]}}) == []


def said(found: list[str], *texts: str) -> bool:
    """The problems are these, by their beginnings."""
    return len(found) == len(texts) and all(one.startswith(text) for one, text in zip(found, texts, strict=True))


def test_a_listener_needs_a_certificate_and_the_gateway_a_port() -> None:
    assert said(of_tls(), "error server.tls.certificates: is empty")
    assert said(problems({"plain": False}), "error server.plain: no port is left")
    assert said(problems({"port": 5943, "tls": {"self_signed": True}}), "error server.tls.port: port 5943 is the plain")


def test_files_that_cannot_be_used(tmp_path: Path, authority: Authority) -> None:
    good, other = made(tmp_path / "good.pem"), made(tmp_path / "other.pem")
    (tmp_path / "text").write_text("hello")
    text = str(tmp_path / "text")
    at = "error server.tls.certificates[0]"
    assert said(of_tls("/none"), f"{at}.cert_file: cannot read /none: No such file")
    assert said(of_tls(text), f"{at}.cert_file: {text} holds no certificate in PEM form")
    keyless = {"cert_file": good, "key_file": authority.ca_file}
    assert said(of_tls(keyless), f"{at}.key_file: {authority.ca_file} holds no private key in PEM form")
    assert said(of_tls({"cert_file": good, "key_file": other}), f"{at}.key_file: {other} is not the key of {good}")
    sealed = made(tmp_path / "sealed.pem", seal=serialization.BestAvailableEncryption(b"secret"))
    assert said(of_tls(sealed), f"{at}.key_file: the key in {sealed} is encrypted")


def test_what_clients_will_not_like(tmp_path: Path) -> None:
    at = "warning server.tls.certificates[0]"
    ended = made(tmp_path / "ended.pem", ends=NOW - datetime.timedelta(hours=1))
    assert said(of_tls(ended), f"{at}.cert_file: {ended} ended on ")
    soon = made(tmp_path / "soon.pem", ends=NOW + 5 * DAY)
    assert said(of_tls(soon), f"{at}.cert_file: {soon} ends on ")
    later = made(tmp_path / "later.pem", begins=NOW + DAY)
    assert said(of_tls(later), f"{at}.cert_file: {later} is not valid before ")
    good = made(tmp_path / "good.pem")
    found = of_tls({"cert_file": good, "names": ["odd.test", "shop.test"]})
    assert said(found, f"{at}.names: {good} is not for shop.test")
    assert said(
        of_tls({"cert_file": good, "names": ["a b"]})[:1], "error server.tls.certificates[0].names[0]: 'a b' is"
    )


def test_keys_that_are_too_weak_or_open_to_all(tmp_path: Path) -> None:
    weak = made(tmp_path / "weak.pem", key=rsa.generate_private_key(65537, 1024))
    assert of_tls(weak)[0].startswith(f"error server.tls.certificates[0].cert_file: {weak} has a weak key (RSA of 1024")
    open_ = made(tmp_path / "open.pem", mode=0o644)
    assert said(of_tls(open_), f"warning server.tls.certificates[0].key_file: anybody on this machine can read {open_}")


def test_what_only_openssl_can_judge(tmp_path: Path) -> None:
    good = made(tmp_path / "good.pem")
    assert said(of_tls(good, ciphers="NONE-SUCH"), "error server.tls.certificates[0]: ciphers 'NONE-SUCH': no cipher")
    assert said(of_tls(good, ciphersuites="X"), "error server.tls.certificates[0]: ciphersuites 'X'")
    assert said(of_tls(good, groups="P-0"), "error server.tls.certificates[0]: groups 'P-0'")


def test_client_certificates(tmp_path: Path, authority: Authority) -> None:
    good = made(tmp_path / "good.pem")
    at = "error server.tls.client_auth"
    assert said(of_tls(good, client_auth={"mode": "required"}), f"{at}.ca_file: is needed with mode required")
    assert of_tls(good, client_auth={"mode": "optional", "ca_file": "/none"})[0].startswith(
        f"{at}.ca_file: cannot read"
    )
    auth = {"mode": "optional", "ca_file": authority.ca_file, "crl_file": authority.ca_file}
    assert said(of_tls(good, client_auth=auth), "error server.tls.certificates[0]: ")
    assert of_tls(good, client_auth={**auth, "crl_file": authority.crl()}) == []
    for ends, told in ((-DAY, "ended on "), (DAY / 48, "ends on ")):
        crl = authority.crl(ends=ends)
        (warning,) = of_tls(good, client_auth={**auth, "crl_file": crl})
        assert warning.startswith(f"warning server.tls.client_auth.crl_file: {crl} {told}")


def test_ocsp_responses(tmp_path: Path, authority: Authority) -> None:
    path = authority.file("staple.test")
    Path(path).chmod(0o600)
    good = authority.staple(path)
    at = "warning server.tls.certificates[0].ocsp_file: not stapled"
    assert not any("ocsp" in one for one in of_tls({"cert_file": path, "ocsp_file": good}))
    authority.staple(path, ends=-DAY)
    assert any(one.startswith(f"{at}: {good} ended on ") for one in of_tls({"cert_file": path, "ocsp_file": good}))
    authority.staple(path, revoked=True)
    assert any("does not call the certificate good" in one for one in of_tls({"cert_file": path, "ocsp_file": good}))
    assert any(one.startswith(at) for one in of_tls({"cert_file": path, "ocsp_file": path}))


def test_proxy_networks() -> None:
    at = "server.proxy_protocol.networks"
    assert said(problems({"proxy_protocol": {}}), f"error {at}: is empty")
    found = problems({"proxy_protocol": {"networks": ["lb.test", "0.0.0.0/0"]}})
    assert said(found, f"error {at}[0]: 'lb.test' is no network", f"warning {at}[1]: lets every client say who it is")


def test_a_reload_knows_every_file(authority: Authority) -> None:
    auth = {"mode": "optional", "ca_file": "ca", "crl_file": "crl"}
    one = {"cert_file": "c", "key_file": "k", "ocsp_file": "o", "client_auth": {"ca_file": "own"}}
    text = json.dumps({"server": {"tls": {"certificates": [one], "client_auth": auth}}, "routers": []})
    assert set(tls_files(loads(text.encode(), "json", "x").config)) == {"c", "k", "o", "own", "ca", "crl"}


def test_a_certificate_made_here(tmp_path: Path) -> None:
    now = NOW.timestamp()
    path = self_signed(tmp_path / "tls", now)
    shown = read(str(path))
    assert {"localhost", "127.0.0.1", "::1"} <= set(shown.names)
    assert now + 390 * 86_400 < shown.not_after < now + 398 * 86_400
    assert path.stat().st_mode & 0o777 == 0o600
    assert of_tls(str(path)) == []
    before = path.read_bytes()
    assert self_signed(tmp_path / "tls", now).read_bytes() == before
    assert self_signed(tmp_path / "tls", now + 370 * 86_400).read_bytes() != before
