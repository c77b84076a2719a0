"""Journal, commit rule and configurations against their definitions, said again in the plainest way."""

from itertools import combinations

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.durable import Configuration, Entry, EntryKind, HardState, Member
from mesh.effects import Persist
from mesh.ids import LogIndex, NodeId, PersistToken, Term
from mesh.raft import commit, configuration
from mesh.raft.configuration import ConfigurationHistory
from mesh.raft.election import become_leader
from mesh.raft.journal import Journal
from mesh.raft.log import ENTRY_OVERHEAD_BYTES, Log
from tests.sim.cast import VOTERS, replica

NAMES = [NodeId(name) for name in ("ana", "ben", "eva", "kai", "leo", "mia")]


def entry(index: int, term: int, data: bytes = b"") -> Entry:
    return Entry(LogIndex(index), Term(term), EntryKind.COMMANDS, data)


def empty_log() -> Log:
    return Log(
        before_index=LogIndex(0),
        before_term=Term(0),
        entries=[],
        configuration=VOTERS,
        configuration_index=LogIndex(0),
    )


# --- journal ----------------------------------------------------------------------------------------------------------


class PlainDisk:
    """What a disk has after the batches that were synced, as a list of terms. `due` are those still on their way."""

    def __init__(self) -> None:
        self.terms: list[int] = []
        self.hard_state = HardState(Term(1), None)
        self.due: list[Persist] = []

    def sync(self) -> PersistToken:
        batch = self.due.pop(0)
        if batch.truncate_from:
            del self.terms[batch.truncate_from - 1 :]
        self.terms += [its.term for its in batch.entries]
        self.hard_state = batch.hard_state or self.hard_state
        return batch.token


moves = st.lists(
    st.tuples(
        st.sampled_from(["append", "append", "append", "cut", "vote", "take", "take", "sync", "sync twice"]),
        st.integers(1, 8),
    ),
    min_size=8,
    max_size=40,
)


@settings(max_examples=250)
@given(moves)
def test_the_journal_promises_only_what_the_disk_has(story: list[tuple[str, int]]) -> None:
    """Any appends, cuts, votes, batches and syncs. What is called durable is on the disk, as it is in the log; and a
    promise made now is kept by the time its token is durable.
    """
    log, journal, disk, term = empty_log(), Journal(LogIndex(0)), PlainDisk(), 1
    promises: list[tuple[int, int, list[int]]] = []
    for what, where in story:
        if what == "append":
            log.append(entry(log.last_index + 1, term))
        elif what == "cut" and where <= log.last_index:
            log.truncate(LogIndex(where))
            journal.truncated(LogIndex(where))
            promises = [promise for promise in promises if promise[1] < where]
            term += 1
        elif what == "vote":
            term += 1
            journal.hard_state_changed()
        elif what == "take" and journal.is_open(log):
            disk.due.append(journal.take(log, HardState(Term(term), None), 0))
        elif what.startswith("sync") and disk.due:
            token = disk.sync()
            journal.durable(token)
            if what == "sync twice":
                journal.durable(token)
        terms = [log.term_at(index) or 0 for index in range(1, log.last_index + 1)]
        durable = journal.durable_index
        assert durable <= log.last_index
        assert disk.terms[:durable] == terms[:durable]
        after = journal.after_entry(log.last_index, log)
        promises.append((after, log.last_index, terms))
        kept = [promise for promise in promises if promise[0] <= journal.durable_token]
        assert all(disk.terms[:index] == said for _, index, said in kept)
    while disk.due:
        journal.durable(disk.sync())
    if not journal.is_open(log):
        assert (journal.durable_index, disk.terms) == (
            log.last_index,
            [log.term_at(index) for index in range(1, log.last_index + 1)],
        )


# --- commit -----------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.integers(0, 1), max_size=8),
    st.integers(0, 10),
    st.integers(0, 10),
    st.integers(0, 10),
    st.integers(0, 1),
)
def test_what_is_committed_is_on_every_disk_of_some_majority(
    steps: list[int], own: int, ben: int, eva: int, step: int
) -> None:
    """A leader with any log, any two others, any disk of its own: it commits the largest index of its own term that all
    of some majority hold, and nothing else.
    """
    terms = [1]
    for more in steps:
        terms.append(terms[-1] + more)
    s = replica("n1", *terms[1:], term=terms[-1] + step)
    s.commit_index = LogIndex(1)
    become_leader(s, 0)
    last = s.log.last_index
    s.journal.durable_index = LogIndex(min(own, last))
    held = {"n1": s.journal.durable_index, "n2": min(ben, last), "n3": min(eva, last)}
    for peer in ("n2", "n3"):
        s.peers[NodeId(peer)].acknowledge(LogIndex(held[peer]))
    commit.advance(s)
    committed = [
        index
        for index in range(1, last + 1)
        if s.log.term_at(index) == s.term
        and any(all(held[name] >= index for name in majority) for majority in combinations(held, 2))
    ]
    assert s.commit_index == max(committed, default=1)


@given(st.integers(0, 30), st.integers(0, 30), st.integers(0, 30), st.integers(0, 30))
def test_a_follower_commits_what_one_message_proved_and_never_less_than_before(
    before: int, last: int, leader_commit: int, validated: int
) -> None:
    s = replica("n1", *([1] * last), term=1)
    s.commit_index = LogIndex(min(before, last))
    was = s.commit_index
    commit.learn(s, LogIndex(leader_commit), LogIndex(validated))
    assert s.commit_index == max(was, min(leader_commit, validated))


