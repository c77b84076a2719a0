"""Who may speak with whom: ana has the roll, and somebody knocks."""

import pytest

from mesh.admission import Roll, Standing, Verdict, judge
from mesh.durable import Member
from mesh.ids import LogIndex, NodeId

ROLL = Roll(
    LogIndex(20),
    True,
    (Member(NodeId("ana"), "ana:1", "a1"), Member(NodeId("ben"), "ben:1", "b1"), Member(NodeId("eva"), "eva:1")),
    forgotten=("b0", "z1"),
)


@pytest.mark.parametrize(
    ("name", "mark", "since", "verdict"),
    [
        ("ben", "b1", 20, Verdict.ACCEPTED),
        ("ben", "b1", 0, Verdict.ACCEPTED),
        ("eva", "e1", 0, Verdict.ACCEPTED),
        ("ben", "b2", 0, Verdict.REPLACED),
        ("ben", "b2", 20, Verdict.REPLACED),
        ("ben", "b2", 21, Verdict.ACCEPTED),
        ("ben", "b0", 3, Verdict.REMOVED),
        ("kai", "k1", 0, Verdict.STRANGER),
        ("kai", "k1", 20, Verdict.REMOVED),
        ("kai", "k1", 21, Verdict.ACCEPTED),
        ("zoe", "z1", 0, Verdict.REMOVED),
        ("zoe", "z1", 99, Verdict.REMOVED),
    ],
    ids=[
        "a member",
        "a member that does not know it yet",
        "a member whose log nobody has seen",
        "a member's id with an empty disk",
        "a member's id with another log, as of the same configuration",
        "a member's id with another log, by a later configuration",
        "a member's former self",
        "a newcomer",
        "one that was a member and is not any more",
        "one that came after our configuration",
        "one that was removed and has forgotten it",
        "one that was removed, whatever it claims",
    ],
)
def test_the_roll_judges(name: str, mark: str, since: int, verdict: Verdict) -> None:
    assert judge(ROLL, Standing(NodeId(name), mark, LogIndex(since))) is verdict


def test_what_is_not_committed_removes_nobody_for_good() -> None:
    """The change may yet be undone, so kai and zoe may ask again."""
    roll = Roll(ROLL.index, False, ROLL.members, ROLL.forgotten)
    verdicts = [judge(roll, Standing(NodeId(n), m, LogIndex(20))) for n, m in (("kai", "k1"), ("zoe", "z1"))]
    assert verdicts == [Verdict.STRANGER, Verdict.STRANGER]


def test_a_change_that_may_be_undone_shuts_nobody_out() -> None:
    """By entry 25, not committed, eva is forgotten and ben has another log. Either may lead those who undo it."""
    before = ROLL.members
    members = (before[0], Member(NodeId("ben"), "ben:1", "b2"))
    roll = Roll(LogIndex(25), False, members, ("e1", "b1"), (*before[:2], Member(NodeId("eva"), "eva:1", "e1")))
    standings = [Standing(NodeId(n), m, LogIndex(20)) for n, m in (("eva", "e1"), ("ben", "b1"), ("ben", "b2"))]
    assert [judge(roll, standing) for standing in standings] == [Verdict.ACCEPTED] * 3
    assert [member.node_id for member in roll.everybody] == ["ana", "ben", "eva"]


def test_one_whose_log_had_no_name_yet_is_not_shut_out_either() -> None:
    """Found by seed 8082 at 24 %: kai forgot ben, alone, in an entry above one that named the logs, and heard that none
    of it was committed. ben was elected without it, and kai let no word of his in that would have cut it.
    """
    before = (Member(NodeId("ana"), "ana:1"), Member(NodeId("ben"), "ben:1"), Member(NodeId("kai"), "kai:1"))
    named = (Member(NodeId("ana"), "ana:1", "a1"), Member(NodeId("kai"), "kai:1", "k1"))
    roll = Roll(LogIndex(17), False, named, ("b1",), before)
    assert judge(roll, Standing(NodeId("ben"), "b1", LogIndex(57))) is Verdict.ACCEPTED
