"""Processes of one turn: started, counted, killed. At the end none is left, and nothing on disk."""

from __future__ import annotations

import asyncio
import ctypes
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from bench.compare.shelf import ROOT, Shelf
from bench.processes import descendants, tree_cpu_s

PR_SET_CHILD_SUBREAPER = 36
LISTEN_TIMEOUT_S = 60.0
POLL_S = 0.05
STREAM_LIMIT_BYTES = 16 << 20
LAST_WORDS = 300


class DidNotStart(Exception):
    """One sentence that says what did not, and its last words."""


def adopt_orphans() -> None:
    """From now on, what a descendant of ours leaves behind becomes our own child, so that it is counted and ended."""
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


class Stage:
    """A folder, processes and ports for one system. `async with` it.

    All that descends from this process belongs to the system: only one stage may stand at a time.
    """

    def __init__(self, shelf: Shelf) -> None:
        self.shelf = shelf
        # Short: some systems keep sockets there, whose paths are bounded.
        self.folder = Path(tempfile.mkdtemp(prefix="cmp-"))
        self._spawned: list[asyncio.subprocess.Process] = []

    async def __aenter__(self) -> Stage:
        return self

    async def __aexit__(self, *_: object) -> None:
        left = descendants(os.getpid())
        await kill(left)
        for process in self._spawned:
            await process.wait()
        _bury([pid for pid in left if pid not in {process.pid for process in self._spawned}])
        shutil.rmtree(self.folder, ignore_errors=True)

    def cpu_s(self) -> float:
        """CPU seconds of every process of the system so far."""
        return tree_cpu_s(os.getpid())

    async def spawn(
        self, name: str, argv: Sequence[str | Path], env: Mapping[str, str] | None = None, *, talks: bool = False
    ) -> asyncio.subprocess.Process:
        """Start a process of its own session; what it prints goes to NAME.log. With `talks`, stdin and stdout are ours.

        What it imports: its own packages, and `bench` of this tree.
        """
        environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"} | dict(env or {})
        log: IO[bytes]
        with open(self.folder / f"{name}.log", "ab") as log:
            process = await asyncio.create_subprocess_exec(
                *map(str, argv),
                cwd=self.folder,
                env=environment,
                stdin=asyncio.subprocess.PIPE if talks else asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE if talks else log,
                stderr=log,
                start_new_session=True,
                limit=STREAM_LIMIT_BYTES,
            )
        self._spawned.append(process)
        return process

    async def until_listening(self, name: str, port: int, process: asyncio.subprocess.Process) -> None:
        """Until somebody accepts connections there. Raises DidNotStart."""
        deadline = time.monotonic() + LISTEN_TIMEOUT_S
        while time.monotonic() < deadline and process.returncode is None:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                await asyncio.sleep(POLL_S)
            else:
                writer.close()
                return
        raise DidNotStart(f"{name} does not listen{self.last_words(name)}")

    async def until_said(self, name: str, words: str, process: asyncio.subprocess.Process, times: int = 1) -> None:
        """Until its log has these words, so many times. Raises DidNotStart."""
        deadline = time.monotonic() + LISTEN_TIMEOUT_S
        while time.monotonic() < deadline and process.returncode is None:
            if self._log(name).count(words) >= times:
                return
            await asyncio.sleep(POLL_S)
        raise DidNotStart(f"{name} is not ready{self.last_words(name)}")

    def last_words(self, name: str) -> str:
        """The last line of its log, to be put after a sentence."""
        lines = self._log(name).strip().splitlines()
        return f": {lines[-1][-LAST_WORDS:]}" if lines else ""

    def _log(self, name: str) -> str:
        try:
            return (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""


def free_port() -> int:
    """A port that nobody listens on just now, out of those the system gives to anybody."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


async def kill_tree(process: asyncio.subprocess.Process) -> None:
    """SIGKILL a process and all that descends from it, as a machine that fails would."""
    await kill([process.pid, *descendants(process.pid)])
    await process.wait()


def busiest(processes: Sequence[asyncio.subprocess.Process], busy: frozenset[int]) -> asyncio.subprocess.Process:
    """The one with most of these among itself and its descendants; the first of equals."""
    return max(processes, key=lambda process: len(busy.intersection([process.pid, *descendants(process.pid)])))


async def kill(pids: Sequence[int]) -> None:
    """SIGKILL these, and their descendants if any were born meanwhile; returns once none of them runs."""
    left = dict.fromkeys(pids)
    while left:
        for pid in list(left):
            left.update(dict.fromkeys(descendants(pid)))
        for pid in list(left):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                del left[pid]
                continue
            if _has_ended(pid):
                del left[pid]
        await asyncio.sleep(0.01)


def _bury(pids: Sequence[int]) -> None:
    """Take the exit codes of orphans that became ours."""
    for pid in pids:
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            pass


def _has_ended(pid: int) -> bool:
    """Whether no more than its exit code is left."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in {"Z", "X"}
