"""Copies a run's source from a bucket of S3 into a folder that is the run's, by the rights that the node itself has.

No key comes from the portal: the node's metadata service hands out those of its role. Requests are signed with them
here (Signature Version 4), because nodes have no SDK. Imported where it is needed: what it imports takes long to load.
"""

import contextlib
import errno
import hashlib
import hmac
import http.client
import json
import os
import re
import threading
import time
import urllib.parse
from concurrent.futures import ThreadPoolExecutor
from xml.etree import ElementTree

from addresses import shown
from copied import CODE, Contents
from programs import SetupFailed

DENIED = "bucket"  # the code of what another role, or more rights of it, would mend
METADATA = "http://169.254.169.254"
AT_ONCE = 8  # objects
PIECE = 1 << 18
MOST_ANSWER = 16 << 20  # bytes of what is no object
LONGEST = 255  # bytes of a file's name
TRIALS = 4
SILENCE = 30  # seconds
NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
REGION = re.compile(r"[a-z]{2,3}(-[a-z]+)+-\d")
EMPTY = hashlib.sha256(b"").hexdigest()


def fetch(setup):
    """A copy of what the address names, in FOLDER/src. Returns that folder.

    Of `setup.order`: git_url, s3://BUCKET/KEY of one object, or of all below KEY/; `policy`, which lets a role read
    the bucket, and `role`, the one that people gave to the nodes, if they did; and what `Contents` reads.
    """
    copy = Copy(setup.order, setup.folder / "src")
    copy.find()
    count, role = len(copy.objects), copy.bucket.keys.role
    setup.say(f"Copying {count} file{'' if count == 1 else 's'} of the bucket {copy.bucket.name}, as the role {role}")
    setup.begin()
    try:
        copy.take()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise SetupFailed(f"{shown(copy.path)} could not be copied.", str(error)) from error
    copy.tell(setup)
    return copy.into


# What is asked


class Said(Exception):
    """S3 refuses: its own code and words."""

    def __init__(self, status, code, message):
        super().__init__(f"{code}: {message}" if message else code)
        self.status, self.code, self.message = status, code or str(status), message


class Silent(Exception):
    """It does not answer, or not to the end."""


class Keys:
    """Those of the node's role, which end: then they are asked for again."""

    def __init__(self):
        self.base = os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT") or METADATA
        self.given, self.role = None, ""
        self.lock = threading.Lock()

    def now(self):
        with self.lock:
            self.given = self.given or self.ask()
            return self.given

    def forget(self, given):
        with self.lock:
            if self.given is given:
                self.given = None

    def region(self):
        return self.read("placement/region").strip()

    def ask(self):
        at = "iam/security-credentials/"
        self.role = self.read(at).strip()
        try:
            found = json.loads(self.read(at + urllib.parse.quote(self.role))) if self.role else {}
            return found["AccessKeyId"], found["SecretAccessKey"], found["Token"]
        except (ValueError, KeyError) as error:
            raise SetupFailed(
                "The head node has no role by which it could read a bucket.",
                "",
                "Repair the cluster, or run the job on another one.",
                DENIED,
            ) from error

    def read(self, name):
        """Empty where there is no such thing."""
        said = ""
        for trial in range(TRIALS):
            try:
                token = self.call("PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": "300"})
                return self.call("GET", f"meta-data/{name}", {"X-aws-ec2-metadata-token": token}) or ""
            except (OSError, http.client.HTTPException, Silent) as error:
                said = str(error)
                time.sleep(0.2 * 2**trial)
        raise SetupFailed("The head node's metadata service does not answer, which says who the node is.", said)

    def call(self, method, name, headers):
        parts = urllib.parse.urlsplit(self.base)
        connection = http.client.HTTPConnection(parts.netloc, timeout=5)
        with contextlib.closing(connection):
            connection.request(method, f"/latest/{name}", headers=headers)
            answer = connection.getresponse()
            text = answer.read(1 << 16).decode(errors="replace")
        if answer.status == 404:
            return None
        if answer.status != 200:
            raise Silent(f"{answer.status} {answer.reason}")
        return text


