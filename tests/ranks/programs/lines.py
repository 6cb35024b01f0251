import sys

from mpi4py import MPI

rank = MPI.COMM_WORLD.rank
for number in range(int(sys.argv[1])):
    print(f"<r{rank} i{number:06d} {'x' * 40}>", number, "z")
