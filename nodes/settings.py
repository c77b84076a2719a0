"""What a node process is told: flags, environment and TOML end up here; the core's configuration is made from it."""

from dataclasses import dataclass
from hashlib import blake2b
from os import getpid
from pathlib import Path

from mesh.config import PROTOCOL, VOTERS_MAX, GossipConfig, MembershipConfig, NodeConfig
from mesh.transport.address import TransportRefused, parse

SLOTS_DEFAULT = 256
ID_CHARS_MAX = 64
SLOTS_MAX = 100_000
HEARTBEAT_MS_MAX = 3_600_000
FAILURE_THRESHOLD_MAX = 1_000
SEEDS_MAX = 100
REPLACE_AFTER_S_MAX = 10 * 366 * 86_400
DRAIN_S_MAX = 86_400
KINDS = ("worker", "provider", "consumer", "general")


class SettingsRefused(Exception):
    """What was asked for does not go together; one sentence that says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """One node process.

    `bind` and `advertise` are HOST:PORT of the first of four ports. `voters` is the founding configuration, the same
    on each founding node; `join` are addresses of nodes of a mesh that runs; with neither it is a mesh of one, or the
    one its data directory belongs to. `apps` name user code, MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE.
    """

    id: str
    bind: str = "127.0.0.1:21000"
    advertise: str = ""
    voters: tuple[tuple[str, str], ...] = ()
    apps: tuple[str, ...] = ()
    data_dir: Path | None = None
    slots: int = SLOTS_DEFAULT
    labels: tuple[tuple[str, str], ...] = ()
    kind: str = "general"
    """What it is there for, one of KINDS."""
    secret_file: Path | None = None
    heartbeat_interval_ms: int = 1_000
    failure_threshold: int = 3
    join: tuple[str, ...] = ()
    voters_wanted: int = 5
    """Nodes that join are given a vote until there are so many voters."""
    replace_after_s: float = 600.0
    """A voter failed for this long makes room for another node."""
    drain_s: float = 30.0
    """When told to stop: how long what runs may go on."""
    protocol: int | None = None
    """Speak this version of the protocol and not the latest; for rolling upgrades."""

    @property
    def address(self) -> str:
        """Where others reach this node."""
        return self.advertise or dict(self.voters).get(self.id) or self.bind

    def is_at(self, address: str) -> bool:
        """Whether these settings put this node at HOST:PORT. Raises TransportRefused."""
        told = (self.address, dict(self.voters).get(self.id) or self.address)
        return parse(address) in [parse(one) for one in told]

    @property
    def founding(self) -> tuple[tuple[str, str], ...]:
        """The founding configuration, sorted by id; empty for a node that joins."""
        return tuple(sorted(self.voters)) or (() if self.join else ((self.id, self.address),))

    @property
    def spoken(self) -> int:
        """The latest protocol to speak."""
        return PROTOCOL if self.protocol is None else self.protocol

    @property
    def seeds(self) -> tuple[str, ...]:
        """Addresses of other nodes, as far as the settings name any."""
        return self.join or tuple(address for name, address in self.founding if name != self.id)

    @property
    def cluster(self) -> str:
        """Which mesh it founds: nodes founded with the same list belong together, and no others."""
        text = ",".join(f"{name}@{address}" for name, address in self.founding)
        return blake2b(text.encode(), digest_size=8).hexdigest()

    @property
    def directory(self) -> Path:
        return self.data_dir if self.data_dir is not None else Path(".mesh") / self.id

    def secret(self) -> bytes | None:
        """The mesh's secret, or None without a file. Raises SettingsRefused."""
        if self.secret_file is None:
            return None
        try:
            return self.secret_file.read_bytes().strip()
        except OSError as error:
            raise SettingsRefused(f"The secret file {self.secret_file} cannot be read: {error.strerror}.") from None

    def check(self) -> None:
        """Raises SettingsRefused where settings contradict each other."""
        ids = [name for name, _ in self.founding]
        for node_id in (self.id, *ids):
            _check_id(node_id)
        if self.join and self.voters:
            raise SettingsRefused(
                "--voters founds a mesh and --join enters one that runs: a node does one of the two, not both."
            )
        if ids and self.id not in ids:
            raise SettingsRefused(f"--voters names {', '.join(ids)}, but not this node, {self.id}.")
        if len(set(ids)) != len(ids):
            raise SettingsRefused("--voters names a node twice.")
        if len(ids) > VOTERS_MAX:
            raise SettingsRefused(f"{len(ids)} voters are too many; {VOTERS_MAX} at most.")
        if self.kind not in KINDS:
            raise SettingsRefused(f"--type is one of {', '.join(KINDS)}, not {self.kind!r}.")
        self._check_numbers()
        self._parts()
        try:
            self._check_addresses()
        except TransportRefused as error:
            raise SettingsRefused(str(error)) from None

    def _check_numbers(self) -> None:
        bounds: tuple[tuple[str, float, int, int], ...] = (
            ("--slots", self.slots, 1, SLOTS_MAX),
            ("--heartbeat-interval-ms", self.heartbeat_interval_ms, 1, HEARTBEAT_MS_MAX),
            ("--failure-threshold", self.failure_threshold, 1, FAILURE_THRESHOLD_MAX),
            ("--voters-wanted", self.voters_wanted, 1, VOTERS_MAX),
            ("--replace-after-s", self.replace_after_s, 0, REPLACE_AFTER_S_MAX),
            ("--drain-s", self.drain_s, 0, DRAIN_S_MAX),
        )
        for flag, value, least, most in bounds:
            if not least <= value <= most:
                raise SettingsRefused(f"{flag} is a number from {least} to {most}, not {value}.")

    def _check_addresses(self) -> None:
        addresses = {name: parse(address) for name, address in self.founding}
        if len(set(addresses.values())) != len(addresses):
            raise SettingsRefused("--voters gives two nodes one address.")
        own = addresses.get(self.id)
        if own is not None and not self.advertise and parse(self.bind).base != own.base:
            raise SettingsRefused(
                f"--voters says that {self.id} is at {own}, but it binds {self.bind}: "
                f"give the same port to both, or say --advertise."
            )
        if len(self.join) > SEEDS_MAX:
            raise SettingsRefused(f"--join names {len(self.join)} nodes; {SEEDS_MAX} at most, and a few will do.")
        if parse(self.address) in [parse(seed) for seed in self.join]:
            raise SettingsRefused(f"--join names {self.address}, which is this node: name others, that run already.")

    def node_config(
        self,
        *,
        cluster: str,
        voters: tuple[tuple[str, str], ...],
        incarnation: int,
        epoch_ms: int,
        mark: str,
        trouble: str = "",
    ) -> NodeConfig:
        """The core's own settings, with what the data directory said."""
        gossip, membership = self._parts()
        return NodeConfig(
            node_id=self.id,
            cluster=cluster,
            incarnation=incarnation,
            address=self.address,
            voters=voters,
            pid=getpid(),
            slots=self.slots,
            protocol=self.spoken,
            labels=self.labels,
            kind=self.kind,
            epoch_ms=epoch_ms,
            gossip=gossip,
            membership=membership,
            mark=mark,
            trouble=trouble,
        )

    def _parts(self) -> tuple[GossipConfig, MembershipConfig]:
        """Raises SettingsRefused where numbers do not go together."""
        try:
            return (
                GossipConfig(
                    heartbeat_interval_ms=self.heartbeat_interval_ms, failure_threshold=self.failure_threshold
                ),
                MembershipConfig(
                    voters_wanted=self.voters_wanted, replace_after_ms=round(self.replace_after_s * 1_000)
                ),
            )
        except ValueError as error:
            raise SettingsRefused(str(error)) from None


def _check_id(node_id: str) -> None:
    """A node's id names its directory and stands in lists and logs."""
    if not 0 < len(node_id) <= ID_CHARS_MAX or not node_id.isprintable():
        raise SettingsRefused(f"A node id has 1 to {ID_CHARS_MAX} printable characters, not {node_id!r}.")
    if node_id.startswith(".") or any(character in node_id for character in "@,= /\\"):
        raise SettingsRefused(f"A node id is a word without '@', ',', '=', '/' or blanks, not {node_id!r}.")
