"""`python -m tests.aws.emulator PORT CONSOLES`: moto's server on 127.0.0.1, and what it lacks that the portal asks for.

What is added here is ours, so it shows nothing about AWS but that the portal asks and reads as AWS's service model
says: placement groups; what a node said while it booted, of the machine room's file in CONSOLES; the simulation of
policies, where a condition is `StringEquals` or its like; one quota; where Ubuntu's images are; instance types by
pages, all of which together take moto longer to write than anybody waits; and what of a stack's bucket and role moto
leaves out. Everything else is moto's.
"""

from __future__ import annotations

import base64
import fnmatch
import json
import re
import sys
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from moto.core.responses import ActionResult, EmptyResult
from moto.core.utils import utcnow
from moto.ec2.exceptions import EC2ClientError
from moto.ec2.models import EC2Backend
from moto.ec2.responses import EC2Response
from moto.iam.exceptions import InvalidInput
from moto.iam.models import IAMBackend, Role, iam_backends
from moto.iam.responses import IamResponse
from moto.s3.models import FakeBucket, s3_backends
from moto.server import main as serve
from moto.servicequotas.models import ServiceQuotasBackend
from moto.ssm.models import SimpleSystemManagerBackend
from moto.utilities.utils import get_partition

UBUNTU = re.compile(r"/aws/service/canonical/ubuntu/server/24\.04/stable/current/(amd64|arm64)/hvm/ebs-gp3/ami-id")
VCPUS = 640  # of on-demand standard instances, in each account and region


def get_console_output(self: Any) -> ActionResult:
    instance = self.ec2_backend.get_instance(self._get_param("InstanceId"))
    console = Path(sys.argv[2]) / instance.id
    said = console.read_bytes()[-65536:] if console.exists() else b""
    return ActionResult({"InstanceId": instance.id, "Timestamp": utcnow(), "Output": base64.b64encode(said).decode()})


def _groups(backend: EC2Backend) -> dict[str, dict[str, Any]]:
    return backend.__dict__.setdefault("placement_groups", {})  # type: ignore[no-any-return]


def create_placement_group(self: Any) -> ActionResult:
    name, groups = self._get_param("GroupName"), _groups(self.ec2_backend)
    if name in groups:
        raise EC2ClientError("InvalidPlacementGroup.Duplicate", f"The placement group '{name}' already exists.")
    specifications = self._get_param("TagSpecifications", [])
    if any(one["ResourceType"] != "placement-group" for one in specifications):
        raise EC2ClientError("InvalidParameterValue", "Tags of another type of resource.")
    groups[name] = {
        "GroupName": name,
        "GroupId": f"pg-{uuid.uuid4().hex[:17]}",
        "Strategy": self._get_param("Strategy", "cluster"),
        "State": "available",
        "Tags": [tag for one in specifications for tag in one["Tags"]],
    }
    return ActionResult({"PlacementGroup": groups[name]})


def describe_placement_groups(self: Any) -> ActionResult:
    groups, names = _groups(self.ec2_backend), self._get_param("GroupNames", [])
    if missing := [name for name in names if name not in groups]:
        raise EC2ClientError("InvalidPlacementGroup.Unknown", f"The placement group '{missing[0]}' is unknown.")
    filters = self._filters_from_querystring()
    found = [one for name, one in groups.items() if not names or name in names]
    return ActionResult({"PlacementGroups": [one for one in found if _fits(one, filters)]})


def _fits(group: Mapping[str, Any], filters: Mapping[str, list[str]]) -> bool:
    known = {"group-name": group["GroupName"], "group-id": group["GroupId"], "state": group["State"]}
    known |= {f"tag:{tag['Key']}": tag["Value"] for tag in group["Tags"]}
    return all(
        any(fnmatch.fnmatchcase(known.get(name, ""), value) for value in values) for name, values in filters.items()
    )


def delete_placement_group(self: Any) -> ActionResult:
    name, groups = self._get_param("GroupName"), _groups(self.ec2_backend)
    if name not in groups:
        raise EC2ClientError("InvalidPlacementGroup.Unknown", f"The placement group '{name}' is unknown.")
    del groups[name]
    return EmptyResult()


def simulate_principal_policy(self: Any) -> ActionResult:
    backend: IAMBackend = self.backend
    role = self._get_param("PolicySourceArn").split("/")[-1]
    statements = [statement for document in _policies(backend, role) for statement in _many(document["Statement"])]
    context = {
        entry["ContextKeyName"].lower(): entry.get("ContextKeyValues", [])
        for entry in self._get_param("ContextEntries", [])
    }
    results = []
    for action in self._get_param("ActionNames"):
        for resource in self._get_param("ResourceArns", ["*"]):
            effects = {one["Effect"] for one in statements if _applies(one, action, resource, context)}
            decision = "explicitDeny" if "Deny" in effects else "allowed" if "Allow" in effects else "implicitDeny"
            results.append(
                {
                    "EvalActionName": action,
                    "EvalResourceName": resource,
                    "EvalDecision": decision,
                    "MatchedStatements": [],
                    "MissingContextValues": [],
                }
            )
    return ActionResult({"EvaluationResults": results, "IsTruncated": False})


def _policies(backend: IAMBackend, role: str) -> Iterable[dict[str, Any]]:
    backend.get_role(role)
    for name in backend.list_role_policies(role):
        yield json.loads(backend.get_role_policy(role, name)[1])
    for policy in backend.get_role(role).managed_policies.values():
        yield from (json.loads(version.document) for version in policy.versions if version.is_default)


