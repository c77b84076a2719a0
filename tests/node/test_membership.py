"""Who takes part and who votes: what a leader proposes next, and what a node makes of being turned away."""

from typing import Any

import msgspec
import pytest

from mesh import events
from mesh.admission import Verdict
from mesh.config import MembershipConfig
from mesh.durable import Configuration, Entry, EntryKind, Member
from mesh.ids import LogIndex, NodeId, Term
from mesh.messages import Action, Answer, Append, Code, Heartbeat, Knock, Order
from mesh.node.membership import Facts, can_commit, next_change
from mesh.raft.configuration import with_marks, without
from mesh.raft.replica import Role
from mesh.wire.codec import encode
from tests.node.cast import ANA, BEN, EVA, Stage

KAI, ZOE = NodeId("kai"), NodeId("zoe")


def member(name: NodeId, mark: str = "1", *, held_back: bool = False) -> Member:
    return Member(name, f"{name}:1", f"{name}-{mark}", held_back)


def mesh(*voters: NodeId, learners: tuple[Member, ...] = (), forgotten: tuple[str, ...] = ()) -> Configuration:
    return Configuration(tuple(map(member, voters)), learners, forgotten)


def facts(**fields: Any) -> Facts:
    return Facts(**({"marks": {}, "newcomers": (), "caught_up": frozenset(), "failed_ms": {}} | fields))


FIVE = MembershipConfig(voters_wanted=5, replace_after_ms=60_000)
THREE = MembershipConfig(voters_wanted=3, replace_after_ms=60_000)
SEVEN = MembershipConfig(voters_wanted=7, replace_after_ms=60_000)
KAI_LEARNS = mesh(ANA, BEN, EVA, learners=(member(KAI),))
READY = {"caught_up": frozenset({KAI})}


@pytest.mark.parametrize(
    ("now", "seen", "settings", "expected"),
    [
        (mesh(ANA, BEN, EVA), {}, FIVE, None),
        (mesh(ANA, BEN, EVA), {"newcomers": (member(KAI),)}, FIVE, KAI_LEARNS),
        (mesh(ANA, BEN, EVA, forgotten=("kai-1",)), {"newcomers": (member(KAI),)}, FIVE, None),
        (KAI_LEARNS, {"newcomers": (member(KAI),)}, FIVE, None),
        (KAI_LEARNS, READY, FIVE, mesh(ANA, BEN, EVA, KAI)),
        (KAI_LEARNS, READY, THREE, None),
        (KAI_LEARNS, READY | {"failed_ms": {KAI: 0}}, FIVE, None),
        (mesh(ANA, BEN, EVA, learners=(member(KAI, held_back=True),)), READY, FIVE, None),
        (KAI_LEARNS, READY | {"failed_ms": {EVA: 59_999}}, THREE, None),
        (KAI_LEARNS, READY | {"failed_ms": {EVA: 60_000}}, THREE, mesh(ANA, BEN, EVA, KAI)),
        (KAI_LEARNS, {"failed_ms": {EVA: 60_000}}, THREE, None),
        (
            mesh(ANA, BEN, EVA, KAI),
            {"failed_ms": {EVA: 60_000}},
            THREE,
            mesh(ANA, BEN, KAI, learners=(member(EVA),)),
        ),
        (mesh(ANA, BEN, EVA, KAI), {"failed_ms": {EVA: 60_000}}, FIVE, mesh(ANA, BEN, KAI, learners=(member(EVA),))),
        (mesh(ANA, BEN, EVA), {"failed_ms": {EVA: 60_000}}, FIVE, None),
        (mesh(ANA), {"failed_ms": {ANA: 60_000}}, FIVE, None),
        (
            mesh(ANA, BEN, EVA),
            {"newcomers": (member(EVA, "2"),), "failed_ms": {EVA: 10}},
            FIVE,
            mesh(ANA, BEN, learners=(member(EVA, "2"),), forgotten=("eva-1",)),
        ),
        (mesh(ANA, BEN, EVA), {"newcomers": (member(EVA, "2"),)}, FIVE, None),
        (mesh(ANA, BEN, EVA), {"newcomers": (member(EVA, "2"),), "failed_ms": {BEN: 10, EVA: 10}}, FIVE, None),
        (KAI_LEARNS, READY | {"failed_ms": {BEN: 9, EVA: 9}}, FIVE, None),
    ],
    ids=[
        "all is well",
        "a newcomer becomes a learner",
        "unless its log was removed",
        "and is not taken in twice",
        "a learner that has caught up is given a vote",
        "not beyond the number wanted",
        "not while it is failed",
        "not against orders",
        "a failed voter keeps its place for a while",
        "then a learner gets a vote beside it",
        "if one has caught up",
        "and the failed voter loses its own",
        "an even number is better off without the failed one",
        "an odd number is not",
        "the last voter stays",
        "a lost disk comes back as a learner",
        "but not while the other one lives",
        "nor when no majority could agree to it",
        "no vote is given when no majority could agree to it",
    ],
)
def test_the_next_step(
    now: Configuration, seen: dict[str, Any], settings: MembershipConfig, expected: Configuration | None
) -> None:
    assert next_change(now, facts(**seen), settings) == expected


