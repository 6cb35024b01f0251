"""In each rank that is a Python program: runs it as `python FILE`, `-m MODULE` or `-c CODE` would, in __main__.

A rank that raises does not end by itself: MPI_Finalize waits for the others, who wait for it. So `rank.py` is told
before, over the descriptor COXSWAIN_TELL: `PID STATUS ERROR`, a line, with the error's own words in JSON.
"""


def _run():
    import atexit
    import os
    import sys
    from _json import encode_basestring_ascii as quoted  # now: a program that wants for memory can import nothing

    def tell(status, error=""):
        told.append(status)
        words = f"{os.getpid()} {status} {quoted(error[:500])}\n".encode()
        try:
            if is_ours():
                os.write(fd, words)
        except OSError:
            return  # the program has closed it: how it ends is seen all the same

    def text(error):
        """Its words; none where it cannot be printed, which must not hide that there was one."""
        try:
            return str(error)
        except BaseException:  # noqa: BLE001 (whatever it is, it is raised again or ends as Python ends it)
            return ""

    def spawns():
        """How many ranks there are, where that is more than one and each has started workers, as bodo.pandas does."""
        size = os.environ.get("PMI_SIZE", "1")
        begun = getattr(sys.modules.get("bodo.spawn.spawner"), "spawner", None)
        return size if size != "1" and begun is not None else ""

    def is_ours():
        """Programs that close all descriptors get this number for a file of theirs."""
        now = os.fstat(fd)
        return (now.st_dev, now.st_ino) == (pipe.st_dev, pipe.st_ino)

    def receive_the_rest():
        """Take messages that nobody has received: with one left, MPICH 5's MPI_Finalize fails before it tells PMI."""
        MPI = sys.modules.get("mpi4py.MPI")  # noqa: N806
        if MPI is None or not MPI.Is_initialized() or MPI.Is_finalized():
            return
        for world in (MPI.COMM_WORLD, MPI.COMM_SELF):
            state = MPI.Status()
            while message := world.Improbe(status=state):
                message.Recv([bytearray(state.Get_count(MPI.BYTE)), MPI.BYTE])

    def last():
        """Registered first, so called after all that the program registers."""
        if told:
            return
        try:
            receive_the_rest()
        except Exception as error:  # noqa: BLE001 (MPI that is broken is no reason to fail here: its own end will tell)
            sys.stderr.write(f"{error}\n")
        for stream in (sys.stdout, sys.stderr):
            try:
                if stream is not None and not stream.closed:
                    stream.flush()
            except (OSError, ValueError):
                return  # python ends with 120 then
        tell(0)

    def load(name):
        """Compiled, and __main__ dressed as python does it."""
        import _frozen_importlib_external as machinery  # importlib's own takes long to load

        name = os.path.abspath(name)  # as Python has it since 3.9
        try:
            with open(name, "rb") as file:
                code = compile(file.read(), name, "exec", dont_inherit=True)
        except OSError as error:
            sys.stderr.write(f"python: can't open file {name!r}: [Errno {error.errno}] {error.strerror}\n")
            raise SystemExit(2) from None
        names.update(__file__=name, __cached__=None)
        names["__loader__"] = machinery.SourceFileLoader("__main__", name)
        return code

    told = []
    fd = int(os.environ.pop("COXSWAIN_TELL"))
    pipe = os.fstat(fd)
    os.set_inheritable(fd, False)
    atexit.register(last)
    for stream in (sys.stdout, sys.stderr):  # as on a terminal: whole lines (and \r) at once, in one write each
        if stream is not None:
            stream.reconfigure(line_buffering=True)
    names = sys.modules["__main__"].__dict__
    del names["_run"]
    for name in ("marshal", "os", "sys"):
        names.pop(name, None)
    names["__doc__"] = None
    del sys.argv[0]
    if not sys.argv:
        sys.argv[:] = [""]
    what = sys.argv[0]
    has_place = not (getattr(sys.flags, "safe_path", False) or sys.flags.isolated)  # for the program's own folder
    try:
        if what.startswith("-m"):
            import runpy

            if what == "-m":
                del sys.argv[0]
            if has_place:
                sys.path[0] = os.getcwd()
            runpy._run_module_as_main(what[2:] or sys.argv[0])
        elif what == "-c":
            code = sys.argv.pop(1)
            exec(compile(code, "<string>", "exec", dont_inherit=True), names)  # noqa: S102
        elif os.path.isdir(what) or (os.path.isfile(what) and what.endswith((".zip", ".pyz", ".pyc"))):
            import runpy

            if what.endswith(".pyc"):
                runpy.run_path(what, run_name="__main__")
            else:
                if has_place:
                    del sys.path[0]
                sys.path.insert(0, what)
                runpy._run_module_as_main("__main__", alter_argv=False)
        else:
            if has_place:
                sys.path[0] = os.path.dirname(os.path.realpath(what))
            exec(load(what), names)  # noqa: S102
    except SystemExit as end:
        if end.code is not None and end.code != 0:
            is_number = isinstance(end.code, int)
            fits = is_number and -(2**63) <= end.code < 2**63  # python makes -1 of what does not
            tell(end.code & 255 if fits else 255 if is_number else 1, "" if is_number else text(end.code))
        raise
    except BaseException as error:  # noqa: BLE001 (as the interpreter itself would)
        trace = error.__traceback__
        while trace and trace.tb_frame.f_code.co_filename.startswith(("<portal>", "<frozen runpy>")):
            trace = trace.tb_next
        kind = type(error)
        name = kind.__qualname__  # as the last line of a traceback has it
        if kind.__module__ not in ("__main__", "builtins"):
            name = f"{kind.__module__}.{name}"
        words = f"{name}: {said}" if (said := text(error)) else name
        tell(1, f"bodo.pandas on {size} ranks: {words}" if (size := spawns()) else words)
        sys.last_type, sys.last_value, sys.last_traceback = type(error), error, trace
        sys.excepthook(type(error), error.with_traceback(trace), trace)
        sys.exit(1)


_run()
