"""Members that come and go, disks that are lost: the simulated doors, disks and limits, and the rules they serve."""

from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from mesh.admission import Roll
from mesh.durable import Configuration, EntryKind, Member
from mesh.events import Event, Knocked, Leave, LinkDown, LinkUp, TurnedAway
from mesh.ids import Incarnation, LogIndex, NodeId
from mesh.ledger import commands
from mesh.messages import Action
from mesh.raft.replica import Role
from mesh.sim import invariants_membership as membership
from mesh.sim import invariants_raft as raft
from mesh.sim.campaign import Totals
from mesh.sim.coverage import REQUIRED
from mesh.sim.disk import Disk
from mesh.sim.logbook import row as logbook_row
from mesh.sim.logbook import with_row
from mesh.sim.machine import Machine
from mesh.sim.plan import calm, draw
from mesh.sim.record import Record, Seen
from mesh.sim.schedule import dice
from mesh.sim.world import Verdict, World
from tests.sim.cast import disk, entry, replica
from tests.sim.test_invariants import SPEC, T1, Both, breaks, record
from tests.sim.test_parts import Wires


def configuration(*voters: str, learners: tuple[str, ...] = (), forgotten: tuple[str, ...] = ()) -> Configuration:
    """Members written `n1-1`: node id and the number of its log."""

    def member(mark: str) -> Member:
        name = mark.partition("-")[0]
        return Member(NodeId(name), f"{name}:7000", mark if "-" in mark else "")

    return Configuration(tuple(map(member, voters)), tuple(map(member, learners)), forgotten)


def roll(index: int, members: Configuration) -> Roll:
    return Roll(LogIndex(index), True, members.members, members.forgotten)


# --- doors ------------------------------------------------------------------------------------------------------------


def told(wires: Wires, kind: type[Event]) -> list[tuple[str, Event]]:
    return [(to, event) for to, event in wires.arrived if isinstance(event, kind)]


def test_a_link_that_a_new_roll_does_not_allow_is_cut_and_both_ends_are_told() -> None:
    """n1 learns that n3 was removed. n3 knocks again and again, and hears that it is a stranger; its knock is heard
    once a second.
    """
    wires = Wires()
    wires.hosts["n1"].roll = roll(5, configuration("n1-1", "n2-1"))
    wires.network.admission_changed("n1")
    wires.pass_ms(3_000)
    assert dict(told(wires, LinkDown)) == {
        "n1": LinkDown(NodeId("n3")),
        "n3": LinkDown(NodeId("n1")),
    }
    assert set(told(wires, TurnedAway)) == {("n3", TurnedAway(NodeId("n1"), 1, 5))}
    knocks = told(wires, Knocked)
    assert set(knocks) == {("n1", Knocked(NodeId("n3"), "n3:7000", "n3-1"))}
    assert 2 <= len(knocks) <= 4
    assert told(wires, LinkUp) == []


def test_whoever_is_let_in_again_is_linked_soon() -> None:
    wires = Wires()
    wires.hosts["n1"].roll = roll(5, configuration("n1-1", "n2-1"))
    wires.network.admission_changed("n1")
    wires.pass_ms(200)
    wires.hosts["n1"].roll = roll(6, configuration("n1-1", "n2-1", learners=("n3-1",)))
    wires.network.admission_changed("n1")
    wires.pass_ms(200)
    assert sorted(told(wires, LinkUp), key=lambda pair: pair[0]) == [
        ("n1", LinkUp(NodeId("n3"), 1, "n3-1")),
        ("n3", LinkUp(NodeId("n1"), 1, "n1-1")),
    ]


def test_nothing_comes_late_from_a_log_that_is_lost() -> None:
    """n2 hears each message of n1 again within a minute, unless one of the two has another log by then."""
    wires = Wires(replay=1_000)
    wires.send(100)
    wires.pass_ms(100)
    on_time = len(wires.heard())
    wires.hosts["n2"].mark = "n2-2"
    wires.pass_ms(70_000)
    assert 100 <= on_time < 110
    assert len(wires.heard()) == on_time
    assert wires.coverage.counts["message of a lost log dropped"] == 200 - on_time


def test_a_publication_reaches_only_those_who_are_linked() -> None:
    wires = Wires()
    wires.hosts["n1"].roll = roll(5, configuration("n1-1", "n2-1"))
    wires.network.admission_changed("n1")
    wires.pass_ms(50)
    wires.arrived.clear()
    wires.network.publish("n3", b"beat")
    wires.pass_ms(50)
    assert [to for to, event in wires.arrived if not isinstance(event, Knocked | TurnedAway)] == ["n2"]


