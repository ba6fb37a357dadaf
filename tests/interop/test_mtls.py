"""Mutual TLS (RFC 8705) with `oidc-provider`: a certificate of an authority, a self-signed one, and wrong ones."""

from __future__ import annotations

import base64
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from joserfc.jwk import ECKey

from conduit_oauth import ConfigurationError, TokenProvider, TokenRequestError
from tests.certificates import issue
from tests.conftest import FakeClock
from tests.interop.test_oidc_provider import SECRET, OidcProvider, running


@pytest.fixture(scope="module")
def pki(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("pki")
    authority = issue(folder, "ca", ca=True)
    for name in ("server", "machine", "intruder"):
        issue(folder, name, authority)
    issue(folder, "self-signed")
    issue(folder, "stranger")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SSL_CERT_FILE", str(folder / "ca.pem"))
        yield folder


@pytest.fixture(scope="module")
def server(pki: Path) -> Iterator[OidcProvider]:
    der = x509.load_pem_x509_certificate((pki / "self-signed.pem").read_bytes())
    jwk = ECKey.import_key((pki / "self-signed-key.pem").read_bytes()).as_dict(private=False)
    jwk["x5c"] = [base64.b64encode(der.public_bytes(serialization.Encoding.DER)).decode()]
    bound = {"tls_client_certificate_bound_access_tokens": True}
    clients: list[dict[str, Any]] = [
        {
            "client_id": "machine",
            "token_endpoint_auth_method": "tls_client_auth",
            "tls_client_auth_subject_dn": "CN=machine",
            **bound,
        },
        {
            "client_id": "self-signed",
            "token_endpoint_auth_method": "self_signed_tls_client_auth",
            "jwks": {"keys": [jwk]},
            **bound,
        },
        {
            "client_id": "secret",
            "client_secret": SECRET,
            "token_endpoint_auth_method": "client_secret_basic",
            **bound,
        },
    ]
    with running(requireNonce=False, tls=str(pki), clients=clients) as provider:
        yield provider


def files(pki: Path, name: str) -> tuple[Path, Path]:
    return pki / f"{name}.pem", pki / f"{name}-key.pem"


@pytest.mark.parametrize(
    ("client_id", "method"), [("machine", "tls_client_auth"), ("self-signed", "self_signed_tls_client_auth")]
)
def test_a_certificate_is_the_credential_and_binds_the_token(
    client_id: str, method: str, server: OidcProvider, pki: Path
) -> None:
    certificate = files(pki, client_id)
    settings: dict[str, Any] = {"client_certificate": certificate, "token_endpoint_auth_method": method}
    with TokenProvider(client_id, issuer=server.issuer, **settings) as client:
        assert client.get_token()
        assert client.tls_context() is not None
    request = server.next_request()
    assert (request["client_id"], request["method"], request["bound"]) == (client_id, method, True)
    # The alias of the endpoint for clients with a certificate.
    assert request["query"] == "mtls"


def test_the_certificate_of_one_provider_is_not_shown_by_another(server: OidcProvider, pki: Path) -> None:
    with TokenProvider("secret", SECRET, issuer=server.issuer, client_certificate=files(pki, "machine")) as bound:
        assert bound.get_token()
    assert server.next_request()["bound"]
    # This server gives the client no token where there is no certificate to bind it to.
    with TokenProvider("secret", SECRET, issuer=server.issuer) as plain, pytest.raises(TokenRequestError) as caught:
        plain.get_token()
    assert caught.value.error == "invalid_grant"
    assert server.next_request()["error"] == "invalid_grant"


@pytest.mark.parametrize("by", ["http_client", "transport"])
def test_an_http_client_of_the_users_own_may_carry_the_certificate(by: str, server: OidcProvider, pki: Path) -> None:
    context = httpx2.create_ssl_context()
    context.load_cert_chain(*files(pki, "machine"))
    with httpx2.Client(verify=context) as own:
        given: dict[str, Any] = (
            {"http_client": own} if by == "http_client" else {"transport": httpx2.HTTPTransport(verify=context)}
        )
        settings: dict[str, Any] = {"issuer": server.issuer, "token_endpoint_auth_method": "tls_client_auth", **given}
        with TokenProvider("machine", **settings) as client:
            assert client.get_token()
    request = server.next_request()
    assert (request["method"], request["bound"]) == ("tls_client_auth", True)
    # The alias of the endpoint, as with a certificate of the provider's own.
    assert request["query"] == "mtls"


def test_without_a_certificate_the_method_needs_a_client_that_carries_one() -> None:
    settings: dict[str, Any] = {"issuer": "https://as.example", "token_endpoint_auth_method": "tls_client_auth"}
    with pytest.raises(ConfigurationError) as caught:
        TokenProvider("machine", **settings)
    assert caught.value.field == "client_secret"


def test_a_certificate_beside_a_secret_binds_the_token(server: OidcProvider, pki: Path) -> None:
    certificate = files(pki, "machine")
    with TokenProvider("secret", SECRET, issuer=server.issuer, client_certificate=certificate) as client:
        assert client.get_token()
    request = server.next_request()
    assert (request["method"], request["bound"]) == ("client_secret_basic", True)


@pytest.mark.parametrize(
    ("client_id", "method", "certificate"),
    [
        ("machine", "tls_client_auth", "intruder"),
        ("machine", "tls_client_auth", "stranger"),
        ("self-signed", "self_signed_tls_client_auth", "stranger"),
    ],
)
def test_a_wrong_certificate_is_refused_and_comes_back_typed(
    client_id: str, method: str, certificate: str, server: OidcProvider, pki: Path
) -> None:
    settings: dict[str, Any] = {"client_certificate": files(pki, certificate), "token_endpoint_auth_method": method}
    with (
        TokenProvider(client_id, issuer=server.issuer, **settings) as client,
        pytest.raises(TokenRequestError) as caught,
    ):
        client.get_token()
    assert caught.value.error == "invalid_client"
    assert server.next_request()["error"] == "invalid_client"


def test_a_certificate_that_changes_on_disk_is_in_the_next_request(
    server: OidcProvider, pki: Path, tmp_path: Path
) -> None:
    certificate, key = tmp_path / "client.pem", tmp_path / "client-key.pem"

    def install(name: str, age: int) -> None:
        for source, target in zip(files(pki, name), (certificate, key), strict=True):
            shutil.copy(source, target)
            os.utime(target, (age, age))

    install("intruder", 1)
    settings: dict[str, Any] = {
        "client_certificate": (certificate, key),
        "token_endpoint_auth_method": "tls_client_auth",
    }
    clock = FakeClock()
    with TokenProvider("machine", issuer=server.issuer, clock=clock, **settings) as client:
        with pytest.raises(TokenRequestError):
            client.get_token()
        assert server.next_request()["error"] == "invalid_client"
        install("machine", 2)
        clock.step(31)
        assert client.get_token()
    assert server.next_request()["bound"]


def test_files_that_will_not_do_are_named_at_construction(pki: Path, tmp_path: Path) -> None:
    for certificate in (
        (tmp_path / "absent.pem", pki / "machine-key.pem"),
        (pki / "machine.pem", pki / "intruder-key.pem"),
    ):
        with pytest.raises(ConfigurationError) as caught:
            TokenProvider("machine", token_endpoint="https://as.example/token", client_certificate=certificate)
        assert caught.value.field == "client_certificate"
