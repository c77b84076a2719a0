"""A holder of leases and its leader: every report arrives in the end, each lease runs once, none beyond the slots."""

import pytest

from mesh.config import DispatchConfig
from mesh.documents import EventPage
from mesh.events import AgentsReady, AttemptsEnded
from mesh.ids import FencingToken, NodeId, TaskId, Term
from mesh.ledger.task import COMPLETED, DISPATCHED, PENDING, RUNNING, SCHEDULED
from mesh.messages import (
    Action,
    Append,
    AppendReply,
    AttemptOrder,
    AttemptOutcome,
    CheckpointReport,
    Grants,
    NodeReport,
    Question,
    Reports,
    ReportWanted,
    Started,
    Stops,
)
from mesh.wire.codec import encode
from tests.node.client import spec
from tests.node.trio import ALL, ANA, BEN, EVA, Trio, lease, settled


def three_leased(**settings: object) -> Trio:
    """t1 with ana, t2 with ben, t3 with eva, all under token 4. Nobody's code has begun."""
    trio = settled(**settings)
    trio.client(ANA).submit(spec("t1"), spec("t2"), spec("t3"))
    trio.run(20)
    assert [host.runs for host in trio.hosts.values()] == [[("t1", 4)], [("t2", 4)], [("t3", 4)]]
    return trio


def task_state(trio: Trio, name: str) -> int:
    return trio.leader.node.ledger.tasks[TaskId(name)].state


@pytest.mark.parametrize("name", [ANA, BEN])
def test_an_attempt_that_begins_is_charged_once(name: NodeId) -> None:
    """S0-14: the leader's own and a follower's. Told twice, it is charged once."""
    trio = three_leased()
    task = trio.leader.node.ledger.tasks[TaskId("t1" if name == ANA else "t2")]
    for _ in range(2):
        trio.begins(name, task.task_id, 4)
        trio.run(20)
    assert (task.state, task.attempts) == (RUNNING, 1)


@pytest.mark.parametrize("name", [ANA, BEN])
def test_a_report_lost_on_its_way_is_told_again_every_second(name: NodeId) -> None:
    """ben's report is lost twice: two looks later it is told again. The leader's own needs no wire."""
    trio = three_leased()
    trio.lose(Reports, times=2)
    task = "t1" if name == ANA else "t2"
    trio.ends(name, task, 4)
    trio.run(20)
    lost = (
        [] if name == ANA else [Reports([AttemptOutcome(TaskId(task), FencingToken(4), encode(task), "", "Traceback")])]
    )
    assert trio.messages(Reports) == lost
    trio.run(3_500)
    assert trio.leader.node.ledger.counts[COMPLETED] == 1
    assert trio.messages(Reports) == lost * 3
    assert trio[name].node.holding.attempts.outbox == {}


def test_a_start_lost_on_its_way_is_told_again() -> None:
    """ben's node goes on saying that t2 runs until his own table shows it; then it is silent."""
    trio = three_leased()
    trio.lose(Started, times=1)
    trio.begins(BEN, "t2", 4)
    trio.run(500)
    assert task_state(trio, "t2") == DISPATCHED
    trio.run(1_000)
    assert task_state(trio, "t2") == RUNNING
    trio.run(5_000)
    assert trio.messages(Started) == [Started([lease("t2", 4)])] * 2


@pytest.mark.parametrize("name", [ANA, BEN])
def test_a_handler_goes_on_when_a_quorum_holds_its_checkpoint(name: NodeId) -> None:
    """S0-05, S0-28: not before. Two disks hang; the answer comes once one of them has it."""
    trio = three_leased()
    task = "t1" if name == ANA else "t2"
    trio[EVA].is_disk_stuck = True
    trio[BEN if name == ANA else ANA].is_disk_stuck = True
    trio.saves(name, task, 4, 1, b"\x0a")
    trio.run(200)
    assert trio[name].kept == []
    trio.sync(BEN if name == ANA else ANA)
    trio.run(100)
    assert [(kept.task_id, kept.token, kept.sequence, kept.kept) for kept in trio[name].kept] == [(task, 4, 1, True)]


