"""prctl(2), without `ctypes`, which takes as long to load as all else."""

import _ctypes

_address = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")


def prctl(option, value):
    """Of no effect where it fails."""
    _ctypes.call_function(_address, (option, value, 0, 0, 0))
