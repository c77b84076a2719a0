"""The leader's desk: what is gathered becomes one entry, and free slots become grants, never one too many."""

from random import Random
from typing import Any

import msgspec
import pytest

from mesh.config import DispatchConfig, NodeConfig
from mesh.dispatch.dispatcher import Dispatcher
from mesh.dispatch.turns import Turns
from mesh.gossip.detector import Detector
from mesh.ids import FencingToken, LogIndex, NodeId, TaskId, Term
from mesh.ledger.commands import (
    AdmitNode,
    Batch,
    CancelTask,
    Command,
    CompleteTask,
    DrainNode,
    FailAttempt,
    FailNode,
    GrantLease,
    SaveCheckpoint,
    SetSetting,
    StartTask,
    SubmitTask,
)
from mesh.ledger.ledger import Ledger
from mesh.messages import AttemptOrder, AttemptOutcome, CheckpointReport, Heartbeat, NodeReport, TaskSpec
from mesh.options import Concurrency, Options, Rate
from mesh.wire.codec import encode

ANA, BEN = NodeId("ana"), NodeId("ben")
ADDRESSES = (("ana", "h:1"), ("ben", "h:2"))


def heartbeat(node_id: NodeId, *, slots: int, capabilities: tuple[str, ...], incarnation: int = 1) -> Heartbeat:
    return Heartbeat(
        cluster="c",
        node_id=node_id,
        incarnation=incarnation,
        sequence=1,
        address="h",
        pid=1,
        slots=slots,
        running=0,
        draining=False,
        capabilities=capabilities,
        labels=(),
        held=(),
        held_total=0,
        term=Term(2),
        leader=None,
        commit=LogIndex(0),
        applied=LogIndex(0),
        digest=b"",
        views=(),
    )


class Desk:
    """A dispatcher in office over a ledger: `turn` proposes what there is and applies it at once."""

    def __init__(
        self, *, slots: int = 2, capabilities: tuple[str, ...] = ("code",), entry_bytes_max: int = 1 << 20
    ) -> None:
        config = NodeConfig(
            node_id="boss",
            cluster="c",
            incarnation=1,
            address="h",
            voters=ADDRESSES,
            dispatch=DispatchConfig(entry_bytes_max=entry_bytes_max),
        )
        self.ledger = Ledger()
        self.detector = Detector(config.gossip, ANA, "c", [(ANA, "h:1"), (BEN, "h:2")], 0)
        self.detector.heard(heartbeat(BEN, slots=slots, capabilities=capabilities), 1)
        own = self.detector.member(ANA)
        assert own is not None
        own.last, own.incarnation = heartbeat(ANA, slots=slots, capabilities=capabilities), 1  # type: ignore[assignment]
        self.detector.tick(2)
        self.detector.heard(heartbeat(BEN, slots=slots, capabilities=capabilities), 1)
        self.dispatcher = Dispatcher(config, self.ledger, self.detector, Random(1))

    def apply(self, commands: list[Command]) -> dict[NodeId, list[AttemptOrder]]:
        index = LogIndex(self.ledger.applied_index + 1)
        batch = Batch(1_000 * index, commands)
        applied = self.ledger.apply(index, Term(2), batch, encode(batch))
        return self.dispatcher.applied(applied, commands)

    def take_office(self, *nodes: NodeId) -> None:
        """Admit both nodes; these report that they hold nothing."""
        self.dispatcher.take_office()
        self.apply([AdmitNode(ANA, 1), AdmitNode(BEN, 1)])
        for node in nodes:
            assert self.dispatcher.node_report(node, report()) == ([], [])

    def turn(self) -> list[Command]:
        commands = self.dispatcher.next_commands(1_000 * (self.ledger.applied_index + 1))
        if commands:
            self.apply(commands)
        return commands

    def loads(self) -> dict[str, int]:
        return {node_id: candidate.load for node_id, candidate in self.dispatcher.candidates.items()}


