import sys

from mpi4py import MPI

print(MPI.COMM_WORLD.rank, repr(sys.stdin.read()))
