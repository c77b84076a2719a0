"""Who counts in a quorum: the history of configurations is cut with the log."""

import msgspec
import pytest

from mesh.durable import Configuration, Member
from mesh.ids import LogIndex, NodeId
from mesh.raft.configuration import (
    ConfigurationHistory,
    decode,
    is_single_change,
    member_ids,
    with_learner,
    with_marks,
    with_voter,
    without,
    without_vote,
)
from tests.raft.cast import ANA, BEN, EVA, KAI, encoded, founding

TRIO = founding(ANA, BEN, EVA)
QUARTET = founding(ANA, BEN, EVA, KAI)


def test_members_are_voters_then_learners() -> None:
    assert member_ids(founding(BEN, ANA, learners=(KAI,))) == (BEN, ANA, KAI)


def test_a_configuration_survives_its_bytes() -> None:
    configuration = founding(ANA, BEN, learners=(KAI,))
    assert decode(encoded(configuration)) == configuration


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff rubbish",
        encoded(founding()),
        encoded(founding(ANA, ANA)),
        encoded(founding(ANA, learners=(ANA,))),
        msgspec.msgpack.encode([1, 2]),
    ],
    ids=["empty", "rubbish", "no voter", "a voter twice", "voter and learner", "wrong types"],
)
def test_bytes_no_mesh_could_run_under_are_none(data: bytes) -> None:
    assert decode(data) is None


@pytest.mark.parametrize(
    ("new", "allowed"),
    [
        (TRIO, True),
        (QUARTET, True),
        (founding(ANA, BEN), True),
        (founding(ANA), False),
        (founding(ANA, BEN, KAI), False),
        (founding(ANA, BEN, EVA, learners=(KAI,)), True),
        (founding(ANA, BEN, learners=(EVA,)), True),
    ],
)
def test_one_voter_at_a_time(new: Configuration, allowed: bool) -> None:
    """Thesis 4.1: majorities of configurations one voter apart always share a node. ana, ben, eva before."""
    assert is_single_change(TRIO, new) is allowed


def test_the_last_one_appended_is_in_force_and_a_cut_brings_back_the_one_before() -> None:
    history = ConfigurationHistory(LogIndex(1), TRIO)
    history.append(LogIndex(5), QUARTET)
    assert (history.index, history.latest, history.voter_ids) == (5, QUARTET, (ANA, BEN, EVA, KAI))
    assert history.members == {ANA, BEN, EVA, KAI}
    history.truncate(LogIndex(6))
    assert history.latest == QUARTET
    history.truncate(LogIndex(5))
    assert (history.index, history.latest, history.voter_ids) == (1, TRIO, (ANA, BEN, EVA))


def test_the_oldest_is_never_cut() -> None:
    history = ConfigurationHistory(LogIndex(4), TRIO)
    history.truncate(LogIndex(2))
    assert (history.index, history.latest) == (4, TRIO)


def test_compaction_keeps_the_one_in_force_at_the_new_start() -> None:
    """Configurations at 1, 5 and 9. A log that starts after 7 still needs the one of 5, for 9 may be cut."""
    history = ConfigurationHistory(LogIndex(1), founding(ANA))
    history.append(LogIndex(5), founding(ANA, BEN))
    history.append(LogIndex(9), TRIO)
    history.compact(LogIndex(7))
    history.truncate(LogIndex(8))
    assert (history.index, history.latest) == (5, founding(ANA, BEN))


def test_configurations_come_in_log_order() -> None:
    history = ConfigurationHistory(LogIndex(5), TRIO)
    with pytest.raises(AssertionError, match="log order"):
        history.append(LogIndex(5), QUARTET)


def test_addresses_travel_with_the_members() -> None:
    data = encoded(Configuration((Member(NodeId("ana"), "10.0.0.1:7000"),)))
    found = decode(data)
    assert found is not None and found.voters[0].address == "10.0.0.1:7000"


def test_the_one_in_force_at_an_index_is_the_last_that_came_by_then() -> None:
    """A table as of entry 6 is kept with the configuration of 5, though that of 9 is in force already: 9 may be cut."""
    history = ConfigurationHistory(LogIndex(1), founding(ANA))
    history.append(LogIndex(5), founding(ANA, BEN))
    history.append(LogIndex(9), TRIO)
    at = [history.at(LogIndex(index)) for index in (1, 4, 5, 8, 9, 12)]
    assert at == [founding(ANA), founding(ANA), founding(ANA, BEN), founding(ANA, BEN), TRIO, TRIO]


def test_the_one_before_the_latest_is_known_until_it_is_forgotten() -> None:
    """Forgotten by a cut, and by what the table covers: then the latest is committed, and no other counts."""
    history = ConfigurationHistory(LogIndex(1), founding(ANA))
    assert history.before == founding(ANA)
    history.append(LogIndex(5), founding(ANA, BEN))
    history.append(LogIndex(9), TRIO)
    assert history.before == founding(ANA, BEN)
    history.truncate(LogIndex(9))
    assert history.before == founding(ANA)
    history.compact(LogIndex(5))
    assert history.before == founding(ANA, BEN)


