"""What is compiled: C beside this module, in one library that is built with the package where there is a C compiler.

It knows nothing of Python and is called by ctypes, which lets other threads run meanwhile. Everything it does is done
without it as well, more slowly.
"""

from __future__ import annotations

import ctypes
import logging
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

_log = logging.getLogger(__name__)

LIBRARY = Path(__file__).with_name("_native.so")
VERSION = 3  # as in lookup.c: of the functions and structures of the library


@lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The library; ``None`` where it was not built, or is not this version's."""
    try:
        found = ctypes.CDLL(str(LIBRARY))
        version = found.native_version()
        found.maxsim_isas.restype = ctypes.c_char_p
        found.maxsim_scores.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_void_p)
        found.ids_lookup.restype = ctypes.c_int64
        found.ids_lookup.argtypes = (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
        found.interaction_scores.argtypes = (ctypes.c_void_p, ctypes.c_int)
        found.interaction_scores.restype = None
    except (OSError, AttributeError) as error:
        if LIBRARY.exists():
            _log.warning("%s cannot be used, so all is slower: %s", LIBRARY, error)
        return None
    if version != VERSION:
        _log.warning("%s is of another version, so all is slower: install the package again", LIBRARY)
        return None
    return found


def address(array: npt.NDArray[np.generic] | None) -> int | None:
    return None if array is None else array.ctypes.data
