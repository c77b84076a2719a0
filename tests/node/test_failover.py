"""The leader is gone: what runs goes on, what ended is told again, what was on its way comes once (issue 2, 5, 6)."""

import pytest

from mesh.config import DispatchConfig
from mesh.documents import EventLine, EventPage
from mesh.ids import FencingToken, Incarnation, LogIndex, NodeId, TaskId, Term
from mesh.ledger.task import COMPLETED, DISPATCHED, RUNNING
from mesh.messages import (
    Accepted,
    Action,
    AttemptOrder,
    AttemptOutcome,
    CheckpointReport,
    Grants,
    LeaderHint,
    NodeReport,
    Question,
    Reports,
    ReportWanted,
    Started,
    Stops,
    TaskEnd,
    TasksEnded,
)
from mesh.wire.codec import encode
from tests.node.client import EPOCH_MS, spec
from tests.node.trio import ALL, ANA, BEN, EVA, Trio, lease, settled

T1, T2 = TaskId("t1"), TaskId("t2")


def three_run(**settings: object) -> Trio:
    """t1 runs on ana, t2 on ben, t3 on eva, all under token 4; ana leads and ben's client waits for them."""
    trio = settled(**settings)
    trio.client(BEN).submit(spec("t1"), spec("t2"), spec("t3"))
    trio.run(20)
    assert [host.runs for host in trio.hosts.values()] == [[("t1", 4)], [("t2", 4)], [("t3", 4)]]
    for name, task in zip(ALL, ("t1", "t2", "t3"), strict=True):
        trio.begins(name, task, 4)
    trio.run(20)
    return trio


def state(trio: Trio, task_id: str) -> tuple[int, str, int, int]:
    """State, holder, token and attempts charged, by whoever leads."""
    task = trio.leader.node.ledger.tasks[TaskId(task_id)]
    return task.state, task.node_id, task.token, task.attempts


def what_happened(trio: Trio, name: NodeId, *events: str) -> list[EventLine]:
    """Events of these kinds as one node has them, in order."""
    page = trio.client(name).now(Question.EVENTS, EventPage, limit=1_000, stale=True)
    return [line for line in page.events if line.event in events]


def test_running_leases_survive_a_leader_change_and_are_not_run_again() -> None:
    """S0-10: ana is cut off for good; ben and eva go on with what they run, under the same tokens, and finish it."""
    trio = three_run()
    trio.cut(ANA)
    trio.run(2_500)
    assert trio[BEN].node.leading.dispatcher.in_office
    assert state(trio, "t2") == (RUNNING, BEN, 4, 1)
    trio.ends(BEN, "t2", 4)
    trio.ends(EVA, "t3", 4)
    trio.run(20)
    assert trio[BEN].node.ledger.counts[COMPLETED] == 2
    assert (trio[BEN].runs, trio[EVA].runs, trio[BEN].stopped, trio[EVA].stopped) == ([("t2", 4)], [("t3", 4)], [], [])


def test_what_a_failed_leader_ran_runs_elsewhere() -> None:
    """S0-04, S0-08, S0-09: ana dies silently. Verdict 3 intervals after her last heartbeat, and t1 runs anew."""
    trio = three_run()
    trio.kill(ANA, silent=True)
    trio.run(4_000)
    [failed] = what_happened(trio, EVA, "node_failed")
    [again] = what_happened(trio, EVA, "task_reassigned")
    assert (failed.node, failed.detail) == ("ana", "missed 3 heartbeats")
    assert failed.at <= EPOCH_MS + 3_000 + 3 * 1_000 + 150
    assert (again.task, again.token - failed.index in (0, 1), again.at - failed.at <= 100) == ("t1", True, True)
    assert ("t1", again.token) in trio[BEN].runs + trio[EVA].runs
    assert state(trio, "t1")[3] == 1  # Charged, for its code had begun.


def test_a_node_whose_links_break_is_given_up_in_a_fraction_of_a_second() -> None:
    """S0-08: SIGKILL. Links tell a majority at once; 150 ms of grace, and ana's task is with another."""
    trio = three_run()
    trio.kill(ANA)
    trio.run(400)
    [failed] = what_happened(trio, EVA, "node_failed")
    assert (failed.detail, failed.at - EPOCH_MS - 3_040 <= 200) == ("link lost", True)
    assert [task for task, _ in trio[BEN].runs + trio[EVA].runs].count("t1") == 1


