"""What AWS's refusals mean. The code of each is AWS's; what people read, and what is offered to them, follows from it.

Codes and what they stand for: the lists of errors in the reference of each service's API.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec, TypeVar

from botocore.exceptions import (
    BotoCoreError,
    ClientError,
    HTTPClientError,
    NoCredentialsError,
    PartialCredentialsError,
)
from botocore.exceptions import (
    ConnectionError as Unreachable,
)
from botocore.parsers import ResponseParserError

from portal.errors import NoRoom, Passing, PortalError, Refused

P = ParamSpec("P")
T = TypeVar("T")

# Asked too often: the call was not carried out.
THROTTLED = frozenset(
    {
        "RequestLimitExceeded",
        "Throttling",
        "ThrottlingException",
        "ThrottledException",
        "TooManyRequestsException",
        "RequestThrottled",
        "RequestThrottledException",
        "SlowDown",
        "PriorRequestNotComplete",
        "ProvisionedThroughputExceededException",
        "BandwidthLimitExceeded",
        "EC2ThrottledException",
    }
)
# AWS has no more of it there, just now.
NO_CAPACITY = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "InsufficientReservedInstanceCapacity",
        "InsufficientCapacity",
        "InsufficientCapacityOnHost",
        "InsufficientFreeAddressesInSubnet",
        "SpotMaxPriceTooLow",
        "Unsupported",
        "UnfulfillableCapacity",
    }
)
# The account may have no more of it.
QUOTA = frozenset(
    {
        "VcpuLimitExceeded",
        "InstanceLimitExceeded",
        "MaxSpotInstanceCountExceeded",
        "VpcLimitExceeded",
        "SubnetLimitExceeded",
        "SecurityGroupLimitExceeded",
        "RulesPerSecurityGroupLimitExceeded",
        "InternetGatewayLimitExceeded",
        "NatGatewayLimitExceeded",
        "AddressLimitExceeded",
        "RouteTableLimitExceeded",
        "VpcEndpointLimitExceeded",
        "PlacementGroupLimitExceeded",
        "VolumeLimitExceeded",
        "NetworkInterfaceLimitExceeded",
        "FileSystemLimitExceeded",
        "LimitExceeded",
        "LimitExceededException",
        "TooManyBuckets",
    }
)
NOT_ALLOWED = frozenset({"UnauthorizedOperation", "AccessDenied", "AccessDeniedException", "AllAccessDisabled"})
# What RunInstances says of an instance profile that it does not know.
PROFILE = frozenset({"InvalidParameterValue", "InvalidParameterCombination"})
# Who asks is nobody, or is nobody any more.
NOT_KNOWN = frozenset(
    {
        "AuthFailure",
        "InvalidClientTokenId",
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
        "ExpiredToken",
        "ExpiredTokenException",
        "RequestExpired",
        "OptInRequired",
        "PendingVerification",
    }
)
# It will pass: something is on its way to all of AWS's computers, or goes away still, or AWS itself is unwell.
COMES = frozenset(
    {
        "DependencyViolation",
        "InternalError",
        "InternalFailure",
        "InternalServerError",
        "InternalServiceError",
        "ServiceUnavailable",
        "ServiceUnavailableException",
        "Unavailable",
        "ServerInternal",
        "RequestTimeout",
        "RequestTimeoutException",
        "IncorrectInstanceState",
        "IncorrectFileSystemLifeCycleState",
        "IncorrectMountTargetState",
        "OperationAborted",
        "ConcurrentModification",
        "ConcurrentModificationException",
        "ConcurrentTagAccess",
        "EntityTemporarilyUnmodifiable",
        "VolumeInUse",
        "InvalidIPAddress.InUse",
    }
)


def code_of(error: BaseException) -> str:
    """In AWS's words. Empty where it is no answer of AWS."""
    return str(error.response["Error"].get("Code", "")) if isinstance(error, ClientError) else ""


def is_missing(code: str) -> bool:
    """Whether there is no such thing: each service says it in its own words."""
    return code.endswith((".NotFound", "NotFound", ".NotFoundException", "NotFoundException")) or code in {
        "NoSuchEntity",
        "NoSuchBucket",
        "NoSuchKey",
        "404",
        "Gateway.NotAttached",
        "InvalidLaunchTemplateName.NotFoundException",
        "InvalidPlacementGroup.Unknown",
    }


