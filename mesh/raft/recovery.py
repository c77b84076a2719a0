"""From what a disk holds to a log and a configuration: at start, and after a snapshot was installed (Raft 7)."""

from mesh.durable import Configuration, Entry, EntryKind, HardState, Recovered
from mesh.ids import LogIndex, Term
from mesh.raft.configuration import decode
from mesh.raft.log import Log

FOUNDING_INDEX = LogIndex(1)
FOUNDING_TERM = Term(1)


def is_fresh(recovered: Recovered) -> bool:
    """Whether the disk has never belonged to a replica."""
    return recovered.hard_state is None and not recovered.entries and recovered.mark is None


def founding_log(founding: Configuration, configuration_data: bytes) -> Log:
    """The log every founding member begins with: one entry, the same everywhere, and so committed. Who joins later
    begins with none.
    """
    if not founding.voters:
        return Log(
            before_index=LogIndex(0),
            before_term=Term(0),
            entries=[],
            configuration=founding,
            configuration_index=LogIndex(0),
        )
    entry = Entry(FOUNDING_INDEX, FOUNDING_TERM, EntryKind.CONFIGURATION, configuration_data)
    return Log(
        before_index=LogIndex(0),
        before_term=Term(0),
        entries=[entry],
        configuration=founding,
        configuration_index=FOUNDING_INDEX,
    )


def recovered_log(recovered: Recovered, founding: Configuration) -> Log:
    """The log as the disk has it. Entries the table covers and nothing joins to are left out."""
    mark = recovered.mark
    entries = recovered.entries
    before_index = LogIndex(entries[0].index - 1) if entries else LogIndex(0)
    before_term = recovered.before_term
    if mark is None:
        assert before_index == 0, f"entries start at {before_index + 1} and no table covers what came before"
        return Log(
            before_index=LogIndex(0),
            before_term=Term(0),
            entries=entries,
            configuration=founding,
            configuration_index=LogIndex(0),
        )
    assert before_index <= mark.applied_index, f"a gap between the table at {mark.applied_index} and {before_index + 1}"
    if not entries or entries[-1].index < mark.applied_index:
        entries, before_index, before_term = [], mark.applied_index, mark.applied_term
    configuration = decode(mark.configuration)
    assert configuration is not None, "the ledger's mark holds no configuration"
    return Log(
        before_index=before_index,
        before_term=before_term,
        entries=entries,
        configuration=configuration,
        configuration_index=mark.applied_index,
    )


def recovered_hard_state(recovered: Recovered) -> HardState:
    """Term and vote as the disk has them."""
    assert recovered.hard_state is not None, "a disk with a log or a table has a term as well"
    return recovered.hard_state