def report(*held: tuple[str, int], started: tuple[tuple[str, int], ...] = ()) -> NodeReport:
    leases = [(TaskId(task_id), FencingToken(token)) for task_id, token in held]
    begun = [(TaskId(task_id), FencingToken(token)) for task_id, token in started]
    return NodeReport(Term(2), 1, 2, ("code",), leases, begun)


def spec(
    name: str,
    *,
    priority: int = 5,
    capability: str = "code",
    payload: bytes = b"",
    not_before_ms: int = 0,
    checkpoint: bytes = b"",
) -> TaskSpec:
    return TaskSpec(TaskId(name), capability, payload, priority, 3, not_before_ms, "", checkpoint)


def outcome(name: str, token: int, *, error: str = "") -> AttemptOutcome:
    return AttemptOutcome(TaskId(name), FencingToken(token), b"\x01", error)


def grants(commands: list[Command]) -> list[tuple[str, str]]:
    return [(command.task_id, command.node_id) for command in commands if isinstance(command, GrantLease)]


def submitted(desk: Desk, *specs: TaskSpec) -> list[Command]:
    for one in specs:
        desk.dispatcher.submit(one)
    return desk.turn()


def test_a_submit_is_granted_in_its_own_entry_where_a_slot_is_free() -> None:
    """Two nodes, two slots each, five tasks: four are granted at once, evenly; the fifth waits in line."""
    desk = Desk()
    desk.take_office(ANA, BEN)
    commands = submitted(desk, *(spec(name) for name in "abcde"))
    assert [type(command).__name__ for command in commands] == ["SubmitTask"] * 5 + ["GrantLease"] * 4
    assert sorted(node for _, node in grants(commands)) == ["ana", "ana", "ben", "ben"]
    assert desk.loads() == {"ana": 2, "ben": 2}
    waiting = desk.ledger.queue.first("code")
    assert waiting is not None and waiting.task_id == "e"
    assert desk.turn() == []


def test_the_entry_that_frees_a_slot_fills_it_again() -> None:
    """S0-29: a report and the next grant share an entry, and no node ever has more than its slots."""
    desk = Desk(slots=1)
    desk.take_office(ANA, BEN)
    first = submitted(desk, spec("a"), spec("b"), spec("c"))
    holder = dict(grants(first))["a"]
    desk.dispatcher.report([outcome("a", 2)])
    commands = desk.turn()
    assert isinstance(commands[0], CompleteTask)
    assert grants(commands) == [("c", holder)]
    assert desk.loads() == {"ana": 1, "ben": 1}


def test_lower_numbers_go_first_when_slots_are_short() -> None:
    """S0-12: within one entry, and before those who waited longer with a higher number."""
    desk = Desk(slots=1)
    desk.take_office(ANA)
    commands = submitted(desk, spec("low", priority=9), spec("urgent", priority=0), spec("normal"))
    assert grants(commands) == [("urgent", "ana")]
    desk.dispatcher.report([outcome("urgent", 2)])
    assert grants(desk.turn()) == [("normal", "ana")]


def test_a_newcomer_does_not_overtake_those_in_line() -> None:
    """One slot falls free in the very turn in which a newcomer arrives: whoever waited gets it."""
    desk = Desk(slots=1)
    desk.take_office(ANA)
    submitted(desk, spec("first"), spec("second"))
    desk.dispatcher.report([outcome("first", 2)])
    desk.dispatcher.submit(spec("newcomer"))
    assert grants(desk.turn()) == [("second", "ana")]


def test_capabilities_share_slots_by_priority_not_by_name() -> None:
    """Two capabilities wait for the same slots; the lower number wins, then the earlier."""
    desk = Desk(slots=2, capabilities=("code", "mail"))
    desk.take_office()
    submitted(
        desk,
        spec("c1", capability="code"),
        spec("m1", capability="mail", priority=1),
        spec("m2", capability="mail"),
        spec("x", capability="paint"),
    )
    desk.dispatcher.node_report(ANA, report())
    assert grants(desk.turn()) == [("m1", "ana"), ("c1", "ana")]