class Bucket:
    """Asks S3, or what the node's environment has in its place. Several threads may."""

    def __init__(self, name, keys, until):
        self.name, self.keys, self.until = name, keys, until
        region = keys.region()
        self.region = region if REGION.fullmatch(region) else "us-east-1"
        self.endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL") or ""
        self.mine = threading.local()

    def place(self):
        """Scheme, host and the beginning of each path."""
        if self.endpoint:
            parts = urllib.parse.urlsplit(self.endpoint)
            return parts.scheme, parts.netloc, f"{parts.path.rstrip('/')}/{self.name}"
        host = f"s3.{self.region}.amazonaws.com{'.cn' if self.region.startswith('cn-') else ''}"
        if "." in self.name:  # for which S3 has no certificate
            return "https", host, f"/{self.name}"
        return "https", f"{self.name}.{host}", ""

    def ask(self, key="", query=(), **headers):
        """An answer, to be read to its end or dropped. Raises `Said` and, also where no time is left, `Silent`."""
        said = ""
        for trial in range(TRIALS):
            if trial:
                time.sleep(min(0.2 * 2**trial, max(0, self.until - time.monotonic())))
            if time.monotonic() > self.until:
                break
            given = self.keys.now()
            try:
                answer = self.send(key, query, headers, given)
                if answer.status == 200:
                    return answer
                code, message, region = words_of(answer.read(MOST_ANSWER))
            except (OSError, http.client.HTTPException) as error:
                self.drop()
                said = str(error) or type(error).__name__
                continue
            self.drop()
            region = answer.getheader("x-amz-bucket-region") or region
            if answer.status in (301, 307, 400) and region != self.region and REGION.fullmatch(region):
                self.region = region
            elif code == "ExpiredToken":
                self.keys.forget(given)
            elif answer.status < 500 and code not in ("SlowDown", "RequestTimeout"):
                raise Said(answer.status, code, message)
            said = f"{code or answer.status}: {message}"
        raise Silent(said)

    def send(self, key, query, headers, given):
        scheme, host, top = self.place()
        path = f"{top}/{urllib.parse.quote(os.fsencode(key), safe='/~')}"
        asked = urllib.parse.urlencode(sorted(query), quote_via=urllib.parse.quote, safe="~")
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        signed = signature(host, path, asked, named, given, self.region, time.time())
        connection = self.connection(scheme, host)
        connection.request("GET", f"{path}?{asked}" if asked else path, headers=signed)
        return connection.getresponse()

    def connection(self, scheme, host):
        """This thread's, which is kept: a new one for each object would take longer than the object."""
        there = (scheme, host)
        if getattr(self.mine, "there", None) != there:
            self.drop()
            kind = http.client.HTTPSConnection if scheme == "https" else http.client.HTTPConnection
            self.mine.connection = kind(host, timeout=SILENCE)
            self.mine.there = there
        return self.mine.connection

    def drop(self):
        if getattr(self.mine, "there", None):
            self.mine.connection.close()
            self.mine.there = None

    def listing(self, prefix, **more):
        """Pages of what begins so: [(key, bytes, ETag)], and where there is a delimiter the keys up to it."""
        query = {"list-type": "2", "encoding-type": "url", "prefix": os.fsencode(prefix)}
        query.update({name.replace("_", "-"): value for name, value in more.items()})
        while True:
            try:
                page = ElementTree.fromstring(self.read(self.ask("", query.items()), MOST_ANSWER))  # noqa: S314 (S3's)
                objects = [
                    (decoded(text(one, "Key")), int(text(one, "Size")), text(one, "ETag"))
                    for one in all_of(page, "Contents")
                ]
            except (ElementTree.ParseError, ValueError) as error:
                raise Silent(f"What it lists cannot be read: {error}") from error
            yield objects, [decoded(text(one, "Prefix")) for one in all_of(page, "CommonPrefixes")]
            if text(page, "IsTruncated") != "true":
                return
            query["continuation-token"] = text(page, "NextContinuationToken")

    def read(self, answer, most):
        """Of an answer. Raises `Silent`."""
        try:
            return answer.read(most)
        except (OSError, http.client.HTTPException) as error:
            self.drop()
            raise Silent(str(error) or type(error).__name__) from error


