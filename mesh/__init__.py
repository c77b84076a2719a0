"""A mesh of equal nodes that runs tasks and loses none of them.

`Mesh` and `Context` are what handlers are written with, `Retry`, `Key` and `RateLimit` say how their tasks are treated;
`connect` and `connect_sync` are what work is submitted with, an `Outcome` is what became of it, and `mesh.errors` is
what may go wrong. Names are loaded when first used, so that `import mesh` costs nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mesh import errors
    from mesh.app import Mesh
    from mesh.client import Outcome, connect, connect_sync
    from mesh.context import Context
    from mesh.treatment import Key, RateLimit, Retry

__all__ = ["Context", "Key", "Mesh", "Outcome", "RateLimit", "Retry", "connect", "connect_sync", "errors"]

_HOME = {
    "Context": "mesh.context",
    "Key": "mesh.treatment",
    "Mesh": "mesh.app",
    "Outcome": "mesh.client",
    "RateLimit": "mesh.treatment",
    "Retry": "mesh.treatment",
    "connect": "mesh.client",
    "connect_sync": "mesh.client",
}
"""Public name -> the module it lives in."""


def __getattr__(name: str) -> object:
    if name == "errors":
        return import_module("mesh.errors")
    if name not in _HOME:
        raise AttributeError(f"module 'mesh' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
