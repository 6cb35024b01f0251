"""What a cloud holds in this portal's name, beside the rows of the portal: what no row accounts for is ended.

The cloud is asked first and the rows are read then: a row is always there before its thing, and stays until the cloud
has said that the thing is gone. What carries the tag of another installation is never listed, and so never touched.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.contrib.contenttypes.models import ContentType
from django.db import transaction
from django.db.models import Model, QuerySet
from django.db.models.functions import Now

from accounts import audit
from clusters.models import Cluster
from portal.clouds import Can, Cloud, Resource, Tags
from portal.errors import PortalError
from portal.tasks.models import Task
from portal.text import uuid_in
from workspaces.models import CloudConfig, Stray, Workspace
from workspaces.plans import FORGET

logger = logging.getLogger(__name__)

_TAG = 80  # characters, as a stray has them
_ADOPTION = timedelta(seconds=10)  # longer than one takes; none begins where the portal may end it meanwhile


@dataclass(frozen=True)
class Place:
    """A region of a cloud configuration in which something was made once."""

    config: CloudConfig
    region: str
    is_used: bool  # something of ours is there, as far as we know
    ready: frozenset[int]  # workspaces that were so before the cloud was asked

    @property
    def cloud(self) -> Cloud:
        return self.config.cloud(self.region)


def places(config: int) -> list[Place]:
    ready: dict[str, set[int]] = {}
    used = set(Stray.objects.there().filter(cloud_config=config).values_list("region", flat=True))
    for pk, region, status in Workspace.objects.filter(cloud_config=config).values_list("pk", "region", "status"):
        ready.setdefault(region, set()).update({pk} if status == Workspace.Status.READY else ())
        if status != Workspace.Status.TERMINATED:
            used.add(region)
    row = CloudConfig.objects.select_related("organization").get(pk=config)
    return [Place(row, region, region in used, frozenset(pks)) for region, pks in ready.items()]


@transaction.atomic
def compare(place: Place, found: Collection[Tags]) -> list[Stray]:
    """Write down what of the found has no row, and what is gone. Returns all that is there without one.

    What is tagged with more than a uuid needs was made by somebody else, and is left out.
    """
    found = [tags for tags in found if max(map(len, (tags.organization, tags.workspace, tags.subject))) <= _TAG]
    _mark_missing(place, {tags.subject for tags in found})
    known = _accounted_for(found)
    without = {tags.subject: tags for tags in found if tags.subject not in known}
    strays = Stray.objects.there().filter(cloud_config=place.config, region=place.region)
    gone = strays.exclude(subject__in=without).exclude(status=Stray.Status.ENDING)  # those a task asks about
    gone.update(ended=Now(), status=Stray.Status.GONE)
    strays.update(last_seen=Now())
    for subject in without.keys() - set(strays.values_list("subject", flat=True)):
        tags = without[subject]
        name, is_kept = _who(tags, place.config)
        logger.warning("%s is in %s, %s, and no row accounts for it", name, place.config.uuid, place.region)
        Stray.objects.create(
            cloud_config=place.config, region=place.region, organization_tag=tags.organization,
            workspace_tag=tags.workspace, subject=subject, name=name, is_kept=is_kept,
        )  # fmt: skip
    return list(strays)


@dataclass(frozen=True)
class Difference:
    """What is only in the cloud, or only in the portal."""

    is_in_cloud: bool
    subject: str
    name: str  # in words
    outlook: str  # what becomes of it, or what a person can do: a sentence


def differences(place: Place, found: Collection[Tags]) -> list[Difference]:
    """Both ways, and nothing is written: strays, and what the portal takes to be there though the cloud lists nothing.

    A cluster that is FAILED, or with which a task has not done, may have nothing.
    """
    known = _accounted_for(found)
    strays = {one.subject: one for one in Stray.objects.there().filter(cloud_config=place.config, region=place.region)}
    listed = []
    for tags in sorted((tags for tags in found if tags.subject not in known), key=lambda tags: tags.subject):
        name, is_kept = _who(tags, place.config)
        seen = strays.get(tags.subject) or Stray(is_kept=is_kept)
        listed.append(Difference(True, tags.subject, name, seen.outlook))
    there = {tags.subject for tags in found}
    for workspace in Workspace.objects.filter(pk__in=place.ready, status=Workspace.Status.READY).order_by("pk"):
        if str(workspace.uuid) not in there:
            words = "Update its infrastructure: that makes its network and filesystem anew, and empty."
            listed.append(Difference(False, str(workspace.uuid), f"The workspace {workspace}, which is READY", words))
    here = Cluster.objects.filter(workspace__cloud_config=place.config, workspace__region=place.region)
    for cluster in here.filter(status__in=(Cluster.Status.RUNNING, Cluster.Status.PAUSED)).order_by("pk"):
        if str(cluster.uuid) not in there:
            words = (
                f"The cluster {cluster} of {cluster.workspace}, which is {cluster.STATES[cluster.status].badge.word}"
            )
            listed.append(Difference(False, str(cluster.uuid), words, "Repair it, or delete it."))
    return listed


def why_not_adopted(stray: Stray) -> str:
    """Why it can be no cluster of the portal's again, as a sentence; empty where it can."""
    if stray.is_workspace:
        return "It was deleted with everything in it, or was never this portal's: make another workspace instead."
    uuid = uuid_in(stray.subject)
    # Whoever has the account writes what tags they like: the uuid of a cluster elsewhere makes it no cluster of theirs.
    here = Cluster.objects.filter(workspace__cloud_config=stray.cloud_config_id, workspace__region=stray.region)
    row = here.filter(uuid=uuid).select_related("workspace__cloud_config").first() if uuid else None
    if row is None:
        return "The portal has no keys of its nodes: nobody could sign in to them."
    if row.dedicated:
        return "It belonged to a run, and was ended with it."
    if row.workspace.status != Workspace.Status.READY:
        return f"Its workspace {row.workspace} is {row.workspace.badge.word}."
    if not row.key_private or (Can.MAKE in row.can and row.nodes.filter(host_private="").exists()):
        return "Its keys were thrown away when it was deleted: nobody could sign in to its nodes."
    if is_to_end(stray, in_=_ADOPTION):
        return "The portal is ending it by itself: its own row says that it is not to be there."
    return ""