def signature(host, path, query, headers, keys, region, at):
    """The headers of a GET without a body, for whoever has the keys. Path and query are as they are sent."""
    access, secret, token = keys
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(at))
    headers = {**headers, "host": host, "x-amz-content-sha256": EMPTY, "x-amz-date": stamp}
    if token:
        headers["x-amz-security-token"] = token
    names = sorted(headers)
    lines = [f"{name}:{headers[name].strip()}" for name in names]
    request = "\n".join(["GET", path, query, *lines, "", ";".join(names), EMPTY])
    scope = f"{stamp[:8]}/{region}/s3/aws4_request"
    key = f"AWS4{secret}".encode()
    words = "\n".join(["AWS4-HMAC-SHA256", stamp, scope, hashlib.sha256(request.encode()).hexdigest()])
    for word in (*scope.split("/"), words):
        key = hmac.new(key, word.encode(), "sha256").digest()
    who = f"Credential={access}/{scope}, SignedHeaders={';'.join(names)}, Signature={key.hex()}"
    return {**headers, "authorization": f"AWS4-HMAC-SHA256 {who}"}


def words_of(body):
    """The code, the message and the region in what S3 says of an error; what is not there is empty."""
    try:
        page = ElementTree.fromstring(body)  # noqa: S314 (S3's)
    except ElementTree.ParseError:
        return "", "", ""
    return text(page, "Code"), text(page, "Message"), text(page, "Region")


def all_of(page, name):
    return [one for one in page if one.tag.rpartition("}")[2] == name]


def text(page, name):
    return next((one.text or "" for one in all_of(page, name)), "")


def decoded(name):
    return os.fsdecode(urllib.parse.unquote_to_bytes(name.replace("+", " ")))


# What is copied


