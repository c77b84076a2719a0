"""What a seed decides before the run begins: how large the mesh is, what goes wrong in it, and what it is asked.

Swarm testing: every seed switches a random subset of the faults off and draws the strength of the others, because a run
with everything in it hides what needs a quiet spell to happen.
"""

from random import Random
from typing import Any

import msgspec

from mesh.config import DispatchConfig, GossipConfig, MembershipConfig, RaftConfig
from mesh.sim.schedule import dice

STEADY_FAULTS = (
    "crash",
    "pause",
    "partition",
    "one_way",
    "bridge",
    "sleeping_leader",
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

UPHEAVALS = ("churn", "wipe", "damage", "leave")
"""Faults of whole members. Drawn from dice of their own, as they came later."""

FAULTS = (*STEADY_FAULTS, *UPHEAVALS)
"""Every fault by name. `Plan.faults` holds how often (mean pause in ms) or how likely (per mille) each is."""

STRENGTHS: dict[str, tuple[int, int]] = {
    "crash": (1_500, 8_000),
    "pause": (2_000, 10_000),
    "partition": (2_000, 9_000),
    "one_way": (2_000, 9_000),
    "bridge": (3_000, 12_000),
    "sleeping_leader": (4_000, 15_000),
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
    "churn": (1_500, 8_000),
    "wipe": (5_000, 20_000),
    "damage": (5_000, 20_000),
    "leave": (3_000, 12_000),
}
"""The weakest and strongest a fault is drawn: mean pause in ms, per mille of messages, or messages in flight."""

WORK_US_MAX = 20_000_000
"""No more work is asked for than all slots together do in this time, or nothing would ever be finished."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """One run, drawn from its seed. Times in the units their names end in."""

    seed: int
    node_ids: tuple[str, ...]
    faults: dict[str, int]
    safety_ms: int
    heal_ms: int = 90_000
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
    treated_permille: int = 0
    """How many tasks have options."""
    ruling_ms: int = 0
    """Mean pause between orders about the mesh as a whole: settings, queues, schedules, many tasks; 0 if none come."""
    crons_max: int = 0
    """Schedules there are at once, at most."""
    membership: MembershipConfig = MembershipConfig()
    spare_ids: tuple[str, ...] = ()
    """Hosts that are no founders: each starts later, with an empty disk, and wants to be let in."""
    spares_start_ms: tuple[int, ...] = ()

    @property
    def host_ids(self) -> tuple[str, ...]:
        """Founders, then spares; `slots` and `capabilities` are in this order."""
        return self.node_ids + self.spare_ids

    def strength(self, fault: str) -> int:
        """How often or how likely; 0 is never."""
        return self.faults.get(fault, 0)


def draw(seed: int) -> Plan:
    """The plan of a seed."""
    roll = dice(seed, "plan")
    size = roll.choice((1, 2, 3, 3, 3, 3, 5))
    faults = {}
    appetite = roll.choice((0.2, 0.4, 0.6))
    upheaval, treatment = dice(seed, "upheaval plan"), dice(seed, "treatment plan")
    for fault in FAULTS:
        weak, strong = STRENGTHS[fault]
        source = upheaval if fault in UPHEAVALS else roll
        strength, wanted = source.randint(weak, strong), source.random() < appetite
        if wanted:
            faults[fault] = strength
    heartbeat_ms = roll.choice((40, 60, 60, 90))
    capabilities, rare = _draw_capabilities(seed, size)
    safety_ms = roll.randint(20_000, 40_000) if size == 5 else roll.randint(30_000, 60_000)
    clients, tasks_max, burst = roll.randint(1, 3), roll.choice((30, 100, 250)), roll.choice((1, 3, 8))
    attempt_us, begin_us = roll.choice((2_000, 30_000, 300_000)), roll.choice((1_000, 3_000, 400_000))
    slots = tuple(roll.choice((1, 2, 4, 16)) for _ in range(size))
    spares = upheaval.choice((0, 0, 1, 2, 3))
    tasks_max = max(10, min(tasks_max, WORK_US_MAX * sum(slots) // (attempt_us + begin_us)))
    spread_ms = safety_ms * clients * (burst + 1) // (2 * tasks_max)
    raft, gossip, dispatch = _draw_settings(roll, heartbeat_ms)
    return Plan(
        seed=seed,
        node_ids=tuple(f"n{number + 1}" for number in range(size)),
        faults=faults,
        safety_ms=safety_ms,
        raft=raft,
        gossip=gossip,
        dispatch=dispatch,
        slots=slots + tuple(upheaval.choice((1, 2, 4, 16)) for _ in range(spares)),
        capabilities=capabilities + (("code", "plan"),) * spares,
        rare_capability=rare,
        delay_us=roll.choice((200, 1_000, 5_000)),
        sync_us=roll.choice((150, 1_000, 8_000)),
        ledger_write_us=roll.choice((500, 5_000, 40_000)),
        turn_open_permille=roll.choice((0, 300, 700)),
        turn_gap_us=roll.choice((50, 500, 3_000)),
        clock_skew_ms=roll.choice((0, 50, 5_000)),
        chunk_rows=roll.choice((1, 5, 1_000)),
        clients=clients,
        tasks_max=tasks_max,
        submit_pause_ms=max(20, spread_ms * roll.choice((2, 6, 9)) // 10),
        burst=burst,
        attempt_us=attempt_us,
        begin_us=begin_us,
        failing_permille=roll.choice((0, 100, 400)),
        checkpoint_permille=roll.choice((0, 300)),
        quiet_permille=roll.choice((0, 200)),
        treated_permille=treatment.choice((0, 300, 700)),
        ruling_ms=treatment.choice((0, 800, 3_000)),
        crons_max=treatment.choice((0, 2, 4)),
        membership=MembershipConfig(
            voters_wanted=upheaval.randint(1, 7),
            replace_after_ms=upheaval.randint(1_000, 8_000),
            lag_entries_max=upheaval.choice((5, 100, 1_000)),
        ),
        spare_ids=tuple(f"n{size + number + 1}" for number in range(spares)),
        spares_start_ms=tuple(upheaval.randrange(safety_ms * 2 // 3) for _ in range(spares)),
    )


def _draw_settings(roll: Random, heartbeat_ms: int) -> tuple[RaftConfig, GossipConfig, DispatchConfig]:
    """Timeouts, windows and how much of the log is kept."""
    return (
        RaftConfig(
            heartbeat_ms=heartbeat_ms,
            election_timeout_ms=heartbeat_ms * roll.choice((3, 5, 8)),
            link_down_campaign_ms=roll.choice((10, 50)),
            appends_in_flight_max=roll.choice((1, 4, 32)),
            append_entries_max=roll.choice((1, 8, 64)),
            append_bytes_max=roll.choice((256, 1 << 20)),
            disk_stall_ms_max=roll.choice((500, 2_000)),
        ),
        GossipConfig(
            heartbeat_interval_ms=roll.choice((150, 300, 1_000)),
            failure_threshold=roll.choice((2, 3)),
        ),
        DispatchConfig(
            queued_max=roll.choice((12, 1_000, 1_000_000)),
            entries_in_flight_max=roll.choice((1, 4)),
            start_report_ms=roll.choice((5, 50)),
            report_resend_ms=roll.choice((300, 1_000)),
            ledger_flush_ms=roll.choice((20, 100, 500)),
            log_tail_entries_max=roll.choice((1, 4, 16, 4_096)),
            report_wait_ms=roll.choice((300, 2_000)),
        ),
    )


def calm(seed: int, nodes: int = 3, **changes: Any) -> Plan:
    """A plan in which nothing goes wrong of itself, for stories that a test tells step by step."""
    plan = Plan(
        seed=seed,
        node_ids=tuple(f"n{number + 1}" for number in range(nodes)),
        faults={},
        safety_ms=10_000,
        raft=RaftConfig(heartbeat_ms=50, election_timeout_ms=300),
        gossip=GossipConfig(heartbeat_interval_ms=200),
        dispatch=DispatchConfig(start_report_ms=20, ledger_flush_ms=100, log_tail_entries_max=64),
        slots=(4,) * nodes,
        capabilities=(("code", "plan"),) * nodes,
        rare_capability="rare",
        delay_us=500,
        sync_us=500,
        ledger_write_us=2_000,
        turn_open_permille=300,
        turn_gap_us=500,
        clock_skew_ms=50,
        chunk_rows=10,
        clients=2,
        tasks_max=10_000,
        submit_pause_ms=100,
        burst=3,
        attempt_us=30_000,
        begin_us=3_000,
        failing_permille=100,
        checkpoint_permille=100,
        quiet_permille=0,
    )
    if spares := changes.get("spare_ids", ()):
        plan = msgspec.structs.replace(
            plan,
            slots=(4,) * (nodes + len(spares)),
            capabilities=(("code", "plan"),) * (nodes + len(spares)),
            spares_start_ms=(1_000,) * len(spares),
        )
    return msgspec.structs.replace(plan, **changes)


def _draw_capabilities(seed: int, size: int) -> tuple[tuple[tuple[str, ...], ...], str]:
    """Who offers what: everybody "code", some "plan", one node or none "rare"."""
    roll = dice(seed, "capabilities")
    offered = [("code", "plan") if roll.random() < 0.6 else ("code",) for _ in range(size)]
    offered[0] = ("code", "plan")
    if roll.random() < 0.7:
        lucky = roll.randrange(size)
        offered[lucky] = (*offered[lucky], "rare")
    return tuple(offered), "rare"
