"""The beginning of each of our programs on a node. Its modules come with it and are never read from the node's disks.

    python3 -ISc WORDS FD MODULE …

WORDS (`portal/detached.py`) read LENGTH, a line, and then so many bytes from the descriptor: all modules, as a
marshalled {name: source}, with WORDS themselves as "words"; and as "compiled" (magic number, {name: code}) for the
portal's own Python, which is often the node's too, because compiling takes long. They are executed as they came: what
people run on the node may have changed any file of theirs, and nothing of this. Then `main` of MODULE is called with
the words that follow, and with what is left to be read of the descriptor. Standard library only, Python 3.9 or newer.
"""

import _frozen_importlib_external
import importlib
import marshal
import os
import sys
from importlib.machinery import ModuleSpec


class Brought:
    """Imports the modules that came with us."""

    def __init__(self, sources):
        self.sources = sources
        magic, codes = sources["compiled"]
        self.codes = codes if magic == _frozen_importlib_external.MAGIC_NUMBER else {}

    def find_spec(self, name, path=None, target=None):
        return ModuleSpec(name, self, origin=f"<portal>/{name}.py") if name in self.sources else None

    def create_module(self, spec):
        return None

    def exec_module(self, module):
        exec(marshal.loads(self.code(module.__name__)), module.__dict__)  # noqa: S102, S302

    def code(self, name):
        """Of a module, as `marshal` has it."""
        if name not in self.codes:
            source = compile(self.sources[name], f"<portal>/{name}.py", "exec", dont_inherit=True)
            self.codes[name] = marshal.dumps(source)
        return self.codes[name]


def execute(python, module, words):
    """Become a fresh interpreter that calls `main` of this module: nothing of our memory goes over. Never returns."""
    file = os.memfd_create("programs", 0)  # goes over the exec
    data = marshal.dumps(m, 2)  # noqa: F821
    with open(file, "wb", closefd=False) as to:
        to.write(b"%d\n%b" % (len(data), data))
    os.lseek(file, 0, os.SEEK_SET)
    os.execv(python, [python, "-ISc", m["words"], str(file), module, *words])  # noqa: F821


if __name__ == "__main__":
    sys.modules["boot"] = sys.modules[__name__]
    brought = Brought(m)  # noqa: F821
    sys.meta_path.insert(0, brought)
    if f.fileno() > 2:  # noqa: F821
        f.close()  # noqa: F821
    importlib.import_module(sys.argv[2]).main(sys.argv[3:], f)  # noqa: F821