def test_of_checkpoints_offered_while_one_is_on_its_way_only_the_latest_follows() -> None:
    """S0-28: ben offers five at once. The first is on its way; of the others the last alone goes after it, and
    its answer is one for all of them.
    """
    trio = three_leased()
    for sequence in range(1, 6):
        trio.saves(BEN, "t2", 4, sequence, bytes([sequence]))
    trio.run(200)
    assert [report.sequence for report in trio.messages(CheckpointReport)] == [1, 5]
    assert [(kept.sequence, kept.kept) for kept in trio[BEN].kept] == [(1, True), (5, True)]
    trio.saves(BEN, "t2", 4, 6, b"\x06")
    trio.run(200)
    assert [kept.sequence for kept in trio[BEN].kept] == [1, 5, 6]


def test_a_later_checkpoint_follows_though_the_first_is_lost() -> None:
    """The first copy never arrives. What is told again, a second later, is the latest."""
    trio = three_leased()
    trio.lose(CheckpointReport, times=1)
    trio.saves(BEN, "t2", 4, 1, b"\x01")
    trio.saves(BEN, "t2", 4, 2, b"\x02")
    trio.run(1_500)
    assert [(kept.sequence, kept.kept) for kept in trio[BEN].kept] == [(2, True)]
    assert trio[BEN].node.holding._sending == {}


def test_a_checkpoint_lost_on_its_way_is_told_again_and_kept_once() -> None:
    """S0-28: the first copy is lost; the second is kept; a third, late, changes nothing and writes nothing."""
    trio = three_leased()
    trio.lose(CheckpointReport, times=1)
    trio.saves(BEN, "t2", 4, 1, b"\x0a")
    trio.run(1_500)
    assert [kept.kept for kept in trio[BEN].kept] == [True]
    before = trio.leader.node.ledger.applied_index
    trio.tell(ANA, BEN, CheckpointReport(TaskId("t2"), FencingToken(4), 1, b"\x0a"))
    trio.run(100)
    assert trio.leader.node.ledger.applied_index == before


def test_a_checkpoint_of_an_attempt_not_in_hand_is_refused_at_once() -> None:
    """S0-28: the lease is gone, and the handler does not know it yet. It must not go on as if its work were safe."""
    trio = three_leased()
    trio.client(ANA).order(Action.CANCEL, "t2")
    trio.run(20)
    trio.saves(BEN, "t2", 4, 1, b"\x0a")
    assert [(kept.sequence, kept.kept) for kept in trio[BEN].kept] == [(1, False)]


def test_a_checkpoint_that_comes_after_the_verdict_is_refused_by_the_log() -> None:
    """S0-28: eva is given up while her checkpoint is on its way. Its fence is the log: not kept, and she hears it."""
    trio = three_leased()
    trio.lose(Append, Stops, to=EVA)
    client = trio.client(ANA)
    client.order(Action.CANCEL, "t3")
    trio.run(20)
    trio.saves(EVA, "t3", 4, 1, b"\x0a")
    trio.run(20)
    trio.heal()
    trio.run(100)
    assert trio[EVA].stopped == [("t3", 4)]
    assert trio[EVA].node.holding.attempts.checkpoints == {}
    assert client.task("t3").checkpoint is None


def test_the_next_attempt_begins_where_the_last_checkpoint_was() -> None:
    """S0-05: ben saves 10 and dies; whoever runs t2 next is given 10, and it is attempt 2."""
    trio = three_leased()
    trio.saves(BEN, "t2", 4, 1, b"\x0a")
    trio.run(20)
    trio.kill(BEN)
    trio.run(500)
    [order] = [order for name in (ANA, EVA) for order in trio[name].started if order.task_id == "t2"]
    assert (order.checkpoint, order.attempt) == (b"\x0a", 2)


