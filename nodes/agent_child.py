"""One agent process, seen from the node: its start, the socket to it, its end."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Callable, Sequence
from typing import IO

from mesh.messages import AttemptOrder, Lease
from nodes.agent_wire import AgentWord, Kept, Leave, NodeWord, Run, Stop, Wire, from_agent

HELLO_S_MAX = 30.0
"""A process that has not loaded its apps by then is killed."""

_BUFFER_BYTES = 1 << 20
_LAST_READS_MAX = 256
"""Reads of what a dead process left in the socket. More can only come from a process it left behind."""


class Child:
    """A running agent process.

    `on_words(child, words)` hears it, and is called with no words when it is no longer `full`; `on_death(child, how)`
    comes once, when it is dead and everything it said has been heard: `how` is "signal 11" or "exit code 3", or why
    it was killed. Whatever it started in its own process group dies with it.

    Attributes:
        pid: of the process.
        born: loop time of its start.
        ready: it said hello.
        doomed: told to die; its death is no accident.
        running: leases whose outcome it owes.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        command: Sequence[str],
        *,
        environment: dict[str, str],
        output: IO[bytes] | None,
        on_words: Callable[["Child", list[AgentWord]], None],
        on_death: Callable[["Child", str], None],
    ) -> None:
        self._loop = loop
        self._on_words = on_words
        self._on_death = on_death
        self._orders: list[AttemptOrder] = []
        self._stops: list[Lease] = []
        self._says: list[NodeWord] = []
        self.running: dict[Lease, None] = {}
        self.born = loop.time()
        self.ready = False
        self.doomed = False
        self._why = ""
        """Why we killed it, if that says more than how it died."""
        self.dead: asyncio.Future[None] = loop.create_future()
        ours, theirs = socket.socketpair()
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
            try:
                self._process = subprocess.Popen(
                    [*command, "--fd", str(theirs.fileno()), "--parent", str(os.getpid())],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs.fileno(),),
                    env=environment,
                    start_new_session=True,  # The terminal's Ctrl-C is the node's, not its children's.
                )
            except BaseException:
                ours.close()
                raise
        self.pid = self._process.pid
        self._wire: Wire[AgentWord, NodeWord] = Wire(
            loop,
            ours,
            from_agent,
            heard=self._heard,
            gather=self._gather,
            closed=self._lost,
            drained=lambda: on_words(self, []),
        )
        self._pidfd = os.pidfd_open(self.pid)
        loop.add_reader(self._pidfd, self._died)
        self._patience = loop.call_later(HELLO_S_MAX, self._give_up)

    @property
    def full(self) -> bool:
        """It reads so slowly that it should be given nothing more."""
        return self._wire.full

    # --- speaking -----------------------------------------------------------------------------------------------------

    def run(self, orders: list[AttemptOrder]) -> None:
        """Run these; their leases are in `running` from now on."""
        for order in orders:
            self.running[(order.task_id, order.token)] = None
        self._orders += orders
        self._wire.wake()

    def stop(self, leases: list[Lease]) -> None:
        """Cancel these; nothing is owed for them any more."""
        for lease in leases:
            self.running.pop(lease, None)
        self._stops += leases
        self._wire.wake()

    def answer(self, word: Kept) -> None:
        self._says.append(word)
        self._wire.wake()

    def _gather(self) -> list[NodeWord]:
        words: list[NodeWord] = []
        if self._orders:
            words.append(Run(self._orders))
            self._orders = []
        if self._stops:
            words.append(Stop(self._stops))
            self._stops = []
        if self._says:
            words += self._says
            self._says = []
        return words

    # --- hearing ------------------------------------------------------------------------------------------------------

    def _heard(self, words: list[AgentWord]) -> None:
        self._on_words(self, words)

    def accept(self) -> None:
        """It said hello."""
        self.ready = True
        self._patience.cancel()

    # --- ending -------------------------------------------------------------------------------------------------------

    async def leave(self, grace_s: float) -> None:
        """Let it cancel what runs and clean up, for `grace_s` at most; then kill it. Returns when it is dead."""
        self.doomed = True
        if self.ready and grace_s > 0:
            self._says.append(Leave(int(grace_s * 1_000)))
            self._wire.flush()
            await asyncio.wait([self.dead], timeout=grace_s)
        self.kill()
        await asyncio.wait([self.dead])

    def terminate(self, grace_s: float) -> None:
        """SIGTERM, and SIGKILL if that does not do."""
        if not self.doomed and not self.dead.done():
            self.doomed = True
            self._process.send_signal(signal.SIGTERM)
            self._patience.cancel()
            self._patience = self._loop.call_later(grace_s, self.kill)

    def kill(self) -> None:
        if not self.dead.done():
            self._kill_group()

    def _give_up(self) -> None:
        self._why = f"killed after {HELLO_S_MAX:.0f} s"
        self.kill()

    def _lost(self, reason: str) -> None:
        if reason.startswith("rubbish"):
            self._why = f"killed, it sent {reason}"
        self.kill()

    def _kill_group(self) -> None:
        """Its process group bears its pid, and nobody else can: we have not reaped it."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.pid, signal.SIGKILL)

    def _died(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        self._patience.cancel()
        for _ in range(_LAST_READS_MAX):
            if not self._wire.read():
                break
        self._wire.close()
        self._kill_group()
        code = self._process.wait()
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        self.dead.set_result(None)
        self._on_death(self, self._why or how)
