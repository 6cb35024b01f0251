"""Secret variables of a job: kept encrypted, never shown, handed to the ranks alone, and hidden in what they print."""

from __future__ import annotations

import json
import random
import runpy

import pytest
from django.urls import reverse

from accounts.models import AuditEvent
from clusters.models import Cluster, EngineVersion
from jobs.actions import change_secrets, create_job, delete_job
from jobs.models import Job
from jobs.plans import _secrets
from portal.errors import Refused
from portal.secrets import unseal
from tests.running import ROOT

Hider = runpy.run_path(str(ROOT / "jobs" / "onnode" / "hiding.py"))["Hider"]
TOKEN = "tok-5up3r-s3cret"


@pytest.fixture(autouse=True)
def no_queue(monkeypatch):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)


@pytest.fixture
def tide(lab):
    return Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.2", cores_per_node=2, node_count=3, status="running",
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip


@pytest.fixture
def create(client, lab, tide, bob, rings):
    client.force_login(bob)

    def create(names, values, **more):
        typed = {"name": "tides", "cluster": tide.uuid, "git_url": "https://git.test/a", "command": "a.py"}
        typed |= {"secrets_name": names, "secrets_value": values, **more}
        return client.post(reverse("new-job", args=[lab.uuid]), typed)

    return create


def test_a_secret_is_in_no_page_no_audit_and_no_row_as_it_is_and_the_node_gets_it(client, create):
    assert create(["API_TOKEN", ""], [TOKEN, ""]).status_code == 302
    job = Job.objects.get()
    assert TOKEN not in job.secret_values
    assert job.secret_names == ["API_TOKEN"]
    assert json.loads(_secrets(job.runs.get())) == {"variables": {"API_TOKEN": TOKEN}}
    for page in ("job", "edit-job", "run-job-with-changes"):
        assert TOKEN not in client.get(reverse(page, args=[job.uuid])).content.decode()
    assert "API_TOKEN" in client.get(reverse("job", args=[job.uuid])).content.decode()
    assert TOKEN not in str(list(AuditEvent.objects.values()))
    assert AuditEvent.objects.get(kind="job").after["secret variables"] == "API_TOKEN"


def test_what_is_typed_is_not_shown_again_when_something_else_is_wrong(create):
    answer = create(["API_TOKEN"], [TOKEN], command="")
    assert "API_TOKEN" in answer.content.decode()
    assert TOKEN not in answer.content.decode()


def test_one_is_kept_another_replaced_and_a_third_taken_away(client, create):
    create(["A", "B", "C"], ["first-a", "first-b", "first-c"])
    job = Job.objects.get()
    form = client.get(reverse("edit-job", args=[job.uuid])).content.decode()
    assert form.count("kept: type to replace it") == 3
    sent = {"name": "tides", "cluster": job.cluster.uuid, "git_url": job.git_url, "command": "a.py"}
    page = reverse("edit-job", args=[job.uuid])
    assert client.post(page, sent | {"secrets_name": ["A", "B", ""], "secrets_value": ["", "second-b", ""]}).url
    job.refresh_from_db()
    assert json.loads(unseal(job, "secret_values")) == {"A": "first-a", "B": "second-b"}
    assert client.post(page, sent).url, "a form that does not ask changes none"
    assert Job.objects.get().secret_names == ["A", "B"]


@pytest.mark.parametrize(
    ("name", "value", "more", "words"),
    [
        ("LD_PRELOAD", "whatever", {}, "is set by the portal"),
        ("TOKEN", "", {}, "Give TOKEN its value"),
        ("TOKEN", "abc", {}, "shorter than 4"),
        ("TOKEN", "abcd", {"environment_name": ["TOKEN"], "environment_value": ["x"]}, "among the other variables"),
        ("", "abcd", {}, "has no name"),
    ],
)
def test_bad_ones_get_their_sentence_at_the_field(create, name, value, more, words):
    form = create([name], [value], **more).context["form"]
    assert words in form.errors["secrets"][0]
    assert value == "" or value not in form.errors["secrets"][0] or name == ""


