"""The last resort: a majority of the voters is lost for good, and one survivor goes on alone.

Whatever only the lost ones held is lost. Nobody can know how much that is; so this is done by an operator, to a node
that is stopped, and never by a node to itself.
"""

from pathlib import Path

import msgspec

from mesh.durable import Configuration, Entry, EntryKind, HardState, Member, Recovered
from mesh.effects import Persist
from mesh.events import Event
from mesh.ids import Incarnation, LogIndex, NodeId, PersistToken, Term
from mesh.raft.configuration import decode, member_ids
from mesh.storage.directory import peek
from mesh.storage.faults import StoreRefused
from mesh.storage.store import Store
from mesh.wire.codec import encode


class Forced(msgspec.Struct, frozen=True):
    """What was done: the entry at `index`, of `term`, replaced the configuration `old` by `new`."""

    old: Configuration
    new: Configuration
    index: LogIndex
    term: Term
    incarnation: Incarnation


def force_configuration(data_dir: Path, node_id: str) -> Forced:
    """Make this node the only voter of its mesh, and all others strangers to it. The node must be stopped.

    Everything in its log, committed or not, is kept, and will be committed. The others must come back with empty
    directories, as nodes that join: their logs may hold what this one never heard of.

    Raises:
        StoreRefused: a process holds the directory, it is another node's, there is no log in it yet, or its newest
            configuration is without this node.
        StoreDamaged: as for `Store`.
    """
    identity = peek(data_dir)
    if identity is None or not identity.is_complete:
        raise StoreRefused(f"{data_dir} holds no log: there is nothing to go on from.")
    store = Store(data_dir, node_id=node_id, cluster=identity.cluster, post=_nobody_listens)
    try:
        recovered = store.recover()
        old = _newest_configuration(data_dir, recovered)
        last_index, last_term = _end_of_log(recovered)
        index = LogIndex(last_index + 1)
        term = Term(max(last_term, recovered.hard_state.term if recovered.hard_state else 0) + 1)
        new = Configuration((_survivor(data_dir, old, node_id, store.created),))
        entry = Entry(index, term, EntryKind.CONFIGURATION, encode(new))
        store.append_offline(Persist(PersistToken(1), HardState(term, None), LogIndex(0), (entry,)))
        return Forced(old, new, index, term, Incarnation(store.incarnation))
    finally:
        store.close()


def _nobody_listens(_: Event) -> None:
    pass


def _end_of_log(recovered: Recovered) -> tuple[int, int]:
    if recovered.entries:
        return recovered.entries[-1].index, recovered.entries[-1].term
    return (recovered.mark.applied_index, recovered.mark.applied_term) if recovered.mark else (0, 0)


def _newest_configuration(data_dir: Path, recovered: Recovered) -> Configuration:
    """The last one in the log, or else the one the table stands at."""
    for entry in reversed(recovered.entries):
        if entry.kind == EntryKind.CONFIGURATION:
            found = decode(entry.data)
            break
    else:
        found = decode(recovered.mark.configuration) if recovered.mark else None
    if found is None:
        raise StoreRefused(f"{data_dir} holds no configuration: this node never took part in a mesh.")
    return found


def _survivor(data_dir: Path, old: Configuration, node_id: str, created: str) -> Member:
    """This node, under the address the others knew it by."""
    for member in old.voters + old.learners:
        if member.node_id == node_id:
            return Member(NodeId(node_id), member.address, created)
    raise StoreRefused(
        f"The newest configuration in {data_dir} is without {node_id}; it has {', '.join(member_ids(old))}:"
        " recover from one of those."
    )
