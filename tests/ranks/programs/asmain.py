"""What a program can see of how it was started."""

import inspect
import pickle
import sys
from multiprocessing import get_context


class Thing:
    pass


def of_a_child():
    return __name__


if __name__ == "__main__":
    print(__name__, __file__, __doc__, sys.argv, sys.path[0], sorted(n for n in globals() if not n.startswith("__")))
    print(type(pickle.loads(pickle.dumps(Thing()))).__module__, inspect.getsourcefile(Thing))
    with get_context("spawn").Pool(1) as pool:
        print(pool.apply(of_a_child))
