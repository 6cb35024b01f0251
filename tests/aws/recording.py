"""What moto was asked, of its own recording of requests."""

from __future__ import annotations

import base64
import functools
import json
import re
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import botocore.loaders
import botocore.model

ROOM = "machine-room"  # in the User-Agent of what is asked by the room and by tests, and not by the portal

# How IAM calls what the model of a service calls otherwise.
_SERVICES = {"elasticfilesystem": "efs", "monitoring": "cloudwatch", "servicequotas": "service-quotas"}
_ACTIONS = {
    "s3:HeadBucket": "s3:ListBucket",
    "s3:ListObjects": "s3:ListBucket",
    "s3:ListObjectsV2": "s3:ListBucket",
    "s3:ListObjectVersions": "s3:ListBucketVersions",
    "s3:HeadObject": "s3:GetObject",
    "s3:DeleteObjects": "s3:DeleteObject",
    "s3:CopyObject": "s3:PutObject",
    "s3:CreateMultipartUpload": "s3:PutObject",
    "s3:UploadPart": "s3:PutObject",
    "s3:CompleteMultipartUpload": "s3:PutObject",
    "s3:ListMultipartUploads": "s3:ListBucketMultipartUploads",
    "s3:PutBucketEncryption": "s3:PutEncryptionConfiguration",
    "s3:GetBucketEncryption": "s3:GetEncryptionConfiguration",
    "s3:PutPublicAccessBlock": "s3:PutBucketPublicAccessBlock",
    "s3:GetPublicAccessBlock": "s3:GetBucketPublicAccessBlock",
    "s3:PutBucketLifecycleConfiguration": "s3:PutLifecycleConfiguration",
    "s3:GetBucketLifecycleConfiguration": "s3:GetLifecycleConfiguration",
}


@dataclass(frozen=True)
class Call:
    action: str  # as a policy has it: ec2:RunInstances
    parameters: dict[str, str]  # of the query protocol, flat; of JSON, what is on its top
    agent: str
    session: str  # the id of the access key: of a role, each process has one of its own
    text: str  # all of it, its headers too

    @property
    def is_ours(self) -> bool:
        """Whether the portal asked, or something on a node."""
        return ROOM not in self.agent

    @property
    def is_of_a_role(self) -> bool:
        """Whether the portal asked in the name of a configuration's role, and not in its own or by an access key."""
        return "app/coxswain" in self.agent and self.session.startswith("ASIA")


class Recording:
    """Reads on from where it was."""

    def __init__(self, file: Path) -> None:
        self.file, self.read = file, 0

    def more(self) -> list[Call]:
        if not self.file.exists():
            return []
        with self.file.open("rb") as file:
            file.seek(self.read)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self.read += len(whole)
        return [call for line in whole.splitlines() if (call := _call(json.loads(line)))]


def _call(entry: dict[str, Any]) -> Call | None:
    """None for what is not AWS's: the emulator's own pages."""
    headers = {name.lower(): value for name, value in entry["headers"].items()}
    scope = re.search(r"Credential=([^/]+)/\d+/[^/]+/([^/]+)/aws4_request", headers.get("authorization", ""))
    if not scope:
        return None
    service = scope[2]
    data = entry.get("body") or ""
    body = base64.b64decode(data).decode(errors="replace") if entry.get("body_encoded") else data
    url = urllib.parse.urlsplit(entry["url"])
    parameters = dict(urllib.parse.parse_qsl(body if "Action=" in body else url.query, keep_blank_values=True))
    if "Action" in parameters:
        name = parameters["Action"]
    elif target := headers.get("x-amz-target"):
        name = target.rsplit(".", 1)[1]
        parameters = {key: str(value) for key, value in json.loads(body or "{}").items()}
    else:
        name = _operation(_SERVICES.get(service, service), entry["method"], url.path, url.query, headers)
    action = f"{service}:{name}"
    agent, text = headers.get("user-agent", ""), json.dumps(entry) + body
    return Call(_ACTIONS.get(action, action), parameters, agent, scope[1], text)


@functools.cache
def _operations(service: str) -> list[tuple[str, str, re.Pattern[str], frozenset[tuple[str, str]]]]:
    """(name, method, path, what must be in the query), the most special ones first."""
    model = botocore.model.ServiceModel(botocore.loaders.Loader().load_service_model(service, "service-2"))
    found = []
    for name in model.operation_names:
        http = model.operation_model(name).http
        path, _, query = http["requestUri"].partition("?")
        shape = re.sub(r"\\{(\w+)\\}", "[^/]+", re.sub(r"\\{(\w+)\\\+\\}", ".+", re.escape(path)))
        asked = frozenset(urllib.parse.parse_qsl(query, keep_blank_values=True))
        found.append((name, http["method"], re.compile(shape + "/?"), asked))
    return sorted(found, key=lambda one: -len(one[3]))


def _operation(service: str, method: str, path: str, query: str, headers: dict[str, str]) -> str:
    given = urllib.parse.parse_qsl(query, keep_blank_values=True)
    names = {name for name, _ in given}
    for name, of, shape, asked in _operations(service):
        there = all((key, value) in given if value else key in names for key, value in asked)
        if of == method and shape.fullmatch(path) and there:
            if name in ("PutObject", "UploadPart") and "x-amz-copy-source" in headers:
                return "CopyObject"
            return name
    raise AssertionError(f"No operation of {service} is {method} {path}?{query}")


def actions(calls: list[Call]) -> Iterator[str]:
    return (call.action for call in calls if call.is_ours)