def _mark_missing(place: Place, found: Collection[str]) -> None:
    """Workspaces that are READY here, and were when the cloud was asked: it has neither network nor filesystem."""
    here = Workspace.objects.filter(cloud_config=place.config, region=place.region)
    there = here.filter(uuid__in=[uuid for text in found if (uuid := uuid_in(text))])
    there.exclude(missing_since=None).update(missing_since=None)
    missing = here.filter(pk__in=place.ready, status=Workspace.Status.READY).exclude(pk__in=there.values("pk"))
    for workspace in missing.filter(missing_since=None):
        logger.error("%s, %s: nothing is there of workspace %s", place.config.uuid, place.region, workspace.uuid)
    missing.filter(missing_since=None).update(missing_since=Now())


def is_to_end(stray: Stray, *, in_: timedelta = timedelta(0)) -> bool:
    """It has been there for some minutes, is still without a row, and nothing that we know wants it to stay.

    `in_`: whether that will be so by then, if nothing happens.
    """
    seen_by = Now() - Stray.PATIENCE + in_
    there = Stray.objects.there().filter(pk=stray.pk, is_kept=False, first_seen__lte=seen_by)
    there = there.exclude(status=Stray.Status.ENDING)
    return there.exists() and not is_accounted_for(stray)


def is_accounted_for(stray: Stray) -> bool:
    """Whether a row says by now that it is there, or a task has not done with it."""
    return stray.subject in _accounted_for([stray.tags])