@contextmanager
def passed_over(*codes: str, missing: bool = False) -> Iterator[None]:
    """These answers are as good as done; with `missing`, that there is no such thing too."""
    try:
        yield
    except ClientError as error:
        if not (code_of(error) in codes or (missing and is_missing(code_of(error)))):
            raise


def in_words(function: Callable[P, T]) -> Callable[P, T]:
    """Nothing of the SDK gets out of it: what AWS answers is `Passing`, `Refused` or `NoRoom`, with its own words."""

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except (ClientError, BotoCoreError) as error:
            raise told(error) from error
        except ResponseParserError as error:  # what stands in front of AWS, or an emulator, answers with a page
            raise Passing(
                "AWS did not answer in its own words.", evidence=str(error)[:500], code="unreachable"
            ) from error

    return call


def told(error: ClientError | BotoCoreError) -> PortalError:
    if isinstance(error, ClientError):
        return _answered(error)
    if isinstance(error, NoCredentialsError | PartialCredentialsError):
        return Refused(
            "The portal has no credentials of its own for AWS.",
            evidence=str(error),
            advice="Whoever runs the portal gives it some: docs/aws.md says how.",
            code="no_credentials",
        )
    if isinstance(error, HTTPClientError | Unreachable):
        return Passing("AWS did not answer.", evidence=str(error), code="unreachable")
    return Refused("The portal asked AWS for something impossible.", evidence=str(error), code="wrong_call")


def _answered(error: ClientError) -> PortalError:
    code, said = code_of(error), str(error.response["Error"].get("Message", ""))
    operation = error.operation_name
    evidence = f"{operation}: {code}: {said}"
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    if code in THROTTLED:
        return Passing("AWS is asked too often just now.", evidence=evidence, code="throttled")
    if code in NO_CAPACITY:
        return NoRoom("AWS has no more of these nodes there just now.", evidence=evidence)
    if code in QUOTA:
        return Refused(
            "A quota of the AWS account is reached.",
            evidence=evidence,
            advice="Ask AWS for a higher quota, or delete what is not needed.",
            code="quota",
        )
    if operation == "AssumeRole" and code in NOT_ALLOWED:
        return Refused(
            "AWS does not let the portal take on its role in the account.",
            evidence=evidence,
            advice="Compare the role's trust policy with the one on the page of the cloud configuration. A role that "
            "another configuration is connected by cannot be this one's too: each has an external id of its own, and "
            "AWS refuses the others.",
            code="not_trusted",
        )
    if code in NOT_ALLOWED:
        return Refused(
            f"The portal's role in AWS is not allowed to do this: {operation}.",
            evidence=evidence,
            advice="Check the cloud configuration: its page names what is missing, and what to paste.",
            code="not_allowed",
        )
    if code == "AuthFailure.ServiceLinkedRoleCreationNotPermitted":
        return Refused(
            "The account has no service-linked role for spot nodes yet, and the portal may not make it.",
            evidence=evidence,
            advice="In the account: aws iam create-service-linked-role --aws-service-name spot.amazonaws.com",
            code="service_role",
        )
    if code in PROFILE and "instanceprofile" in said.lower().replace(" ", ""):
        # For some seconds after it was made, EC2 does not know of an instance profile.
        return Passing("EC2 does not know the nodes' role yet.", evidence=evidence, code="not_now")
    if code.startswith("InvalidAMIID."):
        return Refused(
            "The image of the nodes is not there any more.",
            evidence=evidence,
            advice="Delete this cluster and make another one: it gets the newest image.",
            code="wrong_image",
        )
    if code in NOT_KNOWN:
        return Refused(
            "AWS does not know who the portal is.",
            evidence=evidence,
            advice="Check the cloud configuration, and the portal's own credentials.",
            code="not_known",
        )
    if code in COMES or status >= 500:
        return Passing("AWS cannot do this just now.", evidence=evidence, code="not_now")
    if is_missing(code):
        # Right after it was made, not all of AWS's computers know a thing. What is found by tag is looked for again.
        return Passing("AWS does not know of something that was there.", evidence=evidence, code="missing")
    return Refused(f"AWS refused: {operation}.", evidence=evidence, code="refused")
