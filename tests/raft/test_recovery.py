"""From a disk to a log."""

import pytest

from mesh.durable import HardState
from mesh.ids import LogIndex, Term
from mesh.raft.recovery import founding_log, is_fresh, recovered_hard_state, recovered_log
from tests.raft.cast import ANA, BEN, CONFIGURATION, EVA, encoded, entry, founding, founding_entry, mark, recovered

TRIO = founding(ANA, BEN, EVA)
DUO = founding(ANA, BEN)


def test_a_fresh_disk_has_nothing_at_all() -> None:
    assert is_fresh(recovered())
    assert not is_fresh(recovered((1, None)))
    assert not is_fresh(recovered(None, [entry(1, 1)]))
    assert not is_fresh(recovered(None, [], mark(1, 1, TRIO)))


def test_every_founding_member_begins_with_the_same_entry() -> None:
    log = founding_log(TRIO, encoded(TRIO))
    assert log.between(0, 1) == [founding_entry(TRIO)]
    assert (log.configurations.index, log.configurations.latest) == (1, TRIO)


def test_a_log_from_the_beginning() -> None:
    log = recovered_log(recovered((2, ANA), [founding_entry(TRIO), entry(2, 2)]), DUO)
    assert (log.first_index, log.last_index, log.last_term, log.configurations.latest) == (1, 2, 2, TRIO)


def test_a_log_that_joins_its_table() -> None:
    """The table stands at 6; entries 5 to 8 are still here, 8 with another configuration."""
    entries = [entry(5, 2), entry(6, 2), entry(7, 3), entry(8, 3, encoded(DUO), CONFIGURATION)]
    log = recovered_log(recovered((3, None), entries, mark(6, 2, TRIO), before_term=1), TRIO)
    assert (log.before_index, log.before_term, log.last_index) == (4, 1, 8)
    assert log.configurations.latest == DUO
    log.truncate(LogIndex(8))
    assert log.configurations.latest == TRIO


def test_a_log_that_was_trimmed_to_nothing() -> None:
    log = recovered_log(recovered((3, None), [], mark(6, 2, TRIO)), DUO)
    assert (log.before_index, log.before_term, log.last_index, log.configurations.latest) == (6, 2, 6, TRIO)


def test_entries_that_end_before_the_table_are_left_out() -> None:
    log = recovered_log(recovered((3, None), [entry(1, 1), entry(2, 1)], mark(6, 2, TRIO)), DUO)
    assert (log.before_index, log.last_index) == (6, 6)


def test_a_gap_after_the_table_is_refused() -> None:
    """NATS 7620, Redis-Raft 43."""
    with pytest.raises(AssertionError, match="a gap between the table at 6 and 8"):
        recovered_log(recovered((3, None), [entry(8, 2)], mark(6, 2, TRIO)), TRIO)


def test_entries_without_their_beginning_and_without_a_table_are_refused() -> None:
    with pytest.raises(AssertionError, match="no table covers"):
        recovered_log(recovered((3, None), [entry(4, 2)]), TRIO)


def test_a_table_without_a_configuration_is_refused() -> None:
    broken = mark(6, 2, founding())
    with pytest.raises(AssertionError, match="no configuration"):
        recovered_log(recovered((3, None), [], broken), TRIO)


def test_term_and_vote_come_back() -> None:
    assert recovered_hard_state(recovered((7, BEN))) == HardState(Term(7), BEN)


def test_a_log_without_a_term_is_refused() -> None:
    """Never start empty: a forgotten vote is a second vote."""
    with pytest.raises(AssertionError, match="has a term as well"):
        recovered_hard_state(recovered(None, [founding_entry(TRIO)]))
