"""The MCP conformance suite's verdict on our client (docs/conformance.md has the whole table)."""

from __future__ import annotations

import pytest

from tests.interop.conformance import METADATA, MIGRATION, WHOLE, run

BROWSER_ONLY = {"client-registration", "authorization-request", "resource-parameter-in-authorization"}


@pytest.mark.parametrize("scenario", WHOLE)
def test_scenarios_for_machines_pass_whole(scenario: str) -> None:
    checks = run(scenario)
    assert checks
    assert [check for check in checks if check.status != "SUCCESS"] == []


@pytest.mark.parametrize("scenario", METADATA)
def test_every_metadata_location_is_found_and_no_trap_is_stepped_into(scenario: str) -> None:
    checks = run(scenario)
    assert {check.id for check in checks if check.status != "SUCCESS"} == BROWSER_ONLY
    assert {"authorization-server-metadata", "token-request", "valid-bearer-token"} <= {check.id for check in checks}


def test_credentials_never_reach_the_authorization_server_that_came_later() -> None:
    status = {check.id: check.status for check in run(MIGRATION)}
    assert status["sep-2352-no-reuse-on-as-change"] == "SUCCESS"
    assert status["sep-2352-no-cross-as-credential-reuse"] == "SUCCESS"


@pytest.mark.parametrize(
    ("scenario", "met"),
    [
        ("auth/dpop", {"sep-1932-client-dpop-auth-scheme", "sep-1932-client-fresh-proof"}),
        (
            "auth/dpop-nonce",
            {"sep-1932-client-dpop-auth-scheme", "sep-1932-client-fresh-proof", "sep-1932-client-rs-nonce"},
        ),
    ],
)
def test_tokens_are_presented_with_proofs_and_the_resource_servers_nonce(scenario: str, met: set[str]) -> None:
    """The token endpoint's proof and nonce are counted for authorization codes only; oidc-provider proves those."""
    status = {check.id: check.status for check in run(scenario)}
    assert {name for name in met if status[name] == "SUCCESS"} == met
    assert {name for name in status if status[name] != "SUCCESS"} <= {
        "sep-1932-client-token-request-proof",
        "sep-1932-client-as-nonce",
    }
