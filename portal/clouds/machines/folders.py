"""What is ours on a computer: folders below a pool's base, on the shared path, and what is in them.

    BASE/WORKSPACE/                          what nodes have as `shared`
    BASE/WORKSPACE/.coxswain-workspace       the marker: whose it is, in JSON
    BASE/WORKSPACE/.nodes/CLUSTER/enter      through which everything goes that is begun on a node
    BASE/WORKSPACE/.nodes/CLUSTER/names/     the rank of each computer, by its hostname
    BASE/WORKSPACE/.nodes/CLUSTER/RANK/      the home of a node, with our `ssh` in its `.bin`
    /tmp/coxswain-CLUSTER/                   what is temporary, on each computer's own disk

The certificates of the portal and of a cluster's own key force `enter`: whoever signs in with one gets no further once
it is gone, and no login shell ever reads what they want to do.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass

from portal import ssh
from portal.clouds.machines.models import Computer, Pool
from portal.clouds.promises import OPTIONS, SSH_CONFIG
from portal.clouds.types import Tags
from portal.errors import Refused

MARKER = ".coxswain-workspace"
MARK = "COXSWAIN_LENT_TO"  # in the environment of all that runs for a cluster: its uuid
_PLAIN = re.compile(r"/[A-Za-z0-9._/+-]{1,250}")  # means the same to every login shell
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,79}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

# Exit statuses of our scripts that are not those of what they call.
NO_WORKSPACE, NOT_OURS, OTHER_NAME = 81, 82, 83


@dataclass(frozen=True)
class Place:
    """A pool's folder of a workspace. Raises `Refused` for what would be read as something else than a path."""

    base: str
    workspace: str

    @classmethod
    def of(cls, pool: Pool, tags: Tags) -> Place:
        if not _PLAIN.fullmatch(pool.base) or ".." in pool.base.split("/"):
            raise Refused(
                f"The base folder of the pool {pool} cannot be used.",
                evidence=pool.base,
                advice="Give the pool one of letters, digits and - _ . + alone.",
            )
        return cls(pool.base.rstrip("/"), _name(tags.workspace))

    @property
    def shared(self) -> str:
        return f"{self.base}/{self.workspace}"

    def cluster(self, tags: Tags) -> str:
        return f"{self.shared}/.nodes/{_name(tags.subject)}"

    def home(self, tags: Tags, rank: int) -> str:
        return f"{self.cluster(tags)}/{rank}"

    def enter(self, tags: Tags) -> str:
        """The command that certificates of the cluster force."""
        return f"/bin/sh {self.cluster(tags)}/enter"


def temporary(tags: Tags) -> str:
    """It says to whoever can sign in to the computer that the cluster has it, whatever account and portal that is."""
    return f"{TEMPORARY}{_name(tags.subject)}"


TEMPORARY = "/tmp/coxswain-"  # noqa: S108 (it is made for us alone, or not used)
MARKED = 24 * 60  # minutes for which such a folder says so, since it was used last: what made it may be no more
# The command that prints them, a line each. What has no `find` prints nothing.
MARKS = (
    f"find /tmp -maxdepth 1 -type d -name 'coxswain-????????-????-????-????-????????????' -mmin -{MARKED} "
    "2>/dev/null | head -n 20"
)


def marks(lines: Iterable[str]) -> set[str]:
    """The clusters, of those lines that `MARKS` has printed."""
    found = (line.removeprefix(TEMPORARY) for line in lines if line.startswith(TEMPORARY))
    return {name for name in found if _UUID.fullmatch(name)}


def marking(computer: Computer) -> str:
    """The command that says that the cluster has it still, where it does; nothing otherwise."""
    return f"touch -c {temporary(computer.tags)}" if computer.is_taken and not computer.is_leaving else ":"


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise Refused("This is no name of a folder.", evidence=text[:80])
    return text


def marker(tags: Tags) -> str:
    return json.dumps({"portal": tags.portal, "organization": tags.organization, "workspace": tags.workspace})


def owner(text: str) -> Tags | None:
    """Whose a folder with this marker is; None where the text is none."""
    try:
        found = json.loads(text)
        tags = Tags(found["portal"], found["organization"], found["workspace"], found["workspace"])
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return tags if all(isinstance(value, str) for value in vars(tags).values()) else None


# Programs of the workspace can put anything in the place of a marker: a pipe, which nobody writes to; a link.
_READ = f"""has_marker() {{ test ! -L "$1" && test -f "$1/{MARKER}" && test ! -L "$1/{MARKER}"; }}
marker() {{ has_marker "$1" && head -c 1000 "$1/{MARKER}"; }}"""


