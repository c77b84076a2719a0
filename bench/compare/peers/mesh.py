"""The mesh: three nodes of this tree."""

from __future__ import annotations

import sys

from bench.compare.client import ClientProcess, Failed
from bench.compare.peer import KILL_SLOTS
from bench.compare.records import Durability, Label, Mode, Victim
from bench.compare.shelf import ROOT, Needs
from bench.compare.stage import DidNotStart, Stage, busiest
from mesh.client import connect
from mesh.errors import MeshError
from nodes.local_mesh import LocalMesh, LocalMeshSettings, MeshDidNotStart, free_base_port

NODES = 3
SLOTS = 256
APP = ROOT / "bench" / "compare" / "clients" / "mesh_app.py"
DRAIN_S = 0.2


class MeshPeer:
    label = Label(
        name="mesh",
        title="agent-mesh",
        mode=Mode.ONLY,
        durability=Durability(3, "every commit", "in the log, 3 copies"),
        setting="three nodes; there is no faster and no safer way to run it",
        keeper="leader",
    )
    needs = Needs()

    def __init__(self) -> None:
        self._local: LocalMesh | None = None
        self._killed = ""

    async def start(self, stage: Stage, *, to_kill: bool) -> tuple[list[str], dict[str, str]]:
        slots = KILL_SLOTS // NODES if to_kill else SLOTS
        try:
            base_port = free_base_port(NODES)
            settings = LocalMeshSettings(
                nodes=NODES,
                base_port=base_port,
                apps=(f"{APP}:app",),
                data_dir=stage.folder / "mesh",
                slots=slots,
                drain_s=DRAIN_S,
                import_path=str(ROOT),
                start_timeout_s=60.0,
            )
            self._local = LocalMesh(settings)
            await self._local.__aenter__()
        except MeshDidNotStart as error:
            raise DidNotStart(str(error)) from None
        return [sys.executable, "-m", "bench.compare.clients.mesh_client", self._local.peers], {}

    async def kill(self, stage: Stage, victim: Victim, client: ClientProcess, busy: frozenset[int]) -> None:
        assert self._local is not None, "it was started"
        try:
            async with connect(self._local.peers) as mesh:
                leader = (await mesh.status()).leader
        except MeshError as error:
            raise Failed(str(error)) from None
        others = {node.process.pid: name for name, node in self._local.nodes.items() if name != leader}
        holds = busiest([node.process for name, node in self._local.nodes.items() if name != leader], busy)
        self._killed = leader if victim is Victim.KEEPER and leader is not None else others[holds.pid]
        self._local.kill(self._killed)

    async def revive(self, stage: Stage, victim: Victim) -> None:
        assert self._local is not None, "it was started"
        try:
            await self._local.restart(self._killed)
        except MeshDidNotStart as error:
            raise DidNotStart(str(error)) from None

    async def stop(self) -> None:
        if self._local is not None:
            # Nothing in it is wanted any more.
            await self._local.stop(grace_s=0.0)