def test_a_failed_attempt_is_tried_again_after_its_pause() -> None:
    """S0-14, S2-25: 1 s, and up to a tenth more by the leader's dice; not a millisecond before, and soon after."""
    trio = three_leased()
    trio.ends(BEN, "t2", 4, error="ValueError: no")
    trio.run(20)
    assert task_state(trio, "t2") == SCHEDULED
    trio.run(1_200)
    assert task_state(trio, "t2") == DISPATCHED
    events = trio.client(ANA).now(Question.EVENTS, EventPage, limit=1_000).events
    [retried] = [line for line in events if line.event == "task_retried"]
    again = [line.at for line in events if line.event == "task_dispatched" and line.task == "t2"][-1]
    pause_ms = int(retried.detail.removeprefix("in ").removesuffix(" ms"))
    assert 1_000 <= pause_ms <= 1_100
    assert again == retried.at + pause_ms


def test_reports_too_large_for_one_message_are_sent_in_several() -> None:
    """Three results of 600 kB end in one turn: a message carries about 1 MiB."""
    trio = settled(capabilities=())
    trio.feed(BEN, AgentsReady(("code",)))
    trio.client(ANA).submit(*(spec(f"t{number}") for number in range(3)))
    trio.run(20)
    outcomes = [AttemptOutcome(order.task_id, order.token, bytes(600_000)) for order in trio[BEN].started]
    trio.feed(BEN, AttemptsEnded(outcomes))
    trio.run(50)
    assert [len(reports.outcomes) for reports in trio.messages(Reports)] == [1, 1, 1]
    assert trio.leader.node.ledger.counts[COMPLETED] == 3


def test_grants_too_large_for_one_message_are_sent_in_several() -> None:
    """Only ben offers it; two payloads of 600 kB are granted to him in one entry and leave in two messages."""
    trio = settled(capabilities=(), dispatch=DispatchConfig(entry_bytes_max=8 << 20))
    trio.feed(BEN, AgentsReady(("code",)))
    trio.client(ANA).submit(*(spec(f"t{number}", payload=bytes(600_000)) for number in range(3)))
    trio.run(50)
    assert [len(grants.orders) for grants in trio.messages(Grants, to=BEN)] == [1, 1, 1]
    assert [task for task, _ in trio[BEN].runs] == ["t0", "t1", "t2"]


def test_what_fits_one_message_shares_one() -> None:
    """Three small tasks are granted to ben in one entry and end in one turn: one order goes there, one report back."""
    trio = settled(capabilities=())
    trio.feed(BEN, AgentsReady(("code",)))
    trio.run(5)
    trio.client(ANA).submit(*(spec(f"t{number}") for number in range(3)))
    trio.run(20)
    assert [len(grants.orders) for grants in trio.messages(Grants)] == [3]
    outcomes = [AttemptOutcome(order.task_id, order.token, b"\x01") for order in trio[BEN].started]
    trio.feed(BEN, AttemptsEnded(outcomes))
    assert trio.messages(Reports) == [Reports(outcomes)]


def test_what_the_leader_thinks_is_over_may_still_run_and_holds_its_slot() -> None:
    """S0-29: ben has one slot and has not heard that t2 is cancelled; the next lease waits with him until then."""
    trio = three_leased(slots=1)
    trio.lose(Append, Stops, to=BEN)
    client = trio.client(ANA)
    client.order(Action.CANCEL, "t2")
    trio.run(10)
    client.submit(spec("next"))
    trio.run(10)
    assert trio.leader.node.ledger.tasks[TaskId("next")].node_id == BEN
    assert trio[BEN].runs == [("t2", 4)]
    trio.ends(BEN, "t2", 4)
    assert [task for task, _ in trio[BEN].runs] == ["t2", "next"]


