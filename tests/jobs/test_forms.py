"""What the form of a new job takes, and what it says of the rest at the field."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from django.core.exceptions import ValidationError
from django.utils import timezone

from clusters.models import Cluster, EngineVersion
from jobs.fields import DueField
from jobs.forms import JobForm

pytestmark = pytest.mark.django_db


@pytest.fixture
def errors(lab, monkeypatch):
    """The errors of a form with these fields, and with right ones besides."""
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.1", cores_per_node=1, node_count=1, status="running",
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip
    basic = {
        "cluster": cluster.uuid,
        "command": "ex.py",
        "git_url": "https://git.example.org/x",
        "name": "j",
        "once": "x",
    }

    def errors(**fields):
        form = JobForm({**basic, **fields}, workspace=lab)
        form.is_valid()
        return {name: " ".join(form.errors[name]) for name in fields if name in form.errors}

    return errors


@pytest.mark.parametrize(
    ("command", "operator"),
    [
        ("hello.py a && nosuch.py", "&&"), ("hello.py > out.txt", ">"), ("hello.py | tee x", "|"),
        ("hello.py || true", "||"), ("hello.py < in", "<"), ("hello.py ; ls", ";"), ("hello.py; ls", ";"),
        ("hello.py &", "&"), ("hello.py >out.txt", ">"), ("hello.py >> out.txt", ">>"), ("hello.py 2>&1", "2>&"),
        ("hello.py &> x", "&>"), ("hello.py `date`", "`"), ("hello.py $(date)", "$("), ("hello.py << EOF", "<<"),
        ("hello.py 'a b' && x", "&&"), ('hello.py "a" | x', "|"), ("hello.py \\\\ && x", "&&"),
        ("hello.py a&& b", "&&"), ("hello.py& ", "&"), ("hello.py a| tee x", "|"), ("N=3 hello.py", "N=3"),
    ],
)  # fmt: skip
def test_what_is_for_a_shell_is_said_at_the_field(errors, command, operator):
    assert errors(command=command)["command"].startswith(f"“{operator}” is for a shell, and none runs the command")


@pytest.mark.parametrize(
    "command",
    ["hello.py '&&' \">\" \\| \\;", "hello.py 'a; b' \"`date`\" '$(x)'", "hello.py --where=a<b", "hello.py x>1",
     "hello.py https://h/?a=1&b=2", "hello.py --filter=a|b", "hello.py 'it''s > it'", 'hello.py "a \\" && b"',
     "hello.py a'&&'", "hello.py \"\" ''", "hello.py -1 --sum=$HOME"],
)  # fmt: skip
def test_what_is_quoted_or_within_a_word_is_the_programs(errors, command):
    assert errors(command=command) == {}


@pytest.mark.parametrize("url", ["https://h.example/g/x.git", "https://h.example/g/x", "ssh://git@h.example/g/x.git",
                                 "https://h.example/g/x.git/", "https://[2001:db8::1]/x.git"])  # fmt: skip
def test_an_address_may_end_as_the_server_says(errors, url):
    assert errors(git_url=url) == {}


@pytest.mark.parametrize(
    "reference", ["origin/main", "refs/pull/8/head", "ABCDEF0", "feature/x", "refs/tags/v1", "ñandú"]
)
def test_a_reference_may_be_written_as_git_writes_it(errors, reference):
    assert errors(reference=reference) == {}


@pytest.mark.parametrize(
    ("typed", "found"),
    [
        ("2027-10-31T02:30", "31 Oct 00:30"),  # comes twice, and runs the first time
        ("2027-10-31T03:30", "31 Oct 02:30"),
        ("2027-03-28T02:30", "02:30 does not exist that day in Europe/Berlin, because clocks go forward."),
        ("2036-12-31T00:00", "30 Dec 23:00"),
        ("2037-01-02T00:00", "Give a time within ten years."),
        ("9999-12-31T23:59", "Give a time within ten years."),  # which no clock east of Greenwich could show
        ("2026-12-31T23:00", "This time has passed."),
    ],
)
def test_when_a_run_begins_is_a_time_that_clocks_there_show(typed, found, monkeypatch):
    monkeypatch.setattr("jobs.fields.now", lambda: datetime(2027, 1, 1, tzinfo=UTC))
    with timezone.override("Europe/Berlin"):
        try:
            said = f"{DueField(required=False).clean(typed).astimezone(UTC):%-d %b %H:%M}"
        except ValidationError as error:
            (said,) = error.messages
    assert said.startswith(found)
