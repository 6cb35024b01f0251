"""What a notebook's job may be, how its run ends, and what of its result is kept and shown, whatever is in it."""

from __future__ import annotations

import json
import runpy
from base64 import b64encode

import pytest
from django.core.exceptions import ValidationError
from django.urls import reverse
from django.utils.timezone import now

from clusters.models import Cluster, EngineVersion, Node
from jobs import causes, notebooks, rules
from jobs.actions import create_job
from jobs.dispatch import MOST_COLLECTING
from jobs.plans import _keep_notebook, _words, how_many_ranks
from portal import ssh
from portal.errors import Passing
from portal.tasks.models import Output, Stream
from tests.running import ROOT

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("rings")]

ONNODE = ROOT / "jobs" / "onnode"
Hider = runpy.run_path(str(ONNODE / "hiding.py"))["Hider"]
on_node = runpy.run_path(str(ONNODE / "notebook.py"))
PNG = b64encode(b"\x89PNG\r\n\x1a\n...").decode()
BAD = "<script>alert(1)</script><img src=x onerror=alert(1)>"


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
def run(lab, tide, bob):
    words = {"git_url": "https://git.test/a", "reference": "", "command": "'a b.ipynb' -p days 7"}
    return create_job(lab, name="report", cluster=tide, by=bob, kind="ipynb", **words)[1]


def code(*outputs, source="x", count=1):
    return {"cell_type": "code", "metadata": {}, "source": source, "execution_count": count, "outputs": list(outputs)}


def data(**kinds):
    kinds = {name.replace("_", "/").replace("svg/xml", "svg+xml"): value for name, value in kinds.items()}
    return {"output_type": "display_data", "data": kinds, "metadata": {}}


def notebook(*cells):
    return json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}).encode()


def keep(run, content):
    run.notebook = Output.objects.create(ended=True)
    run.notebook.append(Stream.STDOUT, content)
    run.save()


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("a.ipynb", ""),
        ("./reports/a.ipynb -p days 7 -r name 'a b'", ""),
        ("a.ipynb -p days -7", ""),
        ("", "required"),
        ("a.py", "no_notebook"),
        ("-p.ipynb", "no_notebook"),
        ("https://example.org/a.ipynb", "no_notebook"),
        ("a.ipynb --kernel bash", "option"),
        ("a.ipynb b.ipynb", "option"),
        ("a.ipynb -p days", "parameter"),
        ("a.ipynb -p 'days=1; x' 7", "parameter"),
        ("a.ipynb -p 'days", "quotes"),
    ],
)
def test_a_notebook_has_parameters_and_no_other_options(text, code):
    if not code:
        assert rules.notebook(f" {text} ") == text
        return
    with pytest.raises(ValidationError) as error:
        rules.notebook(text)
    assert error.value.code == code


def test_it_is_executed_once_by_the_engine_and_beside_the_source(run):
    words = _words(run, "/shared/.runs/1")
    assert (words["program"], how_many_ranks(run)) == ("python", 1)
    assert words["command"][:2] == ["-m", "papermill"]
    assert words["command"][-5:] == ["-p", "days", "7", "a b.ipynb", "/shared/.runs/1/executing.ipynb"]
    assert run.command_line == "papermill -p days 7 'a b.ipynb' executed.ipynb"
    places = notebooks.environment("/shared/.runs/1", "/shared/engine", "/node/hostfile")
    assert places.pop("HYDRA_HOST_FILE") == "/node/hostfile"
    assert places["IPYTHONDIR"] == "/shared/.runs/1/ipython", "IPython warns where what it is in is not there"
    assert all(place.startswith("/shared/") for value in places.values() for place in value.split(":"))


def test_the_form_takes_a_notebook_and_no_number_of_ranks(client, lab, tide, bob):
    client.force_login(bob)
    typed = {"name": "r", "cluster": tide.uuid, "git_url": "https://git.test/t/a/blob/main/nb/a.ipynb", "kind": "ipynb"}
    typed |= {"command": "a.ipynb -p days 7", "ranks": "2"}
    answer = client.post(reverse("new-job", args=[lab.uuid]), typed)
    assert answer.context["form"].errors == {"ranks": ["A notebook runs once: leave this empty."]}
    answer = client.post(reverse("new-job", args=[lab.uuid]), typed | {"ranks": ""})
    job = lab.jobs.get(name="r")
    assert (job.kind, job.command) == ("ipynb", "nb/a.ipynb -p days 7")
    page = client.get(reverse("job", args=[job.uuid])).content.decode()
    assert "<dt>Notebook</dt>" in page


FAILED = 'papermill.exceptions.PapermillExecutionError: \n-----\nException encountered at "In [3]":\n-----\nZero'


