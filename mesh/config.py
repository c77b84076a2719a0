"""Every number a node is run by. Frozen, keyword-only, units last in the name, relations checked."""

from dataclasses import dataclass, field

PAYLOAD_BYTES_MAX = 1 << 20
"""Largest payload, result or checkpoint that travels inline. Larger ones are refused before they leave."""

FINISHED_MAX = 1 << 18
"""How many finished tasks are remembered (id, result, history). The oldest is forgotten when one more finishes.
Part of the protocol: the same on every node, because it decides whether a repeated id is recognised."""

PROTOCOL = 2
"""What this release speaks. It works together with the one before, and says nothing to it that it would not know."""

LEVEL = 1
"""The latest level of the ledger that this release can apply, see ledger.commands.RaiseLevel."""

VOTERS_MAX = 7
"""More make every commit dearer, and no mesh safer than 7 do."""

MEMBERS_MAX = 1_000
"""Voters and learners together."""

FORGOTTEN_MAX = 1_000
"""Marks of removed logs that a configuration remembers."""

COMMANDS_PER_ENTRY_MAX = 512
"""Commands in one log entry at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RaftConfig:
    """How the log is replicated and who may lead."""

    heartbeat_ms: int = 60
    """Pause between two appends of a leader with nothing to say."""

    election_timeout_ms: int = 450
    """A follower that hears nothing campaigns after election_timeout_ms to twice that, drawn anew each time.
    A leader that hears no majority for election_timeout_ms leaves office (check-quorum)."""

    link_down_campaign_ms: int = 50
    """A follower that loses its link to the leader asks for pre-votes after 0 to this."""

    appends_in_flight_max: int = 32
    """Appends sent to one follower and not yet answered."""

    bytes_in_flight_max: int = 8 << 20
    """Their bytes together."""

    append_entries_max: int = 64
    append_bytes_max: int = 1 << 20
    """One append carries no more than this, except that a single larger entry travels alone."""

    uncommitted_bytes_max: int = 64 << 20
    """Proposals beyond this are refused until some commit."""

    disk_stall_ms_max: int = 2_000
    """A leader whose own disk has not confirmed an append for this long leaves office."""

    def __post_init__(self) -> None:
        if not 0 < self.heartbeat_ms * 3 <= self.election_timeout_ms:
            raise ValueError(f"need 0 < 3 x heartbeat_ms <= election_timeout_ms: {self}")


@dataclass(frozen=True, slots=True, kw_only=True)
class GossipConfig:
    """Heartbeats between all nodes, and when a silent one is given up."""

    heartbeat_interval_ms: int = 1_000
    """Silence is counted in these; 50 at least. Heartbeats come a little closer together, see `beat_ms`."""

    failure_threshold: int = 3
    """Heartbeats in a row a node may miss. Silence limit = heartbeat_interval_ms x failure_threshold."""

    recovery_heartbeats: int = 2
    """Heartbeats a recovering node must show before it is healthy again."""

    link_grace_ms: int = 150
    """A link down for this long, at a majority of the voters, is a verdict before the silence limit."""

    lateness_ms_max: int = 100
    """A node whose own timer fired later than this judges nobody until it has read what is waiting."""

    def __post_init__(self) -> None:
        if self.heartbeat_interval_ms < 50 or self.failure_threshold < 2:
            raise ValueError(
                f"need heartbeat_interval_ms >= 50 and failure_threshold >= 2, "
                f"not {self.heartbeat_interval_ms} and {self.failure_threshold}"
            )

    @property
    def beat_ms(self) -> int:
        """Pause between two heartbeats of one node: heartbeat_interval_ms x 9 / 10, rounded down.

        The tenth left over is the time a beat may take on its way, or its sender be late with it. So whoever listens
        need not add any: the k-th beat is missed exactly k intervals after the last one heard, and a silent node is
        failed at exactly failure_threshold x heartbeat_interval_ms (S0-08).
        """
        return self.heartbeat_interval_ms * 9 // 10


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchConfig:
    """How the leader batches, admits and hands out tasks."""

    queued_max: int = 1_000_000
    """Live tasks (dead letters included). Submits beyond it meet Backpressure."""

    queued_bytes_max: int = 4 << 30
    """Of their payloads. They are in memory. Submits beyond it meet Backpressure."""

    entries_in_flight_max: int = 4
    """Entries of the leader proposed and not yet applied. Commands that arrive meanwhile share the next one."""

    entry_bytes_max: int = 1 << 20
    """Commands are cut into another entry beyond this."""

    start_report_ms: int = 50
    """An attempt that still runs after this is committed as started."""

    report_resend_ms: int = 1_000
    """An outcome the ledger has not confirmed is reported again after this."""

    ledger_flush_ms: int = 500
    """Changed rows of the task table are written behind at this pace."""

    ledger_flush_rows_max: int = 2_000
    """Or as soon as this many have changed. Encoding them takes some 2 us each, on the loop."""

    events_kept_max: int = 200_000
    """Log entries whose events are kept."""

    message_bytes_max: int = 1 << 20
    """A message that carries many things is cut about here; one thing larger than this travels alone."""

    log_tail_entries_max: int = 4_096
    """Entries kept, though the table covers them, for followers that lag a little."""

    waiting_max: int = 100_000
    """Client requests one node holds unanswered, at most."""

    report_wait_ms: int = 2_000
    """A new leader dispatches to a node once that node has reported its slots; it waits no longer than this to judge
    the leases of one that did not."""

    log_tail_bytes_max: int = 64 << 20
    """Bytes of the entries that log_tail_entries_max keeps. All of them are in memory, and one may weigh 3 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MembershipConfig:
    """Who is given a vote, and when one that has it loses it."""

    voters_wanted: int = 5
    """Learners that have caught up are given a vote until there are so many voters; 7 at most."""

    replace_after_ms: int = 600_000
    """A voter that has been failed for this long makes room for a learner that has caught up, if there is one."""

    lag_entries_max: int = 1_000
    """A learner has caught up when it trails the log by no more than this."""

    def __post_init__(self) -> None:
        if not 1 <= self.voters_wanted <= VOTERS_MAX:
            raise ValueError(f"need 1 <= voters_wanted <= {VOTERS_MAX}, not {self.voters_wanted}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """One node."""

    node_id: str
    cluster: str
    """Which mesh this is: a digest of the founding configuration."""
    incarnation: int
    address: str
    """HOST:PORT under which other nodes and clients reach the first of its four ports."""
    voters: tuple[tuple[str, str], ...]
    """Founding configuration: (node id, HOST:PORT), sorted; empty for a node that joins a mesh which runs already."""
    pid: int = 0
    slots: int = 256
    """Attempts this node runs at once."""
    labels: tuple[tuple[str, str], ...] = ()
    kind: str = "general"
    """What it is there for: worker, provider, consumer or general (S4-17)."""
    epoch_ms: int = 0
    """Wall clock minus monotonic clock at start. Time in the log is now_ms + epoch_ms, and only ever displayed
    or compared with other times in the log."""
    raft: RaftConfig = field(default_factory=RaftConfig)
    gossip: GossipConfig = field(default_factory=GossipConfig)
    dispatch: DispatchConfig = field(default_factory=DispatchConfig)
    membership: MembershipConfig = field(default_factory=MembershipConfig)
    mark: str = ""
    """Names this node's log: minted with its data directory, and never used by another."""
    trouble: str = ""
    """What was wrong at start, for the status; empty if nothing was."""
    protocol: int = PROTOCOL
    """The latest this node speaks."""
    level: int = LEVEL
    """The latest level of the ledger it can apply."""
