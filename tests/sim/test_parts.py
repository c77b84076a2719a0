"""The simulated world itself: time, dice, wires, disks, and what a crash leaves on them."""

import msgspec
import pytest

from mesh.admission import Roll
from mesh.durable import LedgerWrite, TaskRow
from mesh.effects import Channel, InstallSnapshot, Persist, ReadSnapshot, StageSnapshot, WriteLedger
from mesh.events import Durable, Event, LedgerWritten, LinkDown, LinkUp, PeerMessage, SnapshotInstalled, SnapshotStaged
from mesh.ids import LogIndex, NodeId, PersistToken, TaskId
from mesh.sim.coverage import Coverage
from mesh.sim.disk import Disk, Storage
from mesh.sim.network import Network
from mesh.sim.plan import FAULTS, STRENGTHS, Plan, calm, draw
from mesh.sim.schedule import Schedule, dice
from mesh.sim.world import World
from tests.sim.cast import disk, entry, mark

ROW = TaskRow(TaskId("t1"), 6, "code", 1, 77, b"task")


# --- time and dice ----------------------------------------------------------------------------------------------------


def test_what_is_due_at_once_happens_in_the_order_it_was_asked_for() -> None:
    schedule, happened = Schedule(), list[tuple[int, str]]()
    for delay_us, name in ((20, "late"), (10, "first"), (10, "second"), (0, "now")):
        schedule.after(delay_us, lambda name=name: happened.append((schedule.now_us, name)))
    schedule.run_until(15, 100)
    assert happened == [(0, "now"), (10, "first"), (10, "second")]
    assert schedule.now_us == 15


def test_a_run_in_circles_is_stopped() -> None:
    schedule = Schedule()

    def again() -> None:
        schedule.after(0, again)

    schedule.after(0, again)
    schedule.run_until(10, 1_000)
    assert schedule.fired == 1_000


def test_streams_of_dice_do_not_disturb_each_other() -> None:
    """Drawing from one leaves the other as it was; the same name and seed give the same stream."""
    one, other = dice(1, "network"), dice(1, "disk")
    expected = [dice(1, "disk").random() for _ in range(1)]
    one.random()
    assert [other.random()] == expected
    assert dice(1, "network").random() != dice(2, "network").random()


def test_every_fault_is_off_in_some_seeds_and_on_in_others() -> None:
    plans = [draw(seed) for seed in range(200)]
    assert sorted(STRENGTHS) == sorted(FAULTS)
    for fault in FAULTS:
        on = sum(1 for plan in plans if plan.strength(fault))
        assert 20 < on < 180, f"{fault}: {on} of 200"
    assert {len(plan.node_ids) for plan in plans} == {1, 2, 3, 5}


# --- wires ------------------------------------------------------------------------------------------------------------


class StandIn:
    """A host whose process runs, and lets in whom its roll lets in."""

    def __init__(self, node_id: str) -> None:
        self.node_id = node_id
        self.is_up = True
        self.incarnation = 1
        self.mark = f"{node_id}-1"
        self.address = f"{node_id}:7000"
        self.since = 0
        self.roll: Roll | None = None


class Wires:
    """A network between three nodes that are up, and what arrived at them."""

    def __init__(self, **faults: int) -> None:
        self.schedule = Schedule()
        self.arrived: list[tuple[str, Event]] = []
        self.coverage = Coverage()
        plan: Plan = calm(1, faults=faults)
        self.hosts = {name: StandIn(name) for name in plan.node_ids}
        self.network = Network(
            plan,
            self.schedule,
            self.coverage,
            lambda node_id, event: self.arrived.append((node_id, event)),
            dict(self.hosts.items()),
        )
        for name in plan.node_ids:
            self.network.process_started(name)
        self.pass_ms(100)
        self.arrived.clear()

    def pass_ms(self, duration_ms: int) -> None:
        self.schedule.run_until(self.schedule.now_us + duration_ms * 1_000, 100_000)

    def send(self, count: int) -> None:
        for number in range(count):
            self.network.send("n1", "n2", Channel.CTL, str(number).encode())

    def heard(self) -> list[int]:
        """Numbers that n2 heard from n1."""
        return [int(event.data) for _, event in self.arrived if isinstance(event, PeerMessage)]