def test_an_order_for_a_lease_that_our_own_table_shows_over_is_not_run() -> None:
    """A late copy of a grant: the lease has ended, or the task has been granted anew. Neither runs."""
    trio = three_leased()
    [grants] = trio.messages(Grants, to=BEN)
    trio.ends(BEN, "t2", 4, error="ValueError: no")
    trio.run(20)
    trio.tell(BEN, ANA, grants)
    trio.run(1_200)
    trio.tell(BEN, ANA, grants)
    tokens = [token for host in trio.hosts.values() for task, token in host.runs if task == "t2"]
    assert (tokens.count(4), len(tokens)) == (1, 2)


def test_a_late_copy_of_a_grant_runs_nothing_after_the_leader_has_called_it_over() -> None:
    """eva's log lags: she has the order and the word to stop before her table has either; then the order again."""
    trio = settled()
    trio.lose(Append, to=EVA)
    client = trio.client(ANA)
    client.submit(spec("t1"), spec("t2"), spec("t3"))
    trio.run(20)
    [grants] = trio.messages(Grants, to=EVA)
    client.order(Action.CANCEL, "t3")
    trio.run(20)
    assert (trio[EVA].stopped, trio[EVA].node.holding.attempts.over) == ([("t3", 4)], {"t3": 4})
    trio.tell(EVA, ANA, grants)
    trio.heal()
    trio.run(200)
    trio.tell(EVA, ANA, grants)
    assert (trio[EVA].runs, trio[EVA].node.holding.attempts.over) == ([("t3", 4)], {})


def test_a_newer_lease_stops_the_older_attempt() -> None:
    """The leader's log is ahead of ben's: the newer lease of t2 reaches him before he hears that the older is over."""
    trio = three_leased()
    trio.tell(BEN, ANA, Grants(Term(2), 1, [AttemptOrder(TaskId("t2"), FencingToken(99), 2, "code", b"", b"")]))
    assert (trio[BEN].runs, trio[BEN].stopped) == ([("t2", 4), ("t2", 99)], [("t2", 4)])


def test_reports_to_a_node_that_does_not_lead_are_dropped() -> None:
    """ben is told what is meant for the leader, and does nothing with it."""
    trio = three_leased()
    before = trio[BEN].node.ledger.applied_index
    trio.tell(BEN, EVA, Started([lease("t3", 4)]))
    trio.tell(BEN, EVA, CheckpointReport(TaskId("t3"), FencingToken(4), 1, b"\x0a"))
    trio.tell(BEN, EVA, Reports([AttemptOutcome(TaskId("t3"), FencingToken(4), b"\x01")]))
    trio.tell(BEN, EVA, NodeReport(Term(2), 1, 4, ("code",), [], []))
    trio.run(100)
    assert trio[BEN].node.ledger.applied_index == before
    assert task_state(trio, "t3") == DISPATCHED


def test_a_node_report_of_another_term_or_incarnation_counts_for_nothing() -> None:
    """eva's report is from before: by it she would hold nothing, and be sent everything again."""
    trio = three_leased()
    trio.said.clear()
    trio.tell(ANA, EVA, NodeReport(Term(1), 1, 4, ("code",), [], []))
    trio.tell(ANA, EVA, NodeReport(Term(2), 7, 4, ("code",), [], []))
    assert trio.messages(Grants) + trio.messages(Stops) == []


def test_the_leader_looks_at_itself_as_at_any_other() -> None:
    """ana holds a lease no table knows, and offers something new: she stops it, and says what she runs anew."""
    trio = settled()
    ghost = AttemptOrder(TaskId("ghost"), FencingToken(2), 1, "code", b"", b"")
    trio[ANA].node.holding.attempts.grant(Term(2), [ghost])
    trio.run(3_000)
    assert trio[ANA].stopped == [("ghost", 2)]
    assert trio[ANA].node.leading.dispatcher.unreported() == []