@pytest.mark.parametrize(
    ("last", "error", "message", "code"),
    [
        ("ZeroDivisionError: division by zero", FAILED,
         "Cell [3] of the notebook failed: ZeroDivisionError: division by zero", "cell"),
        ("ModuleNotFoundError: No module named 'nope'", FAILED,
         "Cell [3] of the notebook failed: there is no module nope.", "no_module"),
        ("nbclient.exceptions.DeadKernelError: Kernel died", "nbclient.exceptions.DeadKernelError: Kernel died",
         "Rank 0 on n1 ended with exit status 1: the notebook's kernel ended in the middle of a cell.", "kernel"),
    ],
)  # fmt: skip
def test_why_it_failed_is_said_of_the_cell(last, error, message, code):
    failure = {
        "rank": 0,
        "world": 0,
        "node": "n1",
        "status": 1,
        "error": error,
        "words": f"File papermill.py\n{error[:60]}\nTraceback\n{last}\n",
    }
    cause = causes.of_ranks([failure], 1, 1)
    assert (cause.message, cause.code) == (message, code)
    assert cause.evidence.endswith(f"Traceback\n{last}")
    assert ("papermill.py" in cause.evidence) == (error != FAILED)


def test_nothing_of_it_becomes_markup(client, run, vera):
    keep(run, notebook(
        {"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", BAD]},
        {"cell_type": "raw", "metadata": {}, "source": BAD},
        code({"output_type": "stream", "name": "stdout", "text": ["\x1b[31mred\x1b[0m\n", BAD]}, source=BAD),
        code({"output_type": "error", "ename": "E", "evalue": BAD, "traceback": ["\x1b[0;31mE\x1b[0m: ", BAD]}),
        code(data(text_html=BAD), data(text_html=BAD, text_plain="<Table>"), data(**{f"image/png{BAD}": PNG})),
        code(data(image_svg_xml=BAD), data(application_javascript="alert(1)")),
        code(data(image_png=f'{PNG}" onload="alert(1)'), data(image_png=[f"{PNG}\n"], text_plain=f'" {BAD}')),
        code(data(image_jpeg=b64encode(BAD.encode()).decode())),
    ))  # fmt: skip
    client.force_login(vera)
    answer = client.get(reverse("notebook", args=[run.uuid]))
    page = answer.content.decode()
    main = page[page.index("<main") : page.index("</main>")]
    assert "<script" not in main
    assert "<img src=x" not in page
    assert 'onload="' not in main
    assert main.count("<img") == 2
    assert f'src="data:image/png;base64,{PNG}"' in main
    assert "&lt;Table&gt;" in main
    assert "\x1b" not in main
    assert "red" in main
    assert "Only as image/svg+xml, which is not shown here" in main
    assert main.count("failed") == 1
    assert "unsafe" not in answer["Content-Security-Policy"]
    assert "script-src 'self'" in answer["Content-Security-Policy"]


def test_the_file_is_never_a_page(client, run, vera, charlie):
    keep(run, content := notebook(code(data(text_html=BAD))))
    client.force_login(vera)
    assert "The executed notebook" in client.get(reverse("run", args=[run.uuid])).content.decode()
    answer = client.get(reverse("notebook-file", args=[run.uuid]))
    assert answer.content == content
    assert answer["Content-Disposition"].startswith("attachment;")
    assert (answer["Content-Type"], answer["X-Content-Type-Options"]) == ("application/octet-stream", "nosniff")
    client.force_login(charlie)
    for name in ("notebook", "notebook-file"):
        assert client.get(reverse(name, args=[run.uuid])).status_code == 404


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff\xfe", b"[]", b"{}", b"null", b'{"nbformat": 3, "cells": []}', b'{"nbformat": 4, "cells": {}}',
        b'{"nbformat": 4, "cells": [1]}', b"[" * 100_000, b"1" * 10_000, b'{"nbformat": 4, "cells": [{"metadata": 1}]}',
        notebook(code(1)), notebook(code({"output_type": "error", "traceback": 1})),
        notebook(code(data()) | {"outputs": 1}),
        notebook({"cell_type": "code", "outputs": [{"output_type": "display_data", "data": []}]}),
    ],
)  # fmt: skip
def test_what_is_no_notebook_gets_a_sentence(client, run, vera, content):
    keep(run, content)
    client.force_login(vera)
    answer = client.get(reverse("notebook", args=[run.uuid]))
    assert answer.status_code == 200
    page = answer.content.decode()
    assert "What the run has left" in page or "which is not shown here" in page


def test_a_page_has_bounds_and_says_so():
    texts = [code({"output_type": "stream", "text": "x\n" * 30_000}) for _ in range(200)]
    cells = notebooks.read(notebook(*texts, code(data(image_png=PNG))))
    assert cells[0].pieces[0].text.endswith("… 10,000 more characters, which the file has")
    assert sum(len(piece.text) for cell in cells for piece in cell.pieces) < notebooks.MOST_SHOWN + 100_000
    assert "no room on this page" in cells[-1].pieces[0].missing


