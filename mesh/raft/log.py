"""The entries in memory (Raft 5.3): a contiguous run that follows a known position.

Everything before the first entry is committed and lives in the ledger store. Index and term of the position just before
the first entry stay known, so a log that was emptied still votes, matches and leads.
"""

from bisect import bisect_right

from mesh.durable import Configuration, Entry, EntryKind
from mesh.ids import LogIndex, Term
from mesh.raft.configuration import ConfigurationHistory, decode

ENTRY_OVERHEAD_BYTES = 32
"""What one entry adds to a message beyond its data, rounded up."""


class Log:
    """Entries `before_index + 1` to `last_index`. Terms never fall from one entry to the next."""

    __slots__ = ("_entries", "before_index", "before_term", "configurations", "last_index", "last_term")

    def __init__(
        self,
        *,
        before_index: LogIndex,
        before_term: Term,
        entries: list[Entry],
        configuration: Configuration,
        configuration_index: LogIndex,
    ) -> None:
        """`configuration` is the one in force at `configuration_index`; later ones are read from `entries`."""
        self.before_index = before_index
        self.before_term = before_term
        self.last_index = before_index
        self.last_term = before_term
        self._entries: list[Entry] = []
        self.configurations = ConfigurationHistory(configuration_index, configuration)
        for entry in entries:
            self.append(entry)

    @property
    def first_index(self) -> LogIndex:
        """Index of the first entry here, or of the next one if there is none."""
        return LogIndex(self.before_index + 1)

    def term_at(self, index: int) -> Term | None:
        """Term of the entry at `index`; None if it is not known here, or not yet."""
        offset = index - self.before_index
        if offset > 0:
            return self._entries[offset - 1].term if index <= self.last_index else None
        return self.before_term if offset == 0 else None

    def append(self, entry: Entry) -> None:
        """Add one entry at the end. A configuration in it is in force from now on."""
        assert entry.index == self.last_index + 1, f"entry {entry.index} does not follow {self.last_index}"
        assert entry.term >= self.last_term, f"term {entry.term} after {self.last_term}: terms never fall in a log"
        if entry.kind == EntryKind.CONFIGURATION and entry.index > self.configurations.index:
            configuration = decode(entry.data)
            assert configuration is not None, f"entry {entry.index} holds no configuration"
            self.configurations.append(entry.index, configuration)
        self._entries.append(entry)
        self.last_index = entry.index
        self.last_term = entry.term

    def truncate(self, from_index: LogIndex) -> None:
        """Cut `from_index` and all after it, and the configurations that came with them."""
        assert from_index > self.before_index, f"cut at {from_index} reaches below the log, {self.before_index}"
        keep = from_index - self.before_index - 1
        del self._entries[keep:]
        self.last_index = LogIndex(self.before_index + len(self._entries))
        self.last_term = self._entries[-1].term if self._entries else self.before_term
        self.configurations.truncate(from_index)

    def compact(self, first_index: LogIndex) -> None:
        """Forget the entries before `first_index`, which are in the ledger store."""
        if first_index <= self.before_index + 1:
            return
        assert first_index <= self.last_index + 1, f"cannot start at {first_index}: the log ends at {self.last_index}"
        count = first_index - self.before_index - 1
        self.before_term = self._entries[count - 1].term
        self.before_index = LogIndex(first_index - 1)
        del self._entries[:count]
        self.configurations.compact(self.before_index)

    def between(self, after_index: int, upto_index: int) -> list[Entry]:
        """Entries after `after_index`, up to and with `upto_index`."""
        before = self.before_index
        assert before <= after_index <= upto_index <= self.last_index, (
            f"({after_index}, {upto_index}] is not within ({before}, {self.last_index}]"
        )
        return self._entries[after_index - before : upto_index - before]

    def batch(self, from_index: int, entries_max: int, bytes_max: int) -> tuple[tuple[Entry, ...], int]:
        """What one append carries from `from_index` on, and its bytes. One entry at least, however large."""
        start = from_index - self.before_index - 1
        entries = self._entries[start : start + entries_max]
        size = 0
        for count, entry in enumerate(entries):
            more = len(entry.data) + ENTRY_OVERHEAD_BYTES
            if count and size + more > bytes_max:
                return tuple(entries[:count]), size
            size += more
        return tuple(entries), size

    def is_up_to_date(self, last_index: int, last_term: int) -> bool:
        """Whether a log that ends so is at least as good as this one (Raft 5.4.1)."""
        return (last_term, last_index) >= (self.last_term, self.last_index)

    def find_at_or_below(self, index: int, term: int) -> tuple[LogIndex, Term]:
        """The largest position no greater than `index` with a term no greater than `term` (etcd findConflictByTerm).

        Not below the position before the log: there it answers that one.
        """
        high = min(index, self.last_index) - self.before_index
        if high <= 0:
            return self.before_index, self.before_term
        count = bisect_right(self._entries, term, hi=high, key=_term_of)
        if count == 0:
            return self.before_index, self.before_term
        found = self._entries[count - 1]
        return found.index, found.term


def _term_of(entry: Entry) -> int:
    return entry.term