def end(place: Place, tags: Tags) -> tuple[list[Resource], str]:
    """Ask the cloud for it to go. What is left, and why, if something hinders. No database is asked."""
    cloud, trouble = place.cloud, ""
    try:
        if tags.subject != tags.workspace:
            cloud.delete_nodes(tags)
        else:
            going = cloud.delete_filesystem(tags) if Can.FILESYSTEM in cloud.can else None
            if Can.NETWORK in cloud.can and not going:  # before that, something is in it
                cloud.delete_network(tags)
    except PortalError as error:
        trouble = f"{error.message} {error.evidence}".strip()
    return cloud.leftovers(tags), trouble


@transaction.atomic
def write_down(stray: Stray, left: Collection[Resource], trouble: str = "", *, asked_to_go: bool = False) -> None:
    """What is left of it. Its end is an entry of the organization's audit."""
    things = [f"{resource.kind} {resource.detail or resource.id}" for resource in left]
    is_gone = asked_to_go and not left
    changed = Stray.objects.there().filter(pk=stray.pk)
    if is_gone:
        if changed.exclude(status=Stray.Status.ENDING).update(ended=Now(), trouble="", status=Stray.Status.GONE):
            logger.warning("%s was ended: no row accounted for it", stray.name)
            organization = stray.cloud_config.organization
            audit.record(
                "ended something without a row in", stray.cloud_config, organization=organization, by=None,
                before={"what": stray.name, "with": ", ".join(stray.things)},
            )  # fmt: skip
    else:
        changed.update(things=things, trouble=trouble)


def _accounted_for(found: Collection[Tags]) -> set[str]:
    """Those of the subjects whose row says that something of it is there, or with which a task has not done.

    A cluster that is STOPPED has nothing: what a worker that was too slow made after all would cost for ever.
    """
    subjects = {uuid for tags in found if (uuid := uuid_in(tags.subject))}
    known: set[str] = set()
    without: dict[type[Workspace | Cluster], set[str]] = {
        Workspace: {Workspace.Status.TERMINATED},
        Cluster: {Cluster.Status.TERMINATED, Cluster.Status.STOPPED},
    }
    for model, bare in without.items():
        rows = list(model._default_manager.filter(uuid__in=subjects).values_list("pk", "uuid", "status"))
        tasks = Task.objects.unfinished().filter(subject_type=ContentType.objects.get_for_model(model))
        busy = set(tasks.filter(subject_id__in=[pk for pk, *_ in rows]).values_list("subject_id", flat=True))
        known |= {str(uuid) for pk, uuid, status in rows if status not in bare or pk in busy}
    return known


def _who(tags: Tags, config: CloudConfig) -> tuple[str, bool]:
    """What the subject is called, and whether it is left alone: of a workspace that was forgotten or is not known, all.

    Its filesystem may hold people's data, and its clusters may run for another portal that has our tag: one that began
    under the same name, or with a copy of our database. What other organizations have is not known here.
    """
    is_workspace = tags.subject == tags.workspace
    workspaces = Workspace.objects.filter(organization=config.organization)
    clusters = Cluster.objects.filter(workspace__in=workspaces)
    row = _row(workspaces if is_workspace else clusters, tags.subject)
    kind = "workspace" if is_workspace else "cluster"
    if row is None:
        is_foreign = _row(workspaces, tags.workspace) is None
        return f"A {kind} that the portal does not know ({tags.subject[:8]})", is_foreign
    if isinstance(row, Workspace) and (last := row.last_task) and last.kind == FORGET.kind:
        return f"The workspace {row}, which was forgotten", True
    stopped = getattr(row, "status", "") == Cluster.Status.STOPPED
    return f"The {kind} {row}, which {'is STOPPED' if stopped else 'was deleted'}", False


def _row(rows: QuerySet[Any], subject: str) -> Model | None:
    return rows.filter(uuid=uuid).first() if (uuid := uuid_in(subject)) else None
