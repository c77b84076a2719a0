"""Well-formed messages of any type, made up: field by field, from the types themselves.

Numbers and names are mostly near those the node knows, because a message that means nothing is dropped at once; and
sometimes as far away as the wire allows.
"""

import types
import typing
from collections.abc import Sequence
from random import Random
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

from mesh import messages
from mesh.durable import Configuration, Entry, EntryKind, LedgerMark, Member, TaskRow
from mesh.ids import LogIndex, NodeId, Term
from mesh.ledger.commands import Batch, Command
from mesh.ledger.ledger import Summary
from mesh.ledger.task import Task
from mesh.messages import (
    Append,
    ClientReply,
    ClientRequest,
    Heartbeat,
    PeerMessageBody,
    SnapshotChunk,
    SnapshotOffer,
)
from mesh.wire.codec import encode

PEER_KINDS: tuple[type, ...] = get_args(PeerMessageBody)
REQUEST_KINDS: tuple[type, ...] = get_args(ClientRequest)
REPLY_KINDS: tuple[type, ...] = get_args(ClientReply)
NAMES = ("ana", "ben", "eva", "kai", "", "x" * 300, "\x00", "ana@ana:1", "²", "ana:7000", "code", "t1")
FAR = (0, -1, 1, 1 << 31, 1 << 53, (1 << 63) - 1, (1 << 64) - 1, -(1 << 63), -(1 << 31))
ITEMS_MAX = 3

_HINTS: dict[type, dict[str, Any]] = {}


class Known(msgspec.Struct):
    """What the node to be spoken to knows: near these, numbers mean something."""

    cluster: str = "c"
    incarnation: int = 1
    term: int = 1
    commit: int = 1
    last: int = 1
    last_term: int = 1
    tokens: Sequence[int] = []
    task_ids: Sequence[str] = []
    transfers: list[int] = []
    now_ms: int = 0


