"""A job whose source is in a bucket of S3: a node copies it by its own role, and says what was in it.

S3 and the node's metadata service are a server here, which takes no request that botocore would sign otherwise.
"""

from __future__ import annotations

import http.server
import importlib
import json
import os
import re
import threading
import urllib.parse
from xml.sax.saxutils import escape

import pytest
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from django.core.exceptions import ValidationError
from django.urls import reverse

from clusters.models import Cluster, EngineVersion
from jobs import causes, rules
from jobs.models import Job
from jobs.plans import _rights
from portal.clouds import Can
from portal.clouds.aws import policy
from tests.jobs.conftest import PLACES

PROJECT = "s3://flights/team/project"
KEYS = ("AKIDNODE", "the node's secret", "the session's token")


class S3(http.server.BaseHTTPRequestHandler):
    """One region of it, and beside it what says who the node is."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self):
        assert self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self.answer(200, b"imds")

    def do_GET(self):
        at, _, query = self.path.partition("?")
        if at.startswith("/latest/meta-data/"):
            self.metadata(at.removeprefix("/latest/meta-data/"))
            return
        self.server.asked.append(self.path)
        if why := self.server.spoils(self, urllib.parse.unquote(at)):
            status, code, headers = why
            self.answer(status, f"<Error><Code>{code}</Code><Message>So it is.</Message></Error>".encode(), **headers)
            return
        assert self.is_signed(at, query), self.path
        _, name, *rest = urllib.parse.unquote(at, errors="surrogateescape").split("/", 2)
        if name != "flights":
            self.answer(404, b"<Error><Code>NoSuchBucket</Code><Message>There is none.</Message></Error>")
        elif query:
            self.listing(dict(urllib.parse.parse_qsl(query)))
        else:
            data = self.server.objects[rest[0]]
            assert self.headers["If-Match"] == self.server.tag(rest[0])
            self.answer(200, data)

    def metadata(self, name):
        if self.headers["X-aws-ec2-metadata-token"] != "imds":
            self.answer(401, b"")
            return
        known = {"placement/region": "eu-west-3"}
        if self.server.role:
            said = dict(zip(("AccessKeyId", "SecretAccessKey", "Token"), KEYS, strict=True))
            at = "iam/security-credentials/"
            known |= {at: self.server.role, at + self.server.role: json.dumps(said)}
        self.answer(200, known[name].encode()) if name in known else self.answer(404, b"")

    def is_signed(self, path, query):
        signed = re.search("SignedHeaders=([^,]+)", self.headers["Authorization"])[1].split(";")
        region = self.headers["Authorization"].split("/")[2]
        assert {"host", "x-amz-security-token", "x-amz-date"} <= set(signed)
        request = AWSRequest("GET", f"http://{self.headers['Host']}{path}{f'?{query}' if query else ''}",
                             headers={name: self.headers[name] for name in signed})  # fmt: skip
        request.context["timestamp"] = self.headers["x-amz-date"]
        auth = S3SigV4Auth(Credentials(*KEYS), "s3", region)
        words = auth.string_to_sign(request, auth.canonical_request(request))
        return self.headers["Authorization"].endswith(f"Signature={auth.signature(words, request)}")

    def listing(self, asked):
        assert (asked["list-type"], asked["encoding-type"]) == ("2", "url")
        names = sorted(key for key in self.server.objects if key.startswith(asked.get("prefix", "")))
        after = bytes.fromhex(asked.get("continuation-token", "")).decode()
        names = [name for name in names if name > after]
        page = names[: min(int(asked.get("max-keys", 1000)), self.server.page)]
        rows = "".join(
            f"<Contents><Key>{urllib.parse.quote_plus(name, safe='/')}</Key>"
            f"<Size>{len(self.server.objects[name])}</Size><ETag>{escape(self.server.tag(name))}</ETag></Contents>"
            for name in page
        )
        token = page[-1].encode().hex() if len(page) < len(names) else ""
        more = f"<NextContinuationToken>{token}</NextContinuationToken>" if token else ""
        self.answer(
            200,
            f'<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">{rows}{more}'
            f"<IsTruncated>{'true' if more else 'false'}</IsTruncated></ListBucketResult>".encode(),
        )

    def answer(self, status, body, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def s3(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), S3)
    server.daemon_threads = True
    server.asked, server.page, server.role = [], 2, "reader"
    server.spoils = lambda request, path: None
    server.tag = lambda key: f'"{len(server.objects[key])}-{key.count("e")}"'
    server.objects = {
        "team/project/": b"",
        "team/project/ex.py": b"import lib.one\n",
        "team/project/lib/one.py": b"print('one')\n",
        "team/project/a b+c/ü&.txt": b"x" * 700_000,
        "team/project/empty/": b"",
        "team/project-old/ex.py": b"no",
        "team/ex.py": b"print(1)\n",
        "team/ex.pyc": b"",
    }
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", address)
    yield server
    server.shutdown()
    server.server_close()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def copied(done, tmp_path):
    return tmp_path.__class__(json.loads(done.stdout.splitlines()[0])["source"])


def test_all_below_a_name_is_copied_in_pages_and_on_record(run, s3, tmp_path):
    done, facts, setup = run(url=PROJECT)
    copy = copied(done, tmp_path)
    assert files(copy) == ["a b+c", "a b+c/ü&.txt", "empty", "ex.py", "lib", "lib/one.py"]
    assert (copy / "lib/one.py").read_bytes() == b"print('one')\n"
    assert (copy / "a b+c/ü&.txt").stat().st_size == 700_000
    found = re.fullmatch(r"3 files, 700\.0 kB, sha256 ([0-9a-f]{64})", facts["subject"])
    assert facts["commit"] == found[1][:40]
    assert "as the role reader" in setup
    assert not [key for key in KEYS if key in setup + json.dumps(facts) + done.stdout]
    # The same contents in a folder of /shared are the same.
    shared = tmp_path / "shared" / "project"
    for path in [copy, *copy.rglob("*")]:
        if path.is_dir():
            (shared / path.relative_to(copy)).mkdir(parents=True, exist_ok=True)
        else:
            (shared / path.relative_to(copy)).write_bytes(path.read_bytes())
    assert run(url="/shared/project")[1]["commit"] == facts["commit"]


def test_what_has_changed_is_not_run_as_exactly_this(run, s3):
    commit = run(url=PROJECT)[1]["commit"]
    assert run(url=PROJECT, reference=commit)[1]["commit"] == commit
    s3.objects["team/project/ex.py"] += b"#"
    assert run(url=PROJECT, reference=commit)[1]["failure"]["message"] == (
        f"What is in {PROJECT} is no longer what it was."
    )
    assert "has no branch" in run(url=PROJECT, reference="main")[1]["failure"]["message"]


def test_one_object_is_a_file_and_its_neighbours_are_not_there(run, s3, tmp_path):
    done, facts, _ = run(url="s3://flights/team/ex.py")
    assert files(copied(done, tmp_path)) == ["ex.py"]
    assert facts["subject"].startswith("1 file, 9 bytes, sha256 ")
    s3.objects["team/ex.py/x"] = b""
    failure = run(url="s3://flights/team/ex.py")[1]["failure"]
    assert failure["message"] == "s3://flights/team/ex.py is a file and a folder at once."
    assert files(copied(run(url="s3://flights/team/ex.py/")[0], tmp_path)) == ["x"]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        (["../x"], "has “.”, “..” or nothing between two “/”."),
        (["a/./x"], "has “.”, “..” or nothing between two “/”."),
        (["/etc/passwd"], "has “.”, “..” or nothing between two “/”."),
        (["a//"], "has “.”, “..” or nothing between two “/”."),
        (["a\0b"], "has a name that no file can have."),
        (["é" * 150], "has a name that no file can have."),
        (["lib"], "lib in s3://flights/team/project is a file and a folder at once."),
        (["lib/one.py/"], "lib/one.py in s3://flights/team/project is a file and a folder at once."),
    ],
)
def test_names_that_are_none_of_files_are_refused_in_words(run, s3, keys, words):
    s3.objects |= {f"team/project/{key}": b"" if key.endswith("/") else b"x" for key in keys}
    done, facts, _ = run(url=PROJECT)
    assert facts["failure"]["message"].endswith(words)
    assert (done.returncode, facts["failure"]["code"]) == (70, "address")
    assert not [path for path in s3.asked if "?" not in path], "nothing is read before"


def test_a_folder_with_content_is_refused_and_a_name_with_a_line_break_is_one(run, s3, tmp_path):
    s3.objects["team/project/x\ny"] = b"z"
    done, _, _ = run(url=PROJECT)
    assert (copied(done, tmp_path) / "x\ny").read_text() == "z"
    s3.objects["team/project/x/"] = b"z"
    assert run(url=PROJECT)[1]["failure"]["message"].endswith("has “/” at its end, and content.")


@pytest.mark.parametrize(
    ("most", "words"),
    [
        ({"source_bytes": 20}, "is more than 20 bytes."),
        ({"source_files": 3}, "has more than 3 files and folders."),
        ({"source_seconds": 0}, "takes too long to copy."),
    ],
)
def test_too_much_is_said_before_anything_is_read(run, s3, most, words):
    facts = run(url=PROJECT, **most)[1]
    assert facts["failure"]["message"] == f"{PROJECT} {words}"
    assert not [path for path in s3.asked if "?" not in path]


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://flights/team/nothing", "There is no file at s3://flights/team/nothing."),
        ("s3://another/team", "There is no bucket another."),
        ("s3://x.example.org:1/team", "s3://x.example.org:1/team names no bucket."),
    ],
)
def test_what_is_not_there_is_named(run, s3, url, words):
    done, facts, _ = run(url=url)
    assert (done.returncode, facts["failure"]["message"], facts["failure"]["code"]) == (70, words, "address")


def refused(status, code, on="", **headers):
    def spoils(request, path):
        return (status, code, headers) if path.endswith(on or "/flights/") else None

    return spoils


@pytest.mark.parametrize("on", ["", "ex.py"])
@pytest.mark.parametrize(("role", "next_step"), [("arn:aws:iam::1:role/reader", "Give the role"), ("", "register")])
def test_a_role_without_the_right_is_told_what_it_lacks_and_what_is_next(run, s3, on, role, next_step):
    s3.spoils = refused(403, "AccessDenied", on)
    done, facts, _ = run(url=PROJECT, role=role, policy='{"Action": "s3:ListBucket"}')
    failure = facts["failure"]
    where = f"{PROJECT}/{on}" if on else PROJECT
    assert failure["message"] == f"The nodes may not read {where}: the role reader is not allowed to."
    assert failure["evidence"] == 'AccessDenied: So it is.\n{"Action": "s3:ListBucket"}'
    assert next_step in failure["advice"]
    assert (done.returncode, failure["code"]) == (70, "bucket")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (412, "PreconditionFailed", f"{PROJECT}/ex.py changed while it was copied."),
        (404, "NoSuchKey", f"{PROJECT}/ex.py changed while it was copied."),
        (403, "InvalidObjectState", f"{PROJECT}/ex.py is archived."),
        (403, "RequestTimeTooSkewed", f"S3 did not give out {PROJECT}/ex.py."),
    ],
)
def test_what_s3_says_of_an_object_is_told_in_words(run, s3, status, code, words):
    s3.spoils = refused(status, code, "ex.py")
    assert run(url=PROJECT)[1]["failure"]["message"] == words


@pytest.mark.parametrize("status", [301, 400])
def test_a_bucket_of_another_region_is_asked_there(run, s3, status):
    def spoils(request, path):
        is_there = "/eu-north-1/s3/" in request.headers["Authorization"]
        return None if is_there else (status, "PermanentRedirect", {"x-amz-bucket-region": "eu-north-1"})

    s3.spoils = spoils
    assert run(url=PROJECT)[1]["subject"].startswith("3 files")
    assert len([path for path in s3.asked if "max-keys=1" in path]) == 2, "it is remembered"


def test_what_passes_is_asked_again(run, s3):
    failed = set()

    def spoils(request, path):
        if request.path in failed:
            return None
        failed.add(request.path)
        if path.endswith("one.py"):
            request.close_connection = True
            request.send_response(200)
            request.send_header("Content-Length", "13")
            request.end_headers()
            request.wfile.write(b"print")
            raise ConnectionAbortedError
        return (400, "ExpiredToken", {}) if path.endswith("ex.py") else (503, "SlowDown", {})

    s3.spoils = spoils
    s3.handle_error = lambda *_: None
    assert run(url=PROJECT)[1]["subject"].startswith("3 files, 700.0 kB")


def test_a_node_without_a_role_says_so(run, s3):
    s3.role = ""
    assert "has no role" in run(url=PROJECT)[1]["failure"]["message"]


def test_a_s3_that_does_not_answer_is_named(run, s3):
    s3.spoils = refused(500, "InternalError")
    failure = run(url=PROJECT, source_seconds=2)[1]["failure"]
    assert failure["message"] in {
        "S3 did not answer for the bucket flights.",
        f"{PROJECT} takes too long to copy.",
    }


# Signature Version 4


@pytest.fixture
def bucket(monkeypatch):
    for place in PLACES:
        monkeypatch.syspath_prepend(place)
    return importlib.import_module("bucket")


@pytest.mark.parametrize(
    ("path", "query", "headers", "expected"),
    [
        ("/test.txt", "", {"range": "bytes=0-9"}, "f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"),
        ("/", "lifecycle=", {}, "fea454ca298b7da1c68078a5d1bdbfbbe0d65c699e0f91ac7a200a0136783543"),
        ("/", "max-keys=2&prefix=J", {}, "34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"),
    ],
)
def test_requests_are_signed_as_in_the_examples_that_aws_publishes(bucket, path, query, headers, expected):
    """Signature Calculations for the Authorization Header, in the API reference of S3."""
    keys = ("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "")
    at = 1369353600  # 20130524T000000Z
    signed = bucket.signature("examplebucket.s3.amazonaws.com", path, query, headers, keys, "us-east-1", at)
    assert signed["authorization"].rpartition("Signature=")[2] == expected


@pytest.mark.parametrize(
    ("name", "region", "place"),
    [
        ("flights", "eu-west-3", ("https", "flights.s3.eu-west-3.amazonaws.com", "")),
        ("flights.old", "eu-west-3", ("https", "s3.eu-west-3.amazonaws.com", "/flights.old")),
        ("flights", "cn-north-1", ("https", "flights.s3.cn-north-1.amazonaws.com.cn", "")),
    ],
)
def test_where_a_bucket_is_asked(bucket, monkeypatch, name, region, place):
    for variable in [one for one in os.environ if one.startswith("AWS_")]:
        monkeypatch.delenv(variable)
    keys = type("Keys", (), {"region": lambda self: region})()
    assert bucket.Bucket(name, keys, 0).place() == place


def test_the_policy_that_is_to_be_pasted_has_what_is_asked_for_and_no_more():
    text = policy.in_lines(policy.reading_of_a_bucket("flights", "aws-cn"))
    assert len(text.splitlines()) < causes.MOST_EVIDENCE
    found = [(one["Effect"], one["Action"], one["Resource"]) for one in json.loads(text)["Statement"]]
    assert found == [
        ("Allow", "s3:ListBucket", "arn:aws-cn:s3:::flights"),
        ("Allow", "s3:GetObject", "arn:aws-cn:s3:::flights/*"),
    ]


# The form


@pytest.mark.parametrize(
    "typed",
    ["s3://", "s3://x", "s3:///a", "s3://Flights/a", "s3://a_b/c", "s3://10.0.0.1/a", "s3://a..b/c", "s3://flights/../a",
     "s3://flights/a//b", "s3://flights/a/./b", "s3://flights/a\0b", "s3://u:p@flights/a", f"s3://flights/{'a' * 500}"],
)  # fmt: skip
def test_no_other_address_is_that_of_a_bucket(typed):
    with pytest.raises(ValidationError):
        rules.address(typed)


@pytest.mark.parametrize(
    "typed", ["s3://flights", "s3://flights/", "s3://flights/my project/", "s3://flights/a?b#c.py"]
)
def test_an_address_stays_as_it_is(typed):
    assert rules.address(f" {typed} ").git_url == typed
    assert rules.address(typed.replace("s3:", "S3:")).git_url == typed


@pytest.fixture
def typed(lab, bob, client, monkeypatch, rings):
    monkeypatch.setattr("portal.tasks.queue.push", lambda task: None)
    cluster = Cluster.objects.create(
        workspace=lab, name="tide", instance_type="local.1", cores_per_node=1, node_count=1, status="running",
        engine_version=EngineVersion.objects.get(kind="mpi"),
    )  # fmt: skip
    client.force_login(bob)
    return {"name": "j", "cluster": cluster.uuid, "command": "ex.py", "git_url": PROJECT}


@pytest.mark.django_db
def test_where_nodes_have_no_role_the_form_says_so(client, lab, typed):
    new = reverse("new-job", args=[lab.uuid])
    assert "s3://" not in client.get(new).content.decode()
    answer = client.post(new, typed)
    assert "have no role by which they could read a bucket" in answer.context["form"].errors["git_url"][0]
    checked = client.post(new, {**typed, "look": "check"}, headers={"HX-Target": "checked"}).content.decode()
    assert "have no role by which they could read a bucket" in checked
    assert not Job.objects.exists()


@pytest.mark.django_db
def test_where_they_have_a_job_of_a_bucket_is_made_and_its_check_says_what_is_known(client, lab, typed, monkeypatch):
    monkeypatch.setattr(type(lab), "can", property(lambda self: frozenset({Can.BUCKET})))
    new = reverse("new-job", args=[lab.uuid])
    assert "s3://BUCKET/team/project" in client.get(new).content.decode()

    def check():
        return client.post(new, {**typed, "look": "check"}, headers={"HX-Target": "checked"}).content.decode()

    assert "own role, which may do nothing" in check()
    Cluster.objects.update(role="arn:aws:iam::1:role/reader")
    assert "with the role arn:aws:iam::1:role/reader, when the job runs" in check()
    assert "leave this empty" in client.post(new, {**typed, "reference": "main"}).content.decode()
    assert "begins with https://" in client.post(new, {**typed, "git_password": "x"}).content.decode()
    assert client.post(new, typed).status_code == 302
    run = Job.objects.get().runs.get()
    assert run.git_url == PROJECT
    asked = []
    account = type("Account", (), {"reading": lambda self, name: asked.append(name) or "a policy"})()
    monkeypatch.setattr(type(lab.cloud_config), "account", account)
    assert _rights(run) == {"role": "arn:aws:iam::1:role/reader", "policy": "a policy"}
    assert asked == ["flights"]
    page = client.get(reverse("job", args=[run.job.uuid])).content.decode()
    assert PROJECT in page
    assert "Signs in" not in page