# --- log --------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.sampled_from([0, 8, 32, 60]), min_size=2, max_size=10),
    st.integers(1, 10),
    st.integers(1, 10),
    st.integers(1, 6),
    st.integers(1, 5),
    st.sampled_from([-1, 0, 0, 1]),
)
def test_a_batch_is_the_longest_run_that_fits(
    sizes: list[int], first: int, start: int, entries_max: int, wanted: int, slack: int
) -> None:
    """`wanted` entries fit to the byte, or but for one, or with one to spare."""
    log = empty_log()
    for number, size in enumerate(sizes, 1):
        log.append(entry(number, 1, b"x" * size))
    first = min(first, len(sizes) + 1)
    log.compact(LogIndex(first))
    rest = list(range(min(max(start, first), len(sizes) + 1), len(sizes) + 1))
    weights = [sizes[index - 1] + ENTRY_OVERHEAD_BYTES for index in rest]
    bytes_max = sum(weights[:wanted]) + slack
    fitting = [count for count in range(1, min(entries_max, len(rest)) + 1) if sum(weights[:count]) <= bytes_max]
    count = max(fitting, default=min(1, len(rest)))
    taken, weight = log.batch(rest[0] if rest else len(sizes) + 1, entries_max, bytes_max)
    assert ([its.index for its in taken], weight) == (rest[:count], sum(weights[:count]))


# --- configurations ---------------------------------------------------------------------------------------------------


def members(text: str) -> tuple[Member, ...]:
    return tuple(Member(NodeId(letter), f"{letter}:1", "m" + letter) for letter in text)


configurations = st.builds(
    lambda voters, learners: Configuration(members("".join(sorted(voters))), members("".join(sorted(learners)))),
    st.sets(st.sampled_from("abc"), min_size=1),
    st.sets(st.sampled_from("xyz")),
)


@given(
    st.lists(
        st.tuples(st.sampled_from(["append", "append", "cut", "forget"]), st.integers(1, 40), configurations),
        max_size=20,
    ),
    st.integers(0, 40),
)
def test_the_history_of_configurations_is_a_list_cut_with_the_log(
    story: list[tuple[str, int, Configuration]], asked: int
) -> None:
    """Entries with configurations are appended and cut, the log forgets its beginning. Whatever index is asked about,
    the last one at or before it answers.
    """
    held = ConfigurationHistory(LogIndex(0), VOTERS)
    plain: list[tuple[int, Configuration]] = [(0, VOTERS)]
    for what, where, made in story:
        if what == "append":
            index = plain[-1][0] + 1 + where % 3
            held.append(LogIndex(index), made)
            plain.append((index, made))
        elif what == "cut":
            held.truncate(LogIndex(where))
            plain = [plain[0], *(pair for pair in plain[1:] if pair[0] < where)]
        else:
            held.compact(LogIndex(where))
            plain = plain[max(number for number, pair in enumerate(plain) if number == 0 or pair[0] <= where) :]
        assert (held.index, held.latest) == plain[-1]
        assert held.voter_ids == tuple(member.node_id for member in plain[-1][1].voters)
        assert held.members == {member.node_id for member in plain[-1][1].voters + plain[-1][1].learners}
        assert held.oldest_index == plain[0][0]
        assert held.at(LogIndex(asked)) == [made for index, made in plain if index <= asked or index == plain[0][0]][-1]
        for name in "abcxyz":
            with_it = [index for index, made in plain if made.member(NodeId(name)) is not None]
            assert held.since(NodeId(name), "m" + name, by_name=False) == max(with_it, default=0)


people = st.sampled_from(NAMES)
changes = st.lists(
    st.tuples(st.sampled_from(["learner", "voter", "no vote", "out"]), people, st.booleans()), max_size=15
)


def majorities(made: Configuration) -> list[set[str]]:
    """Every set of voters that may decide, by id and log."""
    voters = [f"{member.node_id}/{member.mark}" for member in made.voters]
    return [set(some) for some in combinations(voters, len(voters) // 2 + 1)]


@given(changes)
def test_two_majorities_before_and_after_a_single_change_share_a_voter(
    story: list[tuple[str, NodeId, bool]],
) -> None:
    """Whatever is changed, as long as it counts as a single change: nobody can decide behind the others' back. Nobody
    is named twice, nothing is changed by what is so already, and a log that was removed is remembered.
    """
    now = Configuration(tuple(Member(name, f"{name}:1", f"m{name}") for name in NAMES[:3]))
    for number, (what, name, is_other) in enumerate(story):
        mark = f"m{name}{number}" if is_other else f"m{name}"
        if what == "learner":
            made = configuration.with_learner(now, Member(name, f"{name}:1", mark))
        elif what == "voter":
            made = configuration.with_voter(now, name)
        elif what == "no vote":
            made = configuration.without_vote(now, name, held_back=is_other)
        else:
            made = configuration.without(now, name)
        if not configuration.is_well_formed(made):
            assert not made.voters
            continue
        assert configuration.is_single_change(now, made)
        assert all(one & other for one in majorities(now) for other in majorities(made))
        gone = {member.mark for member in now.members} - {member.mark for member in made.members}
        assert gone <= set(made.forgotten)
        if not is_other and what != "learner":
            again = configuration.with_voter(made, name) if what == "voter" else None
            assert again is None or again is made
        now = made


@given(configurations, configurations)
def test_what_counts_as_a_single_change_is_safe(old: Configuration, new: Configuration) -> None:
    if configuration.is_single_change(old, new):
        assert all(one & other for one in majorities(old) for other in majorities(new))