def test_an_outcome_is_told_again_to_the_next_leader() -> None:
    """eva's report is lost with ana. eva tells ben as soon as she knows that he leads; the result counts once."""
    trio = three_run()
    trio.lose(Reports)
    trio.ends(EVA, "t3", 4)
    trio.cut(ANA)
    trio.run(1_000)
    trio.heal()
    trio.cut(ANA)
    trio.said.clear()
    trio.run(1_500)
    outcome = AttemptOutcome(TaskId("t3"), FencingToken(4), encode("t3"), "", "Traceback")
    assert Reports([outcome]) in trio.messages(Reports, sender=EVA, to=BEN)
    assert trio[BEN].node.ledger.counts[COMPLETED] == 1
    assert [line.task for line in what_happened(trio, BEN, "task_completed", "completion_fenced")] == ["t3"]
    assert trio[EVA].node.holding.attempts.outbox == {}


def test_what_happens_while_nobody_leads_is_told_to_whoever_takes_office() -> None:
    """eva's task ends in the gap, ben's saves, a second one of ana's begins: nobody to tell. It is told later."""
    trio = three_run()
    trio.client(ANA).submit(spec("t4"))
    trio.run(20)
    assert trio[ANA].runs == [("t1", 4), ("t4", 8)]
    trio.cut(ANA)
    trio.cut(BEN)
    trio.link_down(ANA, BEN)
    trio.link_down(ANA, EVA)
    trio.run(400)
    assert [host.node.raft.leader_id for host in trio.hosts.values()] == [None] * 3
    trio.said.clear()
    trio.begins(ANA, "t4", 8)
    trio.saves(BEN, "t2", 4, 1, b"\x0a")
    trio.ends(EVA, "t3", 4)
    assert trio.messages(Reports) + trio.messages(Started) + trio.messages(CheckpointReport) == []
    trio.heal()
    trio.run(2_000)
    kinds = ["task_started", "task_checkpointed", "task_completed"]
    told = [(line.event, line.task) for line in what_happened(trio, EVA, *kinds) if line.index > 8]
    assert sorted(told) == [("task_checkpointed", "t2"), ("task_completed", "t3"), ("task_started", "t4")]
    assert [(kept.task_id, kept.sequence, kept.kept) for kept in trio[BEN].kept] == [("t2", 1, True)]


def test_a_grant_lost_on_its_way_is_sent_again() -> None:
    """ben holds a lease and does not know. Two of his heartbeats say so; the leader asks, and sends the order again."""
    trio = settled()
    trio.lose(Grants, times=1)
    trio.client(ANA).submit(spec("t1"), spec("t2"))
    trio.run(20)
    assert trio[BEN].runs == []
    trio.run(3_000)
    assert trio[BEN].runs == [("t2", 4)]
    assert len(trio.messages(Grants, to=BEN)) == 2


def test_a_grant_that_died_with_its_leader_is_sent_by_the_next() -> None:
    """The lease is committed, the order never left. Both say what they run; whoever leads sends the rest."""
    trio = settled()
    trio.lose(Grants)
    trio.client(BEN).submit(spec("t1"), spec("t2"), spec("t3"))
    trio.run(20)
    trio.heal()
    trio.kill(ANA)
    trio.run(100)
    assert (trio[BEN].runs, trio[EVA].runs) == ([("t2", 4)], [("t3", 4)])


def test_a_new_leader_grants_nothing_to_a_node_before_it_has_said_what_it_runs() -> None:
    """eva's report to ben is lost: she gets nothing new until it is asked for again and comes."""
    trio = settled()
    trio.kill(ANA)
    trio.lose(NodeReport)
    trio.run(100)
    leader = trio.leader
    other = EVA if leader.name == BEN else BEN
    trio.client(leader.name).submit(*(spec(f"t{number}") for number in range(8)))
    trio.run(500)
    assert (len(leader.runs), trio[other].runs) == (4, [])
    trio.heal()
    trio.run(1_500)
    assert len(trio[other].runs) == 4


def test_a_lease_unknown_to_the_table_is_stopped() -> None:
    """eva was cut off, given up, and t3 given to another: when she is back she is told to stop, and runs no ghost."""
    trio = three_run()
    trio.cut(EVA)
    trio.run(4_000)
    [again] = what_happened(trio, ANA, "task_reassigned")
    assert trio[EVA].node.holding.attempts.held() == [("t3", 4)]
    trio.heal()
    trio.run(3_000)
    assert trio[EVA].stopped == [("t3", 4)]
    assert trio[EVA].node.holding.attempts.held() == []
    assert state(trio, "t3") == (DISPATCHED, again.node, again.token, 1)