def _many(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _applies(statement: Mapping[str, Any], action: str, resource: str, context: Mapping[str, list[str]]) -> bool:
    def matches(patterns: Any, value: str) -> bool:
        return any(fnmatch.fnmatchcase(value.lower(), pattern.lower()) for pattern in _many(patterns))

    def holds(operator: str, key: str, wanted: Any) -> bool:
        given = context.get(key.lower(), [])
        kind = operator.removeprefix("ForAnyValue:").removeprefix("ForAllValues:").removesuffix("IfExists")
        if not given:
            return operator.endswith("IfExists") or operator.startswith("ForAllValues:")
        if kind in ("StringEquals", "ArnEquals", "Bool"):
            return any(value in _many(wanted) for value in given)
        if kind in ("StringLike", "ArnLike"):
            return any(matches(wanted, value) for value in given)
        raise InvalidInput(f"This emulator knows no {operator}.")

    return (
        matches(statement["Action"], action)
        # An action of many kinds of resources, asked about none of them, is simulated as on any of its own.
        and (resource == "*" or matches(statement.get("Resource", "*"), resource))
        and all(
            holds(operator, key, wanted)
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def describe_instance_types(self: Any) -> ActionResult:
    names, filters = self._get_param("InstanceTypes", []), self._filters_from_querystring()
    found = self.ec2_backend.describe_instance_types(names, filters)
    start, most = int(self._get_param("NextToken") or 0), int(self._get_param("MaxResults") or len(found))
    more = {"NextToken": str(start + most)} if start + most < len(found) else {}
    return ActionResult({"InstanceTypes": found[start : start + most], **more})


_delete_nat_gateway_of_moto = EC2Backend.delete_nat_gateway


def delete_nat_gateway(self: EC2Backend, nat_gateway_id: str) -> Any:
    """Its interface goes with it, which moto leaves behind."""
    gone = _delete_nat_gateway_of_moto(self, nat_gateway_id)
    self.enis.pop(gone._eni.id, None)
    return gone


_quota_of_moto = ServiceQuotasBackend.get_service_quota


def get_service_quota(self: ServiceQuotasBackend, service_code: str, quota_code: str) -> dict[str, Any]:
    if (service_code, quota_code) != ("ec2", "L-1216C47A"):
        return _quota_of_moto(self, service_code, quota_code)
    return {"ServiceCode": "ec2", "QuotaCode": quota_code, "QuotaName": "Running On-Demand Standard instances",
            "Value": float(VCPUS), "Unit": "None", "Adjustable": True, "GlobalQuota": False}  # fmt: skip


_parameter_of_moto = SimpleSystemManagerBackend.get_parameter


def get_parameter(self: SimpleSystemManagerBackend, name: str) -> Any:
    """Canonical's public parameters lead to an image of moto's, of the same architecture."""
    if found := UBUNTU.fullmatch(name):
        machine = {"amd64": "x86_64", "arm64": "arm64"}[found[1]]
        name = f"/aws/service/ami-amazon-linux-latest/al2023-ami-kernel-default-{machine}"
    return _parameter_of_moto(self, name)


_bucket_of_moto = FakeBucket.create_from_cloudformation_json.__func__  # type: ignore[attr-defined]
_role_of_moto = Role.create_from_cloudformation_json.__func__  # type: ignore[attr-defined]


def bucket_of_a_stack(cls: Any, name: str, resource: Any, account: str, region: str, **more: Any) -> FakeBucket:
    """With what moto leaves out of it: how it is kept from the public, and its versions."""
    made: FakeBucket = _bucket_of_moto(cls, name, resource, account, region, **more)
    backend, wanted = s3_backends[account][get_partition(region)], resource["Properties"]
    if blocked := wanted.get("PublicAccessBlockConfiguration"):
        backend.put_public_access_block(name, {key: str(value).lower() for key, value in blocked.items()})
    if versions := wanted.get("VersioningConfiguration"):
        backend.put_bucket_versioning(name, versions["Status"])
    return made


def role_of_a_stack(cls: Any, name: str, resource: Any, account: str, region: str, **more: Any) -> Role:
    """With its managed policies, which moto leaves out."""
    made: Role = _role_of_moto(cls, name, resource, account, region, **more)
    for arn in resource["Properties"].get("ManagedPolicyArns", []):
        iam_backends[account][get_partition(region)].attach_role_policy(arn, made.name)
    return made


if __name__ == "__main__":
    groups = (create_placement_group, describe_placement_groups, delete_placement_group)
    for added in (get_console_output, describe_instance_types, *groups):
        setattr(EC2Response, added.__name__, added)
    EC2Backend.delete_nat_gateway = delete_nat_gateway  # type: ignore[assignment, method-assign]
    setattr(IamResponse, simulate_principal_policy.__name__, simulate_principal_policy)
    FakeBucket.create_from_cloudformation_json = classmethod(bucket_of_a_stack)  # type: ignore[arg-type, assignment]
    Role.create_from_cloudformation_json = classmethod(role_of_a_stack)  # type: ignore[arg-type, assignment]
    SimpleSystemManagerBackend.get_parameter = get_parameter  # type: ignore[method-assign]
    ServiceQuotasBackend.get_service_quota = get_service_quota  # type: ignore[method-assign]
    serve(["-H", "127.0.0.1", "-p", sys.argv[1]])
