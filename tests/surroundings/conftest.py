from __future__ import annotations

import pytest

from conduit_oauth.testing import AuthorizationServer


@pytest.fixture
def environment(client_environment: dict[str, str], authorization_server: AuthorizationServer) -> dict[str, str]:
    return {
        **client_environment,
        "CONDUIT_OAUTH_MCP_URL": authorization_server.mcp_url(),
        "CONDUIT_OAUTH_STORE": "memory:",
        "COLUMNS": "200",
    }
