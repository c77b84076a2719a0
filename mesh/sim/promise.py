"""What a mesh must survive, counted: which disks may be lost now, and which members removed, so that it can go on.

The mesh promises nothing once a majority of the voters' logs is gone. Whoever breaks things asks here first. Every
configuration counts that is committed, or lies in some log and may yet be; a learner that lost its log counts like a
voter, as it may be given a vote before anybody notices; and so does each removal that was ordered and may yet come.
"""

from collections.abc import Callable

from mesh.durable import Configuration, EntryKind
from mesh.raft.configuration import decode
from mesh.sim.machine import Machine
from mesh.sim.network import Network
from mesh.sim.plan import Plan
from mesh.sim.schedule import Schedule

ORDER_US = 10_000_000
REPLAYED_ORDER_US = 75_000_000
"""For how long an order may still be carried out, where messages come late."""


class Promise:
    """`committed` gives the latest committed configuration and its index."""

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        network: Network,
        machines: list[Machine],
        committed: Callable[[], tuple[int, Configuration]],
    ) -> None:
        self._plan = plan
        self._schedule = schedule
        self._network = network
        self._machines = {machine.node_id: machine for machine in machines}
        self._committed = committed
        self._removals_us: list[int] = []

    def may_lose(self, victim: Machine, *, is_founding: bool) -> bool:
        """Whether this machine's disk may be lost now: it is a member by name of its log, and enough is left.

        `is_founding`: it is going to start with the founding list.
        """
        _, committed = self._committed()
        member = next((one for one in committed.members if one.node_id == victim.node_id), None)
        if member is None or not member.mark or not victim.disk.is_of(member):
            return False
        if is_founding and not self._is_known_by_name(victim):
            return False
        removals = self._removals()
        if not all(self._is_enough(one, victim.node_id, removals) for one in self._configurations()):
            return False
        is_roomy = all(self._is_enough(one, victim.node_id, removals + 1) for one in self._configurations())
        return is_roomy or self._is_calm(victim)

    def may_remove(self, node_id: str) -> bool:
        """Whether this member's vote may be taken now. If so, remember that it was ordered."""
        removals = self._removals()
        member = next((one for one in self._committed()[1].voters if one.node_id == node_id), None)
        is_lost = member is not None and not self._machines[node_id].disk.is_of(member)
        if not is_lost and not all(self._is_enough(one, "", removals + 1) for one in self._configurations()):
            return False
        self._removals_us.append(self._schedule.now_us)
        return True

    # --- counting -----------------------------------------------------------------------------------------------------

    def _is_enough(self, configuration: Configuration, without: str, removals: int) -> bool:
        """Whether a majority of the voters' logs is there without that one, and with so many fewer who have it."""
        intact = {
            member.node_id
            for member in configuration.members
            if member.node_id != without and self._machines[member.node_id].disk.is_of(member)
        }
        votes = sum(1 for member in configuration.voters if member.node_id in intact)
        lost_learners = sum(1 for member in configuration.learners if member.node_id not in intact)
        return 2 * (votes - removals) > len(configuration.voters) - removals + lost_learners

    def _removals(self) -> int:
        """Removals ordered and perhaps not yet carried out."""
        horizon_us = REPLAYED_ORDER_US if self._plan.strength("replay") else ORDER_US
        since_us = self._schedule.now_us - horizon_us
        self._removals_us = [asked_us for asked_us in self._removals_us if asked_us >= since_us]
        return len(self._removals_us)

    def _is_calm(self, victim: Machine) -> bool:
        """Whether everybody else is well, so that nobody else is about to lose his vote for having failed."""
        others = [machine for machine in self._machines.values() if machine is not victim and not machine.is_parked]
        return self._network.is_whole and all(
            machine.is_up and not machine.is_paused and not machine.storage.has_failed for machine in others
        )

    def _configurations(self) -> list[Configuration]:
        """The committed one, and all that come after it in any log, in memory or on disk."""
        index, committed = self._committed()
        found = [committed]
        for machine in self._machines.values():
            if machine.is_up and machine.node.raft.configuration_index > index:
                found.append(machine.node.raft.configuration)
            log = machine.disk.log
            for entry in log.entries[max(index + 1 - log.first_index, 0) :] if machine.disk.is_whole else ():
                if entry.kind == EntryKind.CONFIGURATION:
                    configuration = decode(entry.data)
                    assert configuration is not None, "what was synced was well formed"
                    found.append(configuration)
        return found

    def _is_known_by_name(self, victim: Machine) -> bool:
        """Whether too few founders are left to found the mesh a second time who do not know the names of logs that
        were lost. A founder that lost its log and starts with the founding list cannot be told from one that starts for
        the first time, by those who know no names; nor can it know itself.
        """
        founders = [self._machines[node_id] for node_id in self._plan.node_ids]
        reborn = [
            one for one in founders if one is victim or (one.is_founder and one.disk.life > 1 and not _named(one))
        ]
        names = [machine.node_id for machine in reborn]
        unknowing = [one for one in founders if one not in reborn and not _named(one).issuperset(names)]
        return 2 * (len(reborn) + len(unknowing)) <= len(founders)


def _named(machine: Machine) -> set[str]:
    """Ids of the members whose logs have a name in some configuration on this disk."""
    disk, names = machine.disk, set[str]()
    data = [entry.data for entry in disk.log.entries if entry.kind == EntryKind.CONFIGURATION]
    if disk.ledger.mark is not None:
        data.append(disk.ledger.mark.configuration)
    for one in data:
        configuration = decode(one)
        if configuration is not None:
            names.update(member.node_id for member in configuration.members if member.mark)
    return names
