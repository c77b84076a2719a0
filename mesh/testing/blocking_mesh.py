"""The blocking twin of `local`, for tests without an event loop; and the factory behind pytest's `mesh` fixture."""

from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Self, TypeVar

from mesh.app import Mesh
from mesh.client import BlockingHandle, MeshClient
from mesh.client.blocking import BlockingMesh
from mesh.documents import EventLine, Explanation, Status, Task
from mesh.node import Node
from mesh.testing.driving import Driver
from mesh.testing.virtual_mesh import VirtualMesh, local

_Result = TypeVar("_Result")


class DrivenClient(BlockingMesh):
    """A blocking client that runs its mesh, and the clock with it, while it waits."""

    def __init__(self, client: MeshClient, driver: Driver) -> None:
        self._client = client
        self._driver = driver

    def close(self) -> None:
        """Let go of everything that is waited for. The mesh stays."""
        self._run(self._client.close())

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return self._driver.run(work, getattr(work, "__qualname__", "an answer"))

    @property
    def _is_closed(self) -> bool:
        return self._driver.loop.is_closed()


class BlockingVirtualMesh:
    """A mesh under a virtual clock whose methods block; what each does, VirtualMesh says.

    It runs, and its clock with it, only within these methods. Not to be used from several threads, nor in a coroutine:
    there, `mesh.testing.local` is what is wanted.

    Attributes:
        client: the whole client, as `mesh.connect_sync` gives it. Its handles are those of `submit`.
    """

    def __init__(self, app: Mesh | None = None, **options: Any) -> None:
        """Returns once the mesh has started. Arguments as of `local`."""
        self._mesh: VirtualMesh = local(app, **options)
        self._mesh.power_on()
        try:
            self._run(self._mesh.opened())
        except BaseException:
            self._mesh.loop.close()
            raise
        self.client = DrivenClient(self._mesh.client, self._mesh.driver)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        try:
            self.close()
        except Exception:
            if error is None:  # Whatever the test failed of says more.
                raise

    def close(self) -> None:
        """Stop everything; what is known can still be looked at. Raises whatever broke a node of its own accord."""
        if self._mesh.loop.is_closed():
            return
        try:
            self._run(self._mesh.closed())
        finally:
            self._mesh.loop.close()

    # --- work ---

    def submit(self, capability: str, payload: Any = None, **options: Any) -> BlockingHandle:
        """Hand in a task; returns once a quorum holds it. Options and errors as of MeshClient.submit."""
        return self.client.submit(capability, payload, **options)

    def map(self, capability: str, payloads: Iterable[Any], **options: Any) -> list[BlockingHandle]:
        """Submit one task for each payload, in order."""
        return self.client.map(capability, payloads, **options)

    def result(self, task_id: str, timeout: float | None = None) -> Any:
        """What a task's handler returned. Waits, by the mesh's clock, and raises as Handle.result."""
        return self.client.handle(task_id).result(timeout)

    # --- time ---

    @property
    def now(self) -> float:
        """Seconds of the mesh's time since it had started."""
        return self._mesh.now

    def advance(self, duration: float | str) -> None:
        """Let time pass: seconds, or `"500ms"`, `"20s"`, `"2m"`, `"1h"`."""
        self._run(self._mesh.advance(duration))

    def until(self, condition: Callable[[], bool], *, timeout: float | str | None = None) -> None:
        """Let time pass until `condition()` holds. Raises TimeoutError after `timeout` of the mesh's time."""
        self._run(self._mesh.until(condition, timeout=timeout))

    def elected(self) -> str:
        """The id of the leader; time passes until there is one. Raises TimeoutError."""
        return self._run(self._mesh.elected())

    # --- what goes wrong: as VirtualMesh has it ---

    def kill(self, node_id: str | None, *, silent: bool = False) -> None:
        self._run(self._mesh.kill(node_id, silent=silent))

    def restart(self, node_id: str) -> None:
        self._run(self._mesh.restart(node_id))

    def pause(self, node_id: str | None) -> None:
        self._run(self._mesh.pause(node_id))

    def resume(self, node_id: str) -> None:
        self._run(self._mesh.resume(node_id))

    def partition(self, *groups: Iterable[str]) -> None:
        self._run(self._mesh.partition(*groups))

    def heal(self) -> None:
        self._run(self._mesh.heal())

    def add_node(self, node_id: str, app: Mesh | None = None, *, slots: int | None = None) -> None:
        self._run(self._mesh.add_node(node_id, app, slots=slots))

    # --- what the mesh holds, as it stands: as VirtualMesh has it ---

    @property
    def leader(self) -> str | None:
        return self._mesh.leader

    @property
    def nodes(self) -> list[str]:
        return self._mesh.nodes

    def is_up(self, node_id: str) -> bool:
        return self._mesh.is_up(node_id)

    def node(self, node_id: str) -> Node:
        return self._mesh.node(node_id)

    def status(self) -> Status:
        return self._mesh.status()

    def task(self, task_id: str) -> Task:
        return self._mesh.task(task_id)

    def explain(self, task_id: str) -> Explanation:
        return self._mesh.explain(task_id)

    def events(self) -> list[EventLine]:
        return self._mesh.events()

    def assert_invariants(self) -> None:
        self._mesh.assert_invariants()

    def _run(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        return self._mesh.driver.run(work, getattr(work, "__qualname__", "an answer"))


class Meshes:
    """Makes meshes for one test, and clears them away after it."""

    def __init__(self) -> None:
        self._made: list[BlockingVirtualMesh] = []

    def __call__(self, app: Mesh | None = None, **options: Any) -> BlockingVirtualMesh:
        """A mesh that has started. Arguments as of `local`."""
        mesh = BlockingVirtualMesh(app, **options)
        self._made.append(mesh)
        return mesh

    def close(self) -> None:
        """Close all of them; then raise AssertionError if an invariant does not hold of one."""
        flaws: list[Exception] = []
        for mesh in self._made:
            for step in (mesh.assert_invariants, mesh.close):
                try:
                    step()
                except Exception as error:
                    flaws.append(error)
        self._made.clear()
        if flaws:
            raise flaws[0]
