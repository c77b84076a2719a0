"""One host: a disk that outlives everything, and a process that runs mesh.node.Node and performs its effects.

This is the simulator's twin of nodes/process.py and nodes/perform.py. It crashes, pauses, reads late and keeps the
three rules of mesh/effects.py.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from random import Random
from typing import Any, Protocol

from mesh.admission import Roll
from mesh.config import NodeConfig
from mesh.durable import Recovered
from mesh.effects import (
    Admit,
    CheckpointKept,
    CloseSnapshot,
    Effect,
    InstallSnapshot,
    LoadHistory,
    LoadRows,
    Notice,
    OpenSnapshot,
    Persist,
    Publish,
    ReadSnapshot,
    Reply,
    Retire,
    Send,
    StageSnapshot,
    StartAttempts,
    StopAttempts,
    TrimLog,
    WriteLedger,
)
from mesh.events import (
    AttemptsEnded,
    DeadlineReached,
    DiskFailed,
    Durable,
    Event,
    HistoryLoaded,
    RowsLoaded,
    SnapshotOpened,
    SnapshotRead,
    TurnEnded,
)
from mesh.ids import ClientId
from mesh.sim.agents import Agents, SideEffects
from mesh.sim.coverage import Coverage
from mesh.sim.disk import Disk, LedgerFile, Storage
from mesh.sim.network import Network
from mesh.sim.plan import Plan
from mesh.sim.schedule import Schedule, dice
from mesh.sim.violation import Violation
from mesh.sim.watching import Watcher

INBOX_MAX = 2_000
"""What waits at the sockets of a process that does not read; the rest is dropped in silence."""

DEADLINES_IN_A_ROW_MAX = 50
READ_US = (200, 20_000)
TURN_ENDED = TurnEnded()
DEADLINE_REACHED = DeadlineReached()


class NodeLike(Protocol):
    """What the simulator drives: mesh.node.Node, or a stand-in while testing the simulator itself."""

    def handle(self, event: Event, now_ms: int) -> list[Effect]: ...
    def next_deadline_ms(self) -> int | None: ...


MakeNode = Callable[[NodeConfig, Recovered, Random, int], Any]


class Machine:
    """A host by name. `node` is None while no process runs on it."""

    def __init__(
        self,
        plan: Plan,
        config: NodeConfig,
        schedule: Schedule,
        network: Network,
        coverage: Coverage,
        side_effects: SideEffects,
        make_node: MakeNode,
        watcher: Watcher,
    ) -> None:
        self.node_id = config.node_id
        self.address = config.address
        self.disk = Disk(config.node_id)
        self.node: Any = None
        self.incarnation = 0
        self.handled_ms = 0
        """When the latest event was handled, by this host's clock."""
        self.is_paused = False
        self.is_parked = False
        """Nobody starts it: a spare whose time has not come, or a node that was removed."""
        self.roll: Roll | None = None
        self.since = 0
        """Who belongs, and since when we do, in the words of the running process."""
        self.clients: dict[ClientId, Callable[[bytes], None]] = {}
        self._founding = config.voters
        self._plan = plan
        self._config = config
        self._schedule = schedule
        self._network = network
        self._coverage = coverage
        self._side_effects = side_effects
        self._make_node = make_node
        self._watcher = watcher
        self._dice = dice(plan.seed, f"machine {config.node_id}")
        self._next_client = 0

    # --- life ---------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A process starts from what is on the disk, under the next incarnation and another monotonic clock.

        Nothing happens if one runs already. A damaged disk is set aside, and the node joins anew with an empty one.
        """
        if self.node is not None or self.is_parked:
            return
        if not self.disk.is_whole:
            self.renew_disk("damaged", is_founding=False, trouble=self.disk.damage)
        plan, schedule = self._plan, self._schedule
        self.incarnation += 1
        boot_ms = self._dice.randrange(1_000_000)
        skew_ms = self._dice.randint(-plan.clock_skew_ms, plan.clock_skew_ms)
        self._clock_ms = boot_ms - schedule.now_us // 1_000
        epoch_ms = 1_700_000_000_000 - self._clock_ms + skew_ms
        self._config = replace(
            self._config, incarnation=self.incarnation, pid=self.incarnation, epoch_ms=epoch_ms, mark=self.mark
        )
        self.roll, self.since = None, 0
        roll = dice(plan.seed, f"disk {self.node_id} {self.incarnation}")
        tell = self._hear_from(self.incarnation)
        self.storage = Storage(plan, schedule, roll, self.disk, self._coverage, tell)
        self.agents = Agents(plan, schedule, self._coverage, self.node_id, self.incarnation, self._side_effects, tell)
        self.is_paused = False
        self._next_client = 0  # A process numbers its clients from 1, whatever an earlier one did.
        self._inbox: deque[Event] = deque()
        self._held: deque[Send] = deque()
        self._durable = 0
        self._snapshots: dict[int, LedgerFile] = {}
        self._alarm_ms: int | None = None
        self._rang_ms = 0
        self._deadlines_in_a_row = 0
        self._is_turn_open = False
        node_dice = dice(plan.seed, f"node {self.node_id} {self.incarnation}")
        self.node = self._make_node(self._config, self.disk.recover(), node_dice, self.now_ms)
        self._watcher.started(self)
        self._set_alarm()
        self._network.process_started(self.node_id)

    def crash(self, *, silent: bool, keeps_permille: int) -> None:
        """SIGKILL or a power failure: memory, children and un-synced writes are gone."""
        if self.node is None:
            return
        self._watcher.stopped(self)
        self.node = None
        self.clients = {}
        self.storage.crash(keeps_permille)
        self.agents.crash()
        self._network.process_ended(self.node_id, silent)

    def pause(self) -> None:
        """SIGSTOP, or the host swaps: nothing is read, no timer is seen, children and disk go on."""
        self.is_paused = True

    def resume(self) -> None:
        """The process finds everything that came meanwhile, and that time has jumped."""
        if not self.is_paused:
            return
        self.is_paused = False
        if self.node is None:
            return
        if any(type(event) is AttemptsEnded for event in self._inbox):
            self._coverage.add("late result after a pause")
        timers_first = self._dice.random() < 0.5
        if timers_first:
            self._alarm()
        while self._inbox and not self.is_paused:
            self._handle(self._inbox.popleft())
        if not timers_first:
            self._alarm()
        self._end_turn()

    def renew_disk(self, loss: str, *, is_founding: bool, trouble: str = "") -> None:
        """The disk of a stopped node is empty from here on. With the founding list it starts as if nothing had been,
        without it it joins whatever mesh there is.
        """
        assert self.node is None, "a disk is taken from under no running process"
        self.disk.renew(loss)
        self._config = replace(self._config, voters=self._founding if is_founding else (), trouble=trouble)

    @property
    def is_founder(self) -> bool:
        """Whether it starts with the founding list."""
        return bool(self._config.voters)

    @property
    def mark(self) -> str:
        """Names the log on its disk."""
        return self.disk.mark

    def fail_disk(self) -> None:
        """Writes fail from here on, until the process is started again."""
        if self.node is not None and not self.storage.has_failed:
            self.storage.has_failed = True
            self.receive(DiskFailed("simulated: Input/output error"))

    @property
    def is_up(self) -> bool:
        return self.node is not None

    @property
    def schedule_now_us(self) -> int:
        """Virtual time, the same on every host."""
        return self._schedule.now_us

    @property
    def now_ms(self) -> int:
        """This host's monotonic clock."""
        return self._clock_ms + self._schedule.now_us // 1_000

    # --- events in ----------------------------------------------------------------------------------------------------

    def new_client(self, receive: Callable[[bytes], None]) -> ClientId:
        """A client has dialled this node."""
        self._next_client += 1
        client = ClientId(self._next_client)
        self.clients[client] = receive
        return client

    def receive(self, event: Event) -> None:
        """Something became readable."""
        if self.node is None:
            return
        if self.is_paused:
            if len(self._inbox) < INBOX_MAX or type(event) is Durable:
                self._inbox.append(event)
            return
        self._handle(event)
        if self.node is None or self._is_turn_open:
            return
        if self._dice.random() * 1_000 < self._plan.turn_open_permille:
            self._is_turn_open = True
            gap_us = self._dice.randint(1, self._plan.turn_gap_us)
            self._schedule.after(gap_us, self._end_open_turn, self.incarnation)
        else:
            self._end_turn()

    def _hear_from(self, incarnation: int) -> Callable[[Event], None]:
        """The ear for disk and children of this very process: what comes from an earlier one's is not heard."""

        def hear(event: Event) -> None:
            if incarnation == self.incarnation:
                self.receive(event)

        return hear

    def _end_open_turn(self, incarnation: int) -> None:
        if incarnation == self.incarnation and self.node is not None:
            self._is_turn_open = False
            if not self.is_paused:
                self._end_turn()

    def _end_turn(self) -> None:
        self._handle(TURN_ENDED)
        self._set_alarm()

    def _handle(self, event: Event) -> None:
        if type(event) is Durable:
            self._durable = event.token
            while self._held and self._held[0].after <= self._durable:
                self._leave(self._held.popleft())
        self.handled_ms = now_ms = self._clock_ms + self._schedule.now_us // 1_000
        effects = self.node.handle(event, now_ms)
        self._watcher.handled(self, event, effects)
        if effects:
            perform = _PERFORM
            for effect in effects:
                perform[type(effect)](self, effect)

    # --- timers -------------------------------------------------------------------------------------------------------

    def _set_alarm(self) -> None:
        """Wake when the node wants to be woken. An alarm that rings too early is set anew, so later needs none."""
        deadline_ms = self.node.next_deadline_ms()
        if deadline_ms is None or (self._alarm_ms is not None and self._alarm_ms <= deadline_ms):
            return
        self._alarm_ms = deadline_ms
        delay_us = max(0, (deadline_ms - self._clock_ms) * 1_000 - self._schedule.now_us)
        self._schedule.after(delay_us, self._ring, self.incarnation, deadline_ms)

    def _ring(self, incarnation: int, alarm_ms: int) -> None:
        if incarnation == self.incarnation and self.node is not None and alarm_ms == self._alarm_ms:
            if self.is_paused:
                self._alarm_ms = None
                return
            self._alarm()

    def _alarm(self) -> None:
        self._alarm_ms = None
        deadline_ms = self.node.next_deadline_ms()
        now_ms = self.now_ms
        if deadline_ms is not None and deadline_ms <= now_ms:
            self._deadlines_in_a_row = self._deadlines_in_a_row + 1 if now_ms == self._rang_ms else 0
            self._rang_ms = now_ms
            if self._deadlines_in_a_row > DEADLINES_IN_A_ROW_MAX:
                raise Violation("24 every bound holds", f"{self.node_id} asks for a deadline in the past for ever")
            self._handle(DEADLINE_REACHED)
            self._end_turn()
        else:
            self._set_alarm()

    # --- effects out --------------------------------------------------------------------------------------------------

    def _send(self, effect: Send) -> None:
        if effect.after > self._durable:
            self._held.append(effect)
        else:
            self._leave(effect)

    def _leave(self, effect: Send) -> None:
        self._watcher.leaves(self, effect)
        self._network.send(self.node_id, effect.to, effect.channel, effect.data)

    def _reply(self, effect: Reply) -> None:
        self._watcher.replies(self, effect)
        receive = self.clients.get(effect.client)
        if receive is not None:
            receive(effect.data)

    def _publish(self, effect: Publish) -> None:
        self._network.publish(self.node_id, effect.data)

    def _write(self, effect: Persist | TrimLog | WriteLedger | StageSnapshot | InstallSnapshot) -> None:
        self.storage.put(effect)

    def _start_attempts(self, effect: StartAttempts) -> None:
        self.agents.start(effect)

    def _stop_attempts(self, effect: StopAttempts) -> None:
        self.agents.stop(effect)

    def _checkpoint_kept(self, effect: CheckpointKept) -> None:
        self.agents.kept(effect)

    def _notice(self, effect: Notice) -> None:
        self._coverage.add(f"notice {effect.code}")

    def _admit(self, effect: Admit) -> None:
        self.roll, self.since = effect.roll, int(effect.since)
        self._network.admission_changed(self.node_id)

    def _retire(self, effect: Retire) -> None:
        self._coverage.add("node left" if effect.code == 0 else "removed node retired")
        self._schedule.after(0, self._retired, self.incarnation, effect.code)

    def _retired(self, incarnation: int, code: int) -> None:
        """It ends in good order. One that was removed is not started again before its disk is emptied."""
        if incarnation == self.incarnation and self.node is not None:
            self.crash(silent=False, keeps_permille=1_000)
            self.is_parked = code != 0

    # --- reading ------------------------------------------------------------------------------------------------------

    def _answer_later(self, make: Callable[[], Event | None]) -> None:
        """A reading thread answers after a while, with what is on disk by then."""
        incarnation = self.incarnation
        tell = self._hear_from(incarnation)

        def answer() -> None:
            if self.node is not None and incarnation == self.incarnation:
                event = make()
                if event is not None:
                    tell(event)

        self._schedule.after(self._dice.randint(*READ_US), answer)

    def _load_rows(self, effect: LoadRows) -> None:
        def make() -> Event:
            rows = self.disk.ledger.rows
            if effect.task_ids:
                named = [rows[task_id] for task_id in effect.task_ids if task_id in rows]
                return RowsLoaded(effect.read_id, [row for row in named if row.finished], "")
            page = [
                rows[task_id]
                for task_id in sorted(rows)
                if task_id > effect.after
                and rows[task_id].finished
                and (not effect.states or rows[task_id].state in effect.states)
                and effect.capability in ("", rows[task_id].capability)
            ]
            more = page[effect.limit - 1].task_id if len(page) > effect.limit else ""
            return RowsLoaded(effect.read_id, page[: effect.limit], more)

        self._answer_later(make)

    def _load_history(self, effect: LoadHistory) -> None:
        def make() -> Event:
            batches = [batch for batch in self.disk.ledger.events if batch[0] > effect.after]
            return HistoryLoaded(effect.read_id, batches[: effect.limit])

        self._answer_later(make)

    def _open_snapshot(self, effect: OpenSnapshot) -> None:
        def make() -> Event | None:
            copy = self.disk.ledger.copy()
            if copy.mark is None:
                return None
            self._snapshots[effect.transfer] = copy
            return SnapshotOpened(effect.transfer, copy.mark)

        self._answer_later(make)

    def _read_snapshot(self, effect: ReadSnapshot) -> None:
        def make() -> Event | None:
            copy = self._snapshots.get(effect.transfer)
            if copy is None:
                return None
            rows, events, more = copy.page(effect, self._plan.chunk_rows)
            return SnapshotRead(effect.transfer, rows, events, more)

        self._answer_later(make)

    def _close_snapshot(self, effect: CloseSnapshot) -> None:
        self._snapshots.pop(effect.transfer, None)


_PERFORM: dict[type, Callable[[Machine, Any], None]] = {
    Send: Machine._send,
    Persist: Machine._write,
    Publish: Machine._publish,
    Reply: Machine._reply,
    StartAttempts: Machine._start_attempts,
    StopAttempts: Machine._stop_attempts,
    CheckpointKept: Machine._checkpoint_kept,
    WriteLedger: Machine._write,
    TrimLog: Machine._write,
    StageSnapshot: Machine._write,
    InstallSnapshot: Machine._write,
    LoadRows: Machine._load_rows,
    LoadHistory: Machine._load_history,
    OpenSnapshot: Machine._open_snapshot,
    ReadSnapshot: Machine._read_snapshot,
    CloseSnapshot: Machine._close_snapshot,
    Notice: Machine._notice,
    Admit: Machine._admit,
    Retire: Machine._retire,
}
