"""Has its own mind about MPI_Finalize: `itself`, before more is done; `never`. With `raises`, one fails after it."""

import sys

import mpi4py

mpi4py.rc.finalize = False
from mpi4py import MPI  # noqa: E402

world = MPI.COMM_WORLD
rank = world.rank
world.Barrier()
if "itself" in sys.argv:
    MPI.Finalize()
print(f"{rank} goes on")
if "raises" in sys.argv and rank == 2:
    raise RuntimeError("after all")
