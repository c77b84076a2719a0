"""What a seed decides before the run begins: how large the mesh is, what goes wrong in it, and what it is asked.

Swarm testing: every seed switches a random subset of the faults off and draws the strength of the others, because a run
with everything in it hides what needs a quiet spell to happen.
"""

import msgspec

from mesh.config import DispatchConfig, GossipConfig, RaftConfig
from mesh.sim.schedule import dice

FAULTS = (
    "crash",
    "pause",
    "partition",
    "one_way",
    "bridge",
    "bounce",
    "lying_links",
    "slow_node",
    "stall_disk",
    "disk_failure",
    "restart_all",
    "agents_die",
    "client_crash",
    "transfer",
    "operator",
    "loss",
    "duplicate",
    "reorder",
    "replay",
    "high_water_mark",
)
"""Every fault by name. `Plan.faults` holds how often (mean pause in ms) or how likely (per mille) each is."""

STRENGTHS: dict[str, tuple[int, int]] = {
    "crash": (1_500, 8_000),
    "pause": (2_000, 10_000),
    "partition": (2_000, 9_000),
    "one_way": (2_000, 9_000),
    "bridge": (3_000, 12_000),
    "bounce": (800, 5_000),
    "lying_links": (1_000, 6_000),
    "slow_node": (3_000, 10_000),
    "stall_disk": (2_500, 9_000),
    "disk_failure": (6_000, 20_000),
    "restart_all": (6_000, 20_000),
    "agents_die": (2_000, 8_000),
    "client_crash": (2_000, 8_000),
    "transfer": (1_500, 8_000),
    "operator": (1_500, 8_000),
    "loss": (5, 150),
    "duplicate": (5, 150),
    "reorder": (5, 300),
    "replay": (2, 40),
    "high_water_mark": (8, 60),
}
"""The weakest and strongest a fault is drawn: mean pause in ms, per mille of messages, or messages in flight."""

FULL_MESH = 3


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run, drawn from its seed. Times in the units their names end in."""

    seed: int
    node_ids: tuple[str, ...]
    faults: dict[str, int]
    safety_ms: int
    heal_ms: int = 60_000
    raft: RaftConfig
    gossip: GossipConfig
    dispatch: DispatchConfig
    slots: tuple[int, ...]
    capabilities: tuple[tuple[str, ...], ...]
    rare_capability: str
    """A capability that at most one node offers, and perhaps none."""
    delay_us: int
    """Mean one-way delay of a message."""
    sync_us: int
    """Mean time of one sync to disk."""
    ledger_write_us: int
    turn_open_permille: int
    """How often a node's loop reads on before it ends its turn."""
    turn_gap_us: int
    clock_skew_ms: int
    """How far the nodes' wall clocks disagree, at most."""
    chunk_rows: int
    clients: int
    tasks_max: int
    submit_pause_ms: int
    burst: int
    attempt_us: int
    """Mean running time of an attempt."""
    begin_us: int
    """Within how much user code of an attempt begins to run: new child processes are slow."""
    failing_permille: int
    checkpoint_permille: int
    quiet_permille: int

    def strength(self, fault: str) -> int:
        """How often or how likely; 0 is never."""
        return self.faults.get(fault, 0)


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    roll = dice(seed, "plan")
    size = roll.choice((1, 2, 3, 3, 3, 3, 5))
    faults = {}
    appetite = roll.choice((0.2, 0.4, 0.6))
    for fault in FAULTS:
        weak, strong = STRENGTHS[fault]
        strength, wanted = roll.randint(weak, strong), roll.random() < appetite
        if wanted:
            faults[fault] = strength
    heartbeat_ms = roll.choice((40, 60, 60, 90))
    capabilities, rare = _draw_capabilities(seed, size)
    return Plan(
        seed=seed,
        node_ids=tuple(f"n{number + 1}" for number in range(size)),
        faults=faults,
        safety_ms=roll.randint(10_000, 20_000) if size == 5 else roll.randint(12_000, 30_000),
        raft=RaftConfig(
            heartbeat_ms=heartbeat_ms,
            election_timeout_ms=heartbeat_ms * roll.choice((3, 5, 8)),
            link_down_campaign_ms=roll.choice((10, 50)),
            appends_in_flight_max=roll.choice((1, 4, 32)),
            append_entries_max=roll.choice((1, 8, 64)),
            append_bytes_max=roll.choice((256, 1 << 20)),
            disk_stall_ms_max=roll.choice((500, 2_000)),
        ),
        gossip=GossipConfig(
            heartbeat_interval_ms=roll.choice((150, 300, 1_000)),
            failure_threshold=roll.choice((2, 3)),
        ),
        dispatch=DispatchConfig(
            queued_max=roll.choice((12, 1_000, 1_000_000)),
            entries_in_flight_max=roll.choice((1, 4)),
            start_report_ms=roll.choice((5, 50)),
            report_resend_ms=roll.choice((300, 1_000)),
            ledger_flush_ms=roll.choice((20, 100, 500)),
            log_tail_entries_max=roll.choice((1, 4, 16, 4_096)),
            report_wait_ms=roll.choice((300, 2_000)),
        ),
        slots=tuple(roll.choice((1, 2, 4, 16)) for _ in range(size)),
        capabilities=capabilities,
        rare_capability=rare,
        delay_us=roll.choice((200, 1_000, 5_000)),
        sync_us=roll.choice((150, 1_000, 8_000)),
        ledger_write_us=roll.choice((500, 5_000, 40_000)),
        turn_open_permille=roll.choice((0, 300, 700)),
        turn_gap_us=roll.choice((50, 500, 3_000)),
        clock_skew_ms=roll.choice((0, 50, 5_000)),
        chunk_rows=roll.choice((1, 5, 1_000)),
        clients=roll.randint(1, 3),
        tasks_max=roll.choice((20, 60, 120)),
        submit_pause_ms=roll.choice((40, 150, 400)),
        burst=roll.choice((1, 3, 8)),
        attempt_us=roll.choice((2_000, 30_000, 300_000)),
        begin_us=roll.choice((1_000, 3_000, 400_000)),
        failing_permille=roll.choice((0, 100, 400)),
        checkpoint_permille=roll.choice((0, 300)),
        quiet_permille=roll.choice((0, 200)),
    )


def _draw_capabilities(seed: int, size: int) -> tuple[tuple[tuple[str, ...], ...], str]:
    """Who offers what: everybody "code", some "plan", one node or none "rare"."""
    roll = dice(seed, "capabilities")
    offered = [("code", "plan") if roll.random() < 0.6 else ("code",) for _ in range(size)]
    offered[0] = ("code", "plan")
    if roll.random() < 0.7:
        lucky = roll.randrange(size)
        offered[lucky] = (*offered[lucky], "rare")
    return tuple(offered), "rare"
