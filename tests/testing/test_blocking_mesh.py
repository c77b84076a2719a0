"""The blocking twin: a mesh under a virtual clock where there is no event loop, and pytest's fixture `mesh`."""

import asyncio
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mesh.errors import NotFound
from mesh.testing import BlockingVirtualMesh, Stuck
from mesh.testing.blocking_mesh import Meshes
from tests.testing.workshop import Workshop

ROOT = Path(__file__).parents[2]


def test_everything_blocks_and_no_time_is_lost() -> None:
    shop = Workshop()
    with BlockingVirtualMesh(shop.app, nodes=5) as m:
        handle = m.submit("steps", {"count": 20}, task_id="t1")
        m.advance("5s")
        assert (m.now, m.task("t1").state) == (5, "running")
        m.kill(m.leader)
        assert m.elected() in m.nodes
        m.pause(m.leader)
        m.advance("2s")
        paused = next(node for node in m.nodes if m.is_up(node) and m.node(node).leading.dispatcher.in_office)
        m.resume(paused)
        assert handle.result() == [number * number for number in range(20)]
        down = next(node for node in m.nodes if not m.is_up(node))
        m.restart(down)
        m.partition([down])
        m.advance("5s")
        m.heal()
        m.until(lambda: m.node(down).ledger.digest == m.node(m.leader or down).ledger.digest, timeout="10s")
        m.add_node("n6")
        assert [found.id for found in m.client.as_completed(m.map("nap", [{"seconds": 2}, {"seconds": 1}]))]
        first = next(m.client.as_completed(m.map("nap", [{"seconds": 9}, {"seconds": 4}])))
        assert first.result() in m.nodes
        assert m.explain("t1").reason == "finished"
        assert m.result("t1") == handle.result()
        assert m.status().quorum and [event.event for event in m.events()].count("task_completed") == 4
        with pytest.raises(NotFound):
            m.task("nobody")
        m.assert_invariants()
    m.close()
    with pytest.raises(RuntimeError, match="this mesh is closed"):
        m.advance("1s")


def test_what_cannot_come_any_more_is_told_at_once_and_why() -> None:
    with BlockingVirtualMesh(Workshop().app, nodes=1, patience="2m") as m:
        handle = m.submit("nobody can", task_id="t1")
        with pytest.raises(Stuck, match=r"waited 120 s .* for the result of t1\. t1 is pending \(no_capability\)"):
            handle.result()
        m.advance("1h")
        with pytest.raises(ValueError, match="no node 'n9'"):
            m.kill("n9")
        m.kill("n1")
        with pytest.raises(Stuck, match=r"Nobody leads\. Down: n1\.$"):
            m.until(lambda: False)


def test_a_thread_is_waited_for() -> None:
    shop = Workshop()
    with BlockingVirtualMesh(shop.app, nodes=1, real_patience_s=0.7) as m:
        with pytest.raises(Stuck, match=r"1 plain function\(s\) still run"):
            m.submit("latched", task_id="t1").result()
        shop.latch.set()
        assert m.result("t1") is True


def test_in_a_coroutine_it_is_refused() -> None:
    async def story() -> None:
        with pytest.raises(RuntimeError, match=r"use `async with mesh\.testing\.local"):
            BlockingVirtualMesh(Workshop().app)

    asyncio.run(story())


def test_all_meshes_of_a_test_are_closed_and_one_flaw_is_told() -> None:
    meshes = Meshes()
    first, second = meshes(Workshop().app, nodes=1), meshes(nodes=1)
    first.node("n1").count("tables_differ")
    with pytest.raises(AssertionError, match="heard of another table"):
        meshes.close()
    for m in (first, second):
        with pytest.raises(RuntimeError, match="closed"):
            m.advance(1)
    meshes.close()


TEST_OF_A_USER = """
import sys
from mesh import Mesh

app = Mesh("sorting")

@app.task(capability="sort")
def sort(numbers: list) -> list:
    return sorted(numbers)

def test_nothing_is_loaded_before_it_is_wanted():
    assert "mesh.node" not in sys.modules and "asyncio" not in sys.modules.get("mesh.testing.pytest_plugin").__dict__

def test_sorting_survives_its_leader(mesh):
    m = mesh(app, nodes=3)
    handle = m.submit("sort", {"numbers": [3, 1, 2]})
    m.kill(m.leader)
    m.advance("20s")
    assert handle.result() == [1, 2, 3]

def test_a_flaw_is_an_error(mesh):
    mesh(app, nodes=1).node("n1").count("tables_differ")
"""


def test_the_plugin_gives_tests_a_mesh(tmp_path: Path) -> None:
    """As an installed package would be loaded: by name, before anything else."""
    (tmp_path / "test_user.py").write_text(TEST_OF_A_USER)
    plugin = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]["mesh"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", plugin, "-p", "no:cacheprovider", "test_user.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert "3 passed, 1 error" in done.stdout, done.stdout + done.stderr
    assert "n1 has heard of another table than its own" in done.stdout