def test_nobody_is_granted_anything_before_it_has_reported() -> None:
    """S0-27, E.23: a new leader rebuilds slots from node reports first."""
    desk = Desk()
    desk.take_office()
    assert grants(submitted(desk, spec("a"))) == []
    assert desk.dispatcher.unreported() == ["ana", "ben"]
    desk.dispatcher.node_report(BEN, report())
    assert grants(desk.turn()) == [("a", "ben")]
    # A report from an incarnation that is not admitted says nothing.
    stranger = NodeReport(Term(2), 7, 2, ("code",), [], [])
    assert desk.dispatcher.node_report(ANA, stranger) == ([], [])
    assert desk.dispatcher.unreported() == ["ana"]


def test_a_report_is_compared_with_the_table() -> None:
    """ana never got one grant, runs another that has started, and runs one that is over."""
    desk = Desk(slots=4)
    desk.take_office(ANA)
    submitted(desk, spec("lost"), spec("runs"), spec("over"))
    desk.apply([CancelTask(TaskId("over"), "no")])
    again, over = desk.dispatcher.node_report(ANA, report(("runs", 2), ("over", 2), ("new", 9), started=(("runs", 2),)))
    assert [order.task_id for order in again] == ["lost"]
    assert over == [("over", 2)]
    assert desk.turn() == [StartTask(TaskId("runs"), FencingToken(2))]
    # What has been started already is not started again; what is being reported is not sent again.
    desk.dispatcher.started([(TaskId("runs"), FencingToken(2))])
    desk.dispatcher.report([outcome("lost", 2)])
    assert desk.dispatcher.node_report(ANA, report(("runs", 2)))[0] == []
    assert [type(command) for command in desk.turn()] == [CompleteTask]


def test_a_report_on_its_way_is_not_proposed_twice_and_a_stale_one_is() -> None:
    """The node repeats itself; another node reports under a token of long ago, which is put on record."""
    desk = Desk()
    desk.take_office(ANA, BEN)
    submitted(desk, spec("a"))
    desk.dispatcher.report([outcome("a", 2), outcome("a", 2), outcome("a", 1)])
    assert desk.loads() == {"ana": 0, "ben": 0}
    assert desk.turn() == [CompleteTask(TaskId("a"), FencingToken(2), b"\x01")]
    desk.dispatcher.report([outcome("a", 1, error="late")])
    assert [type(command) for command in desk.turn()] == [FailAttempt]
    assert desk.loads() == {"ana": 0, "ben": 0}


def test_a_slot_is_counted_once_when_a_lease_ends_under_a_report() -> None:
    """ana's report is on its way when she is given up; both reach the log in either order."""
    for verdict_first in (False, True):
        desk = Desk()
        desk.take_office(ANA)
        submitted(desk, spec("a"))
        assert desk.loads()["ana"] == 1
        desk.dispatcher.report([outcome("a", 2)])
        verdict = FailNode(ANA, 1, "silent")
        if verdict_first:
            desk.dispatcher.urgent(verdict)
        else:
            desk.dispatcher.command(verdict)
        desk.turn()
        assert desk.loads()["ana"] == 0
        assert desk.ledger.counts[6] == 1


def test_a_report_that_does_not_count_gives_its_slot_back() -> None:
    """The task fails for good in the same entry as a cancel: its lease ended once, its slot is free once."""
    desk = Desk()
    desk.take_office(ANA)
    submitted(desk, spec("a"))
    desk.dispatcher.command(CancelTask(TaskId("a"), "no"))
    desk.dispatcher.report([outcome("a", 2)])
    desk.turn()
    assert desk.loads()["ana"] == 0


