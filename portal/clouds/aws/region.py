"""What the modules of a region work with."""

from __future__ import annotations

from typing import Any

from portal.clouds.aws.options import AwsOptions
from portal.clouds.aws.session import Session


class Region:
    """One region of an account. Its clients are made when they are first used."""

    def __init__(self, session: Session, name: str) -> None:
        self.session, self.name = session, name

    @property
    def options(self) -> AwsOptions:
        return self.session.options

    @property
    def ec2(self) -> Any:
        return self.session.client("ec2", self.name)

    @property
    def efs(self) -> Any:
        return self.session.client("efs", self.name)

    @property
    def ssm(self) -> Any:
        return self.session.client("ssm", self.name)

    def every(self, operation: str, under: str, *, service: str = "ec2", **asked: Any) -> list[dict[str, Any]]:
        """All that a Describe call lists, on however many pages; `under` is where its answer has them, in JMESPath."""
        client = self.session.client(service, self.name)
        if client.can_paginate(operation):
            return list(
                client.get_paginator(operation).paginate(**asked).search(under + ("" if "[" in under else "[]"))
            )
        return list(getattr(client, operation)(**asked)[under])
