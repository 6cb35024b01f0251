"""What a node offers to whoever signs in as its user. `bootstrap.py` makes it so, and the contract test tries each."""

from __future__ import annotations

from dataclasses import dataclass

SSH_CONFIG = ".coxswain/ssh_config"  # below a user's home; see below

OPTIONS = "1246ab:c:e:fgi:kl:m:no:p:qstvxAB:CD:E:F:GI:J:KL:MNO:P:Q:R:S:TVw:W:XYy"  # of OpenSSH's client


def ssh(client: str, otherwise: str) -> str:
    """What the `ssh` that is first on a node's PATH does: lines of a shell's script.

    To a host that a line `Host NAME…` of ~/.coxswain/ssh_config names it runs `client` with that file and no other:
    OpenSSH ends at a wrong line in ~/.ssh/config, and executes what a `Match exec` there says, even where nothing of it
    applies. To any other host it does what `otherwise` says. The file has to belong to whom runs it.
    """
    return f"""\
while getopts {OPTIONS} option; do :; done 2>/dev/null
eval "host=\\${{$OPTIND-}}"
host=${{host##*@}}
file=$HOME/{SSH_CONFIG}
if [ -O "$file" ]; then
  while read -r word names; do
    [ "$word" = Host ] && case " $names " in *" $host "*) exec {client} -F "$file" "$@" ;; esac
  done < "$file"
fi
{otherwise}"""


@dataclass(frozen=True)
class Promise:
    what: str  # the end of “a node has …”
    test: str  # a line of shell that ends with 0 where it is so, and with anything else where it is not


# With these, and besides: its SSH server shows the host key that it was given from its first moment on, `hostname`
# says what the cloud says, `/shared` is the same on all nodes of a workspace, and each node reaches the others by their
# private addresses, at any port.
PROMISES = (
    Promise("a home that its user may write to", 'cd && touch .promise && rm .promise && test "$PWD" != /'),
    Promise("Python 3.9 or newer", "python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))'"),
    Promise("a way to make environments", "command -v uv || python3 -c 'import ensurepip, venv'"),
    Promise("git", "git --version"),
    Promise("flock and timeout", "flock -n /dev/null true && timeout 5 true"),
    Promise("an SSH client", "command -v ssh"),
    # And so it is for people and for what MPI starts, whatever stands in ~/.ssh.
    Promise(
        f"an SSH client that does as ~/{SSH_CONFIG} says, for the hosts that it names",
        "cd && mkdir -p .coxswain && "
        f"printf 'Host a-name\\n  ProxyCommand touch .coxswain/asked\\n' > {SSH_CONFIG} && chmod 600 {SSH_CONFIG} && "
        f"{{ ssh a-name true; rm {SSH_CONFIG}; rm .coxswain/asked; }}",
    ),
    Promise("memory that its programs share", "cd /dev/shm && touch promise.$$ && rm promise.$$"),
    Promise("variables of the portal in its sessions", 'test "$COXSWAIN_RUN" = a-run'),
)