def test_of_seven_a_failed_one_makes_room_first() -> None:
    """There cannot be eight for a moment, so zoe goes before kai comes."""
    names = tuple(NodeId(f"n{number}") for number in range(6))
    full = mesh(*names, ZOE, learners=(member(KAI),))
    seen = facts(**READY, failed_ms={ZOE: 60_000})
    assert next_change(full, seen, SEVEN) == mesh(*names, learners=(member(KAI), member(ZOE)))
    assert next_change(full, facts(failed_ms={ZOE: 60_000}), SEVEN) is None


def test_logs_are_named_on_the_way() -> None:
    """With whatever comes next, or alone."""
    unnamed = Configuration((Member(ANA, "ana:1"), Member(BEN, "ben:1")))
    marks = {ANA: "ana-1", BEN: "ben-1"}
    assert next_change(unnamed, facts(marks=marks), FIVE) == mesh(ANA, BEN)
    seen = facts(marks=marks, newcomers=(member(KAI),))
    assert next_change(unnamed, seen, FIVE) == mesh(ANA, BEN, learners=(member(KAI),))


def test_a_mesh_takes_in_no_more_than_its_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.node.membership.MEMBERS_MAX", 3)
    seen = facts(newcomers=(member(KAI), member(EVA, "2")), failed_ms={EVA: 0})
    changed = next_change(mesh(ANA, BEN, EVA), seen, THREE)
    assert changed == mesh(ANA, BEN, learners=(member(EVA, "2"),), forgotten=("eva-1",)), "a replacement is none more"


def test_a_majority_of_the_living_commits() -> None:
    verdicts = [can_commit(mesh(ANA, BEN, EVA, KAI), facts(failed_ms=dict.fromkeys(gone, 0))) for gone in ((), (ANA,))]
    assert verdicts == [True, True]
    assert not can_commit(mesh(ANA, BEN, EVA, KAI), facts(failed_ms={ANA: 0, BEN: 0}))


# --- whole nodes ------------------------------------------------------------------------------------------------------


def knock(stage: Stage, at: NodeId, who: Member) -> None:
    stage.say(at, events.Knocked(who.node_id, who.address, who.mark))


def configuration(stage: Stage) -> Configuration:
    return stage.leader.raft.configuration


def test_a_newcomer_knocks_anywhere_learns_and_is_given_a_vote() -> None:
    """kai has nothing but his own name. ben, who follows, passes his knock on; a second later he votes."""
    stage = Stage(ANA, BEN, EVA, wanted=5)
    stage.start(KAI, voters=(), mark="kai-1")
    assert stage.admits[KAI].roll.members == () and stage.admits[KAI].since == 0
    follower = next(name for name, node in stage.nodes.items() if node.raft.role is Role.FOLLOWER and name != KAI)
    knock(stage, follower, member(KAI))
    stage.run(50)
    assert configuration(stage).learners == (member(KAI),)
    stage.run(2_000)
    kai = stage.nodes[KAI]
    assert configuration(stage).voter_ids == (ANA, BEN, EVA, KAI)
    assert (kai.ledger.digest, kai.raft.configuration) == (stage.leader.ledger.digest, configuration(stage))
    admitted = stage.admits[KAI]
    index = stage.leader.raft.configuration_index
    assert (admitted.roll.index, admitted.roll.is_committed, admitted.since) == (index, True, index)
    assert [name.node_id for name in admitted.roll.members] == [ANA, BEN, EVA, KAI]


