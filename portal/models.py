"""What there is once in a portal, however many hosts it has."""

from __future__ import annotations

import functools
import uuid

from django.db import models
from django.db.models import Q


class Installation(models.Model):
    """Which portal this is, to clouds: the tag of everything that it makes there.

    Made once, with the database, and never changed: things are found by it, and what carries another one is another
    portal's. What the portal is called on its pages may change at any time. A copy of the database has the same one:
    whoever starts a second portal from it gives that one another first (`manage.py new_installation`).
    """

    id = models.PositiveSmallIntegerField(primary_key=True, default=1)
    tag = models.CharField(max_length=80)

    class Meta:
        constraints = [models.CheckConstraint(condition=Q(id=1), name="one_installation")]

    def __str__(self) -> str:
        return self.tag


@functools.cache
def installation() -> str:
    """The tag of this portal."""
    return Installation.objects.get_or_create(pk=1, defaults={"tag": str(uuid.uuid4())})[0].tag
