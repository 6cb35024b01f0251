"""ends.py HOW WAIT: rank 4 ends like this, the others wait like that."""

import os
import signal
import sys
import time

from mpi4py import MPI

world = MPI.COMM_WORLD
how, wait = sys.argv[1:3]
victim = 4 % world.size
world.Barrier()
print("rank", world.rank, "is there", flush=True)
if world.rank == victim:
    if how == "raises":
        raise ValueError("rank four is sad")
    if how == "exits":
        sys.exit(3)
    if how == "leaves":
        os._exit(7)
    if how == "leaves-well":
        os._exit(0)
    if how == "aborts":
        world.Abort(42)
    if how == "words":
        sys.exit("no more fuel")
    os.kill(os.getpid(), getattr(signal, how))
if wait == "barrier":
    world.Barrier()
elif wait == "spin":
    while True:
        pass
elif wait == "sleep":
    time.sleep(1000)
elif wait == "recv":
    world.recv(source=victim)