def test_links_give_logs_their_names() -> None:
    """Whoever leads writes down what its links say, its own included."""
    stage = Stage(ANA, BEN)
    leader = stage.leader.node_id
    follower = BEN if leader == ANA else ANA
    stage.say(leader, events.LinkUp(follower, 1, f"{follower}-1"))
    stage.run(50)
    assert {m.node_id: m.mark for m in configuration(stage).voters}[follower] == f"{follower}-1"


def test_a_mesh_of_one_grows_to_five() -> None:
    stage = Stage(ANA, wanted=5)
    names = [NodeId(f"n{number}") for number in range(6)]
    for name in names:
        stage.start(name, voters=(), mark=f"{name}-1")
        knock(stage, ANA, member(name))
        stage.run(3_000)
    now = configuration(stage)
    assert now.voter_ids == (ANA, *names[:4])
    assert [learner.node_id for learner in now.learners] == names[4:]


def order(stage: Stage, action: Action, target: str) -> tuple[int, str] | None:
    stage.replies.clear()
    stage.ask(Order(1, action, target))
    stage.run(200)
    answers = [reply for reply in stage.replies if type(reply) is Answer]
    return (answers[-1].code, answers[-1].message) if answers else None


def led_by(stage: Stage, name: NodeId) -> Stage:
    """The same, with `name` in office."""
    if stage.leader.node_id != name:
        stage.ask(Order(1, Action.TRANSFER, name))
        stage.run(1_000)
    assert stage.leader.node_id == name
    return stage


def grown() -> tuple[Stage, NodeId, NodeId]:
    """A mesh of three and kai, who learns; with the names of who leads and of one that follows."""
    stage = Stage(ANA, BEN, EVA)
    stage.start(KAI, voters=(), mark="kai-1")
    knock(stage, stage.leader.node_id, member(KAI))
    stage.run(2_000)
    leader = stage.leader.node_id
    return stage, leader, next(name for name in (ANA, BEN, EVA) if name != leader)


def test_a_person_gives_and_takes_votes() -> None:
    """kai is given a vote, loses it, and is not given it again but by order."""
    stage, _, _ = grown()
    stage.membership = MembershipConfig(voters_wanted=5)
    assert order(stage, Action.ADD_VOTER, "kai") == (Code.OK, "done")
    assert order(stage, Action.ADD_VOTER, "kai") == (Code.OK, "already so")
    assert configuration(stage).voter_ids == (ANA, BEN, EVA, KAI)
    assert order(stage, Action.REMOVE_VOTER, "kai") == (Code.OK, "done")
    stage.run(5_000)
    assert configuration(stage).voter_ids == (ANA, BEN, EVA)
    assert configuration(stage).learners == (member(KAI, held_back=True),)
    assert order(stage, Action.ADD_VOTER, "kai") == (Code.OK, "done")


def test_a_learner_that_trails_is_given_its_vote_once_it_has_caught_up() -> None:
    stage, _, _ = grown()
    stage.slow_disks.add(KAI)
    node = stage.nodes.pop(KAI)
    stage.run(6_000)
    assert order(stage, Action.ADD_VOTER, "kai") is None, "nobody answers before it can be done"
    assert KAI not in configuration(stage).voter_ids
    stage.slow_disks.clear()
    stage.nodes[KAI] = node
    for name in (ANA, BEN, EVA):
        stage.say(name, events.LinkUp(KAI, 1, "kai-1"))
    stage.run(6_000)
    assert stage.answer().code == Code.OK
    assert KAI in configuration(stage).voter_ids


@pytest.mark.parametrize(
    ("action", "target", "code", "words"),
    [
        (Action.ADD_VOTER, "zoe", Code.NOT_FOUND, "start it there with `mesh node run --join`"),
        (Action.REMOVE_VOTER, "zoe", Code.NOT_FOUND, "'zoe' does not take part in this mesh"),
        (Action.FORGET, "zoe", Code.NOT_FOUND, "'zoe' does not take part in this mesh"),
    ],
)
def test_orders_that_cannot_be_done_say_why(action: Action, target: str, code: Code, words: str) -> None:
    stage, _, _ = grown()
    answered = order(stage, action, target)
    assert answered is not None and answered[0] == code and words in answered[1]


