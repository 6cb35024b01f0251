"""What nodes start from: the newest image of its maker when a cluster is made, and that one from then on."""

from __future__ import annotations

from dataclasses import dataclass

from botocore.exceptions import ClientError

from portal.clouds.aws.region import Region
from portal.clouds.aws.trouble import code_of, is_missing
from portal.errors import Refused

# Ubuntu 24.04 LTS, as Canonical publishes it: https://documentation.ubuntu.com/aws/aws-how-to/instances/find-ubuntu-images
UBUNTU = "/aws/service/canonical/ubuntu/server/24.04/stable/current/{architecture}/hvm/ebs-gp3/ami-id"
_AMAZON = "/aws/service/ami-amazon-linux"  # whose parameters call architectures as EC2 does; others as Debian does
_OTHERS = {"x86_64": "amd64", "arm64": "arm64"}


@dataclass(frozen=True)
class Image:
    id: str
    disk: str  # the name of its root disk


def newest(at: Region, architecture: str) -> Image:
    """For this architecture, in AWS's word. Raises `Refused` where there is none."""
    asked = at.options.image or UBUNTU
    name = asked
    if not asked.startswith("ami-"):
        try:
            word = architecture if asked.startswith(_AMAZON) else _OTHERS[architecture]
            where = asked.format(architecture=word)
            name = at.ssm.get_parameter(Name=where)["Parameter"]["Value"]
        except ClientError as error:
            if code_of(error) not in ("ParameterNotFound", "ValidationException"):
                raise
            raise _none(at, asked, str(error)) from error
    try:
        found = at.ec2.describe_images(ImageIds=[name])["Images"]
    except ClientError as error:
        if not is_missing(code_of(error)):
            raise
        raise _none(at, name, str(error)) from error
    if not found:
        raise _none(at, name, "DescribeImages lists nothing.")
    (image,) = found
    if image["Architecture"] != architecture:
        raise Refused(
            f"The image {name} is for {image['Architecture']}, and these nodes are {architecture}.",
            advice="Whoever runs the portal has set PORTAL_AWS_IMAGE. Choose another instance type.",
            code="wrong_image",
        )
    return Image(name, image["RootDeviceName"])


def _none(at: Region, what: str, evidence: str) -> Refused:
    return Refused(
        f"There is no image {what} in {at.name}.",
        evidence=evidence,
        advice="Whoever runs the portal names another one: PORTAL_AWS_IMAGE.",
        code="wrong_image",
    )