def test_a_whole_wire_delivers_everything_once_in_order() -> None:
    wires = Wires()
    wires.send(200)
    wires.pass_ms(1_000)
    assert wires.heard() == list(range(200))


def test_a_cut_wire_delivers_nothing_and_a_mended_one_what_is_sent_afterwards() -> None:
    """n1 does not reach n2; n2 reaches n1."""
    wires = Wires()
    wires.network.cut("n1", "n2")
    wires.send(3)
    wires.network.send("n2", "n1", Channel.CTL, b"7")
    wires.pass_ms(50)
    assert [(to, event) for to, event in wires.arrived] == [("n1", PeerMessage(NodeId("n2"), b"7"))]
    wires.network.mend("n1", "n2")
    wires.pass_ms(5_000)
    wires.send(2)
    wires.pass_ms(50)
    assert wires.heard()[1:] == [0, 1]


def test_a_connection_made_anew_loses_what_was_under_way_and_both_ends_are_told() -> None:
    wires = Wires()
    wires.send(5)
    wires.network.bounce("n1", "n2")
    wires.pass_ms(1_000)
    assert sorted(wires.arrived, key=lambda pair: (type(pair[1]).__name__, pair[0])) == [
        ("n1", LinkDown(NodeId("n2"))),
        ("n2", LinkDown(NodeId("n1"))),
        ("n1", LinkUp(NodeId("n2"), 1, "n2-1")),
        ("n2", LinkUp(NodeId("n1"), 1, "n1-1")),
    ]


def test_beyond_the_high_water_mark_there_is_silence() -> None:
    wires = Wires(high_water_mark=10)
    wires.send(15)
    wires.pass_ms(1_000)
    assert wires.heard() == list(range(10))
    assert wires.coverage.counts["dropped at the high-water mark"] == 5


@pytest.mark.parametrize(("fault", "fewer"), [("loss", True), ("duplicate", False), ("replay", False)])
def test_a_faulty_wire_is_faulty_in_its_own_way(fault: str, fewer: bool) -> None:
    """Half of the messages are lost, come twice, or come again within a minute."""
    wires = Wires(**{fault: 500})
    wires.send(200)
    wires.pass_ms(70_000)
    count = len(wires.heard())
    assert (60 < count < 140) if fewer else (260 < count < 340)
    assert sorted(set(wires.heard())) == sorted(set(wires.heard()) & set(range(200)))


def test_a_reordering_wire_reorders() -> None:
    wires = Wires(reorder=300)
    wires.send(200)
    wires.pass_ms(1_000)
    assert wires.heard() != list(range(200))
    assert sorted(wires.heard()) == list(range(200))


# --- disks ------------------------------------------------------------------------------------------------------------


class Writer:
    """A disk with its writer, and what it told."""

    def __init__(self, seed: int = 1) -> None:
        self.schedule = Schedule()
        self.disk = disk("n1", 1)
        self.told: list[Event] = []
        self.storage = Storage(calm(seed), self.schedule, dice(seed, "disk"), self.disk, Coverage(), self.told.append)

    def pass_ms(self, duration_ms: int) -> None:
        self.schedule.run_until(self.schedule.now_us + duration_ms * 1_000, 1_000)


def append(token: int, index: int) -> Persist:
    return Persist(PersistToken(token), None, LogIndex(0), (entry(index, 1),))


def test_what_waits_becomes_durable_together_and_in_order() -> None:
    """The first write goes alone; the two that came meanwhile share the next sync, and one answer."""
    writer = Writer()
    for token in (2, 3, 4):
        writer.storage.put(append(token, token + 1))
    writer.storage.put(WriteLedger(LedgerWrite(mark(3, 1), [ROW], [], [], 0)))
    assert writer.disk.log.last_index == 2
    writer.pass_ms(100)
    assert writer.told == [Durable(PersistToken(2)), Durable(PersistToken(4)), LedgerWritten(3)]
    assert (writer.disk.log.last_index, writer.disk.ledger.rows) == (5, {TaskId("t1"): ROW})