def test_with_the_job_they_are_gone_and_its_page_says_so_before(client, create, bob):
    create(["A"], [TOKEN])
    job = Job.objects.get()
    asks = client.get(reverse("delete-job", args=[job.uuid])).content.decode()
    assert "The values of its secret variables are gone" in asks
    delete_job(job, by=bob)
    assert Job.objects.get().secret_values == ""


def test_what_two_people_give_at_once_is_kept(create, bob):
    create(["A", "B"], ["of-before", "of-before"])
    job = Job.objects.get()
    change_secrets(Job.objects.get(), {"A": "given-anew", "B": None}, by=bob)
    change_secrets(job, {"A": None, "B": "given-anew"}, by=bob)
    assert json.loads(unseal(Job.objects.get(), "secret_values")) == {"A": "given-anew", "B": "given-anew"}


def test_a_ciphertext_of_another_job_does_not_open(create, bob, lab, tide):
    create(["A"], [TOKEN])
    mine = Job.objects.get()
    words = {"git_url": "https://git.test/a", "reference": "", "command": "a.py"}
    other, run = create_job(lab, name="k", cluster=tide, by=bob, **words)
    Job.objects.filter(pk=other.pk).update(secret_values=mine.secret_values)
    run.job.refresh_from_db()
    with pytest.raises(Refused, match="cannot be decrypted"):
        _secrets(run)
    run.refresh_from_db()
    assert run.code == "secrets"
    other.refresh_from_db()
    assert change_secrets(other, {"A": "new-one"}, by=bob)
    run.job.refresh_from_db()
    assert json.loads(_secrets(run)) == {"variables": {"A": "new-one"}}


@pytest.mark.parametrize("size", [1, 2, 3, 7, 1000])
def test_a_value_is_hidden_wherever_blocks_end(size):
    hider = Hider(["s3cret-token", "s3cret"])
    text = b"a s3cret-token, s3cret. s3cre s3cret-tokes s3cret-token"
    out = b"".join(hider.hide("o", text[at : at + size]) for at in range(0, len(text), size))
    out += b"".join(data for _, data in hider.rest())
    assert b"s3cret" not in out
    assert out.startswith(b"a [hidden]")
    assert out.endswith(b"[hidden]")
    assert b"s3cre " in out, "what only begins like it stays"


def test_blocks_make_no_difference_to_what_is_hidden():
    draw = random.Random(20261127)  # noqa: S311
    for _ in range(2000):
        words = ["".join(draw.choices("ab", k=draw.randint(4, 7))) for _ in range(draw.randint(1, 3))]
        text = "".join(draw.choices("ab", k=30)).encode()
        hider, out, at = Hider(words), b"", 0
        while at < len(text):
            size = draw.randint(1, 9)
            out += hider.hide("o", text[at : at + size])
            at += size
        out += b"".join(data for _, data in hider.rest())
        assert out == Hider(words).pattern.sub(b"[hidden]", text), (words, text)


def test_lines_of_a_value_are_hidden_one_by_one_and_streams_do_not_mix():
    hider = Hider(["-----BEGIN\nabcdefgh\n-----END"])
    assert hider.hide(1, b"> abcdefgh <") == b"> [hidden] <"
    assert hider.hide(1, b"abcd") == b""
    assert hider.hide(2, b"efgh") == b"efgh"
    assert hider.hide(1, b"efgh") == b"[hidden]"
    assert Hider([]).hide(1, b"abcd") == b"abcd"


@pytest.mark.parametrize(("text", "kept"), [
    ("no s3cret-tok", "no [hidden]"),
    ("it is s3cret-token", "it is [hidden]"),
    ("nothing of it", "nothing of it"),
    ("shorter: s3", "shorter: s3"),
])  # fmt: skip
def test_a_text_that_was_cut_ends_with_no_beginning_of_a_value(text, kept):
    assert Hider(["s3cret-token"]).text(text, most=12) == kept
    assert Hider(["é-secret"]).text("ValueError: é-secret!") == "ValueError: [hidden]!"
