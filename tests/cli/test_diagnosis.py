"""What `mesh doctor` makes of what a mesh says of itself (S4-41, S4-42). Pure: documents in, findings out."""

from typing import Any

import msgspec
import pytest

from mesh.documents import (
    Agents,
    AgentView,
    BreakerView,
    CapabilityQueue,
    DeadLetterGroup,
    DeadLetterGroups,
    Explanation,
    NodeVerdict,
    NodeView,
    Queues,
    RaftPeer,
    RaftStatus,
    SettingsView,
    Status,
    TaskCounts,
)
from mesh.ledger.queue import POSITIONS_MAX
from nodes.cli.diagnosis import EXPLAINED_MAX, Evidence, Finding, findings, to_explain

CAST = ("ana", "ben", "eva")
AT_MS = 1_790_000_000_000


def node(name: str, **changes: Any) -> NodeView:
    view = NodeView(name, f"{name}:1", 7, "voter", name == "ana", "healthy", "active", ["code"], 4, 0, 120, 1)
    return msgspec.structs.replace(view, **changes)


def agent(name: str, **changes: Any) -> AgentView:
    view = AgentView(name, f"{name}:1", "general", "active", "healthy", 1.0, [], ["code"], {}, 4, 0, 0.1, 0.2)
    return msgspec.structs.replace(view, **changes)


def status(*nodes: NodeView, **changes: Any) -> Status:
    """Of ana, ben and eva, with these in their places."""
    cast = {name: node(name) for name in CAST} | {one.id: one for one in nodes}
    seen = Status(1, "c", "ana", 3, 812, True, False, list(cast.values()), TaskCounts(), "ana")
    return msgspec.structs.replace(seen, **changes)


def agents(*some: AgentView) -> Agents:
    cast = {name: agent(name) for name in CAST} | {one.id: one for one in some}
    return Agents("least_connections", list(cast.values()))


def queues(*some: CapabilityQueue, live: int = 0, dead: int = 0) -> Queues:
    return Queues(list(some), {}, live, 1_000, dead, 100)


def raft(*peers: RaftPeer) -> RaftStatus:
    return RaftStatus("ana", "leader", "ana", 3, 812, 812, 1, 812, True, "", list(peers))


def explained(reason: str, **changes: Any) -> Explanation:
    return msgspec.structs.replace(Explanation("t1", "pending", reason, "So it is.", 0, None, [], []), **changes)


WAITS = CapabilityQueue("code", 12, 3, 90_000)


def found(**parts: Any) -> list[Finding]:
    """What is found where all is well but for these parts."""
    settings = SettingsView({"health_permille_min": 500, "reserve_permille": 50}, 1)
    well: dict[str, Any] = {
        "status": status(),
        "agents": agents(),
        "queues": queues(),
        "settings": settings,
        "dead_letters": DeadLetterGroups([]),
        "raft": raft(),
    }
    return findings(Evidence(**(well | parts)))


def test_a_mesh_that_is_well_has_nothing_wrong() -> None:
    """Nor has one that works: tasks run and wait, some have failed, nodes are busy."""
    assert found() == []
    assert (
        found(
            queues=queues(WAITS, live=700, dead=79),
            agents=agents(agent("ana", status="busy", running=4, health_score=0.9, causes=["busy (-0.10)"])),
            raft=raft(RaftPeer("ben", "ben:1", "voter", 800, 12, "replicate")),
            waiting={"code": [explained("no_free_node", rejected={"load": 3})]},
        )
        == []
    )


# --- who leads ---


def test_without_a_quorum_it_is_said_who_is_missing_and_how_to_come_back() -> None:
    seen = status(
        node("ana", health="failed", last_heartbeat_ms=4_000),
        node("eva", health="failed", last_heartbeat_ms=90_000),
        leader=None,
        quorum=False,
        stale=True,
        served_by="ben",
    )
    first, second, third = found(status=seen)
    assert first == Finding(
        "critical",
        "There is no quorum: nothing is accepted, and nothing is begun.",
        "Of 3 voters, 2 have failed, as ben sees it: ana, eva.",
        "Start them again. If a majority of the voters is lost for good, one survivor can go on alone: "
        "mesh raft recover.",
    )
    assert second == Finding(
        "serious",
        "ana has failed.",
        "Its last heartbeat came 4.0 s ago. It is a voter: none more may be lost before there is no quorum.",
        "Start it again. If it is lost for good: mesh node forget ana.",
    )
    assert third.why.startswith("Its last heartbeat came 1.5 min ago.")


