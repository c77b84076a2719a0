"""Claims a data directory: it is ours, it is writable, and no other process holds it."""

import fcntl
import os
import secrets
from pathlib import Path

import msgspec

from mesh.storage.database import sync_directory
from mesh.storage.faults import StoreDamaged, StoreRefused

FORMAT = 1
LOG = "log.db"
_LOCK = "lock"
_IDENTITY = "identity.json"


class Identity(msgspec.Struct, frozen=True):
    """Whose directory this is, written once. `created` tells two directories of the same node apart (consensus A5)."""

    node_id: str
    cluster: str
    created: str
    format: int = FORMAT


class Directory:
    """A claimed data directory. The claim lasts until `release`, or as long as this process lives.

    Raises:
        StoreRefused: not writable, held by another process, of another node or mesh, or written by a later release.
        StoreDamaged: its identity cannot be read, or there is data without an identity.
    """

    def __init__(self, path: Path, *, node_id: str, cluster: str) -> None:
        self.path = path
        self._lock: int | None = _lock(path)
        try:
            self.identity, self.complete = self._identify(node_id, cluster)
        except BaseException:
            self.release()
            raise

    @property
    def log(self) -> Path:
        return self.path / LOG

    def ledger(self, number: int) -> Path:
        """Tables replaced by an installed snapshot get a new file with the next number; names are never used again."""
        return self.path / f"ledger-{number}.db"

    def _identify(self, node_id: str, cluster: str) -> tuple[Identity, bool]:
        file = self.path / _IDENTITY
        try:
            found = msgspec.json.decode(file.read_bytes(), type=Identity)
        except FileNotFoundError:
            if not self.log.exists() and (tables := sorted(self.path.glob("ledger-*.db"))):
                raise StoreDamaged(
                    f"{self.path} holds {tables[0].name} but no {LOG}: what was promised is lost."
                ) from None
            return Identity(node_id, cluster, secrets.token_hex(8)), False
        except (msgspec.MsgspecError, OSError, ValueError) as error:
            raise StoreDamaged(f"{file} cannot be read: {error}.") from None
        if found.format > FORMAT:
            raise StoreRefused(f"{self.path} was written by a later release (format {found.format}).")
        self.refuse_stranger(found.node_id, found.cluster, node_id, cluster)
        if not self.log.exists():
            raise StoreDamaged(f"{self.path} has lost its {LOG}: this node must not vote as if it were new.")
        return found, True

    def refuse_stranger(self, found_node: str, found_cluster: str, node_id: str, cluster: str) -> None:
        """Raises StoreRefused unless both are ours."""
        if found_node != node_id:
            raise StoreRefused(f"{self.path} belongs to node {found_node}, not to {node_id}.")
        if found_cluster != cluster:
            raise StoreRefused(f"{self.path} belongs to another mesh ({found_cluster}, not {cluster}).")

    def finish_creation(self) -> None:
        """From here on, a directory without its log is a loss and not a beginning."""
        if self.complete:
            return
        temporary = self.path / f"{_IDENTITY}.new"
        with temporary.open("wb") as file:
            file.write(msgspec.json.encode(self.identity) + b"\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(self.path / _IDENTITY)
        sync_directory(self.path)
        self.complete = True

    def drop_ledgers_but(self, number: int) -> None:
        """Removes tables that were staged and never installed, and replaced ones."""
        keep = self.ledger(number).name
        for file in sorted(self.path.glob("ledger-*.db*")):
            if file.name.split(".db")[0] + ".db" != keep:
                file.unlink(missing_ok=True)

    def release(self) -> None:
        """Let another process have it. Once more does no harm."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _lock(path: Path) -> int:
    """The descriptor that holds the lock; the kernel lets go of it when the process dies, however it dies."""
    try:
        made = [part for part in (path, *path.parents) if not part.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in made:
            sync_directory(part.parent)
        descriptor = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreRefused(f"{path} cannot be written: {error.strerror}.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise StoreRefused(f"{path} is in use by process {holder or '(unknown)'}.") from None
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    except OSError as error:
        os.close(descriptor)
        raise StoreRefused(f"{path} cannot be written: {error.strerror}.") from None
    return descriptor