# --- disks ------------------------------------------------------------------------------------------------------------


def test_a_disk_that_was_lost_still_answers_for_what_it_had() -> None:
    """n2 acknowledged entry 3 and lost its disk: whoever asks for its first log is told so, for its second not."""
    lost = disk("n2", 2, 2)
    lost.renew("wiped")
    first, second = configuration("n2-1").voters[0], configuration("n2-2").voters[0]
    assert (lost.mark, lost.loss, lost.log.last_index) == ("n2-2", "wiped", 0)
    assert (lost.held(first, 3, 2), lost.held(first, 4, 2), lost.held(second, 3, 2)) == (True, False, False)
    assert (lost.is_of(first), lost.is_of(second)) == (False, True)


def _flipped(one: Disk) -> None:
    one.flip_a_bit(dice(1, "bits"))


@pytest.mark.parametrize("harm", [_flipped, lambda one: one.tear(), lambda one: one.restore_backup(2)])
def test_a_damaged_disk_is_not_what_it_was_and_is_known_to_be_damaged(harm: Callable[[Disk], None]) -> None:
    one, whole = disk("n1", 2, 2, term=2), disk("n1", 2, 2, term=2)
    harm(one)
    assert one.log.entries != whole.log.entries
    assert not one.is_whole
    assert not one.is_of(configuration("n1-1").voters[0])
    assert one.held(configuration("n1-1").voters[0], 3, 2)


# --- what the mesh promises to survive --------------------------------------------------------------------------------


def grown(nodes: int = 3, **changes: Any) -> World:
    """A calm mesh that has given its logs names, and done some work."""
    world = World(calm(31, nodes=nodes, **changes))
    world.run_ms(3_000)
    assert world.leader_id() is not None
    assert all(member.mark for member in world.checker.committed_configuration()[1].members)
    return world


def follower(world: World) -> Machine:
    return next(machine for machine in world.machines if machine.is_up and machine.node_id != world.leader_id())


def test_no_more_disks_are_lost_than_the_mesh_promises_to_survive() -> None:
    """Of three one may be lost; then none, until the one that came back has a vote again; then one more."""
    world = grown()
    first = follower(world)
    assert world.upheaval.wipe(first)
    assert [world.upheaval.wipe(machine) for machine in world.machines] == [False] * 3
    first.start()
    world.run_ms(12_000)
    voters = world.checker.committed_configuration()[1].voters
    assert sorted(voter.mark for voter in voters if voter.node_id == first.node_id) == [f"{first.node_id}-2"]
    assert world.upheaval.wipe(next(machine for machine in world.machines if machine is not first))
    world.settle()


def test_the_only_disk_is_never_lost() -> None:
    world = grown(nodes=1)
    assert not world.upheaval.wipe(world.machines[0])


def test_no_disk_is_lost_before_its_log_has_a_name() -> None:
    world = World(calm(31))
    for machine in world.machines:
        machine.start()
    assert not any(world.upheaval.wipe(machine) for machine in world.machines)


def test_no_disk_is_lost_while_those_who_know_no_names_could_found_the_mesh_again() -> None:
    """n4 and n5 never heard anything. Were n3 to lose its log as well, the three would be a majority of founders."""
    world = World(calm(12, nodes=5))
    for one in ("n1", "n2", "n3"):
        for other in ("n4", "n5"):
            world.network.cut(one, other)
            world.network.cut(other, one)
    world.run_ms(4_000)
    assert world.checker.acked_ids()
    assert not world.upheaval.wipe(world.machine("n3"))


def test_a_log_that_was_begun_to_join_founds_nothing() -> None:
    """As before, but n3 comes back to join: it does not vote for founders who take it for what it was. Nobody is
    elected until those who know better are back, and then nothing is lost.
    """
    world = World(calm(12, nodes=5))
    few, many = ("n4", "n5"), ("n1", "n2")
    for one, other in [(one, other) for one in few for other in ("n1", "n2", "n3")]:
        world.network.cut(one, other)
        world.network.cut(other, one)
    world.run_ms(4_000)
    lost = world.machine("n3")
    lost.crash(silent=False, keeps_permille=0)
    lost.renew_disk("damaged", is_founding=False)
    for one in few:
        world.network.mend(one, "n3")
        world.network.mend("n3", one)
    for one in many:
        world.network.cut(one, "n3")
        world.network.cut("n3", one)
    lost.start()
    world.run_ms(8_000)
    assert world.checker.acked_ids()
    assert [machine.node.raft.role for machine in world.machines].count(Role.LEADER) == 0
    world.settle()


