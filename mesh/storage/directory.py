"""Claims a data directory: it is ours, it is writable, and no other process holds it."""

import fcntl
import os
import secrets
from pathlib import Path

import msgspec

from mesh.storage.checksums import values_crc
from mesh.storage.database import sync_directory
from mesh.storage.faults import MAKE_ROOM, StoreDamaged, StoreRefused, is_full
from mesh.storage.witness import Counted, Owner, refuse_stranger

FORMAT = 2
LOG = "log.db"
LOCK = "lock"
IDENTITY = "identity.json"
DAMAGE = "damage.txt"
"""What was found damaged while the node ran. A start does not read everything, so it must be told."""


class Identity(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whose directory this is. The first thing in it, and rewritten only to count a start.

    `created` tells two directories of the same node apart (consensus A5). `rejoining`: whoever starts from this
    directory had promises elsewhere, or joins a mesh that runs; it never founds one. `incarnation` is the last start
    that was counted here; 0 while the directory is not yet finished, and nothing was promised from it.
    `node_id` and `cluster` are empty when the directory before this one was too damaged to tell.
    """

    node_id: str
    cluster: str
    created: str
    rejoining: bool = False
    incarnation: int = 0
    format: int = FORMAT
    crc: int = 0

    @property
    def is_complete(self) -> bool:
        return self.incarnation > 0

    @property
    def owner(self) -> Owner:
        return Owner(self.node_id, self.cluster, self.created)


def new_identity(node_id: str, cluster: str, *, rejoining: bool) -> Identity:
    """Of a directory that was not there before."""
    return Identity(node_id, cluster, secrets.token_hex(8), rejoining)


def peek(data_dir: Path) -> Identity | None:
    """Whose directory this is, without claiming it; None if there is none yet.

    Raises:
        StoreDamaged: it has an identity that cannot be read.
        StoreRefused: another release wrote it, or it may not be read.
    """
    file = data_dir / IDENTITY
    try:
        found = msgspec.json.decode(file.read_bytes(), type=Identity)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (msgspec.MsgspecError, ValueError) as error:
        raise StoreDamaged(f"{file} is damaged: {error}.") from None
    except OSError as error:
        raise StoreRefused(f"{file} cannot be read: {error.strerror}.") from None
    if found.crc != _crc(found):
        raise StoreDamaged(f"{file} is damaged: it is not as it was written.")
    if found.format != FORMAT:
        release = "a later" if found.format > FORMAT else "an earlier"
        raise StoreRefused(
            f"{data_dir} was written by {release} release (format {found.format}, this one knows {FORMAT}):"
            " start it with that release."
        )
    return found


def write_identity(data_dir: Path, identity: Identity) -> None:
    """Durably, as a whole or not at all. Raises OSError."""
    temporary = data_dir / f"{IDENTITY}.new"
    with temporary.open("wb") as file:
        file.write(msgspec.json.encode(msgspec.structs.replace(identity, crc=_crc(identity))) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    temporary.rename(data_dir / IDENTITY)
    sync_directory(data_dir)


def _crc(identity: Identity) -> int:
    return values_crc(*msgspec.structs.astuple(msgspec.structs.replace(identity, crc=0)))


class Directory:
    """A claimed data directory. The claim lasts until `release`, or as long as this process lives.

    Raises:
        StoreRefused: not writable, held by another process, of another node or mesh, or written by another release.
        StoreDamaged: its identity cannot be read, or there is data without an identity, or no log.
    """

    def __init__(self, path: Path, *, node_id: str, cluster: str, rejoining: bool = False) -> None:
        self.path = path
        self._lock: int | None = claim(path)
        try:
            self.identity = self._identify(node_id, cluster, rejoining)
        except OSError as error:
            self.release()
            raise StoreRefused(f"{path} cannot be written: {error.strerror}.{_room(error)}") from None
        except BaseException:
            self.release()
            raise

    @property
    def log(self) -> Path:
        return self.path / LOG

    @property
    def counted(self) -> Counted:
        return Counted(self.path / IDENTITY, self.identity.incarnation)

    def ledger(self, number: int) -> Path:
        """Tables replaced by an installed snapshot get a new file with the next number; names are never used again."""
        return self.path / f"ledger-{number}.db"

    def _identify(self, node_id: str, cluster: str, rejoining: bool) -> Identity:
        found = peek(self.path)
        if found is None:
            if data := sorted(file.name for file in self.path.glob("*.db")):
                raise StoreDamaged(
                    f"{self.path} has lost its {IDENTITY}, but holds {data[0]}: nobody knows whose it is."
                )
            identity = new_identity(node_id, cluster, rejoining=rejoining)
        elif found.is_complete:
            refuse_stranger(self.path, found.owner, Owner(node_id, cluster, found.created))
            if not self.log.exists():
                raise StoreDamaged(f"{self.path} has lost its {LOG}: this node must not vote as if it were new.")
            self._refuse_noted_damage()
            return found
        else:
            identity = msgspec.structs.replace(
                found,
                node_id=found.node_id or node_id,
                cluster=found.cluster or cluster,
                rejoining=found.rejoining or rejoining,
            )
            refuse_stranger(self.path, identity.owner, Owner(node_id, cluster, found.created))
        if identity != found:
            write_identity(self.path, identity)
        return identity

    def _refuse_noted_damage(self) -> None:
        note = self.path / DAMAGE
        if note.exists():
            finding = note.read_text(encoding="utf-8", errors="replace").strip().rstrip(".")
            raise StoreDamaged(
                f"{self.path} was found damaged while the node ran: {finding} (to start from it all the same, remove"
                f" {note})."
            )

    def note_damage(self, finding: str) -> None:
        """Refuse this directory from the next start on. If that cannot be written, the next start finds out itself, or
        whoever reads the damaged part again.
        """
        try:
            with (self.path / DAMAGE).open("w", encoding="utf-8") as file:
                file.write(f"{finding}\n")
                file.flush()
                os.fsync(file.fileno())
            sync_directory(self.path)
        except OSError:
            return

    def count_start(self, incarnation: int) -> None:
        """Durably. From the first one on, a directory without its log is a loss and not a beginning."""
        if self.identity.incarnation != incarnation:
            self.identity = msgspec.structs.replace(self.identity, incarnation=incarnation)
            write_identity(self.path, self.identity)

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


def claim(path: Path) -> int:
    """The descriptor that holds the lock of a data directory, which is made if it is not there.

    The kernel lets go of the lock when the process dies, however it dies. Raises StoreRefused.
    """
    try:
        made = [part for part in (path, *path.parents) if not part.exists()]
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        for part in made:
            sync_directory(part.parent)
        descriptor = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StoreRefused(f"{path} cannot be written: {error.strerror}.{_room(error)}") from None
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
        raise StoreRefused(f"{path} cannot be written: {error.strerror}.{_room(error)}") from None
    return descriptor


def _room(error: OSError) -> str:
    return f" {MAKE_ROOM}" if is_full(error) else ""