class Copy(Contents):
    """Of one object, or of all below a name, each as it was when they were listed."""

    what = "is in a bucket"
    data_is = "from a bucket itself"

    def __init__(self, order, into):
        super().__init__(order, into)
        name, _, self.key = self.path[len("s3://") :].partition("/")
        if not NAME.fullmatch(name):
            raise SetupFailed(f"{shown(self.path)} names no bucket.", code=CODE)
        self.role, self.policy = order.get("role"), order.get("policy", "")
        self.objects, self.folders = {}, set()  # {name: (key, bytes, ETag)}
        self.bucket = Bucket(name, Keys(), self.until)

    @property
    def entries(self):
        return len(self.objects) + len(self.folders)

    # What there is

    def find(self):
        """Raises `SetupFailed`, before anything is copied."""
        with self.in_words():
            if self.is_object():
                return
            below = self.key if self.key.endswith("/") or not self.key else f"{self.key}/"
            for objects, _ in self.bucket.listing(below):
                for key, count, tag in objects:
                    self.add(key[len(below) :], key, count, tag)
            if not self.objects:
                raise SetupFailed(
                    f"There is no file at {shown(self.path)}.", self.beside(), "Check the path of the job.", CODE
                )
        if both := sorted(self.folders & self.objects.keys()):
            raise SetupFailed(
                f"{shown(both[0])} in {shown(self.path)} is a file and a folder at once.",
                "",
                "In a bucket both can have one name, on nodes they cannot: rename one of them.",
                CODE,
            )

    def is_object(self):
        """Whether the address is the name of one."""
        if not self.key or self.key.endswith("/"):
            return False
        # In the order of a listing the key itself is before all that it is the beginning of.
        objects, _ = next(self.bucket.listing(self.key, max_keys="1"))
        if not objects or objects[0][0] != self.key:
            return False
        if next(self.bucket.listing(f"{self.key}/", max_keys="1"))[0]:
            raise SetupFailed(
                f"{shown(self.path)} is a file and a folder at once.",
                "",
                f"For the folder, write {shown(self.path)}/ as the path.",
                CODE,
            )
        self.add(self.key.rpartition("/")[2], *objects[0])
        return True

    def add(self, name, key, count, tag):
        self.bytes += count
        self.check()
        if not name and not count:  # what consoles make for an empty folder
            return
        *folders, last = names = name.split("/")
        if not last and not count:
            folders, names = names[:-1], names[:-1]
        why = ""
        if not last and count:
            why = "“/” at its end, and content"
        elif any(one in ("", ".", "..") for one in names):
            why = "“.”, “..” or nothing between two “/”"
        elif "\0" in name or any(len(os.fsencode(one)) > LONGEST for one in names):
            why = "a name that no file can have"
        if why:
            raise SetupFailed(
                f"{shown(key)} in the bucket {self.bucket.name} has {why}.",
                "",
                "It can be no file in a folder: rename it, or name a folder without it as the path.",
                CODE,
            )
        self.folders.update("/".join(folders[:depth]) for depth in range(1, len(folders) + 1))
        if last:
            self.objects[name] = key, count, tag

    def beside(self):
        parent = self.key.rstrip("/").rpartition("/")[0]
        with contextlib.suppress(Said, Silent):
            objects, folders = next(self.bucket.listing(f"{parent}/" if parent else "", delimiter="/", max_keys="20"))
            names = [key.rstrip("/").rpartition("/")[2] for key in (*folders, *(key for key, _, _ in objects))]
            return f"Beside it: {', '.join(map(shown, sorted(filter(None, names))))}" if names else ""
        return ""

    # Taking it

    def take(self):
        self.into.mkdir(exist_ok=True)  # the ranks that wait may be there already
        for folder in sorted(self.folders):
            (self.into / folder).mkdir()
            self.note(self.into / folder, "d", "")
        with ThreadPoolExecutor(AT_ONCE) as pool:
            tasks = [pool.submit(self.file, self.into / name, *about) for name, about in self.objects.items()]
            try:
                for task in tasks:
                    task.result()
            except BaseException:
                self.bucket.until = 0  # so that the others end
                pool.shutdown(cancel_futures=True)
                raise
        self.count = len(self.objects)

    def file(self, to, key, count, tag):
        with self.in_words(key):
            for left in reversed(range(TRIALS)):
                try:
                    content = self.write(to, self.bucket.ask(key, if_match=tag), count)
                except Silent:
                    if not left:
                        raise
                else:
                    break
        self.note(to, "f", content)

    def write(self, to, answer, count):
        """The SHA-256 of what is in the file then."""
        content = hashlib.sha256()
        with open(os.open(to, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600), "wb", 0) as copy:
            while data := self.bucket.read(answer, PIECE):
                count -= len(data)
                if count < 0 or time.monotonic() > self.bucket.until:
                    self.bucket.drop()
                    raise Silent("It sends more than it has." if count < 0 else "")
                content.update(data)
                rest = memoryview(data)
                while rest:
                    rest = rest[copy.write(rest) :]
        if count:
            self.bucket.drop()
            raise Silent("It ended in the middle of a file.")
        return content.hexdigest()

    # What goes wrong

    @contextlib.contextmanager
    def in_words(self, key=""):
        try:
            yield
        except Said as said:
            raise self.refused(said, shown(f"s3://{self.bucket.name}/{key}" if key else self.path)) from said
        except Silent as silent:
            self.check()  # for want of time?
            raise SetupFailed(
                f"S3 did not answer for the bucket {self.bucket.name}.",
                str(silent),
                "Nodes reach S3 by their workspace's network: by an endpoint for S3, or the Internet.",
            ) from silent

    def refused(self, said, what):
        name = self.bucket.name
        if said.code == "NoSuchBucket":
            return SetupFailed(f"There is no bucket {name}.", str(said), "Check the path of the job.", CODE)
        if said.code in ("PreconditionFailed", "NoSuchKey"):
            return SetupFailed(f"{what} changed while it was copied.", str(said), "Run the job again.", CODE)
        if said.code == "InvalidObjectState":
            return SetupFailed(f"{what} is archived.", str(said), "Restore it in S3, and run the job again.", CODE)
        if said.status != 403 or said.code not in ("AccessDenied", "403"):
            return SetupFailed(f"S3 did not give out {what}.", str(said))
        if "kms:" in said.message:
            advice = "The bucket is encrypted with a key of KMS: the role needs the right to decrypt with that, too."
        elif self.role:
            advice = (
                "Give the role this policy in IAM, and run the job again. Where it has that already, the bucket's own"
                " policy forbids it."
            )
        else:
            advice = (
                "It is the cluster's own role, which may do nothing: register an instance role that has this policy in"
                " the settings of the workspace, and run the job on a cluster that was made with it."
            )
        return SetupFailed(
            f"The nodes may not read {what}: the role {self.bucket.keys.role} is not allowed to.",
            f"{said}\n{self.policy}".strip(),
            advice,
            DENIED,
        )
