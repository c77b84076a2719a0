"""A node among those who hold the secret and mean no good: whatever they say, it neither stops nor loses its way."""

from pathlib import Path
from typing import Any

import pytest

from mesh.durable import Entry, LedgerMark
from mesh.ids import ClientId, FencingToken, LogIndex, NodeId, TaskId, Term
from mesh.messages import (
    Append,
    AppendReply,
    AttemptOrder,
    CheckpointReport,
    Departing,
    Forward,
    Grants,
    Knock,
    NodeReport,
    Relay,
    Reports,
    SnapshotChunk,
    SnapshotOffer,
    SnapshotPull,
    Stops,
    TimeoutNow,
)
from mesh.raft import replication
from mesh.wire.codec import encode
from tests.fuzz.hostile import FROM_PEER, PASS_MS, ROLES, Step, from_hex, replay, session, shrunk, to_hex
from tests.fuzz.solo import BEN

CORPUS = sorted((Path(__file__).parent / "corpus").glob("session-*.hex"))
MAD = sorted((Path(__file__).parent / "corpus").glob("mad-*.hex"))
"""What only a leader gone mad says, and what rightly stops a node."""
SESSIONS, PARTS = 960, 8


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_what_once_stopped_a_node(path: Path) -> None:
    role, steps = from_hex(path.read_text(encoding="ascii"))
    assert replay(role, steps) == ""


@pytest.mark.parametrize("path", MAD, ids=lambda path: path.stem)
def test_a_leader_gone_mad_stops_who_follows_it(path: Path) -> None:
    """What is committed is contradicted by whoever leads: one of the two has broken an invariant, and to go on would be
    to guess which. A node that stops loses nothing.
    """
    role, steps = from_hex(path.read_text(encoding="ascii"))
    assert "is committed and cannot be replaced" in replay(role, steps)


@pytest.mark.parametrize("part", range(PARTS))
def test_no_session_stops_a_node(part: int) -> None:
    """Every role, thirty steps each: messages of any type, mutated ones, gossip, clients, knocks, time."""
    for seed in range(part * SESSIONS // PARTS, (part + 1) * SESSIONS // PARTS):
        stopped = session(seed)
        if stopped is not None:
            steps = shrunk(stopped)
            text = to_hex(stopped.role, steps)
            raise AssertionError(f"seed {seed}, {stopped.role}: {stopped.why}\n{steps}\ncorpus file:\n{text}")


def test_a_session_can_be_kept_and_played_again() -> None:
    role, steps = from_hex(to_hex("follower", []))
    assert (role, steps, replay(role, steps)) == ("follower", [], "")


HUGE = (1 << 63) - 1
NOWHERE = LedgerMark(LogIndex(0), Term(0), b"", b"", b"")
LIES = {
    "an ack beyond the log": AppendReply(Term(2), 1, True, LogIndex(HUGE), LogIndex(0), LogIndex(0), Term(0)),
    "an ack of less than nothing": AppendReply(Term(2), 1, True, LogIndex(-5), LogIndex(0), LogIndex(0), Term(0)),
    "an answer to a round to come": AppendReply(Term(2), HUGE, True, LogIndex(3), LogIndex(0), LogIndex(0), Term(0)),
    "a refusal of what was never sent": AppendReply(
        Term(2), 1, False, LogIndex(0), LogIndex(HUGE), LogIndex(HUGE), Term(HUGE)
    ),
    "a refusal below the log": AppendReply(Term(2), 1, False, LogIndex(0), LogIndex(-1), LogIndex(-9), Term(-9)),
    "a commit beyond the log": Append(Term(2), LogIndex(3), Term(2), LogIndex(HUGE), 2, ()),
    "entries after nothing known": Append(Term(2), LogIndex(HUGE), Term(2), LogIndex(0), 2, ()),
    "entries before the first": Append(Term(2), LogIndex(-1), Term(0), LogIndex(0), 2, ()),
    "an entry out of its place": Append(
        Term(2), LogIndex(3), Term(2), LogIndex(3), 2, (Entry(LogIndex(9), Term(2), 0, b""),)
    ),
    "terms that fall": Append(Term(2), LogIndex(3), Term(2), LogIndex(3), 2, (Entry(LogIndex(4), Term(1), 0, b""),)),
    "a configuration that is none": Append(
        Term(2), LogIndex(3), Term(2), LogIndex(3), 2, (Entry(LogIndex(4), Term(2), 2, b"\xc1"),)
    ),
    "a transfer to whom it was not asked": TimeoutNow(Term(2)),
    "a table that is no news": SnapshotOffer(Term(2), 1, NOWHERE),
    "rows of a table nobody sends": SnapshotChunk(HUGE, "", [], [], ""),
    "a pull of a table nobody sends": SnapshotPull(-1, "x" * 300),
    "a grant for another life": Grants(
        Term(2), HUGE, [AttemptOrder(TaskId("t9"), FencingToken(9), 1, "code", b"", b"")]
    ),
    "stops of what does not run": Stops(Term(HUGE), [(TaskId("t9"), FencingToken(HUGE))]),
    "results nobody asked for": Reports([]),
    "a checkpoint from nowhere": CheckpointReport(TaskId("ghost"), FencingToken(-1), -1, b"\xc1"),
    "leases of others": NodeReport(
        Term(2), 1, -4, ("code",), [(TaskId("t1"), FencingToken(4)), (TaskId("t9"), FencingToken(HUGE))], []
    ),
    "a client of nobody": Forward(ClientId(-1), b"\xc1"),
    "an answer to nobody": Relay(ClientId(HUGE), b""),
    "a stranger at the door": Knock(NodeId(""), "", ""),
    "our own name at the door": Knock(NodeId("ana"), "elsewhere:1", "f" * 16),
    "a farewell from a life to come": Departing(HUGE),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("name", LIES)
def test_a_lie_changes_nothing_that_matters(name: str, role: str) -> None:
    """Each lie, to a node in each role, twice; then time passes."""
    lie: Any = LIES[name]
    said = Step(FROM_PEER, BEN, encode(lie))
    assert replay(role, [said, said, Step(PASS_MS, "400", b""), said, Step(PASS_MS, "2000", b"")]) == ""


def test_a_guard_that_is_missing_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the look at whether entries follow each other, some session stops a node, and few steps show it."""
    monkeypatch.setattr(replication, "_is_plausible", lambda message: True)
    stopped = next(stopped for stopped in map(session, range(SESSIONS)) if stopped is not None)
    steps = shrunk(stopped)
    assert len(steps) <= 4
    assert replay(stopped.role, steps).partition(":")[0] == stopped.why.partition(":")[0]
