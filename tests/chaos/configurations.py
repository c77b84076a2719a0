"""What is done to which mesh: one line each. A configuration is a size, the work, and lanes of faults side by side."""

from dataclasses import dataclass, replace


@dataclass(slots=True, frozen=True, kw_only=True)
class Mix:
    """One stream of work. `rate` is tasks a second while all is well, in batches of `batch`."""

    kind: str
    rate: float
    batch: int = 10
    pad_bytes: int = 0
    pad_share: float = 0.0
    short_lives: bool = False
    """Clients that know only some nodes, and go away in the middle."""


@dataclass(slots=True, frozen=True, kw_only=True)
class Lane:
    """Faults that come one after the other, drawn at random, with a pause in between."""

    faults: tuple[str, ...]
    gap_s: tuple[float, float] = (0.2, 0.8)


@dataclass(slots=True, frozen=True, kw_only=True)
class Configuration:
    name: str
    nodes: int
    lanes: tuple[Lane, ...]
    work: tuple[Mix, ...]
    heartbeat_ms: int = 300
    wires: bool = False
    """Cannot be done without namespaces."""
    relay: bool = False
    """Cannot be done without a host of our own between them."""
    disks: bool = False
    """Cannot be done without the right to mount."""
    joiners: int = 0
    """Nodes beyond the founders, that come and go."""


VOLUME = (
    Mix(kind="quick", rate=480.0, batch=16),
    Mix(kind="quick", rate=120.0, batch=8, short_lives=True),
    Mix(kind="mixed", rate=25.0, batch=1),
)
HEAVY = (
    Mix(kind="quick", rate=250.0, batch=10, pad_bytes=20_000, pad_share=0.2),
    Mix(kind="quick", rate=100.0, batch=8, short_lives=True),
    Mix(kind="mixed", rate=25.0, batch=1),
)
BURSTS = (
    Mix(kind="quick", rate=500.0, batch=250),
    Mix(kind="quick", rate=120.0, batch=8, short_lives=True),
    Mix(kind="mixed", rate=40.0, batch=20),
)

KILLS = Lane(faults=("kill", "kill", "kill leader", "pause"))
PAUSES = Lane(faults=("pause", "pause", "pause leader", "kill"))
MILD = Lane(faults=("kill", "pause", "kill leader", "pause leader"), gap_s=(0.6, 1.6))
WORKERS = Lane(faults=("kill agents", "pause", "kill agents", "kill"))


def _wired(*faults: str) -> Lane:
    return Lane(faults=faults, gap_s=(0.5, 2.0))


def _all() -> tuple[Configuration, ...]:
    def on(nodes: int, name: str, *lanes: Lane, work: tuple[Mix, ...] = VOLUME, **more: object) -> Configuration:
        faults = {fault for lane in lanes for fault in lane.faults}
        plain = Configuration(
            name=f"{name}-{nodes}",
            nodes=nodes,
            lanes=lanes,
            work=work,
            wires=bool(faults & NEEDS_WIRES),
            relay=bool(faults & NEEDS_RELAY),
            disks=bool(faults & NEEDS_DISKS),
        )
        return replace(plain, **more)  # type: ignore[arg-type]  # Fields by name, of many types.

    return (
        on(3, "kills", KILLS),
        on(5, "kills", KILLS, MILD),
        on(3, "kills-bursts", KILLS, work=BURSTS),
        on(3, "pauses", PAUSES),
        on(5, "pauses", PAUSES, MILD),
        on(3, "pauses-heavy", PAUSES, work=HEAVY),
        on(3, "agents", WORKERS),
        on(3, "restarts", Lane(faults=("restart all", "kill", "pause"), gap_s=(1.0, 3.0))),
        on(5, "restarts", Lane(faults=("restart all", "kill", "pause"), gap_s=(1.0, 3.0))),
        on(3, "halves", _wired("halves"), MILD),
        on(5, "halves", _wired("halves"), MILD),
        on(3, "leader-alone", _wired("leader alone"), MILD),
        on(5, "leader-alone", _wired("leader alone"), MILD, work=BURSTS),
        on(3, "one-alone", _wired("one alone"), MILD, work=HEAVY),
        on(3, "one-way", _wired("one way"), MILD),
        on(5, "one-way", _wired("one way"), MILD),
        on(5, "bridge", _wired("bridge"), MILD),
        on(5, "ring", _wired("ring"), MILD),
        on(3, "slow-links", _wired("slow links"), MILD),
        on(5, "slow-links", _wired("slow links", "slow leader"), MILD),
        on(3, "lossy-links", _wired("lossy links"), MILD),
        on(3, "resets", _wired("resets"), KILLS),
        on(3, "disk-full", Lane(faults=("disk full",), gap_s=(1.0, 3.0)), MILD),
        on(3, "disk-hangs", Lane(faults=("disk hangs", "disk of leader hangs"), gap_s=(1.0, 3.0)), MILD),
        on(3, "churn", Lane(faults=("join", "forget", "leave"), gap_s=(0.5, 2.0)), MILD, joiners=2),
        on(3, "wipe", Lane(faults=("wipe",), gap_s=(0.5, 2.0)), MILD),
        on(5, "wipe", Lane(faults=("wipe", "leave"), gap_s=(0.5, 2.0)), MILD),
        on(3, "churn-halves", Lane(faults=("join", "forget", "leave")), _wired("halves", "one way"), MILD, joiners=2),
        on(3, "pause-kill", Lane(faults=("pause-kill",), gap_s=(1.0, 2.0))),
        on(5, "partition-kill", Lane(faults=("partition-kill",), gap_s=(1.0, 2.0))),
        on(
            5,
            "everything",
            Lane(faults=("halves", "one way", "bridge", "lossy links", "resets", "leader alone"), gap_s=(0.2, 1.0)),
            Lane(faults=("disk full", "disk hangs"), gap_s=(3.0, 8.0)),
            Lane(faults=("kill", "pause", "kill agents", "restart all"), gap_s=(0.5, 1.5)),
        ),
    )


NEEDS_WIRES = frozenset(
    {
        "halves",
        "leader alone",
        "one alone",
        "one way",
        "bridge",
        "ring",
        "slow links",
        "slow leader",
        "lossy links",
        "resets",
        "partition-kill",
    }
)
NEEDS_RELAY = frozenset({"slow links", "slow leader", "lossy links"})
NEEDS_DISKS = frozenset({"disk full", "disk hangs", "disk of leader hangs"})

CONFIGURATIONS = {configuration.name: configuration for configuration in _all()}

SHORT_FORM = ("kills-3", "pauses-3", "leader-alone-3", "one-way-3", "disk-full-3", "everything-5")
"""One of each kind, for every change."""
