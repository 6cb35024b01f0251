"""What a run was, to be compared and to be had again: packages with their versions, and where its ranks were.

The node says which packages there are when the run has ended, so that nobody waits for it. It is what folders are
called that the program could have changed: a record, and no proof.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from datetime import timedelta
from decimal import Decimal

from clusters import hostfile
from jobs.causes import span
from jobs.models import Run, again
from portal import ssh
from portal.errors import PortalError

MOST_PACKAGES = 2000
_DISTRIBUTION = re.compile(r"(?P<name>[\w.-]{1,100}?)-(?P<version>\w[\w.+!]{0,60})\.dist-info", re.ASCII)


def take(run: Run) -> None:
    """Write down what of it is only on its node. Raises `Passing` where that does not answer."""
    head, folder = run.kept_at()
    engine = shlex.quote(run.cluster.engine_version.folder(head.shared))
    # A glob that finds nothing is left as it is, and is no name of a distribution.
    places = f"{engine}/lib/python3*/site-packages/*.dist-info {shlex.quote(folder)}/packages/*.dist-info"
    answer = ssh.run(head.host, f"printf '%s\\n' {places} | head -n {MOST_PACKAGES}", seconds=10)
    nodes = list(run.cluster.nodes.all())
    size = run.ranks_per_node or 0
    Run.objects.filter(pk=run.pk).update(
        packages=versions(answer.text.splitlines()), hosts=hostfile.text(run.cluster, nodes, cores=size)
    )


def versions(folders: Iterable[str]) -> list[str]:
    """`name==version` of each, as requirements have them; of two with one name the last, which Python would find."""
    found = {}
    for folder in folders:
        if match := _DISTRIBUTION.fullmatch(folder.rpartition("/")[2]):
            found[match["name"].lower().replace("_", "-")] = match["version"]
    return [f"{name}=={version}" for name, version in sorted(found.items())]


def cost(run: Run) -> Decimal | None:
    """Of its cluster for as long as it ran, in US dollars. None: not begun, or nobody knows a price."""
    price, elapsed = run.cluster.hourly_price, run.elapsed
    if price is None or elapsed is None:
        return None
    return round(price * run.cluster.node_count * Decimal(elapsed / timedelta(hours=1)), 6)


def facts(run: Run) -> list[tuple[str, str]]:
    """What it was and how it went, in words, always the same ones in the same order."""
    cluster = run.cluster
    price = cost(run)
    ranks = f"{run.ranks_per_node} on each node" if run.ranks_per_node else str(run.cores or run.ranks or "")
    return [
        ("Status", run.badge.word),
        ("Cause", run.cause),
        ("Took", span(round(run.elapsed.total_seconds())) if run.elapsed else ""),
        ("Cost of its cluster meanwhile", "" if price is None else f"${price:,.4f}"),
        ("Type", run.get_kind_display()),
        ("Command", run.command),
        ("Source", run.git_url),
        ("Reference", run.reference or "the main branch"),
        ("Commit", f"{run.commit} {run.commit_subject}".strip()),
        ("Environment", "\n".join(f"{name}={value}" for name, value in run.environment.items())),
        ("Ranks", ranks),
        ("Cluster", f"{cluster.name}, {cluster.node_count} × {cluster.instance_type}"),
        ("Hostfile", run.hosts),
        ("Engine version", str(cluster.engine_version)),
        ("Packages", "\n".join(run.packages)),
        ("Time limit", span(run.time_limit) if run.time_limit else "none"),
        ("Retries", again(run.retries, run.retry_delay, run.retry_on_timeout) or "none"),
        ("Pauses its cluster when finished", "yes" if run.pauses else "no"),
        ("Asked for by", str(run.started_by or "")),
    ]


def compared(run: Run, other: Run) -> list[tuple[str, str, tuple[str, str] | None]]:
    """Each fact with its name, and what differs in it: None where nothing does."""
    pairs = zip(facts(run), facts(other), strict=True)
    return [(name, mine, None if mine == theirs else _apart(mine, theirs)) for (name, mine), (_, theirs) in pairs]


def _apart(one: str, other: str) -> tuple[str, str]:
    """Of values of several lines, those lines that the other has not."""
    if "\n" not in f"{one}{other}":
        return one, other
    lines, others = one.splitlines(), other.splitlines()
    return (
        "\n".join(line for line in lines if line not in others),
        "\n".join(line for line in others if line not in lines),
    )


def keep(run: Run) -> str:
    """As `take`; why it could not be had, where it could not: nothing hangs on it."""
    try:
        take(run)
    except PortalError as error:
        return str(error)
    return ""