def test_no_notebook_no_page(client, run, vera):
    client.force_login(vera)
    assert client.get(reverse("notebook", args=[run.uuid])).status_code == 404
    assert "The executed notebook" not in client.get(reverse("run", args=[run.uuid])).content.decode()


@pytest.fixture
def node(monkeypatch, run):
    """Its head node, on which a file is what the test says."""
    answers = {"file": None}

    def answer(host, command, **_):
        content = answers["file"]
        if isinstance(content, Exception):
            raise content
        if "stat" in command:
            return ssh.Answer(int(content is None), b"" if content is None else b"%d\n" % len(content), b"")
        at = int(command.split("+")[1].split()[0]) - 1
        return ssh.Answer(0, content[at : at + notebooks._PIECE], b"")

    monkeypatch.setattr(ssh, "run", answer)
    monkeypatch.setattr(Node, "host", None)
    run.cluster.nodes.create(rank=0, hostname="tide-0", host_public="ssh-ed25519 AAAA", address="127.0.0.1")
    return answers


def test_it_is_copied_from_the_node_byte_for_byte_into_the_store_of_the_output(run, node):
    node["file"] = notebook(code()) + b" " * (notebooks._PIECE * 2 + 1)
    assert notebooks.keep(run) == ""
    run.refresh_from_db()
    assert notebooks.content(run) == node["file"]
    assert run.notebook.is_kept
    assert (run.notebook.store, run.notebook.folder) == (run.output.store, f"{run.output.folder}.ipynb")
    node["file"] = b"another"
    assert notebooks.keep(run) == ""
    assert notebooks.content(run) != b"another"


def test_what_is_not_kept_is_said(run, node, monkeypatch):
    assert notebooks.keep(run) == "The run has left no executed notebook."
    monkeypatch.setattr(notebooks, "MOST", 10)
    node["file"] = b"x" * 11
    assert notebooks.keep(run).startswith("The executed notebook has 11 bytes and is not kept: at most 10 are.")
    node["file"] = Passing("tide-0 does not answer.")
    with pytest.raises(Passing):
        notebooks.keep(run)
    assert run.notebook is None


SECRET = 's3cret "quoted"\nin two lines'


def test_values_of_secret_variables_are_in_no_result(tmp_path):
    cells = [
        code({"output_type": "stream", "name": "stdout", "text": ["a s3cret ", '"quoted"\n', "in two lines, b\n"]}),
        code(data(text_plain=f"'{SECRET}'"), {"output_type": "error", "traceback": ["x", SECRET]}, source=SECRET),
    ]
    (tmp_path / "executing.ipynb").write_bytes(notebook(*cells))
    on_node["publish"](tmp_path, Hider([SECRET]))
    kept = (tmp_path / "executed.ipynb").read_text()
    assert "s3cret" not in kept
    assert "two lines" not in kept
    first, second = notebooks.read(kept.encode())
    assert first.pieces[0].text == "a [hidden], b"
    assert second.source == "[hidden]"
    assert [path.name for path in tmp_path.iterdir()] == ["executed.ipynb"]


def test_without_secrets_it_stays_byte_for_byte_and_what_cannot_be_looked_through_is_no_result(tmp_path):
    written, kept = tmp_path / "executing.ipynb", tmp_path / "executed.ipynb"
    on_node["publish"](tmp_path, Hider([]))
    written.write_text("{ anything")
    on_node["publish"](tmp_path, Hider([SECRET]))
    assert not kept.exists()
    on_node["publish"](tmp_path, Hider([]))
    assert kept.read_text() == "{ anything"
    kept.unlink()
    written.symlink_to("/etc/hostname")
    on_node["publish"](tmp_path, Hider([]))
    assert not kept.exists()


class Waits(Exception):
    pass


class Work:
    def __init__(self):
        self.memo, self.said = {}, []

    def wait(self, seconds, why):
        raise Waits(why)

    def log(self, words):
        self.said.append(words)


def test_a_node_that_is_away_is_asked_again_for_a_while(run, node):
    work = Work()
    node["file"] = Passing("tide-0 does not answer.")
    run.ended = now()
    with pytest.raises(Waits, match="tide-0 does not answer"):
        _keep_notebook(work, run)
    assert work.memo == {}
    run.ended -= MOST_COLLECTING
    _keep_notebook(work, run)
    assert work.memo == {"notebook": True}
    assert work.said == ["tide-0 does not answer. The executed notebook is not kept."]


def test_where_the_nodes_are_gone_that_is_said(run, node):
    run.cluster.nodes.update(address="")
    _keep_notebook(work := Work(), run)
    assert work.said == ["The executed notebook is not kept: the nodes are gone."]
