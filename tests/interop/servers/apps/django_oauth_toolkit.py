"""django-oauth-toolkit on SQLite in the current folder: PORT LIFETIME. Its metadata stands below the issuer only."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any, ClassVar

import django
from django.conf import settings
from django.core.management import call_command
from django.core.wsgi import get_wsgi_application
from django.urls import include, path
from serving import rsa_key, serve

PORT, LIFETIME = int(sys.argv[1]), int(sys.argv[2])
RESOURCE = f"http://127.0.0.1:{PORT}/mcp"

settings.configure(
    SECRET_KEY="x" * 50,
    ALLOWED_HOSTS=["127.0.0.1"],
    ROOT_URLCONF="__main__",
    USE_TZ=True,
    DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": str(Path.cwd() / "db.sqlite3")}},
    INSTALLED_APPS=[
        "django.contrib.auth",
        "django.contrib.contenttypes",
        "django.contrib.sessions",
        "oauth2_provider",
    ],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    OAUTH2_PROVIDER={
        "OIDC_ENABLED": False,
        "OIDC_RSA_PRIVATE_KEY": rsa_key("oidc.pem"),
        "ACCESS_TOKEN_EXPIRE_SECONDS": LIFETIME,
        "SCOPES": {"read": "reading", "write": "writing", "introspection": "asking about tokens"},
        "DEFAULT_SCOPES": ["read"],
    },
    LOGGING_CONFIG=None,
)
django.setup()

from django.http import HttpRequest, JsonResponse  # noqa: E402
from oauth2_provider.models import Application  # noqa: E402
from oauth2_provider.views.generic import ScopedProtectedResourceMetadataView  # noqa: E402


class Mcp(ScopedProtectedResourceMetadataView):
    """A resource that wants the scope `write`, and does not say so in its challenge."""

    resource_metadata_url = f"http://127.0.0.1:{PORT}/.well-known/oauth-protected-resource/mcp"
    required_scopes: ClassVar = ["write"]

    def get(self, *_: Any, **__: Any) -> JsonResponse:
        """The answer to a token that will do."""
        return JsonResponse({"ok": True})

    post = get


def resource_metadata(_: HttpRequest) -> JsonResponse:
    """RFC 9728 for `/mcp`."""
    return JsonResponse(
        {
            "resource": RESOURCE,
            "authorization_servers": [f"http://127.0.0.1:{PORT}/o"],
            "scopes_supported": ["read", "write"],
        }
    )


urlpatterns = [
    path("mcp", Mcp.as_view()),
    path(".well-known/oauth-protected-resource/mcp", resource_metadata),
    path("o/", include("oauth2_provider.urls")),
]
call_command("migrate", verbosity=0)
for name, secret, grant in (
    ("basic", "s3cret", "client-credentials"),
    ("odd", "a:%+/=& b", "client-credentials"),
    ("accented", "café", "client-credentials"),
    ("person", "s3cret", "authorization-code"),
):
    Application.objects.get_or_create(
        client_id=name,
        defaults={
            "client_secret": secret,
            "name": name,
            "client_type": "confidential",
            "authorization_grant_type": grant,
        },
    )
serve(get_wsgi_application(), PORT)