def test_a_ghost_in_a_report_is_stopped_and_asked_about_until_it_is_gone() -> None:
    """ben reports a lease the log never gave. Stop it; grant him nothing before he says that it has stopped."""
    trio = settled()
    ghost = (T1, FencingToken(2))
    trio[BEN].node.holding.attempts.grant(Term(2), [AttemptOrder(T1, FencingToken(2), 1, "code", b"", b"")])
    trio.lose(Stops, times=1)
    trio.run(4_000)
    assert trio[BEN].stopped == [ghost]
    assert trio.messages(Stops, to=BEN) == [Stops(Term(2), [ghost])] * 2


@pytest.mark.parametrize("timers_first", [True, False])
def test_the_result_of_a_node_that_slept_through_its_verdict_is_fenced(timers_first: bool) -> None:
    """S0-11: eva is stopped, her code ends meanwhile. She wakes 4.5 s later; t3 has been done by another, once."""
    trio = three_run()
    trio.pause(EVA)
    trio.ends(EVA, "t3", 4)
    trio.run(4_500)
    [again] = what_happened(trio, ANA, "task_reassigned")
    assert (again.task, again.node, again.detail) == ("t3", ANA, "from eva")
    trio.ends(ANA, "t3", again.token)
    trio.run(20)
    trio.resume(EVA, timers_first=timers_first)
    trio.run(3_000)
    [completed, fenced] = what_happened(trio, ANA, "task_completed", "completion_fenced")
    assert (completed.task, completed.node, completed.token, completed.attempt) == ("t3", ANA, again.token, 2)
    assert fenced.detail == "token 4 of a task that has ended"
    assert trio[EVA].node.holding.attempts.held() == []
    assert [line.node for line in what_happened(trio, ANA, "node_recovered")] == [EVA]


def test_a_node_that_slept_learns_from_its_own_table_that_it_must_stop() -> None:
    """S0-11: as before, but eva's code runs on to its end. She knows from her own table that it was for nothing; it is
    told all the same, once, so that the record shows that the work was done twice.
    """
    trio = three_run()
    trio.pause(EVA)
    trio.run(4_500)
    trio.resume(EVA)
    assert trio[EVA].stopped == [("t3", 4)]
    trio.ends(EVA, "t3", 4)
    trio.run(3_000)
    fenced = what_happened(trio, ANA, "task_completed", "completion_fenced")
    assert [(line.event, line.task, line.token) for line in fenced] == [("completion_fenced", "t3", 4)]


def test_grants_meant_for_a_past_incarnation_are_refused() -> None:
    """ben restarts; an order for his former self arrives. Nothing runs, and it is counted."""
    trio = settled()
    trio.client(ANA).submit(spec("t1"), spec("t2"))
    trio.run(20)
    [grants] = trio.messages(Grants, to=BEN)
    trio.kill(BEN)
    trio.start(BEN)
    trio.tell(BEN, ANA, grants)
    assert trio[BEN].runs == []
    assert trio[BEN].node.counters["grants_for_past_incarnation"] == 1
    trio.run(2_000)
    restarts = what_happened(trio, ANA, "node_restarted")
    assert [line.node for line in restarts] == ["ben"]
    runs = [task for host in trio.hosts.values() for task, _ in host.runs]
    assert sorted(runs) == ["t1", "t2"]


def test_grants_of_a_deposed_leader_are_refused_and_counted() -> None:
    """ana, cut off, still believes in herself; ben has spoken in term 3 before her order reaches eva."""
    trio = three_run()
    trio.cut(ANA)
    trio.run(2_500)
    order = AttemptOrder(TaskId("late"), FencingToken(99), 1, "code", b"", b"")
    trio.tell(EVA, ANA, Grants(Term(2), 1, [order]))
    assert trio[EVA].runs == [("t3", 4)]
    assert trio[EVA].node.holding.attempts.refused == 1
    trio.tell(EVA, ANA, Stops(Term(2), [lease("t3", 4)]))
    assert trio[EVA].stopped == []
    trio.said.clear()
    trio.tell(EVA, ANA, ReportWanted(Term(2)))
    assert trio.messages(NodeReport) == []


