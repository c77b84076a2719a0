"""The log file against a model: a list. Whatever is asked of it, in whatever order, it comes back as the list would."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from mesh.durable import Entry
from mesh.storage.log_store import LogContents, LogStore
from mesh.storage.witness import Owner
from tests.storage.disk import entry, mark, persist, vote

OWNER = Owner("n1", "mesh-1", "0123")

STEPS = st.one_of(
    st.tuples(st.just("append"), st.integers(0, 70)),
    st.tuples(st.just("replace"), st.integers(0, 100), st.integers(0, 5)),
    st.tuples(st.just("vote"), st.integers(1, 9)),
    st.tuples(st.just("group"), st.integers(0, 3), st.integers(0, 100), st.integers(0, 3)),
    st.tuples(st.just("trim"), st.integers(0, 100)),
    st.tuples(st.just("install"), st.integers(0, 150), st.booleans()),
    st.tuples(st.just("reopen")),
)


class _Model:
    """What the log should hold. `percent` picks a position in it."""

    def __init__(self) -> None:
        self.before = (0, 0)
        self.entries: list[Entry] = []
        self.vote: tuple[int, str | None] = (0, None)
        self.term = 1

    @property
    def last(self) -> int:
        return self.before[0] + len(self.entries)

    def at(self, percent: int) -> int:
        return self.before[0] + len(self.entries) * percent // 100

    def cut(self, first: int) -> None:
        self.entries = self.entries[: first - self.before[0] - 1]

    def more(self, count: int) -> list[Entry]:
        new = [entry(self.last + 1 + at, term=self.term) for at in range(count)]
        self.entries += new
        return new

    def move_start(self, index: int, term: int) -> None:
        self.entries = self.entries[index - self.before[0] :]
        self.before = (index, term)

    def term_at(self, index: int) -> int:
        return self.before[1] if index == self.before[0] else int(self.entries[index - self.before[0] - 1].term)

    def contents(self) -> LogContents:
        hard_state = None if self.vote == (0, None) else vote(*self.vote)
        return LogContents(hard_state, *self.before, self.entries)  # type: ignore[arg-type]


class _Story:
    """A log and its model, brought along together."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = LogStore(path, OWNER, may_be_new=True)
        self.model = _Model()

    def append(self, count: int) -> None:
        self.log.append([persist(1, *self.model.more(count))])

    def replace(self, percent: int, count: int) -> None:
        first = self.model.at(percent) + 1
        self.model.term += 1
        self.model.cut(first)
        self.log.append([persist(1, *self.model.more(count), truncate_from=first)])

    def vote(self, term: int) -> None:
        self.model.vote = (term, "n2")
        self.log.append([persist(1, vote=vote(term, "n2"))])

    def group(self, before: int, percent: int, after: int) -> None:
        """Entries, a cut that may take some of them back, a vote, and entries again: one commit."""
        some = persist(1, *self.model.more(before))
        first = self.model.at(percent) + 1
        self.model.term += 1
        self.model.cut(first)
        self.model.vote = (self.model.term, None)
        cut = persist(2, *self.model.more(after), truncate_from=first, vote=vote(self.model.term))
        self.log.append([some, cut, persist(3, *self.model.more(after))])

    def trim(self, percent: int) -> None:
        index = self.model.at(percent)
        term = self.model.term_at(index)
        self.log.start_after(index, term)
        self.log.delete_some(7)
        self.model.move_start(index, term)

    def install(self, ahead: int, same_branch: bool) -> None:
        index = self.model.before[0] + ahead
        passes = same_branch and index <= self.model.last
        term = self.model.term_at(index) if passes else self.model.term + 1
        if passes:
            self.model.move_start(index, term)
        else:
            self.model.before, self.model.entries = (index, term), []
        self.log.install(mark(index, term), self.log.ledger_number + 1, passes=passes)

    def reopen(self) -> None:
        self.log.close()
        number, witness = self.log.ledger_number, self.log.witness
        self.log = LogStore(self.path, OWNER)
        assert (self.log.ledger_number, self.log.witness) == (number, witness)


@settings(max_examples=60)
@given(st.lists(STEPS, max_size=25))
def test_the_log_comes_back_as_the_list_would(steps: list[tuple[Any, ...]]) -> None:
    """After each step, and after a restart at the end."""
    with TemporaryDirectory() as directory:
        story = _Story(Path(directory) / "log.db")
        for name, *values in [*steps, ("reopen",)]:
            getattr(story, name)(*values)
            assert story.log.read() == story.model.contents()
            assert story.log.last_index == story.model.last
        story.log.close()
