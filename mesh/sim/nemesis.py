"""Whoever breaks things, by the plan of the seed, and repairs them in the end."""

from collections.abc import Callable

from mesh.messages import Action
from mesh.sim.bystanders import Operator
from mesh.sim.clients import Client
from mesh.sim.coverage import Coverage
from mesh.sim.machine import Machine
from mesh.sim.network import Network
from mesh.sim.plan import Plan
from mesh.sim.schedule import Schedule, dice
from mesh.sim.upheaval import Upheaval


class Nemesis:
    """Each fault that the plan has comes again and again, at random, until `heal`."""

    def __init__(
        self,
        plan: Plan,
        schedule: Schedule,
        coverage: Coverage,
        network: Network,
        machines: list[Machine],
        clients: list[Client],
        operator: Operator,
        upheaval: Upheaval,
        leader: Callable[[], str | None],
    ) -> None:
        self._plan = plan
        self._schedule = schedule
        self._coverage = coverage
        self._network = network
        self._machines = machines
        self._clients = clients
        self._operator = operator
        self._upheaval = upheaval
        self._leader = leader
        self._is_healed = False
        self._keeps_permille = dice(plan.seed, "keeps").choice((0, 500, 950))
        faults: dict[str, Callable[[], None]] = {
            "crash": self._crash,
            "pause": self._pause,
            "partition": self._partition,
            "one_way": self._one_way,
            "bridge": self._bridge,
            "sleeping_leader": self._sleeping_leader,
            "bounce": self._bounce,
            "lying_links": self._lying_links,
            "slow_node": self._slow_node,
            "stall_disk": self._stall_disk,
            "disk_failure": self._disk_failure,
            "restart_all": self._restart_all,
            "agents_die": self._agents_die,
            "client_crash": self._client_crash,
            "transfer": self._transfer,
            "operator": self._operate,
        }
        self._dice = dice(plan.seed, "nemesis")
        for name, strike in faults.items():
            if plan.strength(name):
                self._come_again(name, strike)

    def heal(self) -> None:
        """Every fault ends: wires whole, all nodes up, awake and fast, and the operator takes his orders back."""
        self._is_healed = True
        self._upheaval.heal()
        self._network.mend_all()
        for machine in self._machines:
            machine.resume()
            if machine.is_up and machine.storage.has_failed:
                machine.crash(silent=False, keeps_permille=self._keeps_permille)
            if machine.is_up:
                machine.storage.stalled_until_us = 0
            else:
                machine.start()
        for client in self._clients:
            client.calm_down()
        self._operator.calm_down()
        self._take_orders_back(8)

    def _take_orders_back(self, times: int) -> None:
        """A drain is committed and outlives its reason. Orders may be lost on a leader's change, so say it again."""
        self._operator.calm_down()
        for machine in self._machines:
            self._operator.order(Action.UNDRAIN, machine.node_id)
        if times:
            self._schedule.after(2_000_000, self._take_orders_back, times - 1)

    def _come_again(self, name: str, strike: Callable[[], None]) -> None:
        mean_us = self._plan.strength(name) * 1_000
        pause_us = int(self._dice.expovariate(1.0) * mean_us) + 50_000
        self._schedule.after(pause_us, self._strike, name, strike)

    def _strike(self, name: str, strike: Callable[[], None]) -> None:
        if not self._is_healed:
            strike()
            self._come_again(name, strike)

    def _later(self, low_ms: int, high_ms: int, action: Callable[[], None]) -> None:
        self._schedule.after(self._dice.randint(low_ms * 1_000, high_ms * 1_000), action)

    def _victim(self) -> Machine:
        """Any node; the leader more often than its share."""
        leader = self._leader()
        if leader is not None and self._dice.random() < 0.35:
            return next(machine for machine in self._machines if machine.node_id == leader)
        return self._machines[self._dice.randrange(len(self._machines))]

    # --- processes ----------------------------------------------------------------------------------------------------

    def _crash(self) -> None:
        self.crash(self._victim())

    def crash(self, machine: Machine) -> None:
        """One node dies, and comes back after a while."""
        if not machine.is_up or self._is_healed:
            return
        self._coverage.add("crash")
        machine.crash(silent=self._dice.random() < 0.3, keeps_permille=self._keeps_permille)
        self._later(20, self._dice.choice((200, 1_500, 6_000)), machine.start)

    def _pause(self) -> None:
        machine = self._victim()
        if machine.is_up and not machine.is_paused:
            self._coverage.add("pause")
            machine.pause()
            self._later(50, self._dice.choice((300, 2_000, 8_000)), machine.resume)

    def _restart_all(self) -> None:
        self._coverage.add("all nodes restarted")
        for machine in self._machines:
            if machine.is_up:
                machine.crash(silent=self._dice.random() < 0.3, keeps_permille=self._keeps_permille)
            self._later(1, 2_000, machine.start)

    def _agents_die(self) -> None:
        machine = self._victim()
        if machine.is_up:
            machine.agents.die()

    def _slow_node(self) -> None:
        machine = self._victim()
        self._coverage.add("slow node")
        self._network.slow_us[machine.node_id] = self._dice.randint(5_000, 120_000)
        self._later(500, 4_000, lambda: self._network.slow_us.update({machine.node_id: 0}))

    # --- disks --------------------------------------------------------------------------------------------------------

    def _stall_disk(self) -> None:
        machine = self._victim()
        if machine.is_up:
            self._coverage.add("disk stall")
            machine.storage.stalled_until_us = self._schedule.now_us + self._dice.randint(100_000, 6_000_000)

    def _disk_failure(self) -> None:
        machine = self._victim()
        if machine.is_up and not machine.storage.has_failed:
            self._coverage.add("disk failure")
            machine.fail_disk()
            self._later(500, 4_000, lambda: self.crash(machine))

    # --- wires --------------------------------------------------------------------------------------------------------

    def _cut_for_a_while(self, wires: list[tuple[str, str]]) -> None:
        for source, to in wires:
            self._network.cut(source, to)

        self._later(100, self._dice.choice((800, 4_000, 9_000)), lambda: self._mend(wires))

    def _mend(self, wires: list[tuple[str, str]]) -> None:
        if not self._is_healed:
            for source, to in wires:
                self._network.mend(source, to)

    def _partition(self) -> None:
        """Two halves that do not hear each other; sometimes the leader alone, or with too few."""
        names = [machine.node_id for machine in self._machines]
        if len(names) < 2:
            return
        self._dice.shuffle(names)
        leader = self._leader()
        if leader is not None and self._dice.random() < 0.5:
            names.remove(leader)
            names.insert(0, leader)
        size = self._dice.randint(1, len(names) // 2)
        few, many = names[:size], names[size:]
        self._coverage.add("cut in halves")
        if leader in few and len(few) < len(many):
            self._coverage.add("leader cut off in a minority")
        self._cut_for_a_while([wire for one in few for other in many for wire in ((one, other), (other, one))])

    def _one_way(self) -> None:
        """What one node says is not heard by some; what it hears, it hears."""
        names = [machine.node_id for machine in self._machines]
        if len(names) < 2:
            return
        self._coverage.add("cut one way")
        source = self._victim().node_id
        deaf = [name for name in names if name != source and self._dice.random() < 0.7]
        wires = [(source, name) for name in deaf]
        self._cut_for_a_while(wires if self._dice.random() < 0.5 else [(name, source) for name in deaf])

    def _bridge(self) -> None:
        """One node sees both halves, which do not see each other."""
        names = [machine.node_id for machine in self._machines]
        if len(names) < 3:
            return
        self._coverage.add("bridge")
        self._dice.shuffle(names)
        size = (len(names) - 1) // 2
        left, right = names[1 : 1 + size], names[1 + size :]
        self._cut_for_a_while([wire for one in left for other in right for wire in ((one, other), (other, one))])

    def _sleeping_leader(self) -> None:
        """The leader sleeps and is cut off; when it wakes, it still is, and believes that it leads."""
        leader = self._leader()
        if leader is None or len(self._machines) < 2:
            return
        machine = next(machine for machine in self._machines if machine.node_id == leader)
        if machine.is_paused:
            return
        self._coverage.add("sleeping leader")
        wires = [
            wire
            for other in self._machines
            if other is not machine
            for wire in ((leader, other.node_id), (other.node_id, leader))
        ]
        for source, to in wires:
            self._network.cut(source, to)
        machine.pause()
        asleep_ms = self._dice.randint(500, 4_000)
        self._later(asleep_ms, asleep_ms, machine.resume)
        self._later(asleep_ms + 100, asleep_ms + 1_500, lambda: self._mend(wires))

    def _pair(self) -> tuple[str, str] | None:
        if len(self._machines) < 2:
            return None
        one, other = self._dice.sample([machine.node_id for machine in self._machines], 2)
        return one, other

    def _bounce(self) -> None:
        pair = self._pair()
        if pair is not None:
            self._coverage.add("connection made anew")
            self._network.bounce(*pair)

    def _lying_links(self) -> None:
        pair = self._pair()
        if pair is not None:
            self._network.lie(*pair)

    # --- people -------------------------------------------------------------------------------------------------------

    def _client_crash(self) -> None:
        self._coverage.add("client crashed")
        self._clients[self._dice.randrange(len(self._clients))].crash()

    def _transfer(self) -> None:
        self._operator.order(Action.TRANSFER, self._victim().node_id)

    def _operate(self) -> None:
        action = self._dice.choice(
            (Action.DRAIN, Action.UNDRAIN, Action.UNDRAIN, Action.RECOVER, Action.REBALANCE, Action.REBALANCE)
        )
        self._operator.order(action, "" if action == Action.REBALANCE else self._victim().node_id)
