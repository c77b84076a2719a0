"""The log in memory, one method at a time, then against a list."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.durable import Entry
from mesh.ids import LogIndex, Term
from mesh.raft.log import ENTRY_OVERHEAD_BYTES, Log
from tests.raft.cast import ANA, BEN, CONFIGURATION, EVA, encoded, entry, founding


def log(*terms: int, before: int = 0, before_term: int = 0) -> Log:
    """Entries `before + 1` on, one for each of `terms`."""
    return Log(
        before_index=LogIndex(before),
        before_term=Term(before_term),
        entries=[entry(index, term, b"x" * 10) for index, term in enumerate(terms, start=before + 1)],
        configuration=founding(ANA),
        configuration_index=LogIndex(before),
    )


def test_an_empty_log_ends_where_it_starts() -> None:
    empty = log(before=7, before_term=3)
    assert (empty.first_index, empty.last_index, empty.last_term) == (8, 7, 3)


def test_terms_are_known_from_the_position_before_to_the_last() -> None:
    """Log 8 to 10 with terms 3, 3, 5, after an entry of term 2."""
    known = log(3, 3, 5, before=7, before_term=2)
    assert [known.term_at(index) for index in range(6, 12)] == [None, 2, 3, 3, 5, None]


def test_an_entry_must_follow_the_last() -> None:
    with pytest.raises(AssertionError, match="does not follow"):
        log(1, 1).append(entry(4, 1))


def test_a_term_must_not_fall() -> None:
    with pytest.raises(AssertionError, match="never fall"):
        log(1, 3).append(entry(3, 2))


def test_a_configuration_is_in_force_once_appended_and_gone_once_cut() -> None:
    """ana leads alone; entry 3 brings ben. Entry 3 is cut again."""
    both = founding(ANA, BEN)
    held = log(1, 1)
    held.append(entry(3, 1, encoded(both), CONFIGURATION))
    assert held.configurations.latest == both
    held.truncate(LogIndex(3))
    assert held.configurations.latest == founding(ANA)


def test_a_configuration_that_cannot_be_read_is_a_broken_invariant() -> None:
    with pytest.raises(AssertionError, match="no configuration"):
        log(1).append(entry(2, 1, b"?", CONFIGURATION))


def test_a_configuration_the_table_covers_is_not_read_again() -> None:
    """The table at 5 says ana and ben; the log's tail still has entry 4, with an older configuration."""
    tail = Log(
        before_index=LogIndex(3),
        before_term=Term(1),
        entries=[entry(4, 1, encoded(founding(EVA)), CONFIGURATION), entry(5, 1)],
        configuration=founding(ANA, BEN),
        configuration_index=LogIndex(5),
    )
    assert tail.configurations.latest == founding(ANA, BEN)


def test_truncation_cuts_from_the_index_on() -> None:
    cut = log(1, 1, 2, 2)
    cut.truncate(LogIndex(3))
    assert (cut.last_index, cut.last_term) == (2, 1)
    cut.truncate(LogIndex(1))
    assert (cut.last_index, cut.last_term) == (0, 0)


def test_truncation_never_reaches_below_the_log() -> None:
    with pytest.raises(AssertionError, match="below the log"):
        log(2, before=5, before_term=2).truncate(LogIndex(5))


def test_compaction_keeps_the_term_before() -> None:
    kept = log(1, 2, 3)
    kept.compact(LogIndex(3))
    assert (kept.first_index, kept.last_index, kept.term_at(2), kept.term_at(1)) == (3, 3, 2, None)


def test_a_log_compacted_to_nothing_still_knows_its_end() -> None:
    kept = log(1, 2, 3)
    kept.compact(LogIndex(4))
    assert (kept.first_index, kept.last_index, kept.last_term) == (4, 3, 3)
    kept.append(entry(4, 3))
    assert kept.term_at(4) == 3


def test_compacting_what_is_gone_changes_nothing() -> None:
    kept = log(1, before=3, before_term=1)
    kept.compact(LogIndex(4))
    kept.compact(LogIndex(2))
    assert (kept.first_index, kept.last_index) == (4, 4)


def test_compaction_ends_with_the_log() -> None:
    with pytest.raises(AssertionError, match="cannot start"):
        log(1).compact(LogIndex(3))


