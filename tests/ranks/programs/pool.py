import sys

from schwimmbad import MPIPool

with MPIPool() as pool:
    if not pool.is_master():
        pool.wait()
        sys.exit(0)
    print("sum of squares", sum(pool.map(abs, range(100))))
