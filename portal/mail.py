"""Whether mail leaves this portal. How is said by PORTAL_EMAIL_URL."""

from django.conf import settings


def goes_out() -> bool:
    """Whether there is a mail server. Without, whoever invites passes the link on."""
    return not settings.EMAIL_BACKEND.startswith(
        tuple(f"django.core.mail.backends.{kind}." for kind in ("console", "dummy", "filebased"))
    )