def test_the_last_voter_cannot_go() -> None:
    stage = Stage(ANA)
    for action in (Action.REMOVE_VOTER, Action.FORGET):
        expected = (Code.REFUSED, "ana is the only voter; give another node a vote first")
        assert order(stage, action, "ana") == expected


def test_no_eighth_voter() -> None:
    names = tuple(NodeId(f"n{number}") for number in range(6))
    stage = Stage(ANA, *names)
    stage.start(KAI, voters=(), mark="kai-1")
    knock(stage, stage.leader.node_id, member(KAI))
    stage.run(2_000)
    answered = order(stage, Action.ADD_VOTER, "kai")
    assert answered == (Code.REFUSED, "there are 7 voters, more there cannot be; remove one first")


def test_whoever_leads_hands_over_before_it_is_removed() -> None:
    """The order comes twice, as a client sends it again: the first one makes another lead, who then does it."""
    stage = led_by(grown()[0], BEN)
    answered = order(stage, Action.FORGET, BEN)
    assert answered is not None and answered[0] == Code.UNAVAILABLE and "hands over" in answered[1]
    stage.run(1_000)
    assert stage.leader.node_id != BEN
    assert order(stage, Action.FORGET, BEN) == (Code.OK, "done")
    assert BEN not in configuration(stage).voter_ids


def test_a_leader_nobody_can_follow_stays() -> None:
    """ben's link broke a moment ago: there is nobody ana could hand over to."""
    stage = led_by(Stage(ANA, BEN), ANA)
    stage.say(ANA, events.LinkDown(BEN))
    stage.ask(Order(2, Action.REMOVE_VOTER, "ana"))
    refused = stage.answer()
    assert refused.code == Code.REFUSED and "no other voter could take over" in refused.message


def test_a_voter_is_not_removed_if_that_leaves_no_majority_alive() -> None:
    """eva is dead. Without ben, ana could commit nothing any more, not even ben's return."""
    stage = led_by(Stage(ANA, BEN, EVA), ANA)
    del stage.nodes[EVA]
    stage.run(6_000)
    expected = (Code.REFUSED, "no majority of the voters left would be alive to agree; remove the failed ones first")
    assert order(stage, Action.REMOVE_VOTER, "ben") == expected
    assert order(stage, Action.FORGET, "eva") == (Code.OK, "done")
    assert configuration(stage).voter_ids == (ANA, BEN)


def test_a_dead_voter_makes_room_for_a_learner() -> None:
    """5 s after eva failed kai has her vote; she is a learner if she ever comes back."""
    stage, _, _ = grown()
    gone = next(name for name in (EVA, BEN) if name != stage.leader.node_id)
    del stage.nodes[gone]
    stage.run(20_000)
    now = configuration(stage)
    assert sorted(now.voter_ids) == sorted({ANA, BEN, EVA, KAI} - {gone})
    assert [learner.node_id for learner in now.learners] == [gone]


def test_who_is_removed_learns_it_from_the_log_and_retires() -> None:
    stage, leader, other = grown()
    assert order(stage, Action.FORGET, "kai") == (Code.OK, "done")
    stage.run(1_000)
    assert configuration(stage) == Configuration(configuration(stage).voters, (), ("kai-1",))
    assert all(
        KAI not in [m.node_id for m in admit.roll.members] for name, admit in stage.admits.items() if name != KAI
    )
    assert stage.nodes[leader].detector.member(KAI) is None
    stage.say(KAI, events.TurnedAway(other, Verdict.REMOVED, stage.leader.raft.configuration_index))
    assert [(name, retire.code) for name, retire in stage.retired] == [(KAI, 1)]
    assert "--join" in stage.retired[0][1].why


def test_word_of_a_removal_that_came_before_us_is_no_word_of_ours() -> None:
    """ben lags: by his configuration kai is not there yet."""
    stage, _, other = grown()
    stage.say(KAI, events.TurnedAway(other, Verdict.REMOVED, LogIndex(1)))
    stage.say(KAI, events.TurnedAway(other, Verdict.STRANGER, 9_999))
    assert stage.retired == []


