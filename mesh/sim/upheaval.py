"""Whoever takes members away and brings them back: orders about votes, lost and damaged disks, hosts that leave.

Never more than the mesh promises to survive; see promise.py.
"""

from collections.abc import Callable

from mesh.events import Leave
from mesh.messages import Action
from mesh.sim.bystanders import Operator
from mesh.sim.coverage import Coverage
from mesh.sim.machine import Machine
from mesh.sim.plan import UPHEAVALS, Plan
from mesh.sim.promise import Promise
from mesh.sim.schedule import Schedule, dice

BACKUP_ENTRIES = 20
"""How far behind an old copy of a log is, at most."""
LOOK_US = 500_000
PATIENCE_MS = 2_500
"""For how much longer than it was given a leaving node is left alone before it is killed."""


class Upheaval:
    """Comes again and again, at random, until `heal`."""

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        coverage: Coverage,
        machines: list[Machine],
        operator: Operator,
        promise: Promise,
        leader: Callable[[], str | None],
    ) -> None:
        self._plan = plan
        self._schedule = schedule
        self._coverage = coverage
        self._machines = machines
        self._operator = operator
        self._promise = promise
        self._leader = leader
        self._is_healed = False
        self._dice = dice(plan.seed, "upheaval")
        self._returns: dict[str, int] = {}
        """When a removed machine is brought back, by node id."""
        faults: dict[str, Callable[[], None]] = {
            "churn": self._churn,
            "wipe": self._wipe,
            "damage": self._damage,
            "leave": self._leave,
        }
        assert tuple(faults) == UPHEAVALS, "each is drawn by the plan"
        for name, strike in faults.items():
            if plan.strength(name):
                self._come_again(name, strike)
        for machine, start_ms in zip(machines[len(plan.node_ids) :], plan.spares_start_ms, strict=True):
            machine.is_parked = True
            self._schedule.after(start_ms * 1_000, self._unpark, machine)
        if any(plan.strength(name) for name in UPHEAVALS):
            self._schedule.after(LOOK_US, self._look_after_the_removed)

    def heal(self) -> None:
        """No more of it. Spares that have not come yet, come now; who was removed stays out."""
        self._is_healed = True
        for machine in self._machines:
            if machine.incarnation == 0:
                machine.is_parked = False
                machine.start()

    def _come_again(self, name: str, strike: Callable[[], None]) -> None:
        pause_us = int(self._dice.expovariate(1.0) * self._plan.strength(name) * 1_000) + 50_000
        self._schedule.after(pause_us, self._strike, name, strike)

    def _strike(self, name: str, strike: Callable[[], None]) -> None:
        if not self._is_healed:
            strike()
            self._come_again(name, strike)

    def _victim(self) -> Machine:
        """Any host; the one that leads more often than its share."""
        leader = self._leader()
        if leader is not None and self._dice.random() < 0.25:
            return next(machine for machine in self._machines if machine.node_id == leader)
        return self._machines[self._dice.randrange(len(self._machines))]

    def _unpark(self, machine: Machine) -> None:
        if not self._is_healed and machine.is_parked:
            machine.is_parked = False
            machine.start()

    # --- orders -------------------------------------------------------------------------------------------------------

    def _churn(self) -> None:
        """An order about some host. Whether it takes part at all is the mesh's to say."""
        action = self._dice.choice(
            (Action.ADD_VOTER, Action.ADD_VOTER, Action.REMOVE_VOTER, Action.REMOVE_VOTER, Action.FORGET)
        )
        target = self._victim().node_id
        if action != Action.ADD_VOTER and not self._promise.may_remove(target):
            self._coverage.add("removal spared")
            return
        self._coverage.add(f"ordered {action.name.lower()}")
        self._operator.order(action, target, insist=4)

    def _look_after_the_removed(self) -> None:
        """A host that was removed comes back after a while with an empty disk; before that, perhaps, with the old one,
        to be turned away once more.
        """
        if self._is_healed:
            return
        self._schedule.after(LOOK_US, self._look_after_the_removed)
        now_us = self._schedule.now_us
        for machine in self._machines:
            name = machine.node_id
            if not machine.is_parked or machine.incarnation == 0:
                self._returns.pop(name, None)
            elif name not in self._returns:
                self._returns[name] = now_us + self._dice.randint(500_000, 5_000_000)
            elif now_us >= self._returns[name]:
                self._bring_back(machine)

    def _bring_back(self, machine: Machine) -> None:
        del self._returns[machine.node_id]
        machine.is_parked = False
        if self._dice.random() < 0.7:
            machine.renew_disk("forgotten", is_founding=False)
        else:
            self._coverage.add("removed node started with its old log")
        machine.start()

    # --- disks --------------------------------------------------------------------------------------------------------

    def _stop(self, machine: Machine, *, is_founding: bool) -> bool:
        """Stop a host whose disk may be lost. False if it may not."""
        if machine.is_parked or not self._promise.may_lose(machine, is_founding=is_founding):
            self._coverage.add("loss of a disk spared")
            return False
        machine.crash(silent=self._dice.random() < 0.3, keeps_permille=500)
        return True

    def _start_later(self, machine: Machine) -> None:
        self._schedule.after(self._dice.randint(20_000, self._dice.choice((200, 2_000, 8_000)) * 1_000), machine.start)

    def _wipe(self) -> None:
        """A disk is lost, and its host started again as it always was."""
        self.wipe(self._victim())

    def wipe(self, machine: Machine) -> bool:
        """Lose one disk. False if that is more than the mesh promises to survive."""
        is_founding = machine.node_id in self._plan.node_ids
        if not self._stop(machine, is_founding=is_founding):
            return False
        self._coverage.add("disk wiped")
        machine.renew_disk("wiped", is_founding=is_founding)
        self._start_later(machine)
        return True

    def _damage(self) -> None:
        """What was synced is not what it was. The host finds out when it starts."""
        machine = self._victim()
        if not self._stop(machine, is_founding=False):
            return
        kind = self._dice.choice(("bit", "bit", "torn", "backup"))
        if kind == "bit":
            machine.disk.flip_a_bit(self._dice)
        elif kind == "torn":
            machine.disk.tear()
        else:
            machine.disk.restore_backup(self._dice.randint(1, BACKUP_ENTRIES))
        self._coverage.add("disk damaged")
        self._start_later(machine)

    # --- leaving ------------------------------------------------------------------------------------------------------

    def _leave(self) -> None:
        """SIGTERM, and SIGKILL for one that takes too long. It comes back later."""
        machine = self._victim()
        if not machine.is_up or machine.is_paused:
            return
        within_ms = self._dice.choice((0, 200, 2_000))
        self._coverage.add("told to leave")
        incarnation = machine.incarnation
        machine.receive(Leave(within_ms))
        away_ms = within_ms + PATIENCE_MS + self._dice.randint(0, 4_000)
        self._schedule.after((within_ms + PATIENCE_MS) * 1_000, self._kill, machine, incarnation)
        self._schedule.after(away_ms * 1_000, machine.start)

    def _kill(self, machine: Machine, incarnation: int) -> None:
        if machine.is_up and machine.incarnation == incarnation and not self._is_healed:
            self._coverage.add("killed for leaving too slowly")
            machine.crash(silent=False, keeps_permille=500)