# --- stories ----------------------------------------------------------------------------------------------------------


def test_a_wiped_follower_is_taken_in_again_and_its_old_vote_is_gone() -> None:
    """It starts with the founding list, is turned away as replaced, and comes back with another mark."""
    world = grown()
    lost = follower(world)
    assert world.upheaval.wipe(lost)
    lost.start()
    world.run_ms(10_000)
    member = world.checker.committed_configuration()[1].member(NodeId(lost.node_id))
    assert member is not None
    assert member.mark == lost.mark == f"{lost.node_id}-2"
    assert world.coverage.counts["wiped node came back"] == 1
    world.settle()


def test_a_node_with_a_damaged_disk_sets_it_aside_and_joins() -> None:
    world = grown()
    harmed = follower(world)
    harmed.crash(silent=False, keeps_permille=1_000)
    harmed.disk.flip_a_bit(dice(1, "bits"))
    harmed.start()
    assert (harmed.mark, harmed.node.config.voters, harmed.node.config.trouble) == (
        f"{harmed.node_id}-2",
        (),
        "a flipped bit in the log",
    )
    world.run_ms(10_000)
    assert world.coverage.counts["damaged node came back"] == 1
    world.settle()


def test_spares_join_and_are_given_votes() -> None:
    """Two founders, two spares, three voters wanted."""
    world = grown(nodes=2, spare_ids=("n3", "n4"))
    world.run_ms(5_000)
    last = world.checker.committed_configuration()[1]
    assert (len(last.members), len(last.voters)) == (4, 4)
    world.settle()


def test_a_node_that_is_told_to_leave_hands_over_and_ends() -> None:
    """The leader, with work on its hands. Nothing is charged for what it gives back, and another leads."""
    world = grown(attempt_us=300_000)
    old = world.leader_id()
    assert old is not None
    machine = world.machine(old)
    machine.receive(Leave(200))
    world.run_ms(4_000)
    assert not machine.is_up
    assert world.coverage.counts["node left"] == 1
    assert world.leader_id() not in (None, old)
    machine.start()
    world.settle()


def test_a_removed_node_retires_and_stays_out() -> None:
    world = grown(nodes=5)
    gone = follower(world)
    world.operator.order(Action.FORGET, gone.node_id, insist=4)
    world.run_ms(5_000)
    assert world.checker.committed_configuration()[1].member(NodeId(gone.node_id)) is None
    assert (gone.is_up, gone.is_parked) == (False, True)
    world.settle()
    assert not gone.is_up


def test_a_vote_is_taken_by_an_entry_that_only_its_owner_has_on_disk() -> None:
    """Of two founders one leads and takes the other's vote. Its disk hangs, and it dies with what it has not written:
    now only the one whose vote was taken knows of that, and his log is the longer one.
    """
    world = World(calm(7, nodes=2))
    world.run_ms(2_000)
    other = follower(world)
    leader = world.machine(world.leader_id() or "")
    leader.storage.stalled_until_us = world.schedule.now_us + 300_000
    world.operator.order(Action.REMOVE_VOTER, other.node_id, insist=4)
    world.run_ms(200)
    leader.crash(silent=False, keeps_permille=0)
    world.run_ms(2_000)
    leader.start()
    votes = {machine.node_id: machine.node.raft.configuration.voter_ids for machine in (leader, other)}
    assert votes == {leader.node_id: ("n1", "n2"), other.node_id: (leader.node_id,)}
    world.settle()
    assert world.coverage.counts["led without a vote"] == 1
    assert world.checker.committed_configuration()[1].voter_ids == (leader.node_id,)


# --- invariant 15 -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "bad",
    [
        configuration(learners=("n1-1",)),
        configuration("n1-1", "n1-2"),
        configuration("n1-1", learners=("n1-1",)),
        configuration("n1-1", "n2-1", forgotten=("n2-1",)),
        configuration(*(f"n{number}-1" for number in range(1, 9))),
    ],
)
def test_15_a_configuration_nobody_can_run_under(bad: Configuration) -> None:
    membership.well_formed("n1", configuration("n1-1", "n2-1", forgotten=("n2-0",)))
    with breaks("15 "):
        membership.well_formed("n1", bad)