def test_with_a_quorum_and_no_leader_it_says_to_wait_and_then_to_look_at_the_network() -> None:
    [finding] = found(status=status(leader=None, quorum=False, stale=True, served_by=""))
    assert finding == Finding(
        "critical",
        "Nobody leads: nothing is accepted, and nothing is begun.",
        "Of 3 voters, 3 are there, as the node that answered sees it, and in term 3 none of them has been elected.",
        "Ask again in some seconds. If it stays so, see that the voters reach each other at the addresses that "
        "mesh members shows.",
    )


def test_a_leader_that_answers_nothing_is_named() -> None:
    """One voter of three has failed, ben follows ana, and a read found no majority."""
    seen = status(node("eva", health="failed"), stale=True, served_by="ben")
    first, second = found(status=seen)
    assert first == Finding(
        "critical",
        "ana leads, and does not answer for the mesh.",
        "No answer came in time that a majority stands behind, as ben sees it.",
        "Ask again in some seconds. If it stays so, look at the log of ana and at its machine.",
    )
    assert second.what == "eva has failed."


def test_tables_that_differ_are_critical() -> None:
    [finding] = found(status=status(counters={"tables_differ": 1_200, "gossip": 3}))
    assert (finding.severity, finding.what) == ("critical", "Two nodes have different tables at one place in the log.")
    assert finding.why == "ana has noticed it 1,200 times since it was started; its log says of whom."
    assert "mesh node forget" in finding.do


# --- room ---


@pytest.mark.parametrize(
    ("dead", "severity", "what"),
    [
        (80, "serious", "Soon no task will be accepted: there are many dead letters."),
        (100, "critical", "No task is accepted any more: there are too many dead letters."),
    ],
)
def test_dead_letters_near_their_limit_are_told_with_what_most_died_of(dead: int, severity: str, what: str) -> None:
    group = DeadLetterGroup("mail", "TimeoutError: # s", 61, 1, 2, "t9")
    other = DeadLetterGroup("code", "ValueError: no", 9, 1, 2, "t8")
    assert found(queues=queues(dead=dead), dead_letters=DeadLetterGroups([group, other])) == [
        Finding(
            severity,
            what,
            f"There are {dead} dead letters, and 100 are the limit. Most frequent: 61 of mail, TimeoutError: # s.",
            "Look at them with mesh dlq list --group; then mesh dlq retry or mesh dlq drop.",
        )
    ]


@pytest.mark.parametrize(
    ("live", "severity", "what", "why"),
    [
        (760, "serious", "The mesh is nearly full.", ""),
        (950, "critical", "The mesh is full: tasks are refused.", " From 950 on only urgent ones are taken."),
        (1_000, "critical", "The mesh is full: tasks are refused.", ""),
    ],
)
def test_live_tasks_near_their_limit_are_told(live: int, severity: str, what: str, why: str) -> None:
    """5 % of 1,000 are kept for the urgent, so 950 are all for the others; and 760 are near that."""
    [finding] = found(queues=queues(live=live))
    assert (finding.severity, finding.what) == (severity, what)
    assert finding.why == f"The mesh holds {live:,} tasks, dead letters included, and 1,000 are the limit.{why}"
    assert "mesh queue clear" in finding.do


def test_just_below_it_nothing_is_said() -> None:
    assert found(queues=queues(live=759, dead=79)) == []


# --- nodes ---


