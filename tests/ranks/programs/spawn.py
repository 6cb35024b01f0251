"""spawn.py HOW: spawns three, of which one ends like this."""

import os
import sys

from mpi4py import MPI

how = sys.argv[-1]
if sys.argv[1] == "child":
    parent, world = MPI.Comm.Get_parent(), MPI.COMM_WORLD
    print("child", world.rank, repr(sys.stdin.read()), flush=True)
    if how == "raises" and world.rank == 1:
        raise ValueError("child is sad")
    if how == "leaves" and world.rank == 1:
        os._exit(5)
    parent.Barrier()
    parent.Disconnect()
else:
    children = MPI.COMM_WORLD.Spawn(sys.executable, [sys.argv[0], "child", how], maxprocs=3)
    children.Barrier()
    children.Disconnect()
    print("parent", MPI.COMM_WORLD.rank)