def test_15_more_than_one_voter_at_once() -> None:
    """Giving names to logs changes nobody; a voter with another log is two steps."""
    membership.one_voter_apart("n1", configuration("n1", "n2"), configuration("n1-1", "n2-1"))
    membership.one_voter_apart("n1", configuration("n1-1", "n2-1"), configuration("n1-1", learners=("n2-2",)))
    for after in (configuration("n1-1", "n2-2"), configuration("n1-1", "n2-1", "n3-1", "n4-1"), configuration("n3-1")):
        with breaks("15 "):
            membership.one_voter_apart("n1", configuration("n1-1", "n2-1"), after)


def test_15_a_change_before_the_last_one_is_committed_or_before_an_entry_of_the_own_term() -> None:
    """n1 leads term 3. Its log ends with a configuration at 4; the one before is at 2; entry 3 is of its own term."""
    s = replica("n1", 2, 3, term=3)
    s.role = Role.LEADER
    s.log.append(msgspec.structs.replace(entry(4, 3), kind=EntryKind.CONFIGURATION, data=encoded("n1", "n2")))
    s.commit_index = LogIndex(3)
    membership.proposed_in_turn("n1", s, 2)
    with breaks("15 "):
        membership.proposed_in_turn("n1", s, 4)
    s.commit_index = LogIndex(2)
    with breaks("15 "):
        membership.proposed_in_turn("n1", s, 2)


def encoded(*voters: str) -> bytes:
    return msgspec.msgpack.encode(configuration(*voters))


def committed(seen: Record, *steps: Configuration) -> None:
    disks = {f"n{number}": Disk(f"n{number}") for number in range(1, 5)}
    for position, step in enumerate(steps):
        membership.configuration_committed(seen, len(seen.configurations) + position + 1, step, disks)


def test_15_a_log_that_was_removed_comes_back() -> None:
    """n2 is removed; its name may come back with another log, but not with the old one."""
    before = (configuration("n1-1", "n2-1"), configuration("n1-1"))
    committed(record(), *before, configuration("n1-1", learners=("n2-2",)))
    with breaks("15 "):
        committed(record(), *before, configuration("n1-1", learners=("n2-1",)))


def test_15_a_log_under_another_name() -> None:
    seen = record()
    committed(seen, configuration("n1-1", "n2-1"))
    mine = Member(NodeId("n3"), "n3:7000", "n2-1")
    with breaks("15 "):
        committed(seen, msgspec.structs.replace(configuration("n1-1", "n2-1"), learners=(mine,)))


def test_1_the_vote_of_a_lost_log_or_of_a_learner_elects_nobody() -> None:
    """n1 leads term 3 by its own vote and one of n2, which left with the log that n2 has now, not with the voter's."""
    seen = record()
    s = replica("n1", term=3)
    seen.votes["n2", "n2-2", 3] = "n1"
    with breaks("1 "):
        raft.elected_by_a_majority(seen, "n1", "n1-1", s)
    seen.votes["n2", "n2-1", 3] = "n1"
    raft.elected_by_a_majority(seen, "n1", "n1-1", s)
    with breaks("1 "):
        raft.elected_by_a_majority(seen, "n1", "n1-2", s)


def test_1_a_learner_leads_only_while_its_vote_may_yet_be_given_back() -> None:
    """n2 leads term 3 by the vote of n1, the only voter that is left. n2 had a vote until an entry of which it does not
    know that it is committed; n3 had none.
    """
    seen = record()
    seen.votes["n1", "n1-1", 3] = "n2"
    s = replica("n2", 2, term=3)
    for index, step in ((3, configuration("n1", "n2", learners=("n3",))), (4, configuration("n1", learners=("n2",)))):
        data = msgspec.msgpack.encode(step)
        s.log.append(msgspec.structs.replace(entry(index, 2), kind=EntryKind.CONFIGURATION, data=data))
    s.commit_index = LogIndex(3)
    raft.elected_by_a_majority(seen, "n2", "n2-1", s)
    for node_id, log in (("n2", "n2-2"), ("n3", "n3-1")):
        with breaks("1 "):
            raft.elected_by_a_majority(seen, node_id, log, s)
    seen.votes["n1", "n1-1", 3] = "n3"
    with breaks("1 "):
        raft.elected_by_a_majority(seen, "n2", "n2-1", s)
    seen.votes["n1", "n1-1", 3] = "n2"
    s.commit_index = LogIndex(4)
    with breaks("1 "):
        raft.elected_by_a_majority(seen, "n2", "n2-1", s)