def test_one_whose_admission_was_undone_asks_again() -> None:
    """kai joins, and the entry that takes him in reaches him alone: whoever led then is gone, and another entry stands
    in its place, committed. He is told that he does not belong; he was never in, so he asks as if for the first time.
    Told so again of a log that is forgotten, he goes.
    """
    stage, _, other = grown()
    kai = stage.nodes[KAI]
    configuration, commit = kai.raft.configuration, kai.raft.commit_index
    undone = Entry(LogIndex(commit + 1), kai.raft.term, EntryKind.CONFIGURATION, encode(configuration))
    append = Append(kai.raft.term, commit, kai.raft.log.last_term, commit, 0, (undone,))
    stage.nodes = {KAI: kai}
    assert kai.raft.leader_id is not None
    stage.say(KAI, events.PeerMessage(kai.raft.leader_id, encode(append)))
    assert kai.membership.since == undone.index > kai.raft.commit_index
    stage.say(KAI, events.TurnedAway(other, Verdict.REMOVED, undone.index))
    assert (stage.retired, stage.admits[KAI].since) == ([], 0)
    stage.say(KAI, events.TurnedAway(other, Verdict.REMOVED, undone.index))
    assert [(name, retire.code) for name, retire in stage.retired] == [(KAI, 1)]


def test_one_that_takes_itself_for_a_member_is_taken_in_again() -> None:
    """Found by seeds 978, 1039 and 1187 at 24 %: the entry that took zoe in was cut by another leader. By her own log
    she is in, so she knocks at nobody's door; she is let in by her word, and beats. Whoever leads hears it and asks for
    her. Words from another mesh, and of a log without a name, are nobody's. Whoever is in by nothing later than what
    the leader knows was removed, and stays out.
    """
    stage = led_by(grown()[0], ANA)
    heard = Heartbeat(
        "c", ZOE, 1, 1, "zoe:1", 1, 2, 0, False, (), (), (), 0, Term(1), None, LogIndex(0), LogIndex(0), b"", ()
    )
    known = stage.leader.raft.configuration_index
    heard = msgspec.structs.replace(heard, since=LogIndex(known + 1))
    strange = (
        heard,
        msgspec.structs.replace(heard, cluster="other", mark="zoe-1"),
        msgspec.structs.replace(heard, since=known, mark="zoe-1"),
    )
    for said in strange:
        stage.say(ANA, events.GossipReceived(encode(said)))
        stage.run(50)
    assert configuration(stage).member(ZOE) is None
    stage.say(BEN, events.GossipReceived(encode(msgspec.structs.replace(heard, mark="zoe-1"))))
    stage.run(50)
    assert configuration(stage).member(ZOE) is None, "ben does not lead"
    stage.say(ANA, events.GossipReceived(encode(msgspec.structs.replace(heard, mark="zoe-1"))))
    stage.run(50)
    assert configuration(stage).member(ZOE) == Member(ZOE, "zoe:1", "zoe-1")


def test_a_node_says_by_which_configuration_it_is_in() -> None:
    """What ana decides by in the story above. kai, who was taken in, beats it; nobody knows it better."""
    stage, leader, _ = grown()
    index = stage.admits[KAI].since
    [heard] = [seen.last for seen in stage.nodes[leader].detector.members() if seen.node_id == KAI]
    assert index > 1 and heard is not None and heard.since == index


def test_a_lost_disk_neither_votes_nor_campaigns_until_it_is_taken_in() -> None:
    """A directory was emptied. The mesh knows another log under that id: its node waits; taken in, it may be chosen."""
    stage = Stage(ANA, BEN, EVA, wanted=3)
    leader = stage.leader.node_id
    wiped = next(name for name in (EVA, BEN) if name != leader)
    for name in (ANA, BEN, EVA):
        if name != leader:
            stage.say(leader, events.LinkUp(name, 1, f"{name}-1"))
    stage.run(100)
    del stage.nodes[wiped]
    stage.run(4_000)
    leader = stage.leader.node_id
    stage.start(wiped, mark=f"{wiped}-2", incarnation=2)
    for _ in range(2):
        stage.say(wiped, events.TurnedAway(leader, Verdict.REPLACED, stage.leader.raft.configuration_index))
    assert stage.nodes[wiped].raft.is_barred
    assert "replaced" in stage.nodes[wiped].counted()
    knock(stage, leader, member(wiped, "2"))
    stage.run(3)
    assert configuration(stage).learners == (member(wiped, "2"),)
    assert configuration(stage).forgotten == (f"{wiped}-1",)
    stage.run(40)
    assert not stage.nodes[wiped].raft.is_barred
    stage.run(6_000)
    assert wiped in configuration(stage).voter_ids


