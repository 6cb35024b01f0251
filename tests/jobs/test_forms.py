"""What the form of a new job takes, and what it says of the rest at the field."""

from __future__ import annotations

import pytest

from clusters.models import Cluster, EngineVersion
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