def test_5_a_lost_log_holds_what_it_held_and_its_successor_does_not() -> None:
    """n1 commits entry 3; n2 had it, acknowledged it, and lost it. What n2 has now does not count."""
    s = replica("n1", 2, 2, term=2)
    s.commit_index = LogIndex(3)
    disks = {"n1": disk("n1", 2, 2), "n2": disk("n2", 2, 2), "n3": disk("n3", 2)}
    disks["n2"].renew("wiped")
    raft.committed_on_a_durable_quorum(record(), "n1", s, Seen(), disks)
    empty = Disk("n2")
    empty.renew("wiped")
    empty.log, empty.ledger = disk("n2", 2, 2).log, disk("n2").ledger
    with breaks("5 "):
        raft.committed_on_a_durable_quorum(record(), "n1", s, Seen(), disks | {"n2": empty})


def test_ledger_and_model_agree_on_a_node_that_leaves() -> None:
    """Its lease is given back uncharged; in this life it is not admitted again, in the next it is."""
    both = Both()
    both.apply(commands.StartTask(T1, both.grant()))
    both.apply(commands.LeaveNode(NodeId("n1"), Incarnation(1)))
    both.apply(commands.AdmitNode(NodeId("n1"), Incarnation(1)))
    both.check()
    assert (both.model.tasks[T1].attempts, both.model.nodes[NodeId("n1")].is_active) == (0, False)
    both.apply(commands.AdmitNode(NodeId("n1"), Incarnation(2)), commands.SubmitTask(SPEC))
    both.check()
    assert both.model.nodes[NodeId("n1")].is_active


# --- plans and the logbook --------------------------------------------------------------------------------------------


def test_plans_have_spares_and_every_number_of_wanted_voters() -> None:
    plans = [draw(seed) for seed in range(200)]
    assert {len(plan.spare_ids) for plan in plans} == {0, 1, 2, 3}
    assert {plan.membership.voters_wanted for plan in plans} == {1, 2, 3, 4, 5, 6, 7}
    for plan in plans:
        assert len(plan.slots) == len(plan.capabilities) == len(plan.host_ids)
        assert len(plan.spares_start_ms) == len(plan.spare_ids)


def test_a_campaign_is_added_to_the_logbook_and_to_its_total() -> None:
    """Two campaigns of 2 and 3 seeds; the second broke something."""
    text = "head\n<!-- total begin -->\n<!-- total end -->\n<!-- campaigns begin -->\n<!-- campaigns end -->\ntail\n"
    for first, count, invariant in ((0, 2, ""), (10, 3, "1 one leader per term")):
        totals = Totals()
        for seed in range(first, first + count):
            broken = invariant if seed == first + 1 else ""
            totals.add(Verdict(seed, 1_500, "trace", 3_600_000, dict.fromkeys(REQUIRED, 1), broken, "detail", ""))
        text = with_row(text, logbook_row(totals, range(first, first + count), "abc"))
    happened = f"{len(REQUIRED)} of {len(REQUIRED)} required, {len(REQUIRED)} kinds in all"
    assert text == (
        "head\n<!-- total begin -->\n"
        "**5 seeds, 7,500 events, 5.0 virtual hours, in 2 campaigns.**\n<!-- total end -->\n"
        "<!-- campaigns begin -->\n"
        "| commit | seeds | events | virtual hours | happened | findings |\n|---|---|---|---|---|---|\n"
        f"| `abc` | 0-1 | 3,000 | 2.0 | {happened} | none |\n"
        f"| `abc` | 10-12 | 4,500 | 3.0 | {happened} | seed 11: 1 one leader per term |\n"
        "<!-- campaigns end -->\ntail\n"
    )


def test_a_grant_that_comes_to_nothing_costs_a_task_its_turn() -> None:
    """n1 is drained by the same entry that grants t1 to it: nobody may say afterwards that t1 was overtaken."""
    both = Both()
    both.apply(commands.DrainNode(NodeId("n1"), True), commands.GrantLease(T1, NodeId("n1")))
    assert list(both.model.refused) == [T1]
    both.apply(commands.DrainNode(NodeId("n1"), False), commands.GrantLease(T1, NodeId("n1")))
    assert (list(both.model.refused), both.model.tasks[T1].token) == ([], both.model.index)
    both.check()