def test_a_stalled_disk_answers_when_it_goes_on() -> None:
    writer = Writer()
    writer.storage.stalled_until_us = 3_000_000
    writer.storage.put(append(2, 3))
    writer.pass_ms(2_900)
    assert writer.told == []
    writer.pass_ms(200)
    assert writer.told == [Durable(PersistToken(2))]


def test_a_crash_keeps_a_prefix_of_what_was_not_synced_and_tells_nobody() -> None:
    """Over 60 crashes every length of prefix occurs, nothing has a gap, and no confirmation comes afterwards."""
    lengths = set()
    for seed in range(60):
        writer = Writer(seed)
        for token in (2, 3, 4):
            writer.storage.put(append(token, token + 1))
        writer.storage.crash(keeps_permille=600)
        writer.pass_ms(100)
        assert writer.told == []
        lengths.add(writer.disk.log.last_index)
    assert sorted(lengths) == [2, 3, 4, 5]


def test_a_crash_between_table_and_log_leaves_a_log_that_begins_after_the_table() -> None:
    """The table was replaced, the log was not: at the next start the log begins anew behind it."""
    written = disk("n1", 1, 1)
    written.ledger.staged_rows = {ROW.task_id: ROW}
    written.perform_half(InstallSnapshot(1, mark(9, 4)))
    assert written.log.last_index == 3
    recovered = written.recover()
    assert (recovered.entries, recovered.before_term, recovered.mark) == ([], 4, mark(9, 4))
    assert recovered.finished == [("t1", 77)]


def test_a_log_that_disagrees_with_the_table_at_its_mark_is_not_kept() -> None:
    """It reaches beyond the table, but its entry at the mark is another one."""
    written = disk("n1", 1, 1, 1)
    written.perform_half(InstallSnapshot(1, mark(3, 2)))
    assert (written.recover().entries, written.log.first_index) == ([], 4)
    kept = disk("n1", 1, 2, 2)
    kept.perform_half(InstallSnapshot(1, mark(3, 2)))
    assert [one.index for one in kept.recover().entries] == [1, 2, 3, 4]


def test_a_snapshot_is_read_in_pages_and_the_last_one_brings_the_events() -> None:
    ids = [TaskId(f"t{number}") for number in range(5)]
    rows = {task_id: msgspec.structs.replace(ROW, task_id=task_id, finished=0) for task_id in ids}
    written = Disk("n1")
    written.perform(WriteLedger(LedgerWrite(mark(2, 1), list(rows.values()), [], [(2, b"events")], 0)))
    copy = written.ledger.copy()
    written.perform(WriteLedger(LedgerWrite(mark(3, 1), [], [TaskId("t0")], [], 0)))
    seen: list[str] = []
    after, pages = "", 0
    while pages == 0 or after:
        page, events, after = copy.page(ReadSnapshot(1, after, 0), 2)
        seen += [row.task_id for row in page]
        pages += 1
        assert events == ([] if after else [(2, b"events")])
    assert (seen, pages) == (["t0", "t1", "t2", "t3", "t4"], 3)


def test_a_staged_table_takes_the_place_of_the_old_one() -> None:
    writer = Writer()
    writer.storage.put(StageSnapshot(1, [ROW], [(8, b"events")], True))
    writer.storage.put(InstallSnapshot(1, mark(9, 4)))
    writer.pass_ms(200)
    assert [type(event) for event in writer.told] == [SnapshotStaged, SnapshotInstalled]
    assert (writer.disk.ledger.rows, writer.disk.log.first_index) == ({ROW.task_id: ROW}, 10)


# --- the whole --------------------------------------------------------------------------------------------------------


def test_a_calm_mesh_does_its_work_and_nothing_else() -> None:
    """Three nodes, no faults: one election, everything done, no node failed, nothing lost."""
    world = World(calm(3, tasks_max=60))
    world.run()
    counts = world.coverage.counts
    assert counts["task completed"] + counts.get("task dead", 0) + counts.get("task cancelled", 0) >= 60
    assert (counts["election won"], counts.get("node failed", 0), counts.get("message lost", 0)) == (1, 0, 0)
