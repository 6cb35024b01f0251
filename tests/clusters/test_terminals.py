"""A person's terminal on a node, against an SSH server of asyncssh's in this process."""