def test_reports_that_come_to_a_node_out_of_office_are_ignored() -> None:
    """ana is deposed; what is still addressed to her changes nothing, and is told to ben by its owner."""
    trio = three_run()
    trio.cut(ANA)
    trio.run(2_500)
    before = trio[ANA].node.ledger.applied_index
    outcome = AttemptOutcome(TaskId("t3"), FencingToken(4), encode("t3"))
    trio.tell(ANA, EVA, Reports([outcome]))
    trio.tell(ANA, EVA, NodeReport(Term(2), 1, 4, (), [lease("t3", 4)], []))
    trio.run(500)
    assert trio[ANA].node.ledger.applied_index == before
    assert trio[ANA].node.raft.last_index <= before + 1


def test_watchers_are_told_after_a_fail_over_when_they_ask_again() -> None:
    """ben's client waited at ana, who is dead. It hears of the new leader, asks again, and is told in time."""
    trio = settled()
    client = trio.client(BEN)
    client.submit(spec("t1"), spec("t2"), spec("t3"))
    trio.run(20)
    trio.ends(EVA, "t3", 4)
    trio.kill(ANA)
    trio.run(1_000)
    leader = trio.leader.name
    assert client.told(LeaderHint)[-1] == LeaderHint(trio[leader].node.raft.term, leader, f"{leader}:7000")
    assert client.told(TasksEnded) == []
    client.watch("t1", "t2", "t3")
    trio.run(20)
    assert client.told(TasksEnded) == [TasksEnded([TaskEnd(TaskId("t3"), COMPLETED, encode("t3"), "", "", EVA, 1)])]
    trio.ends(BEN, "t2", 4)
    trio.run(20)
    assert client.told(TasksEnded)[1:] == [TasksEnded([TaskEnd(T2, COMPLETED, encode("t2"), "", "", BEN, 1)])]


def test_an_old_leader_that_comes_back_follows_and_its_lost_entries_are_nobodys() -> None:
    """What ana took in while she was cut off is replaced by what the others agreed on."""
    trio = settled()
    trio.cut(ANA)
    trio.client(ANA).submit(spec("mine"))
    trio.run(2_500)
    trio.client(BEN).submit(spec("theirs"))
    trio.run(20)
    trio.heal()
    trio.run(500)
    ana = trio[ANA].node
    assert (ana.raft.leader_id, ana.ledger.digest) == (BEN, trio[BEN].node.ledger.digest)
    assert list(ana.ledger.tasks) == ["theirs"]


def test_what_was_on_its_way_in_an_old_office_takes_no_room_in_the_next() -> None:
    """One entry may be in flight. ana's was replaced by ben's no-op; leader again, she takes in work as ever."""
    trio = settled(dispatch=DispatchConfig(entries_in_flight_max=1))
    trio.cut(ANA)
    trio.client(ANA).submit(spec("lost"))
    trio.run(2_500)
    assert trio.leader.name == BEN
    trio.heal()
    trio.run(500)
    trio.client(BEN).order(Action.TRANSFER, "ana")
    trio.run(200)
    assert trio.leader.name == ANA
    client = trio.client(ANA)
    client.submit(spec("t1"))
    trio.run(50)
    assert [reply.task_ids for reply in client.told(Accepted)] == [["t1"]]


@pytest.mark.parametrize("silent", [True, False])
def test_all_three_restart_at_once_and_everything_is_back(silent: bool) -> None:
    """Issue 2, 7: power failure. Accepted tasks are there; what ran is lost with its processes and runs again, once."""
    trio = three_run()
    client = trio.client(ANA)
    client.submit(spec("waits", capability="nobody"))
    trio.run(20)
    assert client.told(Accepted) == [Accepted(LogIndex(8), [TaskId("waits")])]
    trio.ends(ANA, "t1", 4)
    trio.run(2_000)
    for name in ALL:
        trio.kill(name, silent=silent)
    trio.run(1_000)
    for name in ALL:
        trio.start(name)
    trio.run(3_000)
    ledger = trio.leader.node.ledger
    assert sorted(ledger.tasks) == ["t2", "t3", "waits"]
    assert ledger.is_same(spec("t1"))
    assert {record.incarnation for record in ledger.nodes.values()} == {Incarnation(2)}
    assert sorted(task for host in trio.hosts.values() for task, _ in host.runs) == ["t2", "t3"]
