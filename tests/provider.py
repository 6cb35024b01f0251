"""An OpenID provider of its own process: django-oauth-toolkit, which keeps accounts, signs tokens and asks for PKCE.

`python -m tests.provider PORT CALLBACK` answers under http://127.0.0.1:PORT/o; its authorization page is on
http://localhost:PORT, another origin than the issuer's, as with some providers.
"""

from __future__ import annotations

import sys

CLIENT, SECRET, PASSWORD = "coxswain", "a secret of the portal at its provider", "correct horse battery"
# Who has an account there → whether the provider has checked their address.
PEOPLE = {
    "alice@example.org": True, "bob@example.org": True, "lola@example.org": True, "nina@example.org": True,
    "tessa@example.org": True, "otto@example.org": True, "vera@example.org": False, "unknown@example.org": False,
    "stranger@example.net": True,
}  # fmt: skip


def configure(port):
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from django.conf import settings

    key = rsa.generate_private_key(65537, 2048)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    settings.configure(
        DEBUG=False,
        SECRET_KEY="of the provider",
        ALLOWED_HOSTS=["127.0.0.1", "localhost"],
        ROOT_URLCONF="tests.provider",
        DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3", "NAME": "file:p?mode=memory&cache=shared"}},
        INSTALLED_APPS=[
            "django.contrib.auth", "django.contrib.contenttypes", "django.contrib.sessions", "oauth2_provider",
        ],
        MIDDLEWARE=[
            "django.contrib.sessions.middleware.SessionMiddleware", "django.middleware.csrf.CsrfViewMiddleware",
            "django.contrib.auth.middleware.AuthenticationMiddleware",
        ],
        TEMPLATES=[
            {
                "BACKEND": "django.template.backends.django.DjangoTemplates",
                "OPTIONS": {
                    "context_processors": ["django.template.context_processors.request"],
                    "loaders": [("django.template.loaders.locmem.Loader", {"registration/login.html": LOGIN})],
                },
            }
        ],
        LOGIN_URL="/login/",
        SESSION_COOKIE_NAME="provider",
        CSRF_COOKIE_NAME="providercsrf",
        USE_TZ=True,
        OAUTH2_PROVIDER={
            "OIDC_ENABLED": True,
            "OIDC_ISS_ENDPOINT": f"http://127.0.0.1:{port}/o",
            "OIDC_RSA_PRIVATE_KEY": pem,
            "OAUTH2_VALIDATOR_CLASS": "tests.provider_claims.Claims",
            "PKCE_REQUIRED": True,
            "SCOPES": {"openid": "who you are", "profile": "your name", "email": "your address"},
        },
    )  # fmt: skip


LOGIN = """<!doctype html><title>Provider</title><h1>Sign in at the provider</h1>
<form method="post">{% csrf_token %}{{ form }}<input type="hidden" name="next" value="{{ next }}">
<button>Continue</button></form>"""


ODD: list[str] = []  # what it answers about itself instead, once each


def odd(request):
    import json

    from django.http import HttpResponse

    ODD.append(json.loads(request.body)["answer"])
    return HttpResponse()


def discovery(request):
    import json

    from django.http import HttpResponse, JsonResponse
    from oauth2_provider.views.oidc import ConnectDiscoveryInfoView

    if ODD:
        return HttpResponse(ODD.pop(), content_type="application/json")
    found = json.loads(ConnectDiscoveryInfoView.as_view()(request).content)
    found["authorization_endpoint"] = found["authorization_endpoint"].replace("//127.0.0.1", "//localhost")
    return JsonResponse(found)


def __getattr__(name):
    """Django reads these of its root of addresses, once there are settings."""
    if name != "urlpatterns":
        raise AttributeError(name)
    from django.contrib.auth.views import LoginView
    from django.urls import include, path
    from django.views.decorators.csrf import csrf_exempt

    return [
        path("login/", LoginView.as_view()),
        path("o/.well-known/openid-configuration", discovery),
        path("odd/", csrf_exempt(odd)),
        path("o/", include("oauth2_provider.urls")),
    ]


def main(port, callback):
    configure(port)
    import django
    from django.core.management import call_command
    from django.core.servers.basehttp import ThreadedWSGIServer, WSGIRequestHandler
    from django.core.wsgi import get_wsgi_application
    from django.db import connection

    django.setup()
    keep_alive = connection.cursor()
    call_command("migrate", verbosity=0)

    from django.contrib.auth.models import User
    from oauth2_provider.models import Application

    for email, verified in PEOPLE.items():
        User.objects.create_user(email, email, PASSWORD, first_name="checked" if verified else "")
    Application.objects.create(
        client_id=CLIENT, client_secret=SECRET, client_type="confidential", redirect_uris=callback, algorithm="RS256",
        authorization_grant_type="authorization-code", skip_authorization=True,
    )  # fmt: skip
    with ThreadedWSGIServer(("127.0.0.1", int(port)), WSGIRequestHandler) as server:
        server.set_app(get_wsgi_application())
        print("Ready", flush=True)
        server.serve_forever()
    keep_alive.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
