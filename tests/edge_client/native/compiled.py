"""ExecuTorch without torch, where this machine can compile it."""

from __future__ import annotations

import pytest

from edge_client.executorch_method import LoadMethod
from edge_client.native.building import find_compiler
from edge_client.native.method import native_loader
from wire.errors import ProgramError


def load_natively() -> LoadMethod:
    """Return the loader; a test on a machine without a C++ compiler is skipped."""
    try:
        find_compiler()
    except ProgramError as missing:
        pytest.skip(str(missing))
    return native_loader()
