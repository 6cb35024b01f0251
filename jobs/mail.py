"""Mail about runs: the first at once, and what comes soon after it in one summary.

A letter is claimed before it is sent: of two processes one sends it, and one that dies in between has sent none. What a
mail says is on the run's page as well.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from datetime import timedelta
from smtplib import SMTPException, SMTPRecipientsRefused
from statistics import median

from django.conf import settings
from django.core.mail import send_mail
from django.db import transaction
from django.db.models import Exists, OuterRef
from django.db.models.functions import Now
from django.template.loader import render_to_string
from django.utils.timezone import now

from accounts.access import Can
from accounts.models import User
from jobs.causes import span
from jobs.models import Letter, Run
from portal import mail
from portal.secrets import redact
from portal.tasks.threads import DATABASE, Threads
from portal.tasks.watch import Bell

logger = logging.getLogger(__name__)

EVERY = 5.0  # seconds between looks
LONGEST = 300.0  # … at a server that takes nothing
TRIED = 3  # people one after another whose mail it does not take, before the others are not tried
SLOW_EVERY = 60.0
WINDOW = timedelta(minutes=15)  # after a mail, in which further ones wait to be told as one
GIVEN_UP = timedelta(days=1)  # after which what no server has taken is of no use
MOST_TOLD = 50  # runs in one mail
MOST_EVIDENCE = 2000  # characters
LEAST_KNOWN = 3  # runs that were FINISHED, of which it is known how long is usual
LONGER = 2.0  # times the usual
AT_LEAST = timedelta(minutes=1)  # longer than usual
MAILS = Threads("mails", 1)  # a mail server may take its time


class Unsent(Exception):
    """The mail server did not take a mail now. What it tells is kept for later."""


def send_due() -> int:
    """To everybody who has waited long enough. Returns how many mails have left; raises `Unsent` where some were to,
    and none has. No transaction is open meanwhile.
    """
    Letter.objects.filter(sent=None, created__lt=now() - GIVEN_UP).update(sent=Now())
    lately = Letter.objects.filter(to=OuterRef("to"), sent__gt=now() - WINDOW)
    people = Letter.objects.filter(~Exists(lately), sent=None).values_list("to", flat=True).distinct()
    sent, refused = 0, list[Unsent]()
    for pk in list(people):
        try:
            sent += _send_to(pk)
        except Unsent as error:
            refused.append(error)
            logger.warning("a mail about runs could not be sent now: %s", error)
        if len(refused) == TRIED and not sent:
            break
    if refused and not sent:
        raise refused[-1]
    return sent


def _send_to(pk: int) -> bool:
    person = User.objects.get(pk=pk)
    of = ("run__job__workspace__organization", "run__cluster")
    with transaction.atomic():  # what somebody else sends just now is theirs
        mine = Letter.objects.select_for_update(of=("self",), skip_locked=True).filter(to=pk, sent=None)
        letters = list(mine.select_related(*of).order_by("pk"))
        Letter.objects.filter(pk__in=[letter.pk for letter in letters]).update(sent=Now())
    letters = _may_be_told(person, letters)
    if not letters:
        return False
    subject, text = _one(letters[0]) if len(letters) == 1 else _many(letters)
    try:
        send_mail(f"{settings.ACCOUNT_EMAIL_SUBJECT_PREFIX}{subject}", text, None, [person.email])
    except SMTPRecipientsRefused as error:  # asking again would be the same
        logger.warning("a mail about %s runs is given up: %s", len(letters), error)
        return False
    except (SMTPException, OSError, ValueError) as error:
        Letter.objects.filter(pk__in=[letter.pk for letter in letters]).update(sent=None)
        raise Unsent(str(error)) from error
    return True


def _may_be_told(person: User, letters: Sequence[Letter]) -> list[Letter]:
    """What they may still see, and want to hear of."""
    if not person.may_enter or not person.notify_runs:
        return []
    seen = Run.objects.where(person, Can.VIEW).filter(pk__in=[letter.run_id for letter in letters])
    pks = set(seen.values_list("pk", flat=True))
    return [letter for letter in letters if letter.run_id in pks]


def _one(letter: Letter) -> tuple[str, str]:
    return f"{letter.run} {_happened(letter)}", render_to_string("jobs/mail/run.txt", _about(letter))


def _many(letters: Sequence[Letter]) -> tuple[str, str]:
    failed = sum(letter.kind == Letter.Kind.FAILED for letter in letters)
    context = {
        "told": [_about(letter) for letter in letters[:MOST_TOLD]],
        "more": max(0, len(letters) - MOST_TOLD),
        "runs_link": f"{settings.PORTAL_URL}/runs/",
        "profile_link": f"{settings.PORTAL_URL}/profile/",
        "portal_name": settings.PORTAL_NAME,
    }
    words = f"{len(letters)} runs of your jobs" + (f", {failed} FAILED" if failed else "")
    return words, render_to_string("jobs/mail/runs.txt", context)


def _happened(letter: Letter) -> str:
    match letter.kind:
        case Letter.Kind.SLOW:
            return "runs longer than usual"
        case kind:
            return f"is {kind.upper()}"


def _about(letter: Letter) -> dict[str, object]:
    run = letter.run
    failed = letter.kind == Letter.Kind.FAILED
    evidence = redact(run.evidence) if failed else ""
    if len(evidence) > MOST_EVIDENCE:
        evidence = f"{evidence[:MOST_EVIDENCE]}\n… cut here: the run's page has all of it."
    return {
        "run": run,
        "happened": _happened(letter),
        "words": letter.words or (redact(run.cause) if failed else ""),
        "evidence": evidence,
        "advice": redact(run.advice) if failed else "",
        "took": span(int(run.elapsed.total_seconds())) if run.elapsed else "",
        "link": f"{settings.PORTAL_URL}{run.get_absolute_url()}",
        "job_link": f"{settings.PORTAL_URL}{run.job.get_absolute_url()}#mail",
        "profile_link": f"{settings.PORTAL_URL}/profile/",
        "portal_name": settings.PORTAL_NAME,
    }


def find_slow() -> int:
    """Write of runs that go on for longer than usual, once of each. Returns how many."""
    told = Letter.objects.filter(run=OuterRef("pk"), kind=Letter.Kind.SLOW)
    on_nodes = Run.objects.filter(started__isnull=False, observed=False)
    going = on_nodes.filter(~Exists(told), status=Run.Status.INPROGRESS, job__mail_slow=True)
    found = 0
    for run in going.select_related("job").order_by("pk"):  # no more than there are clusters
        usual = usual_time(run)
        assert run.elapsed is not None
        if usual and run.elapsed > max(usual * LONGER, usual + AT_LEAST):
            so_far, mostly = (span(int(time.total_seconds())) for time in (run.elapsed, usual))
            words = f"It has run for {so_far}. Usual is {mostly}."
            Letter.objects.write(run, Letter.Kind.SLOW, words)
            found += 1
    return found


def usual_time(run: Run) -> timedelta | None:
    """The median of the last ten of its job that were FINISHED; None where there are too few."""
    ended = Run.objects.filter(job=run.job_id, status=Run.Status.FINISHED, started__isnull=False, ended__isnull=False)
    seconds = [
        (end - start).total_seconds()
        for start, end in ended.order_by("-pk").values_list("started", "ended")[:10]
        if start and end
    ]
    return timedelta(seconds=median(seconds)) if len(seconds) >= LEAST_KNOWN else None


class MailWatcher:
    """Sends what is to be told of runs. The mail server may take its time; one that takes nothing is asked less and
    less often.
    """

    async def run(self, bell: Bell) -> None:
        clock = asyncio.get_running_loop().time
        find_at = send_at = clock()
        pause = EVERY
        while True:
            if mail.goes_out():
                try:
                    if clock() >= find_at:
                        find_at = clock() + SLOW_EVERY
                        await DATABASE(find_slow)()
                    if clock() >= send_at:
                        await MAILS(send_due)()
                        pause = EVERY
                except Unsent:
                    pause = min(LONGEST, 2 * pause)
                    send_at = clock() + pause
                except Exception:
                    logger.exception("mails about runs were not sent")
            await bell.wait(EVERY)