def test_between_excludes_its_first_and_includes_its_last() -> None:
    held = log(1, 1, 1, 1)
    assert [e.index for e in held.between(1, 3)] == [2, 3]
    assert held.between(4, 4) == []


@pytest.mark.parametrize(("after", "upto"), [(3, 4), (5, 7), (6, 5)])
def test_between_refuses_what_it_does_not_have(after: int, upto: int) -> None:
    """Entries 5 and 6 are here."""
    with pytest.raises(AssertionError, match="not within"):
        log(1, 1, before=4, before_term=1).between(after, upto)


def test_a_batch_is_bounded_by_count_and_by_bytes() -> None:
    size = 10 + ENTRY_OVERHEAD_BYTES
    held = log(1, 1, 1, 1)
    assert _indexes(held.batch(2, 64, 1_000)) == ([2, 3, 4], 3 * size)
    assert _indexes(held.batch(1, 2, 1_000)) == ([1, 2], 2 * size)
    assert _indexes(held.batch(1, 64, 2 * size)) == ([1, 2], 2 * size)
    assert _indexes(held.batch(1, 64, 2 * size - 1)) == ([1], size)


def test_one_entry_travels_however_large() -> None:
    assert _indexes(log(1, 1).batch(1, 64, 5)) == ([1], 10 + ENTRY_OVERHEAD_BYTES)


def _indexes(batch: tuple[tuple[Entry, ...], int]) -> tuple[list[int], int]:
    return [e.index for e in batch[0]], batch[1]


@pytest.mark.parametrize(
    ("index", "term", "is_as_good"),
    [(3, 2, True), (4, 2, True), (2, 2, False), (9, 1, False), (1, 3, True)],
)
def test_the_later_term_wins_then_the_longer_log(index: int, term: int, is_as_good: bool) -> None:
    """Raft 5.4.1. Ours ends at 3 with term 2."""
    assert log(1, 2, 2).is_up_to_date(index, term) is is_as_good


@pytest.mark.parametrize(
    ("index", "term", "found"),
    [
        (9, 9, (7, 5)),
        (7, 4, (6, 4)),
        (6, 3, (4, 2)),
        (5, 4, (5, 4)),
        (4, 1, (2, 1)),
        (2, 9, (2, 1)),
        (4, 0, (2, 1)),
        (1, 9, (2, 1)),
    ],
)
def test_the_largest_position_not_beyond_index_and_term(index: int, term: int, found: tuple[int, int]) -> None:
    """Terms 2, 2, 4, 4, 5 at 3 to 7, after an entry of term 1. Never below that one."""
    assert log(2, 2, 4, 4, 5, before=2, before_term=1).find_at_or_below(index, term) == found


@given(
    st.lists(st.integers(0, 2), max_size=20),
    st.lists(
        st.tuples(st.sampled_from(["append", "truncate", "compact"]), st.integers(0, 30), st.integers(0, 2)),
        max_size=30,
    ),
    st.integers(0, 40),
    st.integers(0, 12),
)
def test_the_log_is_a_list_that_forgets_its_beginning(
    steps: list[int], changes: list[tuple[str, int, int]], index: int, term: int
) -> None:
    """Any appends, cuts and compactions; then every question is answered as a plain list of all terms would."""
    model = [0]
    first = 1
    for step in steps:
        model.append(model[-1] + step)
    held = log(*model[1:])
    for what, where, step in changes:
        if what == "append":
            model.append(model[-1] + step)
            held.append(entry(len(model) - 1, model[-1]))
        elif what == "truncate" and first <= where < len(model):
            del model[where:]
            held.truncate(LogIndex(where))
        elif what == "compact" and where <= len(model):
            first = max(first, where)
            held.compact(LogIndex(where))
    assert (held.first_index, held.last_index, held.last_term) == (first, len(model) - 1, model[-1])
    assert [held.term_at(i) for i in range(first - 1, len(model))] == model[first - 1 :]
    assert held.term_at(first - 2) is None and held.term_at(len(model)) is None
    below = [(i, t) for i, t in enumerate(model) if first - 1 < i <= index and t <= term]
    assert held.find_at_or_below(index, term) == (below[-1] if below else (first - 1, model[first - 1]))
