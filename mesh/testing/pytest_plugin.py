"""For pytest: the fixture `mesh`, which makes meshes under a virtual clock.

    def test_sorting_survives_its_leader(mesh):
        m = mesh(app, nodes=5)
        handle = m.submit("code", {"prompt": "write sort"})
        m.kill(m.leader)
        assert handle.result() == "done"

All methods block. After the test every invariant is asserted (`assert_invariants`), and the meshes are closed. Nothing
of the mesh is imported before a test asks for the fixture: this module is loaded by every run of pytest.
"""

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from mesh.testing.blocking_mesh import Meshes


@pytest.fixture
def mesh() -> "Iterator[Meshes]":
    """Call it to get a mesh that has started: `mesh(app, nodes=3)`. Arguments as of `mesh.testing.local`."""
    from mesh.testing.blocking_mesh import Meshes  # noqa: PLC0415 - see the module.

    meshes = Meshes()
    yield meshes
    meshes.close()