def test_a_grant_that_does_not_hold_puts_its_task_back_in_line() -> None:
    """The node begins to drain in an entry that comes before the grant."""
    desk = Desk(slots=1)
    desk.take_office(ANA)
    desk.dispatcher.submit(spec("a"))
    proposed = desk.dispatcher.next_commands(9_000)
    assert grants(proposed) == [("a", "ana")]
    desk.apply([DrainNode(ANA, True)])
    assert desk.apply(proposed) == {}
    assert desk.loads()["ana"] == 0
    waiting = desk.ledger.queue.first("code")
    assert waiting is not None and waiting.task_id == "a"


def test_what_raft_refuses_is_gathered_again_in_order() -> None:
    """Leadership is being handed over: nothing is lost, nothing counted."""
    desk = Desk()
    desk.take_office(ANA)
    desk.dispatcher.command(CancelTask(TaskId("x"), "no"))
    desk.dispatcher.submit(spec("a"))
    desk.dispatcher.submit(spec("b"))
    proposed = desk.dispatcher.next_commands(9_000)
    desk.dispatcher.proposal_refused(proposed)
    assert (desk.dispatcher.gathered, desk.loads()["ana"]) == (3, 0)
    assert desk.dispatcher.next_commands(9_000) == proposed


def test_a_queued_task_granted_in_vain_waits_again_when_office_is_left() -> None:
    """The grant never commits; the next office grants it anew."""
    desk = Desk(slots=1)
    desk.take_office()
    submitted(desk, spec("a"))
    desk.dispatcher.node_report(ANA, report())
    assert grants(desk.dispatcher.next_commands(9_000)) == [("a", "ana")]
    assert desk.ledger.queue.first("code") is None
    desk.dispatcher.leave_office()
    desk.dispatcher.refresh()
    assert (desk.dispatcher.in_office, desk.dispatcher.gathered) == (False, 0)
    waiting = desk.ledger.queue.first("code")
    assert waiting is not None and waiting.task_id == "a"


def test_entries_are_bounded_in_commands_and_bytes() -> None:
    """600 small tasks make two entries; three large ones make one each."""
    desk = Desk()
    desk.take_office()
    assert len(submitted(desk, *(spec(f"t{k}") for k in range(600)))) == 512
    assert len(desk.turn()) == 88
    small = Desk(entry_bytes_max=1_000)
    small.take_office()
    assert len(submitted(small, *(spec(f"t{k}", payload=b"x" * 990) for k in range(3)))) == 1
    for command in (
        CompleteTask(TaskId("a"), FencingToken(1), b"x" * 990),
        FailAttempt(TaskId("b"), FencingToken(1), "e", "d" * 990, 0, False),
    ):
        small.dispatcher.command(command)
    small.dispatcher.checkpoint(CheckpointReport(TaskId("nothing"), FencingToken(1), 1, b"x" * 990))
    assert [type(command) for command in small.dispatcher.next_commands(1)][:1] == [CompleteTask]


def test_checkpoints_count_in_the_bytes_of_an_entry() -> None:
    """A link cuts off what is over 8 MiB, and an entry that cannot be sent is never committed, nor any after it."""
    desk = Desk(entry_bytes_max=1_000)
    desk.take_office()
    assert len(submitted(desk, *(spec(f"t{k}", checkpoint=b"x" * 990) for k in range(3)))) == 1


def test_what_nobody_offers_is_not_looked_at() -> None:
    """Clients name 400 capabilities: a turn of the loop does not go through all of them to find the one offered."""
    desk = Desk()
    desk.take_office(ANA, BEN)
    submitted(desk, *(spec(f"t{k}", capability=f"c{k}") for k in range(400)))
    queue = desk.ledger.queue
    assert (len(queue.lanes), Turns()._looked_at(queue, {"code": None})) == (400, [])
    assert grants(submitted(desk, *(spec(f"m{k}") for k in range(5)))) == list(
        zip(("m0", "m1", "m2", "m3"), (ANA, BEN, ANA, BEN), strict=True)
    )
    assert Turns()._looked_at(queue, {"code": None, "plan": None}) == [queue.lanes["code"]]