def making(place: Place) -> str:
    """The command that makes the workspace's folder of a marker that comes in; if it is there, it must have the same.

    The folder is there with its marker or not at all.
    """
    shared, draft = shlex.quote(place.shared), shlex.quote(f"{place.base}/.new-{place.workspace}")
    return f"""umask 077; set -e
mkdir -p {shlex.quote(place.base)}
rm -rf {draft}; mkdir {draft}; cat > {draft}/{MARKER}
if test ! -e {shared}; then mv {draft} {shared}; exit 0; fi
{_READ}
has_marker {shared} && cmp -s {draft}/{MARKER} {shared}/{MARKER} && same=0 || same={NOT_OURS}
rm -rf {draft}; exit $same"""


def removing(place: Place) -> str:
    """The command that removes the folder if its marker is the one that comes in. It prints what is left after a while.
    Its status is NOT_OURS where the folder is there and has another marker, or none.

    It is moved aside first: nothing begins on half of it, and what could not be removed now is found again.
    """
    shared, aside = shlex.quote(place.shared), shlex.quote(f"{place.base}/.removed-{place.workspace}")
    return f"""{_READ}
wanted=$(cat)
if test ! -e {aside}; then
  test -e {shared} || test -L {shared} || exit 0
  test "$(marker {shared})" = "$wanted" || exit {NOT_OURS}
  mv {shared} {aside} || exit 1
fi
timeout 30 rm -rf {aside} 2>/dev/null || {{ chmod -R u+rwx {aside}; timeout 15 rm -rf {aside}; }}
test ! -e {aside} || echo left"""


def looking(place: Place) -> str:
    """The command that prints which folders of the workspace are there, a line each."""
    aside = f"{place.base}/.removed-{place.workspace}"
    places = f"{shlex.quote(place.shared)} {shlex.quote(aside)}"
    return f'for found in {places}; do test ! -e "$found" && test ! -L "$found" || echo "$found"; done'


def listing(base: str) -> str:
    """The command that prints all markers below a base, a line each."""
    each = 'marker "$found" | tr "\\n" " " && echo'
    return f"{_READ}\nfor found in {shlex.quote(base.rstrip('/'))}/*; do {each}; done"


def preparing(place: Place, tags: Tags, computer: Computer, rank: int) -> tuple[str, bytes]:
    """The command that makes a node of a computer, and what it reads. It prints which clusters have it, as `MARKS`, and
    the kernel's boot id."""
    cluster, home = place.cluster(tags), place.home(tags, rank)
    name = shlex.quote(computer.hostname)
    making = f"mkdir -m 700 {temporary(tags)}; touch -c {temporary(tags)}"
    # All computers write the same at once: each has a draft of its own.
    texts = {f"{home}/.enter": _enter(place, tags).encode(), f"{home}/.bin/ssh": _SSH.encode()}
    steps = [
        f'test "$(uname -n)" = {name} || {{ uname -n; exit {OTHER_NAME}; }}',
        f"test -f {place.shared}/{MARKER} || exit {NO_WORKSPACE}",
        f"umask 077 && mkdir -p {home}/.bin {cluster}/names && cd {cluster}/names",
        f"rm -rf ./{name} && echo {rank} > ./{name} && cd /",
        *(ssh.writing(path, "700", size=len(text)) for path, text in texts.items()),
        f"mv -f {home}/.enter {cluster}/enter",
        # One portal after the other: the second one sees the first one's folder. /tmp is all that accounts share.
        f"{{ (flock -w 10 9; {making}; {MARKS}) 9</tmp 2>/dev/null; true; }}",
        "cat /proc/sys/kernel/random/boot_id",
    ]
    return " && ".join(steps), b"".join(texts.values())


def shutting(place: Place, tags: Tags, computer: Computer) -> str:
    """The command after which nothing more of the cluster begins on the computer."""
    return f"rm -f {place.cluster(tags)}/names/{shlex.quote(computer.hostname)}"