def test_heartbeats_of_another_log_are_dropped() -> None:
    """A second eva, with an empty disk, must not make the first one look alive or restarted."""
    stage = Stage(ANA, BEN, EVA)
    leader = stage.leader.node_id
    other = BEN if leader == ANA else ANA
    stage.say(leader, events.LinkUp(other, 1, "first"))
    stage.run(1_000)
    del stage.nodes[other]
    stage.run(100)
    stage.start(other, mark="second", incarnation=2)
    stage.run(1_000)
    seen = stage.nodes[leader].detector.member(other)
    assert seen is not None and seen.incarnation == 1
    assert stage.nodes[leader].counters["heartbeats_dropped"] > 0


def test_a_refusal_that_was_taken_back_is_forgotten() -> None:
    """Somebody turns eva away by a configuration that is cut again. 10 s later she may be chosen again."""
    stage = Stage(ANA, BEN, EVA)
    leader = stage.leader.node_id
    other = BEN if leader == ANA else ANA
    stage.say(leader, events.LinkUp(other, 1, ""))
    stage.say(other, events.TurnedAway(leader, Verdict.REPLACED, 9_999))
    assert stage.nodes[other].raft.is_barred
    stage.run(9_000)
    assert stage.nodes[other].raft.is_barred
    stage.run(2_000)
    assert not stage.nodes[other].raft.is_barred


def test_nobody_to_pass_a_knock_on_to() -> None:
    """ben has just started and knows no leader; ana does not lead any more when ben's word comes. kai knocks again."""
    stage = Stage(ANA, BEN)
    stage.start(BEN)
    knock(stage, BEN, member(KAI))
    follower = next(name for name, node in stage.nodes.items() if not node.raft.serving)
    stage.say(follower, events.PeerMessage(KAI, encode(Knock(KAI, "kai:1", "kai-1"))))
    assert all(node.raft.configuration.learners == () for node in stage.nodes.values())


