"""Finding the users' apps by name. Runs only inside an agent process: it imports user code."""

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from mesh.app import Mesh, TaskFunction

DETAIL_CHARS_MAX = 4_096
"""How much of a traceback a refusal carries: its end."""


class AppRefused(Exception):
    """The app cannot be loaded; the message is a sentence, perhaps followed by the end of a traceback."""


def load_all(specs: Sequence[str]) -> dict[str, TaskFunction[..., ..., Any, Any]]:
    """Capability -> handler, of all the apps together. Raises AppRefused."""
    tasks: dict[str, TaskFunction[..., ..., Any, Any]] = {}
    offered_by: dict[str, str] = {}
    for spec in specs:
        for capability, task in load(spec).tasks.items():
            if capability in tasks:
                raise AppRefused(f"capability {capability!r} is offered by {offered_by[capability]} and by {spec}")
            tasks[capability] = task
            offered_by[capability] = spec
    return tasks


def load(spec: str) -> Mesh:
    """The app named `MODULE:ATTRIBUTE` or `path/to/file.py:ATTRIBUTE`. Raises AppRefused."""
    place, colon, attribute = spec.rpartition(":")
    if not colon or not place or not attribute:
        raise AppRefused(f"app {spec!r} is not of the form MODULE:ATTRIBUTE or path/to/file.py:ATTRIBUTE")
    try:
        module = _from_file(Path(place)) if place.endswith(".py") else importlib.import_module(place)
    except AppRefused:
        raise
    except ModuleNotFoundError as error:
        if error.name is not None and (place == error.name or place.startswith(f"{error.name}.")):
            raise AppRefused(f"app {spec!r}: there is no module {error.name!r} on the path {_path()}") from None
        raise AppRefused(_failed(spec, error)) from None
    except BaseException as error:  # Importing is running: even SystemExit is only the app's failure.
        raise AppRefused(_failed(spec, error)) from None
    app = getattr(module, attribute, None)
    if not isinstance(app, Mesh):
        there = ", ".join(name for name, value in vars(module).items() if isinstance(value, Mesh)) or "none"
        said = "has no such attribute" if app is None else f"has a {type(app).__name__} there, not a mesh.Mesh"
        raise AppRefused(f"app {spec!r}: {place} {said} (apps in it: {there})")
    return app


def _from_file(path: Path) -> ModuleType:
    """Import a file as a module of its own name; what lies beside it can be imported from it."""
    path = path.resolve()
    if not path.is_file():
        raise AppRefused(f"app file {path} does not exist")
    name = path.stem
    if name in sys.modules or name in sys.stdlib_module_names:
        name = f"mesh_app_{name}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, "a .py file always has a loader"
    module = importlib.util.module_from_spec(spec)
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def _failed(spec: str, error: BaseException) -> str:
    text = "".join(traceback.format_exception(error))[-DETAIL_CHARS_MAX:]
    return f"app {spec!r} cannot be imported: {type(error).__name__}: {error}\n{text}"


def _path() -> str:
    return ":".join(entry or "." for entry in sys.path[:3]) + (":..." if len(sys.path) > 3 else "")