def test_s4_41_a_node_that_was_never_heard_has_not_been_discovered() -> None:
    silent = node("eva", health="failed", incarnation=0)
    [finding] = found(status=status(silent))
    assert finding == Finding(
        "serious",
        "eva has not been discovered.",
        "It takes part in the mesh at eva:1, and no heartbeat of it was ever heard by ana.",
        "See that it runs, that its four ports can be reached from the other nodes, and that it has the same secret. "
        "If it is not to come back: mesh node forget eva.",
    )
    [finding] = found(status=status(silent, served_by=""))
    assert finding.why.endswith("was ever heard.")


def test_how_many_more_voters_may_be_lost_is_said_of_voters() -> None:
    five = [node("fay"), node("gil")]
    [voter] = found(status=status(node("ben", health="failed"), *five))
    assert voter.why.endswith("It is a voter: 1 more may be lost before there is no quorum.")
    [worker] = found(status=status(node("fay", health="failed", role="learner", last_heartbeat_ms=900)))
    assert worker.why == "Its last heartbeat came 900 ms ago."


@pytest.mark.parametrize("health", ["degraded", "recovering"])
def test_a_node_that_is_not_well_is_worth_knowing(health: str) -> None:
    [finding] = found(status=status(node("ben", health=health, failure_count=3)))
    assert (finding.severity, finding.what) == ("minor", f"ben is {health}.")
    assert finding.why == "Its last heartbeat came 120 ms ago; it has failed 3 times."


def test_what_a_node_says_of_its_trouble_is_passed_on() -> None:
    [finding] = found(status=status(node("ben", trouble="The disk failed: no space left.")))
    assert (finding.severity, finding.what, finding.why) == (
        "serious",
        "ben is in trouble.",
        "It says: The disk failed: no space left.",
    )


def test_a_node_that_left_is_missed_by_nobody() -> None:
    gone = node("fay", health="failed", admin="left", role="learner", trouble="old")
    assert found(status=status(gone), agents=agents(agent("fay", status="inactive", health_score=0.0))) == []


# --- agents ---


def test_s4_41_no_active_agents() -> None:
    """One has failed, one is silent, one is being drained."""
    some = (
        agent("ana", status="inactive", health="failed", health_score=0.0),
        agent("ben", status="stale", health="degraded"),
        agent("eva", status="inactive"),
    )
    assert found(agents=agents(*some)) == [
        Finding(
            "serious",
            "No agent is active: nothing is begun.",
            "ana is failed; ben is degraded; eva is draining.",
            "Start nodes, or end their draining with mesh node undrain ID.",
        )
    ]
    [finding] = found(agents=Agents("random", []))
    assert finding.why == "There is none."


def test_s4_41_agents_without_handlers_are_no_help() -> None:
    [finding] = found(agents=agents(*(agent(name, capabilities=[]) for name in CAST)))
    assert (finding.what, finding.why) == (
        "No active agent offers anything: nothing is begun.",
        "ana, ben, eva run no handlers.",
    )
    assert "--app" in finding.do


def test_nodes_with_a_low_score_are_named_with_its_causes() -> None:
    some = (
        agent("ana", health_score=0.4, causes=["2 heartbeats missed (-0.50)", "busy (-0.10)"]),
        agent("ben", health_score=0.74),
        agent("eva", health_score=0.75, causes=["a little"]),
    )
    low, lower = found(agents=agents(*some))
    assert low == Finding(
        "serious",
        "ana is given no tasks: it does too badly.",
        "Its health score is 0.40: 2 heartbeats missed (-0.50); busy (-0.10). Below 0.50 none is given.",
        "Look at its machine and its log, and at mesh agent show ana.",
    )
    assert (lower.severity, lower.what) == ("minor", "ben does badly.")
    assert lower.why == "Its health score is 0.74: no cause is given."


# --- tasks that wait ---


def test_s4_41_what_nobody_offers_waits_for_ever() -> None:
    waits = CapabilityQueue("fly", 1, 0, 7_200_000)
    assert found(queues=queues(waits), agents=agents(agent("eva", capabilities=[]))) == [
        Finding(
            "serious",
            "1 task waits for 'fly', which no agent offers.",
            "ana offers code; ben offers code; eva offers nothing. The first has waited 2.0 h.",
            "Start a node whose app has it (--app MODULE:ATTRIBUTE), or cancel them: mesh task cancel capability=fly.",
        )
    ]