def test_only_so_many_wait_at_the_door(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mesh.node.membership.KNOCKS_MAX", 1)
    stage = led_by(Stage(ANA, BEN), ANA)
    stage.slow_disks |= {ANA, BEN}
    for name in (KAI, ZOE):
        knock(stage, ANA, member(name))
    assert stage.leader.membership.facts().newcomers == (member(KAI),)


def test_a_vote_is_not_given_while_nobody_could_agree_to_it() -> None:
    """Two of three are lost to sight when kai has caught up: his vote waits, and so does the answer."""
    stage = led_by(Stage(ANA, BEN, EVA), ANA)
    stage.start(KAI, voters=(), mark="kai-1")
    knock(stage, ANA, member(KAI))
    stage.run(100)
    seen = stage.leader.membership.facts()
    stage.leader.orders._votes[KAI] = []
    gone = Facts(seen.marks, (), frozenset({KAI}), {BEN: 1, EVA: 1})
    assert stage.leader.orders.wanted(gone) is None
    assert stage.leader.orders.wanted(Facts(seen.marks, (), frozenset({KAI}), {})) is not None


def test_where_an_unknown_node_listens_is_not_known() -> None:
    assert Stage(ANA).nodes[ANA].address_of(KAI) == ""


def test_a_founder_with_an_empty_disk_is_not_removed_by_what_its_old_log_was_named() -> None:
    """On its way through the log eva reads that she was named eva-1, and only later that eva-2 takes part. She goes on.

    Seeds 24 and 33 of the simulator, when membership was new: she retired half way.
    """
    stage = led_by(Stage(ANA, BEN, EVA), ANA)
    for name in (BEN, EVA):
        stage.say(ANA, events.LinkUp(name, 1, f"{name}-1"))
    stage.run(2_000)
    del stage.nodes[EVA]
    stage.run(4_000)
    stage.start(EVA, mark="eva-2", incarnation=2)
    assert stage.admits[EVA].since == 1, "as far as she knows she is a founder"
    stage.say(EVA, events.TurnedAway(ANA, Verdict.REPLACED, stage.leader.raft.configuration_index))
    knock(stage, ANA, member(EVA, "2"))
    stage.run(2_000)
    assert stage.retired == []
    assert stage.admits[EVA].since == stage.leader.raft.configuration_index


def test_what_was_wrong_at_the_start_is_shown_until_it_is_put_right() -> None:
    """kai's directory was set aside. Everybody sees it until his new log has caught up."""
    stage = led_by(Stage(ANA, BEN), ANA)
    trouble = "Its data directory was damaged; it recovers from its peers."
    stage.start(KAI, voters=(), mark="kai-1", trouble=trouble)
    assert stage.nodes[KAI].trouble == trouble
    knock(stage, ANA, member(KAI))
    stage.run(3)
    stage.nodes[KAI].publish()
    assert stage.nodes[KAI].trouble == trouble
    stage.run(58_000)
    assert stage.nodes[KAI].trouble == trouble, "somebody should have a minute to see it"
    stage.run(4_000)
    assert stage.nodes[KAI].trouble == ""


def test_a_disk_that_fails_is_told_at_once() -> None:
    """eva votes no more; her last heartbeat says why, and so does the status of the others."""
    stage = led_by(Stage(ANA, BEN, EVA), ANA)
    stage.say(EVA, events.DiskFailed("writing the log: OSError: Input/output error"))
    stage.run(10)
    seen = stage.nodes[ANA].detector.member(EVA)
    assert seen is not None and seen.last is not None
    assert seen.last.trouble == "The disk failed: writing the log: OSError: Input/output error"


def test_who_reads_in_the_log_that_it_was_forgotten_retires() -> None:
    """kai gets the entry that removes him before anybody turns him away."""
    stage = led_by(grown()[0], ANA)
    leader = stage.leader
    removed = without(leader.raft.configuration, KAI)
    last, term = leader.raft.last_index, leader.raft.term
    entry = Entry(LogIndex(last + 1), term, EntryKind.CONFIGURATION, encode(removed))
    append = Append(term, last, leader.raft.log.last_term, entry.index, 0, (entry,))
    stage.say(KAI, events.PeerMessage(ANA, encode(append)))
    stage.run(10)
    assert [(name, retire.code) for name, retire in stage.retired] == [(KAI, 1)]
    stage.say(KAI, events.TurnedAway(BEN, Verdict.REMOVED, entry.index))
    assert len(stage.retired) == 1, "once is enough"


def test_an_order_to_vote_does_not_outlive_the_one_not_to() -> None:
    """kai is away when he is to be given a vote; then he is to have none. He comes back, and stays a learner."""
    stage = led_by(grown()[0], ANA)
    node = stage.nodes.pop(KAI)
    stage.run(6_000)
    stage.ask(Order(1, Action.ADD_VOTER, "kai"))
    stage.ask(Order(1, Action.ADD_VOTER, "kai"))
    stage.ask(Order(2, Action.REMOVE_VOTER, "kai"))
    stage.run(100)
    answered = {reply.request: reply.code for reply in stage.replies if type(reply) is Answer}
    assert (answered[1], answered[2]) == (Code.REFUSED, Code.OK)
    stage.nodes[KAI] = node
    stage.say(ANA, events.LinkUp(KAI, 1, "kai-1"))
    stage.run(6_000)
    assert KAI not in configuration(stage).voter_ids


def test_a_vote_for_one_that_is_forgotten_is_not_waited_for() -> None:
    stage = led_by(grown()[0], ANA)
    del stage.nodes[KAI]
    stage.run(6_000)
    stage.ask(Order(1, Action.ADD_VOTER, "kai"))
    leader = stage.leader
    leader.membership.propose(without(leader.raft.configuration, KAI))
    stage.run(100)
    assert (stage.answer().code, leader.orders._count) == (Code.REFUSED, 0)


def test_leadership_goes_to_one_that_is_there() -> None:
    """ben hangs, with his link in place. Whoever leads looks for another."""
    stage = led_by(Stage(ANA, BEN, EVA), ANA)
    assert stage.leader.membership.heirs() == [BEN, EVA]
    del stage.nodes[BEN]
    stage.run(2_000)
    assert stage.leader.membership.heirs() == [EVA]


def test_a_forgotten_log_is_not_named_again() -> None:
    """eva was forgotten with her log; a new eva is taken in, whose log nobody has seen. The old name is not hers."""
    forgotten = without(mesh(ANA, BEN, EVA), EVA)
    unnamed = Configuration(forgotten.voters, (Member(EVA, "eva:1"),), forgotten.forgotten)
    assert with_marks(unnamed, {EVA: "eva-1"}) is unnamed
