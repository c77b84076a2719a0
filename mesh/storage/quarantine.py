"""Sets a damaged data directory aside, so that its node can come back without it."""

import os
from pathlib import Path

from mesh.storage.database import sync_directory
from mesh.storage.directory import IDENTITY, LOCK, LOG, Identity, claim, new_identity, peek, write_identity
from mesh.storage.faults import MAKE_ROOM, StoreDamaged, StoreRefused, is_full

ASIDE_MAX = 100
"""Directories set aside that may lie beside one another. Somebody should have looked by then."""

WHY = "why.txt"


def set_aside(data_dir: Path, reason: str, now_text: str) -> Path:
    """Move all that is in a data directory to `DIR.damaged-N` beside it, and leave a new identity that says rejoining.

    Nothing is deleted. If nothing can be made beside it, or it is a file system of its own, its content goes to
    `damaged-N` inside it. The log goes first, and the identity is replaced last and in one step: whenever a crash
    comes, what is left is either still refused as damaged (and set aside once more), or the beginning of a directory
    that rejoins.

    Args:
        reason: what was wrong; written to `why.txt` among the files, with `now_text` before it.

    Returns:
        Where everything is now.

    Raises:
        StoreRefused: a process holds the directory, it cannot be written, or too many were set aside before.
    """
    if not data_dir.is_dir():
        raise StoreRefused(f"{data_dir} is not there: nothing can be set aside.")
    lock = claim(data_dir)
    try:
        aside = _place_for(data_dir)
        _write(aside / WHY, f"{now_text} {reason}\n".encode())
        if (data_dir / IDENTITY).exists():
            _write(aside / IDENTITY, (data_dir / IDENTITY).read_bytes())
        if (data_dir / LOG).exists():
            _move([data_dir / LOG], aside)  # Without it, whatever else is left is refused.
        _move([file for file in sorted(data_dir.iterdir()) if not _stays(file)], aside)
        write_identity(data_dir, _successor(data_dir))
        return aside
    except OSError as error:
        room = f" {MAKE_ROOM}" if is_full(error) else ""
        raise StoreRefused(f"{data_dir} cannot be set aside: {error.strerror}.{room}") from error
    finally:
        os.close(lock)


def _successor(data_dir: Path) -> Identity:
    """Of the directory that takes this one's place. What cannot be read of the old identity stays open."""
    try:
        found = peek(data_dir)
    except StoreDamaged:
        found = None
    if found is None:
        return new_identity("", "", rejoining=True)
    return new_identity(found.node_id, found.cluster, rejoining=True)


def _place_for(data_dir: Path) -> Path:
    """A new directory in the same file system: what is renamed into it is not copied."""
    for beside in (True, False):
        for number in range(1, ASIDE_MAX + 1):
            place = _place(data_dir.resolve(), number, beside=beside)
            try:
                place.mkdir(mode=0o700)
            except FileExistsError:
                continue
            except OSError:
                if beside:
                    break  # The parent is not ours to write in.
                raise
            if place.stat().st_dev != data_dir.stat().st_dev:
                place.rmdir()
                break
            sync_directory(place.parent)
            return place
        else:
            raise StoreRefused(
                f"{ASIDE_MAX} damaged directories lie beside {data_dir}: find out why, and move them away."
            )
    raise StoreRefused(f"{data_dir} cannot be set aside: there is no place for it in its file system.")


def _place(data_dir: Path, number: int, *, beside: bool) -> Path:
    return data_dir.with_name(f"{data_dir.name}.damaged-{number}") if beside else data_dir / f"damaged-{number}"


def _stays(file: Path) -> bool:
    return file.name in (LOCK, IDENTITY) or (file.name.startswith("damaged-") and file.is_dir())


def _move(files: list[Path], to: Path) -> None:
    """Durably."""
    for file in files:
        file.rename(to / file.name)
    for changed in {file.parent: None for file in files} | {to: None}:
        sync_directory(changed)


def _write(file: Path, data: bytes) -> None:
    with file.open("wb") as opened:
        opened.write(data)
        opened.flush()
        os.fsync(opened.fileno())
