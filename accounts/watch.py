"""A word to people whose account will be locked soon, a note of the day when it is, and an end to old sessions."""

from __future__ import annotations

import asyncio
import logging
from datetime import timedelta
from smtplib import SMTPException

from allauth.usersessions.models import UserSession
from django.conf import settings
from django.contrib.sessions.models import Session
from django.core.mail import send_mail
from django.db.models import Exists, OuterRef
from django.template.loader import render_to_string
from django.utils.timezone import now

from accounts import audit
from accounts.models import User
from portal.tasks.threads import DATABASE
from portal.tasks.watch import Bell

logger = logging.getLogger(__name__)

EVERY = 3600.0  # seconds


class AccountsWatcher:
    async def run(self, bell: Bell) -> None:
        while True:
            await DATABASE(look)()
            await DATABASE(forget_sessions)()
            await asyncio.sleep(EVERY)


def look() -> None:
    """One mail for each threshold a person has passed since the last look, and only the latest of them."""
    lock = settings.LOCK_AFTER_DAYS
    for user in User.objects.get_queryset().locked().filter(warned_days__lt=lock):
        if _first_to_tell(user, lock):
            audit.record_of_person("locked", user, by=None, after={"days": lock})
    for days in sorted((days for days in settings.WARN_AFTER_DAYS if days < lock), reverse=True):
        for user in User.objects.get_queryset().dormant_for(days).filter(warned_days__lt=days, is_active=True):
            if _first_to_tell(user, days) and user.notify_dormancy:
                _tell(user)


def forget_sessions() -> None:
    """Those that are over. Whoever only looks at the sign-in page has one, so that they would fill the database."""
    Session.objects.filter(expire_date__lt=now()).delete()
    there = Session.objects.filter(session_key=OuterRef("session_key"))
    UserSession.objects.filter(~Exists(there)).delete()


def _first_to_tell(user: User, days: int) -> bool:
    return User.objects.filter(pk=user.pk, warned_days=user.warned_days).update(warned_days=days) == 1


def _tell(user: User) -> None:
    locked_from = (user.quiet_since + timedelta(days=settings.LOCK_AFTER_DAYS)).astimezone(user.zone)
    words = {
        "person": user,
        "portal_name": settings.PORTAL_NAME,
        "url": settings.PORTAL_URL,
        "locked_from": locked_from,
    }
    try:
        send_mail(
            f"[{settings.PORTAL_NAME}] Your account will be locked on {locked_from:%-d %B}",
            render_to_string("account/email/dormancy_message.txt", words),
            None,
            [user.email],
        )
    except (SMTPException, OSError) as error:
        logger.warning("the mail before the lock could not be sent: %s", error)
        User.objects.filter(pk=user.pk).update(warned_days=user.warned_days)  # again at the next look
