"""A disk for each node that can be filled up, or made to hang: a file system of its own in a sparse file.

Without the right to mount, nodes share the directory of the run, and disks stay sound.
"""

import os
from pathlib import Path

from tests.chaos.arena import do

DISK_BYTES = 512 << 20


class Disks:
    """`path(node)` is where a node may write; all are sound again after `heal`."""

    def __init__(self, root: Path, nodes: int, *, own: bool) -> None:
        self._root = root
        self._own = own
        self._mounted: list[Path] = []
        self._frozen: set[Path] = set()
        for node in range(1, nodes + 1):
            where = self.path(node)
            where.mkdir(parents=True)
            if own:
                self._mount(where)

    def path(self, node: int) -> Path:
        return self._root / f"disk{node}"

    def fill(self, node: int) -> None:
        """Leave no room at all on a node's disk."""
        where = self.path(node)
        ballast = os.open(where / "ballast", os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            room = os.statvfs(where)
            size = room.f_bfree * room.f_bsize
            while size >= room.f_bsize:  # What is counted as free includes what the file system needs itself.
                try:
                    os.posix_fallocate(ballast, os.fstat(ballast).st_size, size)
                except OSError:
                    size //= 2
        finally:
            os.close(ballast)

    def empty(self, node: int) -> None:
        (self.path(node) / "ballast").unlink(missing_ok=True)

    def freeze(self, node: int) -> None:
        """From now on whoever writes to this disk waits, and cannot even be killed."""
        do("fsfreeze", "--freeze", str(self.path(node)))
        self._frozen.add(self.path(node))

    def thaw(self, node: int) -> None:
        if self.path(node) in self._frozen:
            do("fsfreeze", "--unfreeze", str(self.path(node)))
            self._frozen.discard(self.path(node))

    def heal(self) -> None:
        for node in range(1, len(self._mounted) + 1):
            self.thaw(node)
            self.empty(node)

    def close(self) -> None:
        """Unmount. The loop devices let go of their files by themselves."""
        self.heal()
        while self._mounted:
            do("umount", "--lazy", str(self._mounted.pop()))

    def _mount(self, where: Path) -> None:
        image = where.with_suffix(".img")
        with image.open("wb") as file:
            file.truncate(DISK_BYTES)
        do("mkfs.ext4", "-q", "-F", "-m", "0", str(image))
        do("mount", "-o", "loop", str(image), str(where))
        self._mounted.append(where)
