"""signals.py saves | ignores: what ranks do that are asked to end."""

import signal
import sys
import time

from mpi4py import MPI

rank = MPI.COMM_WORLD.rank


def end(number, frame):
    print("rank", rank, "saved", flush=True)
    sys.exit(0)


for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
    signal.signal(number, end if sys.argv[1] == "saves" else signal.SIG_IGN)
MPI.COMM_WORLD.Barrier()
print("rank", rank, "is there", flush=True)
while True:
    time.sleep(0.05)