def test_a_learner_comes_last_and_once() -> None:
    kai = Member(KAI, "kai:7000")
    more = with_learner(TRIO, kai)
    assert more == founding(ANA, BEN, EVA, learners=(KAI,))
    assert is_single_change(TRIO, more)
    assert with_learner(more, kai) is more


def test_a_learner_may_move() -> None:
    moved = with_learner(founding(ANA, learners=(BEN, KAI)), Member(BEN, "ben:9000"))
    assert moved == Configuration((Member(ANA, "ana:7000"),), (Member(KAI, "kai:7000"), Member(BEN, "ben:9000")))


def test_a_voter_does_not_become_a_learner() -> None:
    assert with_learner(TRIO, Member(ANA, "elsewhere:1")) is TRIO


# --- changes ----------------------------------------------------------------------------------------------------------

ANA1, BEN1, EVA1 = (Member(name, f"{name}:7000", f"{name}-1") for name in (ANA, BEN, EVA))
NAMED = Configuration((ANA1, BEN1, EVA1))


def test_another_log_under_the_same_id_takes_the_members_place_without_its_vote() -> None:
    """eva's disk was lost. She comes back as a learner, and what she promised before is forgotten with her old log."""
    wiped = Member(EVA, "eva:7000", "eva-2")
    changed = with_learner(NAMED, wiped)
    assert changed == Configuration((ANA1, BEN1), (wiped,), ("eva-1",))
    assert is_single_change(NAMED, changed)
    again = with_learner(changed, Member(EVA, "eva:7000", "eva-3"))
    assert again == Configuration((ANA1, BEN1), (Member(EVA, "eva:7000", "eva-3"),), ("eva-1", "eva-2"))


def test_a_voter_cannot_stay_one_with_another_log() -> None:
    """Two voters would change at once: the one that goes and the one that comes."""
    assert not is_single_change(NAMED, Configuration((ANA1, BEN1, Member(EVA, "eva:7000", "eva-2"))))
    assert is_single_change(TRIO, NAMED)


def test_a_learner_is_given_a_vote_and_loses_it() -> None:
    kai = Member(KAI, "kai:7000", "kai-1")
    learning = with_learner(NAMED, kai)
    voting = with_voter(learning, KAI)
    assert voting == Configuration((ANA1, BEN1, EVA1, kai))
    assert without_vote(voting, KAI, held_back=False) == learning
    held_back = without_vote(voting, KAI, held_back=True)
    assert held_back == Configuration((ANA1, BEN1, EVA1), (Member(KAI, "kai:7000", "kai-1", True),))
    assert with_voter(held_back, KAI) == voting, "an order to give it a vote takes back the order not to"
    assert without_vote(learning, KAI, held_back=True) == held_back
    for nothing_to_do in (with_voter(NAMED, KAI), without_vote(NAMED, KAI, held_back=True), with_voter(NAMED, ANA)):
        assert nothing_to_do is NAMED
    assert without_vote(held_back, KAI, held_back=False) is held_back


def test_who_is_removed_is_remembered_by_its_log() -> None:
    assert without(NAMED, EVA) == Configuration((ANA1, BEN1), (), ("eva-1",))
    assert without(TRIO, EVA) == founding(ANA, BEN)
    assert without(NAMED, KAI) is NAMED


def test_the_oldest_of_too_many_forgotten_logs_is_forgotten_itself() -> None:
    full = Configuration((ANA1, BEN1), (), tuple(f"log-{number}" for number in range(1_000)))
    assert without(full, BEN).forgotten == (*(f"log-{number}" for number in range(1, 1_000)), "ben-1")


def test_logs_are_named_once() -> None:
    named = with_marks(TRIO, {ANA: "ana-1", EVA: "eva-1"})
    assert named == Configuration((ANA1, Member(BEN, "ben:7000"), EVA1))
    assert with_marks(named, {ANA: "ana-2", EVA: "", KAI: "kai-1"}) is named
    assert is_single_change(TRIO, named)


def test_the_history_tells_since_when_a_log_is_in_it() -> None:
    history = ConfigurationHistory(LogIndex(1), TRIO)
    history.append(LogIndex(4), NAMED)
    history.append(LogIndex(9), without(NAMED, EVA))
    since = [
        history.since(EVA, "eva-1", by_name=False),
        history.since(EVA, "eva-2", by_name=False),
        history.since(EVA, "eva-2", by_name=True),
        history.since(ANA, "ana-1", by_name=False),
        history.since(KAI, "kai-1", by_name=True),
    ]
    assert (since, history.oldest_index) == ([4, 0, 0, 9, 0], 1)
    unnamed = ConfigurationHistory(LogIndex(1), TRIO)
    assert [unnamed.since(EVA, "eva-2", by_name=named) for named in (True, False)] == [1, 0]
