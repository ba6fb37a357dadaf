"""canaille in one process, its database in memory: PORT."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from canaille import create_app
from canaille.app import models
from canaille.backends import Backend
from joserfc.jwk import RSAKey
from serving import rsa_key
from werkzeug.serving import run_simple

PORT = int(sys.argv[1])
KEY = RSAKey.import_key(rsa_key("server.pem"), {"kid": "server", "alg": "RS256", "use": "sig"})
PUBLIC = RSAKey.import_key(Path("RS256.pub").read_text(), {"kid": "RS256", "alg": "RS256", "use": "sig"})

app = create_app(
    {
        "SECRET_KEY": "x" * 32,
        "SERVER_NAME": f"127.0.0.1:{PORT}",
        "PREFERRED_URL_SCHEME": "http",
        "CANAILLE": {"DATABASE": "memory"},
        "CANAILLE_OIDC": {
            "ACTIVE_JWKS": [{name: text for name, text in KEY.as_dict(private=True).items() if isinstance(text, str)}]
        },
    }
)
with app.app_context():
    for client_id, secret, method in (
        ("basic", "s3cret", "client_secret_basic"),
        ("odd", "a:%+/=& b", "client_secret_basic"),
        ("accented", "café", "client_secret_basic"),
        ("post", "s3cret", "client_secret_post"),
        ("RS256", None, "private_key_jwt"),
    ):
        client = models.Client(
            client_id=client_id,
            client_secret=secret,
            client_name=client_id,
            grant_types=["client_credentials"],
            scope=["openid", "profile"],
            token_endpoint_auth_method=method,
            jwks=json.dumps({"keys": [PUBLIC.as_dict(private=False)]}) if secret is None else None,
        )
        Backend.instance.save(client)
        # Without an audience, introspection calls each token inactive.
        client.audience = [client]
        Backend.instance.save(client)
run_simple("127.0.0.1", PORT, app, threaded=True)