def test_a_task_for_later_is_granted_in_its_time() -> None:
    """It arrives early; at its time the queue lets it go."""
    desk = Desk()
    desk.take_office(ANA)
    commands = submitted(desk, spec("later", not_before_ms=50_000))
    assert grants(commands) == []
    assert grants(desk.dispatcher.next_commands(49_999)) == []
    assert grants(desk.dispatcher.next_commands(50_000)) == [("later", "ana")]


def test_the_same_task_submitted_twice_is_granted_once() -> None:
    """A repeat of what is on its way, and of what has been granted."""
    desk = Desk()
    desk.take_office(ANA)
    commands = submitted(desk, spec("a"), spec("a"))
    assert grants(commands) == [("a", "ana")]
    assert grants(submitted(desk, spec("a"))) == []
    assert [command for command in commands if isinstance(command, SubmitTask)] == [SubmitTask(spec("a"))] * 2


def test_checkpoints_and_starts_become_commands() -> None:
    """What holders say about running attempts."""
    desk = Desk()
    desk.take_office(ANA)
    submitted(desk, spec("a"))
    desk.dispatcher.started([(TaskId("a"), FencingToken(2))])
    desk.dispatcher.checkpoint(CheckpointReport(TaskId("a"), FencingToken(2), 1, b"s"))
    assert desk.turn() == [
        StartTask(TaskId("a"), FencingToken(2)),
        SaveCheckpoint(TaskId("a"), FencingToken(2), 1, b"s"),
    ]


def test_a_checkpoint_the_table_has_already_is_not_proposed_again() -> None:
    """The holder says it once more, because it has not heard; the log need not grow for that."""
    desk = Desk()
    desk.take_office(ANA)
    submitted(desk, spec("a"))
    saved = CheckpointReport(TaskId("a"), FencingToken(2), 1, b"s")
    desk.dispatcher.checkpoint(saved)
    assert len(desk.turn()) == 1
    desk.dispatcher.checkpoint(saved)
    assert desk.turn() == []


def test_leases_of_a_node_this_leader_has_never_heard_of_are_not_its_business() -> None:
    """eva was admitted by an earlier leader and is not among the members here; her lease ends, and reports count."""
    desk = Desk()
    desk.take_office(ANA)
    eva = NodeId("eva")
    desk.apply([AdmitNode(eva, 1), SubmitTask(spec("a")), SubmitTask(spec("b"))])
    desk.apply([GrantLease(TaskId("a"), eva), GrantLease(TaskId("b"), eva)])
    desk.dispatcher.report([outcome("a", 3)])
    desk.dispatcher.command(FailNode(eva, 1, "silent"))
    desk.turn()
    assert desk.loads() == {"ana": 0, "ben": 0}
    assert (desk.ledger.counts[6], desk.ledger.counts[0]) == (1, 1)


def test_a_member_that_has_not_been_heard_has_no_slots() -> None:
    """The desk is taken before ben's first heartbeat."""
    desk = Desk()
    state = desk.detector.member(BEN)
    assert state is not None
    state.last = None
    desk.take_office(BEN)
    assert grants(submitted(desk, spec("a"))) == []


def test_a_lease_that_ends_in_the_entry_that_granted_it_is_not_sent() -> None:
    """Somebody cancels the task in the same breath."""
    desk = Desk()
    desk.take_office(ANA)
    granted: list[Command] = [SubmitTask(spec("a")), GrantLease(TaskId("a"), ANA), CancelTask(TaskId("a"), "no")]
    assert desk.apply(granted) == {}


def test_a_report_under_no_grant_at_all_is_no_report() -> None:
    """The task waits, and nobody was ever granted it: whoever claims to have done it under token 0 is not believed."""
    desk = Desk()
    desk.take_office()
    submitted(desk, spec("a"))
    assert desk.ledger.tasks[TaskId("a")].token == 0
    desk.dispatcher.report([outcome("a", 0), outcome("a", -1, error="nonsense")])
    assert desk.turn() == []


