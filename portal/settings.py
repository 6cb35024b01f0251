"""Every setting, from the environment. `NAME_FILE` may name a file holding NAME's value. See `portal/checks.py`."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from portal import environment as env

BASE_DIR = Path(__file__).resolve().parent.parent
VAR = env.private_folder(Path(env.text("PORTAL_VAR") or BASE_DIR / "var").absolute())

PORTAL_NAME = env.text("PORTAL_NAME", "Coxswain")
PORTAL_URL = env.text("PORTAL_URL", "http://127.0.0.1:8000").rstrip("/")  # as people type it
SUPPORT_ADDRESS = env.text("PORTAL_SUPPORT_ADDRESS")
LOCK_AFTER_DAYS = env.number("PORTAL_LOCK_AFTER_DAYS", 90)  # of not signing in
WARN_AFTER_DAYS = (60, 75, 85)
INVITATION_DAYS = env.number("PORTAL_INVITATION_DAYS", 7)
OPEN_SIGNUP = env.flag("PORTAL_OPEN_SIGNUP", default=False)  # without an invitation
OPEN_ORGANIZATIONS = env.flag("PORTAL_OPEN_ORGANIZATIONS", default=True)  # whether everybody may make one
MACHINES_NETWORKS = env.networks("PORTAL_MACHINES_NETWORKS")  # in which own machines may be; none: anywhere
SSH_IS_ACTIVITY = env.flag("PORTAL_SSH_IS_ACTIVITY", default=False)  # a session by ssh keeps a cluster from pausing
DEBUG = env.flag("PORTAL_DEBUG", default=False)
HOST_COUNT = env.number("PORTAL_HOSTS", 0)  # that web, worker and watch run on; 0: not said
SECRET_KEY = env.text("PORTAL_SECRET_KEY") or env.generated_secret(VAR / "secret_key")
# Newest first: the first one encrypts, all of them decrypt.
ENCRYPTION_KEYS = env.words("PORTAL_ENCRYPTION_KEYS") or [env.generated_secret(VAR / "encryption_key")]
KEYS_ARE_GIVEN = all(env.text(name) for name in ("PORTAL_SECRET_KEY", "PORTAL_ENCRYPTION_KEYS"))
# Where libraries keep ciphertexts inside JSON, and what those belong to.
ENCRYPTED_IN_JSON = {"mfa.Authenticator.data": "mfa"}

_site = urlsplit(PORTAL_URL)
_local = env.is_loopback(_site.hostname)
HOSTS = env.hosts(PORTAL_URL)  # what a Host header may say
ORIGINS = [f"{_site.scheme}://{host}" for host in HOSTS]
ALLOWED_HOSTS = ["*"]  # it knows no ports: portal.door.HostMiddleware asks more
CSRF_TRUSTED_ORIGINS = ORIGINS
STAFF_SECOND_FACTOR = env.flag("PORTAL_STAFF_SECOND_FACTOR", default=_site.scheme == "https")  # to enter /admin/
# How many proxies stand in front and may be believed about the client's address and the scheme.
TRUSTED_PROXIES = env.number("PORTAL_TRUSTED_PROXIES", 0)
TRUSTED_PROXIES_SAID = bool(env.text("PORTAL_TRUSTED_PROXIES"))
if TRUSTED_PROXIES:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

INSTALLED_APPS = [
    "portal",
    "portal.tasks",
    "portal.clouds.machines",
    "accounts",
    "workspaces",
    "usage",
    "clusters",
    "jobs",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "allauth.socialaccount",
    "allauth.socialaccount.providers.openid_connect",
    "allauth.usersessions",
    "django.contrib.humanize",
    "channels",
    "csp",
    "django_htmx",
    "django_rq",
    "template_partials",
]
MIDDLEWARE = [
    "portal.logs.RequestIdMiddleware",
    "portal.door.HostMiddleware",
    "django.middleware.security.SecurityMiddleware",
    "portal.static.StaticFilesMiddleware",
    "csp.middleware.CSPMiddleware",
    "accounts.middleware.SignInRateMiddleware",
    "portal.sessions.SessionCookieMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "portal.sessions.FormTokenMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "accounts.middleware.PersonMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "allauth.usersessions.middleware.UserSessionsMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
    "portal.views.NoStoreMiddleware",
]
ROOT_URLCONF = "portal.urls"
ASGI_APPLICATION = "portal.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
                "portal.views.frame",
                "accounts.access.rights",
            ],
            "builtins": ["portal.templatetags.portal", "template_partials.templatetags.partials"],
        },
    }
]

DATABASE_CONNECTIONS = max(env.number("PORTAL_DATABASE_CONNECTIONS", 16), 4)  # of one process, at most
DATABASES = {"default": env.database(env.text("DATABASE_URL"), VAR, connections=DATABASE_CONNECTIONS)}
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

EMBEDDED_REDIS = not env.text("REDIS_URL")
REDIS_URL = env.text("REDIS_URL") or f"unix://{env.socket_path(VAR)}"
REDIS_PREFIX = env.text("PORTAL_REDIS_PREFIX", "coxswain")
QUEUES = ("launch", "teardown", "provision", "housekeeping")
RQ_QUEUES = {
    f"{REDIS_PREFIX}-{name}": {
        "URL": env.redis_url(REDIS_URL, database=0),
        "SERIALIZER": "rq.serializers.JSONSerializer",
    }
    for name in QUEUES
}
CHANNEL_LAYERS = {
    "default": {
        "BACKEND": "channels_redis.pubsub.RedisPubSubChannelLayer",
        "CONFIG": {
            # redis-py 8 caps a pool at 100 connections and raises beyond; every live page may need one.
            "hosts": [{"address": env.redis_url(REDIS_URL, database=0), "max_connections": 10_000}],
            "prefix": f"{REDIS_PREFIX}-live",
        },
    }
}
CACHES = {
    "default": {
        "BACKEND": "django.core.cache.backends.redis.RedisCache",
        "LOCATION": env.redis_url(REDIS_URL, database=0),
        "KEY_PREFIX": REDIS_PREFIX,
        # One that waits for a free connection: the usual pool raises at the 101st request at once.
        "OPTIONS": {"pool_class": "redis.BlockingConnectionPool", "max_connections": 50, "timeout": 10},
    }
}
STATIC_URL = "/static/"
STATIC_ROOT = env.private_folder(VAR / "static")
STATICFILES_DIRS = [BASE_DIR / "static"]
# Set where `manage.py collectstatic` is run: files are compressed, and named so that they may be cached for ever.
# `manage.py up` runs it and sets this. Without, files come straight from the source, for whoever is changing them.
_collected = env.flag("PORTAL_STATIC_COLLECTED", default=False)
WHITENOISE_USE_FINDERS = not _collected
WHITENOISE_KEEP_ONLY_HASHED_FILES = True
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage", "OPTIONS": {"location": VAR / "files"}},
    "staticfiles": {
        "BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"
        if _collected
        else "django.contrib.staticfiles.storage.StaticFilesStorage"
    },
    # Kept outputs: the metadata store. `Output.store` names an entry here.
    "outputs": {"BACKEND": "portal.tasks.stores.Folder", "OPTIONS": {"location": VAR / "outputs"}},
}
OUTPUT_GIB = env.number("PORTAL_OUTPUT_GIB", 50)  # that are stored of one run; 0: all of it

LIVE_PAGES = env.number("PORTAL_LIVE_PAGES", 100)  # of one person, open at once, in each web process
TERMINALS = env.number("PORTAL_TERMINALS", 8)  # of one person, open at once
ALL_TERMINALS = env.number("PORTAL_ALL_TERMINALS", 100)  # of everybody

AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["accounts.backends.PersonBackend"]
PASSWORD_HASHERS = ["accounts.passwords.PasswordHasher"]  # PBKDF2, a few at a time
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "accounts.passwords.Unlike"},
    {"NAME": "accounts.passwords.LongEnough", "OPTIONS": {"min_length": 12}},
    {"NAME": "accounts.passwords.Uncommon"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "dashboard"
ACCOUNT_ADAPTER = "accounts.adapter.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*", "password2*"]
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_EMAIL_VERIFICATION = "mandatory"
ACCOUNT_SESSION_REMEMBER = True
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_EMAIL_SUBJECT_PREFIX = f"[{PORTAL_NAME}] "
ACCOUNT_PREVENT_ENUMERATION = "strict"
ACCOUNT_CHANGE_EMAIL = True
ACCOUNT_EMAIL_NOTIFICATIONS = True  # a person hears of changes that somebody else may have made
ACCOUNT_REAUTHENTICATION_REQUIRED = True
ACCOUNT_LOGIN_ON_PASSWORD_RESET = False
SIGN_INS_A_MINUTE = 30  # from one address, counted by accounts.middleware before anything is read or computed
# A "key" is an account seen from one address (accounts/adapter.py), so that nobody is kept out by a stranger's tries.
ACCOUNT_RATE_LIMITS = {"login": None, "login_failed": "20/m/ip,5/5m/key", "reset_password": "10/m/ip,5/m/key"}
ACCOUNT_FORMS = {
    "login": "accounts.forms.LoginForm",
    "signup": "accounts.forms.SignupForm",
    "add_email": "accounts.forms.AddEmailForm",
    "change_password": "accounts.forms.ChangePasswordForm",
    "set_password": "accounts.forms.SetPasswordForm",
    "reset_password": "accounts.forms.ResetPasswordForm",
    "reset_password_from_key": "accounts.forms.ResetPasswordKeyForm",
    "reauthenticate": "accounts.forms.PasswordAgainForm",
}
MFA_ADAPTER = "accounts.adapter.MFAAdapter"
MFA_FORMS = {
    "activate_totp": "accounts.forms.ActivateCodeForm",
    "authenticate": "accounts.forms.CodeForm",
    "reauthenticate": "accounts.forms.CodeAgainForm",
}
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes", "webauthn"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_WEBAUTHN_ALLOW_INSECURE_ORIGIN = _local and _site.scheme == "http"  # browsers trust http://localhost
MFA_TOTP_TOLERANCE = 1  # a telephone's clock may be half a minute off
# People are invited to addresses that they confirm, so that a second factor cannot keep an address's owner out; and
# somebody with a second factor must be able to move to another address.
MFA_ALLOW_UNVERIFIED_EMAIL = True
USERSESSIONS_TRACK_ACTIVITY = False  # accounts.middleware does so, now and then instead of at every request
SOCIALACCOUNT_ADAPTER = "accounts.adapter.SocialAccountAdapter"
SOCIALACCOUNT_EMAIL_AUTHENTICATION_AUTO_CONNECT = True
SOCIALACCOUNT_EMAIL_VERIFICATION = "mandatory"
SOCIALACCOUNT_REQUESTS_TIMEOUT = 15  # seconds: a busy provider's first answer takes longer than allauth's 5
OIDC_NAME = env.text("PORTAL_OIDC_NAME", "Single sign-on")
SOCIALACCOUNT_PROVIDERS: dict[str, dict[str, Any]] = {}
SIGN_ON_ORIGINS: list[str] = []
if _issuer := env.text("PORTAL_OIDC_ISSUER"):
    SIGN_ON_ORIGINS = [f"{urlsplit(_issuer).scheme}://{urlsplit(_issuer).netloc}", *env.words("PORTAL_OIDC_ORIGINS")]
    SOCIALACCOUNT_PROVIDERS["openid_connect"] = {
        "OAUTH_PKCE_ENABLED": True,
        "APPS": [
            {
                "provider_id": "sso",
                "name": OIDC_NAME,
                "client_id": env.text("PORTAL_OIDC_CLIENT_ID"),
                "secret": env.text("PORTAL_OIDC_CLIENT_SECRET"),
                "settings": {"server_url": _issuer},
            }
        ],
    }
globals().update(env.mail(env.text("PORTAL_EMAIL_URL")))
DEFAULT_FROM_EMAIL = env.text("PORTAL_FROM_ADDRESS", f"portal@{_site.hostname}")

USE_TZ = True
TIME_ZONE = "UTC"  # Django exports it as TZ, and RQ reads local time
USE_I18N = False
LANGUAGE_CODE = "en-us"

CSRF_USE_SESSIONS = True  # of who has signed in; see portal.sessions.FormTokenMiddleware
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_AGE = None  # as long as the browser is open
CSRF_FAILURE_VIEW = "portal.views.csrf_failure"
SESSION_ENGINE = "portal.sessions"
SESSION_COOKIE_AGE = 60 * env.number("PORTAL_SESSION_IDLE_MINUTES", 12 * 60)  # without a request
SESSION_LONGEST = 3600 * env.number("PORTAL_SESSION_LONGEST_HOURS", 7 * 24)  # however busy
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
# Cookies are shared by every port of a host: without a name of its own, a second portal would sign this one out.
SESSION_COOKIE_NAME = f"coxswain-{_site.port or _site.scheme}"
CSRF_COOKIE_NAME = f"coxswain-form-{_site.port or _site.scheme}"
if _site.scheme == "https":
    SESSION_COOKIE_NAME, CSRF_COOKIE_NAME = "__Host-coxswain", "__Host-coxswain-form"
    SESSION_COOKIE_SECURE = CSRF_COOKIE_SECURE = SECURE_SSL_REDIRECT = True
    SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]
    SECURE_HSTS_SECONDS = env.number("PORTAL_HSTS_SECONDS", 31_536_000)
    SECURE_HSTS_INCLUDE_SUBDOMAINS = SECURE_HSTS_PRELOAD = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
CONTENT_SECURITY_POLICY = {
    "DIRECTIVES": {
        "default-src": ["'none'"],
        "script-src": ["'self'"],
        "style-src": ["'self'"],
        "font-src": ["'self'"],
        "img-src": ["'self'", "data:"],  # data: for the arrows and ticks inside Bootstrap's css
        "connect-src": ["'self'", *(origin.replace("http", "ws", 1) for origin in ORIGINS)],
        "form-action": ["'self'", *SIGN_ON_ORIGINS],  # browsers count where a form's answer leads to
        "base-uri": ["'none'"],
        "frame-ancestors": ["'none'"],
    }
}

# Runs. Git over https and ssh always; `file` paths never; http only to this machine, and only where this says so.
GIT_FROM_THIS_MACHINE = env.flag("PORTAL_GIT_FROM_THIS_MACHINE", default=_local)
RUN_SECONDS = 60 * env.number("PORTAL_RUN_MINUTES", 24 * 60)  # that a run may take, where its job says nothing else

# Nodes of "This computer": `portal.clouds.local.options.LocalOptions`, whose lines say what each is.
LOCAL_NODES = {
    "hidden": [str(VAR), str(BASE_DIR)],
    "shown": env.paths("PORTAL_LOCAL_SHOWN"),
    "rung": env.text("PORTAL_LOCAL_RUNG"),
    "strangers": OPEN_ORGANIZATIONS,
    "network": env.text("PORTAL_LOCAL_NETWORK", "isolated"),
    "portal": PORTAL_URL,
    "git_here": GIT_FROM_THIS_MACHINE,
    "addresses": env.words("PORTAL_LOCAL_ADDRESSES"),
    "neighbours": env.flag("PORTAL_LOCAL_NEIGHBOURS", default=True),
    "temporary_mib": env.number("PORTAL_LOCAL_TMP_MIB", 0),
    "processes": env.number("PORTAL_LOCAL_PROCESSES", 4096),
    "free_mib": env.number("PORTAL_LOCAL_FREE_MIB", 2048),
    "free_percent": env.number("PORTAL_LOCAL_FREE_PERCENT", 5),
}
# AWS: see docs/aws.md. The portal's own credentials come from where boto3 looks for them, and never from here.
AWS = {
    "principal": env.text("PORTAL_AWS_PRINCIPAL"),  # the ARN that roles trust; empty: what the credentials are
    "reach": env.text("PORTAL_AWS_REACH", "public"),  # how nodes are reached: at addresses that are public, or private
    "addresses": [str(network) for network in env.networks("PORTAL_AWS_ADDRESSES")],  # that nodes admit SSH from
    "image": env.text("PORTAL_AWS_IMAGE"),  # of nodes: an id, or a public parameter's name with {architecture} in it
    "endpoint": env.text("PORTAL_AWS_ENDPOINT"),  # of an emulator, for tests and the demo
}
CAUSES = env.text("PORTAL_CAUSES")  # a file with causes of failures that the site knows; see portal/tasks/causes.py
FAILED_CLUSTER_MINUTES = env.number("PORTAL_FAILED_CLUSTER_MINUTES", 15)  # nodes of a failed creation stay so long
DEDICATED_PER_WORKSPACE = env.number("PORTAL_DEDICATED_PER_WORKSPACE", 10)  # clusters of runs that are there at once
DEDICATED_PER_ORGANIZATION = env.number("PORTAL_DEDICATED_PER_ORGANIZATION", 40)
FAILPOINTS = env.text("PORTAL_FAILPOINTS")  # tests only: a folder; see portal/failpoints.py

LOGGING = {
    "version": 1,
    "disable_existing_loggers": False,
    "filters": {"context": {"()": "portal.logs.ContextFilter"}},
    "formatters": {
        "json": {"()": "portal.logs.JsonFormatter"},
        "plain": {
            "()": "portal.logs.PlainFormatter",
            "fmt": "%(asctime)s %(levelname)s %(name)s %(context)s%(message)s",
        },
    },
    "handlers": {
        "stderr": {
            "class": "logging.StreamHandler",
            "filters": ["context"],
            "formatter": env.text("PORTAL_LOG_FORMAT", "json"),
        }
    },
    "root": {"handlers": ["stderr"], "level": env.text("PORTAL_LOG_LEVEL", "INFO")},
    "loggers": {
        "django.request": {"level": "ERROR"},
        "django.server": {"level": "WARNING"},
        "asyncssh": {"level": "WARNING"},
        "botocore": {"level": "WARNING"},  # below that, it writes down what it signs
        "botocore.credentials": {
            "level": "ERROR"
        },  # a role that may not be taken on is told where somebody asked for it
        "rq.worker": {"level": "WARNING"},
        "uvicorn.access": {"level": "WARNING"},
    },
}
SILENCED_SYSTEM_CHECKS = [
    "security.W003",  # CSRF cookie: the token lives in the session
    "models.W042",
]
if _site.scheme != "https":  # portal.W010 says it in terms of the portal's own settings
    SILENCED_SYSTEM_CHECKS += ["security.W004", "security.W008", "security.W012"]