def test_a_new_leader_that_finds_ghosts_stops_them_and_asks_again_at_once() -> None:
    """In the first reports of the office, its own among them: a round trip later both nodes may be granted work."""
    trio = settled()
    for name in (BEN, EVA):
        ghost = AttemptOrder(TaskId("ghost"), FencingToken(2), 1, "code", b"", b"")
        trio[name].node.holding.attempts.grant(Term(2), [ghost])
    trio.kill(ANA)
    while not any(trio[name].node.leading.dispatcher.in_office for name in (BEN, EVA)):
        trio.run(1)
    trio.run(5)
    assert [trio[name].stopped for name in (BEN, EVA)] == [[("ghost", 2)]] * 2
    assert trio.leader.node.leading.dispatcher.unreported() == [ANA]
    trio.client(trio.leader.name).submit(*(spec(f"t{number}") for number in range(9)))
    trio.run(20)
    assert [len(trio[name].runs) for name in (BEN, EVA)] == [4, 4]


def test_a_leader_looks_closer_when_two_heartbeats_in_a_row_disagree_with_the_table() -> None:
    """One that was on its way when a lease was granted means nothing; nor do two with a good one between them."""
    trio = three_leased()
    trio.run(3_000)
    trio.said.clear()
    heard = trio[ANA].node.leading.heard
    for held in (0, 1, 0, 1, 7, 1):
        heard(EVA, held)
    assert trio[ANA].node.out == []
    for held in (2, 0, 5):
        heard(EVA, held)
    trio.run(100)
    assert trio.messages(ReportWanted) == [ReportWanted(Term(2))]


def test_a_node_that_hears_late_of_a_new_leader_tells_it_at_once_what_is_unanswered() -> None:
    """eva was cut off while ana handed over to ben. His first heartbeat is enough: she does not wait to be asked."""
    trio = three_leased()
    trio.cut(EVA)
    trio.client(ANA).order(Action.TRANSFER, "ben")
    trio.run(100)
    assert trio.leader.name == BEN
    trio.ends(EVA, "t3", 4)
    trio.lose(ReportWanted)
    trio.heal()
    trio.lose(ReportWanted)
    trio.run(100)
    assert trio.leader.node.ledger.counts[COMPLETED] == 1


def test_a_node_that_links_up_unreported_is_asked_at_once() -> None:
    """eva's report was lost; when her link is made anew she is asked, without waiting for a heartbeat."""
    trio = settled()
    trio.kill(ANA)
    trio.lose(NodeReport)
    trio.run(100)
    leader, other = (BEN, EVA) if trio.leader.name == BEN else (EVA, BEN)
    assert other in trio[leader].node.leading.dispatcher.unreported()
    trio.heal()
    trio.said.clear()
    trio.link_up(leader, other)
    assert trio.messages(ReportWanted) == [ReportWanted(trio[leader].node.raft.term)]
    trio.run(5)
    assert other not in trio[leader].node.leading.dispatcher.unreported()


def test_a_leader_deposed_in_a_turn_keeps_the_outcomes_of_that_turn() -> None:
    """ana's own attempt ends in the very turn she loses office: nobody has it but her, and she tells her successor."""
    trio = three_leased()
    trio.lose(AppendReply)
    trio.run(306)
    trio.feed(ANA, AttemptsEnded([AttemptOutcome(TaskId("t1"), FencingToken(4), b"\x01")]), ends_turn=False)
    trio.run(50)
    assert not trio[ANA].node.raft.serving
    trio.heal()
    trio.run(4_000)
    assert trio.leader.node.ledger.counts[COMPLETED] == 1
    assert trio[ANA].node.holding.attempts.outbox == {}


def test_nothing_is_granted_to_a_node_without_agents() -> None:
    """S0-01: ben and eva offer nothing; all of it waits for ana's four slots."""
    trio = settled(capabilities=())
    trio.feed(ANA, AgentsReady(("code",)))
    trio.client(BEN).submit(*(spec(f"t{number}") for number in range(6)))
    trio.run(50)
    assert [len(host.runs) for host in trio.hosts.values()] == [4, 0, 0]
    states = [task.state for task in trio.leader.node.ledger.tasks.values()]
    assert sorted(states) == [PENDING, PENDING, *[DISPATCHED] * 4]
    assert ALL == (ANA, BEN, EVA)