def test_s4_41_what_only_inactive_agents_offer_waits_for_them() -> None:
    eva = agent("eva", status="inactive", capabilities=["fly"])
    [finding] = found(queues=queues(CapabilityQueue("fly", 3, 0, 400_000_000)), agents=agents(eva))
    assert finding == Finding(
        "serious",
        "3 tasks wait for 'fly', and no agent that offers it is active.",
        "eva is draining. The first has waited 4.6 d.",
        "Start them again, or end their draining with mesh node undrain ID.",
    )


def test_where_nobody_is_active_both_are_said() -> None:
    """That nobody is, first; then what waits because of it."""
    idle = agents(*(agent(name, status="inactive") for name in CAST))
    assert [finding.what for finding in found(agents=idle, queues=queues(CapabilityQueue("fly", 2, 0, 5)))] == [
        "No agent is active: nothing is begun.",
        "2 tasks wait for 'fly', which no agent offers.",
    ]


def test_a_paused_queue_is_told_with_its_reason_and_its_end() -> None:
    paused = CapabilityQueue("code", 2, 0, 5_000, True, AT_MS, "the server is down")
    assert found(queues=queues(paused), waiting={"code": [explained("no_free_node")]}) == [
        Finding(
            "minor",
            "The queue of 'code' is paused until 2026-09-21T14:13:20.000Z.",
            "Somebody ordered it; 2 tasks wait. Reason: the server is down.",
            "When the reason is gone: mesh queue resume code.",
        )
    ]
    [finding] = found(queues=queues(CapabilityQueue("fly", 0, 0, 0, True)))
    assert (finding.what, finding.why) == (
        "The queue of 'fly' is paused.",
        "Somebody ordered it; 0 tasks wait.",
    )


def test_s4_41_tasks_that_no_node_will_do_for_are_told_with_what_each_lacks() -> None:
    """Whoever only does not offer it is not named."""
    verdicts = [
        NodeVerdict("ana", False, "has gpu='', not 'yes'", "labels"),
        NodeVerdict("ben", False, "does not offer 'code' (it offers mail)", "capability"),
    ]
    seen = explained("no_free_node", nodes=verdicts, rejected={"labels": 1, "capability": 1})
    assert found(queues=queues(WAITS), waiting={"code": [seen]}) == [
        Finding(
            "serious",
            "12 tasks wait for 'code', and no node will do.",
            "Of t1: ana has gpu='', not 'yes'.",
            "See mesh task explain t1. Give a node what is asked for, or cancel what asks for it.",
        )
    ]


def test_s4_41_tasks_that_wait_though_a_node_is_free() -> None:
    seen = explained("next", position=3, summary="A node is free for it; 3 tasks are before it.")
    assert found(queues=queues(WAITS), waiting={"code": [seen, seen]}) == [
        Finding(
            "serious",
            "12 tasks wait for 'code' though a node is free.",
            "t1 has not come nearer: A node is free for it; 3 tasks are before it.",
            "Ask again. If it stays so, let another node lead (mesh raft transfer ID), and report it.",
        )
    ]


@pytest.mark.parametrize(
    "looks",
    [
        [explained("next")],
        [explained("next", position=9), explained("next", position=8)],
        [explained("next", position=POSITIONS_MAX), explained("next", position=POSITIONS_MAX)],
        [explained("next"), explained("running", position=None)],
        [explained("held_back"), explained("next")],
        [explained("waiting"), explained("waiting")],
        [explained("no_free_node", rejected={"load": 1, "labels": 2})],
        [],
    ],
    ids=["one look", "nearer", "too far to tell", "begun", "let go", "unknown", "busy", "none seen"],
)
def test_a_queue_that_moves_or_is_only_busy_is_in_order(looks: list[Explanation]) -> None:
    assert found(queues=queues(WAITS), waiting={"code": looks}) == []