def clearing(place: Place, tags: Tags, computer: Computer, *, home: bool) -> str:
    """The command that removes what a node has on its computer, with its `home` or, where another has that, without.

    The last one takes the cluster's folder with it.
    """
    cluster = place.cluster(tags)
    gone = [f"{cluster}/names/{shlex.quote(computer.hostname)}", temporary(tags)]
    gone += [place.home(tags, computer.rank or 0)] if home else []
    return f"""for found in {" ".join(gone)}; do
  rm -rf $found 2>/dev/null || {{ chmod -R u+rwx $found; rm -rf $found; }} || exit 1
done
test ! -d {cluster} || ls -d {cluster}/[0-9]* >/dev/null 2>&1 || rm -rf {cluster}
{_MPI_LEFT}"""


# What MPICH and UCX leave behind outside of TMPDIR when their programs are killed: memory that ranks shared, and what a
# launcher writes for its ranks. Only what is the account's, and not in use by anything of it.
_MPI_LEFT = """for found in /dev/shm/mpich_shm_* /dev/shm/ucx_shm_posix_*; do
  test ! -O "$found" || cat /proc/[0-9]*/maps 2>/dev/null | grep -qF "$found" || rm -f "$found"
done
for found in /tmp/hydra_hwloc_xmlfile_*; do
  test ! -O "$found" || cat /proc/[0-9]*/cmdline 2>/dev/null | grep -q 'hydra_pmi_prox[y]' || rm -f "$found"
done"""


def _enter(place: Place, tags: Tags) -> str:
    return f"""#!/bin/sh
# Written by the portal. All that it and the other nodes of a cluster begin on this computer goes through here.
here={place.cluster(tags)}
read -r name </proc/sys/kernel/hostname
if ! read -r rank 2>/dev/null <"$here/names/$name"; then
  echo "The computer $name is no node of this cluster." >&2
  exit 254
fi
HOME=$here/$rank
TMPDIR={temporary(tags)}
test -d "$TMPDIR" || mkdir -m 700 "$TMPDIR" 2>/dev/null
if test ! -O "$TMPDIR" || test -L "$TMPDIR"; then  # somebody else was there before us
  TMPDIR=$HOME/.tmp
  test -d "$TMPDIR" || mkdir -m 700 "$TMPDIR"
fi
PATH=$HOME/.bin:${{PATH:-/usr/bin}}:/usr/local/bin:/usr/bin:/bin
{MARK}={tags.subject}
HYDRA_LAUNCHER=ssh
export HOME TMPDIR PATH {MARK} HYDRA_LAUNCHER
unset XDG_CONFIG_HOME XDG_CACHE_HOME XDG_DATA_HOME XDG_STATE_HOME XDG_RUNTIME_DIR ENV BASH_ENV
cd "$HOME" || exit 254
if test -n "$SSH_ORIGINAL_COMMAND"; then
  command=$SSH_ORIGINAL_COMMAND
  unset SSH_ORIGINAL_COMMAND
  exec /bin/sh -c "$command"
fi
if command -v bash >/dev/null; then exec bash -i; fi
exec /bin/sh -i
"""


# What has a run's mark in its environment takes it along to the other nodes, whose servers take no variables.
_SSH = f"""#!/bin/sh
# Written by the portal: ssh to the other nodes of the cluster, by its key; to other hosts, as ever.
own=${{0%/*}}
home=${{own%/.bin}}
config=$home/{SSH_CONFIG}
real=/usr/bin/ssh
IFS=:
for place in $PATH; do
  if test "$place" != "$own" && test -x "$place/ssh"; then real=$place/ssh; break; fi
done
unset IFS
skip_options() {{
  shift "$1"
  OPTIND=1
  while getopts {OPTIONS} option; do :; done 2>/dev/null
}}
skip_options 1 "$@"
at=$OPTIND
eval "host=\\${{$at-}}"
host=${{host##*@}}
is_node=
if test -O "$config"; then
  while read -r word names; do
    test "$word" = Host && case " $names " in *" $host "*) is_node=1; break ;; esac
  done <"$config"
fi
if test -z "$is_node"; then
  if test -f "$home/.ssh/config"; then exec "$real" -F "$home/.ssh/config" "$@"; fi
  exec "$real" "$@"
fi

# OpenSSH takes options behind the host, too; the command is what follows.
skip_options $((at + 1)) "$@"
before=$((at + OPTIND - 1)) all=$#
if test -z "$COXSWAIN_RUN" || test "$before" -ge "$all"; then exec "$real" -F "$config" "$@"; fi
n=0 command=''
for word do
  n=$((n + 1))
  if test "$n" -le "$before"; then set -- "$@" "$word"; else command="$command $word"; fi
done
shift "$all"
exec "$real" -F "$config" "$@" "export COXSWAIN_RUN=$COXSWAIN_RUN;$command"
"""
