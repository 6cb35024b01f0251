"""Two people have the form of one thing open: the second is told of what the first has changed, and takes back nothing
unawares."""

from __future__ import annotations

import pytest
from django.urls import reverse

from accounts.models import User
from jobs.actions import change_job, change_secrets, create_job
from jobs.cron import Cron
from jobs.models import Calendar, Schedule
from jobs.parameters import Parameter
from jobs.schedules import change_calendar, change_schedule, create_schedule
from jobs.templates import change_template
from tests.jobs.conftest import make_template
from tests.web import hidden, words
from workspaces.models import Workspace

pytestmark = pytest.mark.django_db
NIGHTLY = {"cron": "0 3 * * *", "zone": "UTC", "most_runs": "1", "overlap": "skip", "missed": "skip"}


@pytest.fixture
def job(lab, cluster, alice, rings):
    made, _ = create_job(
        lab, name="tides", cluster=cluster, git_url="https://h/x", reference="", command="a.py", by=alice
    )
    return made


@pytest.fixture
def forms(lab, job, alice):
    """For each form: its address, what is typed into it, what alice does meanwhile, and what it is about."""
    schedule = create_schedule(job, Cron.read("0 5 * * *", "UTC"), by=alice)
    template = make_template(lab, alice)
    change_calendar(lab, [["2030-01-01", "2030-01-01", ""]], by=alice)
    about_job = {"name": "new name", "cluster": job.cluster.uuid, "command": "a.py", "git_url": "https://h/x"}
    rows = {"p-TOTAL_FORMS": "1", "p-INITIAL_FORMS": "0", "p-0-name": "steps", "p-0-type": "whole"}
    about_template = {"name": "new name", "command": "a.py {steps}", "git_url": "https://h/x", "kind": "python", **rows}
    as_it_is = {"parameters": [Parameter("steps")], "program": template.program}
    return {
        "edit-job": (job, about_job, lambda: change_job(job, by=alice, command="b.py")),
        "edit-schedule": (schedule, NIGHTLY, lambda: change_schedule(schedule, schedule.clock, by=alice, most_runs=3)),
        "edit-template": (
            *(template, about_template),
            lambda: change_template(template, name="training", description="Mine", by=alice, **as_it_is),
        ),
        "excluded-days": (lab, {"days": "2030-12-25"}, lambda: change_calendar(lab, [], by=alice)),
    }


def kept(about):
    if isinstance(about, Workspace):
        return list(Calendar.objects.values_list("days", flat=True))
    return type(about).objects.filter(pk=about.pk).values().get()


def overtaken(client, bob, name, about, by_another):
    """The address of a form, and what is hidden in it, as bob had it before somebody else changed what it is about."""
    address = reverse(name, args=[about.uuid])
    client.force_login(bob)
    opened = hidden(client.get(address).content.decode())
    by_another()
    return address, opened


@pytest.mark.parametrize("name", ["edit-job", "edit-schedule", "edit-template", "excluded-days"])
def test_what_was_changed_since_a_form_was_opened_is_told_once(client, bob, forms, name):
    about, typed, by_another = forms[name]
    address, opened = overtaken(client, bob, name, about, by_another)
    before = kept(about)
    answer = client.post(address, opened | typed)
    assert "It was changed since you opened this." in words(answer)
    assert kept(about) == before
    for field, text in typed.items():
        if field in ("name", "cron", "days"):
            assert text in answer.content.decode(), "what was typed is there still"
    assert client.post(address, hidden(answer.content.decode()) | typed).status_code == 302
    assert kept(about) != before


@pytest.mark.parametrize("name", ["edit-job", "edit-schedule", "edit-template", "excluded-days"])
def test_a_form_with_another_mistake_in_it_tells_it_too(client, bob, forms, name):
    about, typed, by_another = forms[name]
    address, opened = overtaken(client, bob, name, about, by_another)
    wrong = {field: "no such" for field in typed if field in ("git_url", "cron", "days")}
    answer = client.post(address, opened | typed | wrong)
    assert "It was changed since you opened this." in words(answer)
    again = client.post(address, hidden(answer.content.decode()) | typed | wrong)
    assert "It was changed" not in words(again), "once"
    assert again.status_code == 200


def test_a_secret_variable_is_not_lost_by_a_form_that_does_not_know_it(client, bob, job):
    client.force_login(bob)
    address = reverse("edit-job", args=[job.uuid])
    opened = hidden(client.get(address).content.decode())
    change_secrets(job, {"TOKEN": "hush-hush"}, by=User.objects.get(name="Alice"))
    typed = {"name": "other", "cluster": job.cluster.uuid, "command": "a.py", "git_url": "https://h/x"}
    client.post(address, opened | typed | {"secrets_name": "", "secrets_value": ""})
    job.refresh_from_db()
    assert (job.name, job.secret_names) == ("tides", ["TOKEN"])


def test_a_form_that_is_shown_again_for_its_times_still_knows_when_it_was_opened(client, bob, forms):
    schedule, typed, by_another = forms["edit-schedule"]
    address = reverse("edit-schedule", args=[schedule.uuid])
    client.force_login(bob)
    opened = hidden(client.get(address).content.decode())
    by_another()
    again = client.post(address, opened | typed | {"look": "times"})
    assert "It was changed" not in words(again)
    assert "heeds_calendar" not in typed
    assert not again.context["form"]["heeds_calendar"].value(), "what was taken away stays so"
    client.post(address, hidden(again.content.decode()) | typed)
    assert Schedule.objects.get().cron == "0 5 * * *"