def test_a_task_without_a_known_place_that_stays_next_is_stuck() -> None:
    seen = explained("next", position=None)
    assert [finding.severity for finding in found(queues=queues(WAITS), waiting={"code": [seen, seen]})] == ["serious"]


def test_what_is_held_back_by_its_own_limits_is_told_with_them() -> None:
    seen = explained("held_back", held_back_by=["3 tasks run under concurrency key 'k', 3 may", "rate 'r' is used up"])
    assert found(queues=queues(WAITS), waiting={"code": [seen, seen]}) == [
        Finding(
            "minor",
            "12 tasks wait for 'code', held back though nodes are there.",
            "Of t1: 3 tasks run under concurrency key 'k', 3 may; rate 'r' is used up.",
            "If that is not what is wanted, give the key or the rate a higher limit in what is submitted from now on.",
        )
    ]


def test_what_to_ask_of_is_what_waits_and_might_go_the_longest_wait_first() -> None:
    some = (
        CapabilityQueue("code", 1, 0, 5),
        CapabilityQueue("mail", 1, 0, 9),
        CapabilityQueue("draw", 1, 0, 9),
        CapabilityQueue("idle", 0, 4, 0),
        CapabilityQueue("held", 1, 0, 9, True),
        CapabilityQueue("fly", 1, 0, 9),
        CapabilityQueue("far", 1, 0, 9),
    )
    ben = agent("ben", capabilities=["code", "mail", "draw", "idle", "held"])
    eva = agent("eva", status="inactive", capabilities=["far"])
    assert to_explain(agents(ben, eva), queues(*some)) == ["draw", "mail", "code"]
    many = [CapabilityQueue(f"c{number}", 1, 0, number) for number in range(EXPLAINED_MAX + 5)]
    able = agent("ben", capabilities=[one.capability for one in many])
    asked = to_explain(agents(able), queues(*many))
    assert (len(asked), asked[0]) == (EXPLAINED_MAX, f"c{EXPLAINED_MAX + 4}")


# --- breakers ---


def test_s2_22_open_breakers_are_worse_where_nobody_is_left() -> None:
    opened = BreakerView("code", "open", 5, AT_MS)
    [one] = found(agents=agents(agent("ana", breakers=[opened, BreakerView("mail", "half_open", 9, AT_MS)])))
    assert one == Finding(
        "minor",
        "Not every node is trusted with 'code' just now.",
        "ana failed 5 times in a row, is tried again at 2026-09-21T14:13:20.000Z.",
        "See what fails: mesh dlq list --group, mesh task show ID. Once it is mended a breaker closes by itself, "
        "or at once: mesh agent close-breaker NODE code.",
    )
    [once] = found(agents=agents(agent("ana", breakers=[BreakerView("code", "open", 1)])))
    assert once.why == "ana failed once."
    shut = BreakerView("code", "open", 6)
    [none] = found(agents=agents(*(agent(name, breakers=[shut]) for name in CAST)))
    assert (none.severity, none.what) == ("serious", "No node is trusted with 'code' just now.")
    assert none.why == "ana failed 6 times in a row; ben failed 6 times in a row; eva failed 6 times in a row."


# --- the log, and the order of all ---


def test_a_node_that_is_far_behind_is_named_unless_it_has_failed() -> None:
    peers = [RaftPeer(name, f"{name}:1", "voter", 1, 10_001, "probe") for name in ("ben", "eva")]
    seen = found(status=status(node("eva", health="failed")), raft=raft(*peers))
    assert [finding.what for finding in seen] == ["eva has failed.", "ben is far behind."]
    assert seen[1].why == "It lacks 10,001 entries of the log."


def test_the_worst_comes_first() -> None:
    seen = found(
        status=status(node("ben", health="degraded"), node("eva", health="failed"), counters={"tables_differ": 1}),
        queues=queues(CapabilityQueue("fly", 0, 0, 0, True), dead=100),
    )
    assert [finding.severity for finding in seen] == ["critical", "critical", "serious", "minor", "minor"]