class Maker:
    """Makes things up. `far_permille`: how often a number is as far away as can be.

    `is_mad`: as only somebody would say it who has gone mad, and whom nothing protects from: tables and commands that
    are none, another entry where one is committed, terms beyond counting.
    """

    def __init__(self, roll: Random, known: Known, *, far_permille: int = 60, is_mad: bool = False) -> None:
        self.roll = roll
        self.known = known
        self.far_permille = far_permille
        self.is_mad = is_mad

    def message(self, kinds: tuple[type, ...]) -> Any:
        return self.struct(self.roll.choice(kinds))

    def struct(self, kind: type) -> Any:
        """One of this type, every field made up."""
        if kind is Entry:
            return self.entry(self.near(self.known.last), self.number("term"))
        if kind is Append and (not self.is_mad or self.roll.random() < 0.7):
            return self.append()
        if kind is SnapshotChunk and not self.is_mad:
            return SnapshotChunk(self.number("transfer"), "asked by nobody", [], [], "")
        hints = _HINTS.get(kind)
        if hints is None:
            hints = _HINTS[kind] = get_type_hints(kind)
        fields = msgspec.structs.fields(kind)
        values = {field.name: self.value(hints[field.name], field.name, kind) for field in fields}
        return kind(**values)

    def append(self) -> Append:
        """Entries that follow each other, as they would from somebody who leads."""
        known, roll = self.known, self.roll
        term = max(0, roll.choice((known.term, known.term, known.term + 1, known.term - 1, self.number("term"))))
        prev = roll.choice((known.last, known.last, known.commit, known.commit - 1, self.number("index")))
        prev_term = known.last_term if prev == known.last else self.number("term")
        count = roll.randrange(ITEMS_MAX) if self.is_mad or prev >= known.commit else 0
        entries, at, entry_term = [], prev, prev_term
        for _ in range(count):
            at, entry_term = at + 1, roll.choice((entry_term, max(term, entry_term)))
            entries.append(self.entry(at, entry_term))
        commit = roll.choice((known.commit, at, at + 5, self.number("index")))
        return Append(Term(term), LogIndex(prev), Term(prev_term), LogIndex(commit), roll.randrange(9), tuple(entries))

    def entry(self, index: int, term: int) -> Entry:
        kind = self.roll.choice((0, 1, 1, 2, self.near(2)))
        data = b""
        if kind == EntryKind.COMMANDS:
            data = self.data() if self.is_mad and self.roll.random() < 0.1 else encode(self.batch())
        elif kind == EntryKind.CONFIGURATION:
            data = encode(self.configuration()) if self.roll.random() < 0.9 else self.data()
        return Entry(LogIndex(index), Term(term), kind, data)

    def table(self) -> list[Any]:
        """A table that is offered and then sent, in one chunk or two."""
        known, roll = self.known, self.roll
        transfer = roll.randint(1, 5)
        index, term = known.last + roll.randint(-2, 40), self.near(known.term)
        summary, configuration = encode(self.struct(Summary)), encode(self.configuration())
        mark = LedgerMark(LogIndex(index), Term(term), bytes(16), summary, configuration)
        rows = [self.struct(TaskRow) for _ in range(roll.randrange(ITEMS_MAX))]
        first = SnapshotChunk(transfer, "", rows, [], roll.choice(("", "m")))
        last = SnapshotChunk(transfer, "m", [self.struct(TaskRow)], [(index, b"\x90")], "")
        return [SnapshotOffer(Term(roll.choice((known.term, term))), transfer, mark), first, last]

    def batch(self) -> Batch:
        commands: tuple[type, ...] = get_args(Command)
        return Batch(self.known.now_ms, [self.message(commands) for _ in range(self.roll.randrange(ITEMS_MAX))])

    def configuration(self) -> Configuration:
        names = self.roll.sample(("ana", "ben", "eva", "kai"), self.roll.randint(1, 4))
        members = tuple(Member(NodeId(name), f"{name}:7000") for name in names)
        cut = self.roll.randint(0, len(members))
        return Configuration(members[:cut], members[cut:])

    # --- plain values -------------------------------------------------------------------------------------------------

    def value(self, hint: Any, name: str, owner: type) -> Any:
        """Something of this type; what the field is called decides near what."""
        origin = get_origin(hint)
        if origin in (typing.Union, types.UnionType):
            chosen = self.roll.choice(get_args(hint))
            return None if chosen is type(None) else self.value(chosen, name, owner)
        if origin is typing.Annotated:
            return self.value(get_args(hint)[0], name, owner)
        if origin is list or (origin is tuple and get_args(hint)[-1] is Ellipsis):
            items = [self.value(get_args(hint)[0], name, owner) for _ in range(self.roll.randint(0, ITEMS_MAX))]
            return origin(items)
        if origin is dict:
            of_key, of_value = get_args(hint)
            keys = [self.value(of_key, name, owner) for _ in range(self.roll.randint(0, ITEMS_MAX))]
            return {key: self.value(of_value, name, owner) for key in keys}
        if origin is tuple:
            return tuple(self.value(part, name, owner) for part in get_args(hint))
        if hasattr(hint, "__supertype__"):
            name = {"Term": "term", "LogIndex": "index", "NodeId": "node_id", "TaskId": "task_id"}.get(
                hint.__name__, "token" if hint.__name__ == "FencingToken" else name
            )
            hint = hint.__supertype__
        if hint is bool:
            return self.roll.random() < 0.5
        if hint is int or (isinstance(hint, type) and issubclass(hint, int)):
            return self.number(name)
        if hint is str:
            return self.text(name)
        if hint is bytes:
            return self.bytes_of(name, owner)
        assert isinstance(hint, type) and issubclass(hint, msgspec.Struct), f"{owner.__name__}.{name}: {hint}"
        return self.struct(hint)

    def number(self, name: str) -> int:
        roll, known = self.roll, self.known
        if roll.random() * 1_000 < self.far_permille and (self.is_mad or "term" not in name):
            return roll.choice(FAR)
        if "term" in name:
            return self.near(known.term)
        if name == "token":
            return roll.choice(known.tokens) if known.tokens and roll.random() < 0.7 else self.near(known.commit)
        if "index" in name or name in ("commit", "match", "rejected", "applied"):
            return self.near(roll.choice((known.commit, known.last)))
        if name == "incarnation":
            return self.near(known.incarnation)
        if name == "transfer" and known.transfers:
            return roll.choice(known.transfers)
        if name == "kind" or name == "question" or name == "action" or name == "state":
            return roll.randint(-1, 14)
        if name.endswith("_ms"):
            return roll.choice((0, known.now_ms, known.now_ms + 1_000))
        return roll.choice((0, 1, 2, 3, 5, 10))

    def near(self, number: int) -> int:
        return number + self.roll.choice((0, 0, 0, 1, -1, 2, 7))

    def text(self, name: str) -> str:
        roll, known = self.roll, self.known
        if name == "cluster" and roll.random() < 0.9:
            return known.cluster
        if name in ("task_id", "target", "after") and known.task_ids and roll.random() < 0.6:
            return roll.choice(known.task_ids)
        if name in ("node_id", "leader", "target") and roll.random() < 0.8:
            return roll.choice(NAMES[:4])
        if name == "capability" and roll.random() < 0.8:
            return "code"
        return roll.choice(NAMES)

    def bytes_of(self, name: str, owner: type) -> bytes:
        """A part that is itself encoded is mostly what it should be."""
        if self.roll.random() < 0.2:
            return self.data()
        if owner is messages.Forward:
            return encode(self.message(REQUEST_KINDS))
        if owner is messages.Relay:
            return encode(self.message(REPLY_KINDS))
        if owner is LedgerMark:
            made = {"summary": lambda: self.struct(Summary), "configuration": self.configuration}.get(name)
            return encode(made()) if made is not None else bytes(16)
        if owner is TaskRow:
            return encode(self.struct(Task))
        return self.data()

    def data(self) -> bytes:
        return self.roll.choice(
            (b"", b"\x01", b"\xc0", b"\xc1", b"\x91" * 40, self.roll.randbytes(self.roll.randrange(40)))
        )


def sample_of_every_kind(roll: Random, known: Known) -> list[tuple[str, bytes]]:
    """One encoded message of every kind, with the name of the decoder it is for."""
    maker = Maker(roll, known, far_permille=0)
    found = [("decode_peer", encode(maker.struct(kind))) for kind in PEER_KINDS]
    found += [("decode_request", encode(maker.struct(kind))) for kind in REQUEST_KINDS]
    found += [("decode_reply", encode(maker.struct(kind))) for kind in REPLY_KINDS]
    found.append(("decode_heartbeat", encode(maker.struct(Heartbeat))))
    return [*found, ("decode_value", encode({"a": [1, 2.5, None, "x", b"y"], "b": {"c": True}}))]
