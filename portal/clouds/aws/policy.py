"""What the portal's role in an account may do, and who may take it on: as data, from which policies are rendered.

Everything that the portal makes carries its tag in the call that makes it, and it changes and removes nothing else.
What is asked of AWS anywhere in this folder is named here with its reason.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from portal.clouds.aws.tags import PORTAL

LIMIT = 6144  # characters of a managed policy, in which white space does not count (IAM, "IAM and AWS STS quotas")
VERSION = "2012-10-17"
NODE_PATH, NODE_POLICY = "/coxswain/", "coxswain-node"  # of the policy that roles of nodes have, one an account
TAG_KEYS = "aws:TagKeys"  # of a condition: which tags a call writes
FOR_AWS = "kms:GrantIsForAWSResource"  # of another: whether a service of AWS's asks for it
EXTERNAL_ID = "THE-EXTERNAL-ID-OF-THIS-CONFIGURATION"  # stands for it wherever it is not to be seen
MYSELF = "SeeMyself"  # the statement by which the rest can be asked for

# What an action is about. `{…}` are the fields of `Place`.
RESOURCES = {
    "*": "*",
    **{
        kind: f"arn:{{partition}}:ec2:*:{{account}}:{kind}/*"
        for kind in (
            "vpc",
            "subnet",
            "internet-gateway",
            "route-table",
            "security-group",
            "launch-template",
            "placement-group",
            "instance",
            "volume",
            "network-interface",
            "elastic-ip",
            "natgateway",
            "vpc-endpoint",
        )
    },
    "image": "arn:{partition}:ec2:*::image/*",
    "public parameter": "arn:{partition}:ssm:*:*:parameter/aws/service/*",
    "file-system": "arn:{partition}:elasticfilesystem:*:{account}:file-system/*",
    "role of nodes": "arn:{partition}:iam::{account}:role/coxswain/*",
    "instance profile": "arn:{partition}:iam::{account}:instance-profile/coxswain/*",
    "the portal's role": "arn:{partition}:iam::{account}:role/{role}",
    "registered role": "arn:{partition}:iam::{account}:role/coxswain-*",
    "roles": "arn:{partition}:iam::{account}:role/coxswain/",
    "role of EFS": "arn:{partition}:iam::{account}:role/aws-service-role/elasticfilesystem.amazonaws.com/*",
    "role of spot": "arn:{partition}:iam::{account}:role/aws-service-role/spot.amazonaws.com/*",
    "key": "arn:{partition}:kms:*:{account}:key/*",
    "bucket": "arn:{partition}:s3:::{bucket}",
    "objects": "arn:{partition}:s3:::{bucket}/*",
    "table": "arn:{partition}:dynamodb:*:{account}:table/{table}",
}


@dataclass(frozen=True)
class Place:
    """What the policies of one configuration are filled in with."""

    account: str
    portal: str  # the tag of this portal
    role: str  # its path and name
    bucket: str
    table: str
    partition: str = "aws"


@dataclass(frozen=True)
class Action:
    name: str
    on: tuple[str, ...]  # of `RESOURCES`
    why: str


@dataclass(frozen=True)
class Statement:
    sid: str
    why: str
    actions: tuple[Action, ...]
    condition: Mapping[str, Mapping[str, str | Sequence[str]]] = field(default_factory=dict)
    only_for: str = ""  # which workspaces or clusters need it; empty: all
    is_extra: bool = False  # not in the policies that are made: its owner adds it where it is wanted

    @property
    def on(self) -> list[str]:
        return list(dict.fromkeys(kind for action in self.actions for kind in action.on))

    def rendered(self, place: Place, only: str = "") -> dict[str, Any]:
        """As a policy has it; with `only`, for this action of it alone."""
        actions = [action for action in self.actions if only in ("", action.name)]
        kinds = dict.fromkeys(kind for action in actions for kind in action.on)
        names = list(dict.fromkeys(action.name for action in actions))
        return {
            "Sid": self.sid,
            "Effect": "Allow",
            "Action": _one_or_more(names),
            "Resource": _one_or_more([filled(RESOURCES[kind], place) for kind in kinds]),
            **({"Condition": _filled(self.condition, place)} if self.condition else {}),
        }

    def context(self, place: Place) -> dict[str, list[str]]:
        """With which the condition holds, for a simulation."""
        pairs = (pair for keys in self.condition.values() for pair in keys.items())
        return {
            key: [filled(one, place) for one in ([value] if isinstance(value, str) else value)] for key, value in pairs
        }


def _actions(on: str, **named: str) -> Iterator[Action]:
    """`service_Action="why"`, each on these, which are separated by commas."""
    kinds = tuple(on.split(", "))
    for name, why in named.items():
        yield Action(name.replace("_", ":"), kinds, why)


_MADE = {"StringEquals": {f"aws:RequestTag/{PORTAL}": "{portal}"}}
_OURS = {"StringEquals": {f"aws:ResourceTag/{PORTAL}": "{portal}"}}

STATEMENTS: tuple[Statement, ...] = (
    Statement(
        "Look",
        "To see what there is. None of these actions can be granted for single things.",
        (
            *_actions(
                "*",
                ec2_DescribeRegions="where a workspace can be",
                ec2_DescribeAvailabilityZones="where in a region nodes can be",
                ec2_DescribeInstanceTypes="what a node can be",
                ec2_DescribeInstanceTypeOfferings="in which zones there are nodes of a type",
                ec2_DescribeSpotPriceHistory="what spot nodes cost",
                ec2_DescribeImages="that a node's image is there, and how large its disk is",
                ec2_DescribeVpcs="to find a workspace's network by its tag, and which ranges are taken",
                ec2_DescribeVpcAttribute="whether names are resolved in a network",
                ec2_DescribeSubnets="to find a network's parts",
                ec2_DescribeRouteTables="the same",
                ec2_DescribeInternetGateways="the same",
                ec2_DescribeSecurityGroups="the same, and that they let in whom they should",
                ec2_DescribeNetworkInterfaces="what of a network is in use still, before it is removed",
                ec2_DescribeVpcEndpoints="to find the way to S3 that does not lead through the internet",
                ec2_DescribeNatGateways="to find a private network's way out",
                ec2_DescribeAddresses="to find the address of that",
                ec2_DescribeLaunchTemplates="to find what nodes of a cluster are made of",
                ec2_DescribeLaunchTemplateVersions="the same",
                ec2_DescribePlacementGroups="to find what keeps nodes of a cluster close together",
                ec2_DescribeInstances="to find nodes by their tag, and how they are",
                ec2_DescribeSpotInstanceRequests="which spot nodes AWS is about to take back",
                ec2_DescribeVolumes="that no disk is left",
                ec2_DescribeVpcPeeringConnections="what of somebody else's keeps a network",
                ec2_DescribeVpnGateways="the same",
                ec2_DescribeNetworkAcls="the same",
                ec2_DescribeTags="what carries this portal's tag",
                elasticfilesystem_DescribeFileSystems="to find a workspace's filesystem by its tag",
                elasticfilesystem_DescribeMountTargets="whether nodes can mount it yet",
                elasticfilesystem_DescribeMountTargetSecurityGroups="that nodes alone can mount it",
                servicequotas_GetServiceQuota="whether nodes that somebody thinks of are too many",
                pricing_GetProducts="what nodes cost",
            ),
        ),
    ),
    Statement(
        "PublicImages",
        "Which image nodes are made of, as its maker has published it.",
        (*_actions("public parameter", ssm_GetParameter="the newest image of Ubuntu 24.04"),),
    ),
    Statement(
        "MakeWithTag",
        "To make things, which carry this portal's tag from their first moment on.",
        (
            *_actions("vpc", ec2_CreateVpc="a workspace's network"),
            *_actions("internet-gateway", ec2_CreateInternetGateway="its way to the internet"),
            *_actions("subnet", ec2_CreateSubnet="its part in a zone"),
            *_actions("route-table", ec2_CreateRouteTable="its routes"),
            *_actions("security-group", ec2_CreateSecurityGroup="whom its nodes and its files let in"),
            *_actions("vpc-endpoint", ec2_CreateVpcEndpoint="its way to S3"),
            *_actions("launch-template", ec2_CreateLaunchTemplate="what nodes of a cluster are made of"),
            *_actions("placement-group", ec2_CreatePlacementGroup="what keeps nodes of a cluster close together"),
            *_actions("instance, volume", ec2_RunInstances="a node, and its disk"),
        ),
        _MADE,
    ),
    Statement(
        "MakeInOurs",
        "To make things inside of, or out of, those that carry the tag.",
        (
            *_actions(
                "vpc",
                ec2_CreateSubnet="in a workspace's network",
                ec2_CreateRouteTable="the same",
                ec2_CreateSecurityGroup="the same",
            ),
            *_actions("vpc, route-table", ec2_CreateVpcEndpoint="the same"),
            *_actions(
                "subnet, security-group, launch-template, placement-group",
                ec2_RunInstances="nodes, in networks and groups of the portal",
            ),
        ),
        _OURS,
    ),
    Statement(
        "RunParts",
        "What a node needs besides, and cannot carry a tag when it is asked for.",
        (*_actions("network-interface, image", ec2_RunInstances="a node's interface and its image"),),
    ),
    Statement(
        "TagWhileMaking",
        "To write tags in the call that makes a thing, and never later: nothing foreign can be made the portal's.",
        (*_actions("*", ec2_CreateTags="on what is made"),),
        {
            "StringEquals": {
                "ec2:CreateAction": (
                    "CreateVpc",
                    "CreateInternetGateway",
                    "CreateSubnet",
                    "CreateRouteTable",
                    "CreateSecurityGroup",
                    "CreateVpcEndpoint",
                    "CreateLaunchTemplate",
                    "CreatePlacementGroup",
                    "AllocateAddress",
                    "CreateNatGateway",
                    "RunInstances",
                )
            }
        },
    ),
    Statement(
        "NoteOnOurs",
        "To note on things of the portal, in two tags that say nothing of whose they are.",
        (*_actions("instance", ec2_CreateTags="that all of a cluster are had; that the portal ended one"),),
        {**_OURS, "ForAllValues:StringEquals": {TAG_KEYS: ("coxswain:ended", "coxswain:settled")}},
    ),
    Statement(
        "ChangeOurs",
        "To change and remove what carries the tag, and nothing else.",
        (
            *_actions(
                "vpc",
                ec2_ModifyVpcAttribute="to have names resolved in a network",
                ec2_DeleteVpc="clean-up",
            ),
            *_actions(
                "internet-gateway, vpc",
                ec2_AttachInternetGateway="to join a network with the internet",
                ec2_DetachInternetGateway="clean-up",
            ),
            *_actions("internet-gateway", ec2_DeleteInternetGateway="clean-up"),
            *_actions(
                "subnet",
                ec2_DeleteSubnet="clean-up",
            ),
            *_actions(
                "route-table",
                ec2_CreateRoute="the route out",
                ec2_ReplaceRoute="another one, after a change",
                ec2_DeleteRouteTable="clean-up",
            ),
            *_actions(
                "route-table, subnet",
                ec2_AssociateRouteTable="which subnet goes by it",
                ec2_DisassociateRouteTable="clean-up",
            ),
            *_actions(
                "security-group",
                ec2_AuthorizeSecurityGroupIngress="nodes let in each other, and the portal by SSH; files let in nodes",
                ec2_AuthorizeSecurityGroupEgress="nodes reach each other, by EFA too",
                ec2_RevokeSecurityGroupIngress="to let in nobody else, when the portal's addresses change",
                ec2_RevokeSecurityGroupEgress="the same",
                ec2_DeleteSecurityGroup="clean-up",
            ),
            *_actions(
                "vpc-endpoint",
                ec2_ModifyVpcEndpoint="which of a network's routes know the way to S3",
                ec2_DeleteVpcEndpoints="clean-up",
            ),
            *_actions("vpc, route-table", ec2_ModifyVpcEndpoint="the same"),
            *_actions("launch-template", ec2_DeleteLaunchTemplate="clean-up"),
            *_actions("placement-group", ec2_DeletePlacementGroup="clean-up"),
            *_actions(
                "instance",
                ec2_StartInstances="to resume a cluster",
                ec2_StopInstances="to pause one",
                ec2_TerminateInstances="to stop one",
                ec2_GetConsoleOutput="what a node said that did not boot, and its host keys",
            ),
        ),
        _OURS,
    ),
    Statement(
        "MakeFiles",
        "To make a workspace's filesystem, which carries the tag.",
        (
            *_actions(
                "*",
                elasticfilesystem_CreateFileSystem="what nodes share",
                elasticfilesystem_TagResource="its tags, in the call that makes it",
            ),
        ),
        _MADE,
    ),
    Statement(
        "ChangeFiles",
        "To have nodes mount it, and to remove it.",
        (
            *_actions(
                "file-system",
                elasticfilesystem_CreateMountTarget="how nodes of a zone reach it",
                elasticfilesystem_ModifyMountTargetSecurityGroups="that nodes alone can mount it",
                elasticfilesystem_DeleteMountTarget="clean-up",
                elasticfilesystem_DeleteFileSystem="clean-up",
            ),
        ),
        _OURS,
    ),
    Statement(
        "FilesInterfaces",
        "EFS makes the interface of a mount target in the portal's name, and without a tag.",
        (
            *_actions(
                "network-interface, subnet, security-group",
                ec2_CreateNetworkInterface="for a mount target",
            ),
            *_actions("network-interface", ec2_DeleteNetworkInterface="clean-up"),
        ),
    ),
    Statement(
        "WayOut",
        "To give a private network a way out: a NAT gateway with an address.",
        (
            *_actions("elastic-ip", ec2_AllocateAddress="the address of a way out"),
            *_actions("natgateway", ec2_CreateNatGateway="the way out itself"),
        ),
        _MADE,
        only_for="workspaces whose nodes have private addresses alone",
    ),
    Statement(
        "WayOutOurs",
        "To make it in a network of the portal, and to remove it.",
        (
            *_actions("subnet, elastic-ip", ec2_CreateNatGateway="in which subnet, with which address"),
            *_actions("natgateway", ec2_DeleteNatGateway="clean-up"),
            *_actions("elastic-ip", ec2_ReleaseAddress="clean-up"),
        ),
        _OURS,
        only_for="workspaces whose nodes have private addresses alone",
    ),
    Statement(
        "RolesOfNodes",
        "To make a role for the nodes of a cluster, and remove it. It can get no policy but the one below.",
        (
            *_actions(
                "role of nodes",
                iam_CreateRole="what a cluster's nodes are in the account",
                iam_TagRole="its tags",
                iam_DeleteRole="clean-up",
            ),
            *_actions(
                "instance profile",
                iam_CreateInstanceProfile="by which nodes get the role",
                iam_TagInstanceProfile="its tags",
                iam_GetInstanceProfile="to find it again",
                iam_AddRoleToInstanceProfile="what it gives",
                iam_RemoveRoleFromInstanceProfile="clean-up",
                iam_DeleteInstanceProfile="clean-up",
            ),
            *_actions(
                "role of nodes, registered role",
                iam_GetRole="whether it is there, and whom it trusts",
                iam_ListInstanceProfilesForRole="by which profile nodes get it",
            ),
            *_actions("roles", iam_ListRoles="what carries this portal's tag"),
        ),
    ),
    Statement(
        "OnePolicyForNodes",
        "To give roles of nodes this one policy, or to take it away. Another one would be a way to every right.",
        (
            *_actions(
                "role of nodes, registered role",
                iam_AttachRolePolicy="what every node needs",
                iam_DetachRolePolicy="clean-up",
            ),
        ),
        {"ArnEquals": {"iam:PolicyARN": f"arn:{{partition}}:iam::{{account}}:policy{NODE_PATH}{NODE_POLICY}"}},
    ),
    Statement(
        "HandRolesToNodes",
        "To start nodes with a role, of the cluster's own or one that you have registered.",
        (*_actions("role of nodes, registered role", iam_PassRole="to nodes, and to nothing else"),),
        {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}},
    ),
    Statement(
        "FirstUse",
        "An account that has never used EFS or spot nodes gets AWS's own roles for them, once.",
        (*_actions("role of EFS, role of spot", iam_CreateServiceLinkedRole="AWS's own role for EFS, and for spot"),),
        {"StringEquals": {"iam:AWSServiceName": ("elasticfilesystem.amazonaws.com", "spot.amazonaws.com")}},
    ),
    Statement(
        "InYourNetwork",
        "To start nodes in a VPC of yours, and to make security groups in it. If you like, name yours instead of all.",
        (
            *_actions("subnet, security-group", ec2_RunInstances="nodes, in your subnets and groups"),
            *_actions("vpc", ec2_CreateSecurityGroup="whom the files let in, and the nodes where you name no group"),
        ),
        only_for="workspaces in a VPC that is there already",
        is_extra=True,
    ),
    Statement(
        "WithYourKey",
        "To have a KMS key of yours encrypt files and disks. If you like, name yours instead of all.",
        (
            *_actions(
                "key",
                kms_DescribeKey="that it can be used",
                kms_Decrypt="EFS and EBS, in the portal's name",
                kms_GenerateDataKeyWithoutPlaintext="the same",
                kms_ReEncryptFrom="the same",
                kms_ReEncryptTo="the same",
            ),
        ),
        only_for="workspaces with a KMS key",
        is_extra=True,
    ),
    Statement(
        "GrantYourKey",
        "To let EFS and EBS use that key for as long as a filesystem or a disk is there, and nobody else.",
        (*_actions("key", kms_CreateGrant="for AWS's own services"),),
        {"Bool": {FOR_AWS: "true"}},
        only_for="workspaces with a KMS key",
        is_extra=True,
    ),
    Statement(
        MYSELF,
        "To tell you what is missing of all this.",
        (*_actions("the portal's role", iam_SimulatePrincipalPolicy="what this role may do"),),
    ),
    Statement(
        "Store",
        "The metadata store: what the portal says of what it made, and the output of runs.",
        (
            *_actions(
                "bucket",
                s3_ListBucket="which objects there are",
                s3_GetBucketLocation="where it is",
                s3_GetBucketPublicAccessBlock="whether it is kept from the public",
                s3_GetBucketVersioning="whether it keeps what is overwritten",
            ),
            *_actions(
                "objects",
                s3_GetObject="to read",
                s3_PutObject="to write",
                s3_DeleteObject="to delete",
                s3_AbortMultipartUpload="to take back what was written in part",
            ),
        ),
    ),
    Statement(
        "Locks",
        "So that two portals with one account do not act on one thing at once.",
        (
            *_actions(
                "table",
                dynamodb_DescribeTable="that it is there, with the right key",
                dynamodb_GetItem="who has a lock",
                dynamodb_PutItem="to take one, or let it go",
            ),
        ),
    ),
)
# What every node needs in the account. The portal's role may attach it and cannot write it.
NODES: dict[str, Any] = {
    "Version": VERSION,
    "Statement": [{"Sid": "WhoAmI", "Effect": "Allow", "Action": "sts:GetCallerIdentity", "Resource": "*"}],
}
ACTIONS = {action.name for statement in STATEMENTS for action in statement.actions}


def filled(text: str, place: Place) -> str:
    return text.format_map(vars(place))


def _filled(condition: Mapping[str, Mapping[str, str | Sequence[str]]], place: Place) -> dict[str, Any]:
    return {
        operator: {
            key: filled(value, place) if isinstance(value, str) else [filled(one, place) for one in value]
            for key, value in keys.items()
        }
        for operator, keys in condition.items()
    }


def _one_or_more(values: list[str]) -> str | list[str]:
    return values[0] if len(values) == 1 else values


def policies(place: Place) -> list[dict[str, Any]]:
    """As few as hold all statements in their order but the extra ones, each short enough for a managed policy."""
    found: list[dict[str, Any]] = []
    for statement in (one for one in STATEMENTS if not one.is_extra):
        rendered = statement.rendered(place)
        if not found or length(_policy([*found[-1]["Statement"], rendered])) > LIMIT:
            found.append(_policy([]))
        found[-1]["Statement"].append(rendered)
    return found


def _policy(statements: list[dict[str, Any]]) -> dict[str, Any]:
    return {"Version": VERSION, "Statement": statements}


def length(document: Mapping[str, Any]) -> int:
    """As AWS counts it."""
    return len("".join(json.dumps(document, separators=(",", ":")).split()))


def trust(principal: str, external_id: str) -> dict[str, Any]:
    """Who may take the role on: the portal, and that only for the organization that has this external id."""
    return _policy(
        [
            {
                "Effect": "Allow",
                "Principal": {"AWS": principal},
                "Action": "sts:AssumeRole",
                "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
            }
        ]
    )


def trust_of_nodes(partition: str = "aws") -> dict[str, Any]:
    """Who may take on a role of nodes: EC2, in their name."""
    top = "amazonaws.com.cn" if partition == "aws-cn" else "amazonaws.com"
    allowed = {"Effect": "Allow", "Principal": {"Service": f"ec2.{top}"}, "Action": "sts:AssumeRole"}
    return _policy([allowed])


def use_of_a_bucket(bucket: str, partition: str = "aws") -> dict[str, Any]:
    """What programs on nodes need that read and write a bucket of the account's owner."""
    arn = f"arn:{partition}:s3:::{bucket}"
    objects = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:PutObjectAcl"]
    return _policy(
        [
            {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": arn},
            {"Effect": "Allow", "Action": objects, "Resource": f"{arn}/*"},
        ]
    )


def reading_of_a_bucket(bucket: str, partition: str = "aws") -> dict[str, Any]:
    """What nodes need that take a job's source from it."""
    arn = f"arn:{partition}:s3:::{bucket}"
    return _policy(
        [
            {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": arn},
            {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{arn}/*"},
        ]
    )


def in_lines(document: Mapping[str, Any]) -> str:
    """Of a policy: a line for each statement, where there is room for few."""
    statements = ",\n".join(f"  {json.dumps(one)}" for one in document["Statement"])
    return f'{{"Version": "{VERSION}", "Statement": [\n{statements}\n]}}'


def as_text(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=1)
