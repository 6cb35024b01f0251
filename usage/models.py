"""What was used, for ever: a record begins when a cluster runs, and ends when somebody asks for that to end.

This app knows nothing of clusters. What runs tells it, in the transaction of the change of status that it tells of, and
holds its own row meanwhile (`clusters.models.Cluster.move`): so records of one cluster are written one after another.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime
from decimal import Decimal
from typing import Any, ClassVar, NoReturn
from uuid import UUID

from django.db import models
from django.db.models import Case, F, Max, Q, Sum, When
from django.db.models.functions import Cast, Round

from accounts.models import database_now
from portal.prepared import prepared
from usage.amounts import Amount
from usage.months import month_of, portions

# Of a record that is open, which is a group of its own.
_FACTS: dict[str, Any] = {"nodes": Max("node_count"), "cores": Max("cores_per_node"), "price": Max("hourly_price")}
_NODES = F("minutes") * F("node_count")
_PRICE_PLACES = 5
# Whole numbers alone, which every database adds up exactly: a price is in units of its last place.
_SUMS: dict[str, Any] = {
    "node_minutes": Sum(_NODES),
    "core_minutes": Sum(_NODES * F("cores_per_node")),
    "free_minutes": Sum(_NODES, filter=Q(hourly_price=None)),
    "dear_minutes": Sum(_NODES * Cast(Round(F("hourly_price") * 10**_PRICE_PLACES), models.BigIntegerField())),
}


def _amount(sums: Mapping[str, Any]) -> Amount:
    dear = sums["dear_minutes"]
    return Amount(
        int(sums["node_minutes"]),
        int(sums["core_minutes"]),
        int(sums["free_minutes"] or 0),
        None if dear is None else Decimal(int(dear)).scaleb(-_PRICE_PLACES),
    )


class RecordQuerySet(models.QuerySet["Record"]):
    """Records are begun and ended by `Record.begin` and `end`; every other way to change them is refused."""

    def open(self) -> RecordQuerySet:
        return self.filter(ended=None)

    def between(self, first: date, last: date) -> RecordQuerySet:
        """Those of these months and the ones between, and whatever began earlier and still goes on."""
        return self.filter(Q(month__gte=first, month__lte=last) | Q(ended=None, month__lt=first))

    def amounts(self, *by: str, until: datetime) -> Iterator[tuple[tuple[Any, ...], date, int, Amount]]:
        """What was used, for each different set of values of the columns `by`, and each month.

        The values, the month, the number of the last record, the amount. One set may come several times. What goes on
        counts until `until`. One query, which adds up in the database: each row of its answer is a month of one set of
        values, or one record that is open.
        """
        yield from _amounts(self._groups(*by), *by, until=until)

    def _groups(self, *by: str) -> models.QuerySet[Record, dict[str, Any]]:
        goes_on = Case(When(ended=None, then=F("pk")))
        groups = self.order_by().annotate(goes_on=goes_on).values("month", "goes_on", *by)
        found: models.QuerySet[Record, dict[str, Any]] = groups.annotate(
            last=Max("pk"), since=Max("began"), **_FACTS, **_SUMS
        )
        return found

    def amount(self, *, until: datetime) -> Amount:
        """All of it together."""
        return sum((amount for *_, amount in self.amounts(until=until)), Amount())

    def of(self, cluster: UUID, *, until: datetime) -> Amount:
        """All that a cluster used."""
        return sum((amount for *_, amount in _amounts(_of(cluster), until=until)), Amount())

    def end(self, cluster: Any) -> bool:
        """What goes on of this cluster (its uuid) ends now. False where nothing did."""
        going_on = self.open().filter(cluster=cluster).first()
        return going_on is not None and going_on.end(database_now())

    def update(self, **fields: Any) -> NoReturn:
        raise TypeError("Records of usage are begun and ended, never changed.")

    def delete(self) -> NoReturn:
        raise TypeError("Records of usage are never deleted.")

    def close(self, pk: int, ended: datetime, minutes: int) -> bool:
        """For `Record.end`. False where it had ended already."""
        going_on = self.open().filter(pk=pk)
        return bool(super(RecordQuerySet, going_on).update(ended=ended, minutes=minutes))


def _amounts(
    rows: Iterable[dict[str, Any]], *by: str, until: datetime
) -> Iterator[tuple[tuple[Any, ...], date, int, Amount]]:
    for row in rows:
        values = tuple(row[name] for name in by)
        if row["goes_on"] is None:
            yield values, row["month"], row["last"], _amount(row)
            continue
        facts = {"nodes": row["nodes"], "cores": row["cores"], "price": row["price"]}
        for start, _, minutes in portions(row["since"], max(row["since"], until)):
            yield values, month_of(start), row["last"], Amount.of(minutes, **facts)


@prepared
def _of(cluster: UUID) -> models.QuerySet[Any, dict[str, Any]]:
    return Record.objects.filter(cluster=cluster)._groups()


class Record(models.Model):
    """So many nodes of one instance type, which one cluster had for some time of one month.

    Whatever it tells of may be deleted since: it keeps the names and the price as they were, and refers to no row.
    """

    # What does not change while a record is open.
    SAME: ClassVar = ("node_count", "cores_per_node", "hourly_price", "instance_type", "spot")

    organization = models.UUIDField()
    workspace = models.UUIDField()
    workspace_name = models.CharField(max_length=80)
    cluster = models.UUIDField()
    cluster_name = models.CharField(max_length=40)
    person = models.UUIDField(null=True)  # who made the cluster
    person_name = models.CharField(max_length=254, blank=True)  # their address then
    instance_type = models.CharField(max_length=40)
    cores_per_node = models.PositiveSmallIntegerField()
    node_count = models.PositiveSmallIntegerField()
    spot = models.BooleanField(default=False)
    hourly_price = models.DecimalField(
        max_digits=10, decimal_places=_PRICE_PLACES, null=True
    )  # of a node, in US dollars
    month = models.DateField()  # the first day of it, in UTC; see `usage.months`
    began = models.DateTimeField()
    ended = models.DateTimeField(null=True)
    minutes = models.PositiveBigIntegerField(null=True)  # since it has ended

    objects = RecordQuerySet.as_manager()

    class Meta:
        verbose_name = "usage record"
        constraints = [
            models.UniqueConstraint(fields=["cluster"], condition=Q(ended=None), name="one_open_record_per_cluster"),
            models.CheckConstraint(
                condition=Q(ended=None, minutes=None) | Q(ended__gte=F("began"), minutes__isnull=False),
                name="record_ended_with_minutes",
            ),
        ]
        indexes = [
            models.Index(fields=["workspace", "month"], name="usage_by_workspace"),
            models.Index(fields=["organization", "month"], name="usage_by_organization"),
            models.Index(fields=["cluster"], name="usage_by_cluster"),
        ]

    def __str__(self) -> str:
        return f"{self.cluster_name}, {self.node_count} × {self.instance_type}, from {self.began:%Y-%m-%d %H:%M}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("Records of usage are begun and ended, never changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise TypeError("Records of usage are never deleted.")

    def begin(self) -> None:
        """It counts from now on; what went on of this cluster with other nodes ends. One that is the same goes on."""
        now = database_now()
        going_on = Record.objects.open().filter(cluster=self.cluster).first()
        if going_on is not None:
            if all(getattr(going_on, name) == getattr(self, name) for name in self.SAME):
                return
            going_on.end(now)
        self.began, self.month = now, month_of(now)
        self.save()

    def end(self, at: datetime) -> bool:
        """It counts no more, from then on. What of it is of later months becomes records of theirs.

        False where somebody else has ended it.
        """
        (_, until, minutes), *more = portions(self.began, max(at, self.began))
        if not Record.objects.close(self.pk, until, minutes):
            return False
        columns = {column.attname for column in self._meta.concrete_fields if not column.primary_key}
        same = {name: getattr(self, name) for name in columns - {"month", "began", "ended", "minutes"}}
        Record.objects.bulk_create(
            Record(**same, month=month_of(start), began=start, ended=end, minutes=lasted) for start, end, lasted in more
        )
        return True

    def pieces(self, until: datetime) -> list[tuple[datetime, datetime, int]]:
        """Itself, as `portions` has it; where it goes on, one for each month until then."""
        if self.ended is not None and self.minutes is not None:
            return [(self.began, self.ended, self.minutes)]
        return list(portions(self.began, max(self.began, until)))
