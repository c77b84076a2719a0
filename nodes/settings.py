"""What a node process is told: flags, environment and TOML end up here; the core's configuration is made from it."""

from dataclasses import dataclass
from hashlib import blake2b
from os import getpid
from pathlib import Path

from mesh.config import GossipConfig, NodeConfig
from mesh.transport.address import TransportRefused, parse

SLOTS_DEFAULT = 256
VOTERS_MAX = 7
ID_CHARS_MAX = 64
SLOTS_MAX = 100_000
HEARTBEAT_MS_MAX = 3_600_000
FAILURE_THRESHOLD_MAX = 1_000


class SettingsRefused(Exception):
    """What was asked for does not go together; one sentence that says what to change."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSettings:
    """One node process.

    `bind` and `advertise` are HOST:PORT of the first of four ports. `voters` is the founding configuration, the same
    on each founding node; empty makes a mesh of one. `apps` name user code, MODULE:ATTRIBUTE or FILE.py:ATTRIBUTE.
    """

    id: str
    bind: str = "127.0.0.1:21000"
    advertise: str = ""
    voters: tuple[tuple[str, str], ...] = ()
    apps: tuple[str, ...] = ()
    data_dir: Path | None = None
    slots: int = SLOTS_DEFAULT
    labels: tuple[tuple[str, str], ...] = ()
    secret_file: Path | None = None
    heartbeat_interval_ms: int = 1_000
    failure_threshold: int = 3

    @property
    def address(self) -> str:
        """Where others reach this node."""
        return self.advertise or self.bind

    @property
    def founding(self) -> tuple[tuple[str, str], ...]:
        """The founding configuration, sorted by id."""
        return tuple(sorted(self.voters)) or ((self.id, self.address),)

    @property
    def cluster(self) -> str:
        """Which mesh this is: nodes founded with the same list belong together, and no others."""
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
        if self.id not in ids:
            raise SettingsRefused(f"--voters names {', '.join(ids)}, but not this node, {self.id}.")
        if len(set(ids)) != len(ids):
            raise SettingsRefused("--voters names a node twice.")
        if len(ids) > VOTERS_MAX:
            raise SettingsRefused(f"{len(ids)} voters are too many; {VOTERS_MAX} at most.")
        for flag, value, most in (
            ("--slots", self.slots, SLOTS_MAX),
            ("--heartbeat-interval-ms", self.heartbeat_interval_ms, HEARTBEAT_MS_MAX),
            ("--failure-threshold", self.failure_threshold, FAILURE_THRESHOLD_MAX),
        ):
            if not 1 <= value <= most:
                raise SettingsRefused(f"{flag} is a number from 1 to {most}, not {value}.")
        try:
            addresses = {name: parse(address) for name, address in self.founding}
            if len(set(addresses.values())) != len(ids):
                raise SettingsRefused("--voters gives two nodes one address.")
            if not self.advertise and parse(self.bind).base != addresses[self.id].base:
                raise SettingsRefused(
                    f"--voters says that {self.id} is at {addresses[self.id]}, but it binds {self.bind}: "
                    f"give the same port to both, or say --advertise."
                )
        except TransportRefused as error:
            raise SettingsRefused(str(error)) from None

    def node_config(self, incarnation: int, epoch_ms: int) -> NodeConfig:
        """The core's own settings. Raises SettingsRefused where a number is out of its bounds."""
        try:
            gossip = GossipConfig(
                heartbeat_interval_ms=self.heartbeat_interval_ms, failure_threshold=self.failure_threshold
            )
        except ValueError as error:
            raise SettingsRefused(str(error)) from None
        return NodeConfig(
            node_id=self.id,
            cluster=self.cluster,
            incarnation=incarnation,
            address=self.address,
            voters=self.founding,
            pid=getpid(),
            slots=self.slots,
            labels=self.labels,
            epoch_ms=epoch_ms,
            gossip=gossip,
        )


def _check_id(node_id: str) -> None:
    """A node's id names its directory and stands in lists and logs."""
    if not 0 < len(node_id) <= ID_CHARS_MAX or not node_id.isprintable():
        raise SettingsRefused(f"A node id has 1 to {ID_CHARS_MAX} printable characters, not {node_id!r}.")
    if node_id.startswith(".") or any(character in node_id for character in "@,= /\\"):
        raise SettingsRefused(f"A node id is a word without '@', ',', '=', '/' or blanks, not {node_id!r}.")