def test_a_submit_still_on_its_way_is_not_overtaken() -> None:
    """S1-09: FIFO. No slot is free when "first" is proposed; one is when "second" is, before "first" is applied.

    Seeds 4, 6 and 7 of the simulator, once it looked at the order of grants.
    """
    desk = Desk(slots=1)
    desk.take_office(ANA)
    submitted(desk, spec("runs"))
    desk.dispatcher.submit(spec("first"))
    on_its_way = desk.dispatcher.next_commands(9_000)
    desk.dispatcher.report([outcome("runs", 2)])
    desk.dispatcher.submit(spec("second"))
    following = desk.dispatcher.next_commands(9_000)
    assert [type(command) for command in following] == [CompleteTask, SubmitTask]
    desk.apply(on_its_way)
    desk.apply(following)
    assert desk.turn() == [GrantLease(TaskId("first"), ANA)]


def test_a_submit_that_was_not_taken_holds_nobody_up() -> None:
    """Raft would not have the entry: its submit is gathered again, and nothing is remembered of it."""
    desk = Desk(slots=1)
    desk.take_office(ANA)
    submitted(desk, spec("runs"))
    desk.dispatcher.submit(spec("first"))
    desk.dispatcher.proposal_refused(desk.dispatcher.next_commands(9_000))
    desk.dispatcher.report([outcome("runs", 2)])
    desk.turn()
    assert desk.ledger.tasks[TaskId("first")].node_id == ANA


def test_who_runs_out_of_time_is_not_granted_to_a_node_that_cannot_do_its_fallback() -> None:
    """Nobody is free for t until its 1,500 ms are over. In the entry that sends it to its fallback a slot is free for
    what it wanted first; nobody offers `plan`. It is granted nowhere, neither in that entry nor after it.
    """
    desk = Desk(slots=1)
    desk.take_office(ANA)
    submitted(desk, spec("busy"))
    late = msgspec.structs.replace(spec("t"), options=Options(schedule_timeout_ms=1_500, fallback="plan"))
    submitted(desk, late)
    desk.apply([SubmitTask(spec("x", capability="nothing"))])
    desk.dispatcher.report([outcome("busy", 2)])
    commands = desk.turn()
    assert [type(command).__name__ for command in commands] == ["CompleteTask", "TimeOut"]
    assert desk.ledger.tasks[TaskId("t")].spec.capability == "plan"
    assert [task.task_id for task in desk.ledger.queue.ready()] == ["x", "t"]
    assert grants(desk.turn()) == []


def test_who_was_to_run_out_of_time_waits_again_when_office_is_left() -> None:
    """The timeout was proposed and never committed: t is in the queue for whoever leads next."""
    desk = Desk()
    desk.take_office()
    late = msgspec.structs.replace(spec("t"), options=Options(schedule_timeout_ms=1_000))
    submitted(desk, late)
    commands = desk.dispatcher.next_commands(9_000)
    assert [type(command).__name__ for command in commands] == ["TimeOut"]
    assert list(desk.ledger.queue.ready()) == []
    desk.dispatcher.leave_office()
    assert [task.task_id for task in desk.ledger.queue.ready()] == ["t"]


@pytest.mark.parametrize(
    "limit", [{"concurrency": Concurrency("db", 1)}, {"rates": (Rate("db", 1, 60_000),)}], ids=["key", "rate"]
)
@pytest.mark.parametrize("oldest_every", [0, 1])
def test_lanes_that_share_a_key_share_its_room(limit: dict[str, Any], oldest_every: int) -> None:
    """Two tasks that take turns by their fairness key, one key for both and room for one: one is granted, by turn or by
    who came first.
    """
    desk = Desk()
    desk.take_office(ANA)
    desk.apply([SetSetting("oldest_every", oldest_every)])
    submitted(desk, *(msgspec.structs.replace(spec(name), options=Options(fairness=name, **limit)) for name in "ab"))
    assert grants(desk.turn()) == [("a", "ana")]
