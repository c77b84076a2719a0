"""What runs inside an agent process: user code, on an event loop and on threads, and one socket to the node.

`python -m nodes.agent_process --fd N --node ID --slots N --grace-ms N --parent PID [--solo] APP...`, started by
nodes/agents.py. It exits when the socket ends, and is killed when the node's process dies. A `--solo` process runs one
attempt at a time, of handlers declared with executor="process" and of tasks that are to run alone; else the two are
the same.
"""

import argparse
import asyncio
import concurrent.futures
import contextlib
import ctypes
import faulthandler
import gc
import logging
import os
import signal
import socket
import sys
import threading
from collections import deque
from collections.abc import Awaitable, Mapping
from typing import Any, TypeAlias

import msgspec

from mesh.app import Context, Done, TaskFunction, encode_value
from mesh.errors import InvalidPayload, Refused, TaskCancelled
from mesh.messages import AttemptOrder, AttemptOutcome, Lease
from nodes.agent_apps import AppRefused, load_all
from nodes.agent_outcomes import failed, not_run
from nodes.agent_wire import (
    AgentWord,
    Began,
    Ended,
    Hello,
    Kept,
    Leave,
    NodeWord,
    Offered,
    Ping,
    Pong,
    Refusal,
    Run,
    Stop,
    Stopped,
    Stuck,
    Wire,
)
from nodes.agent_wire import from_node as decode

BEGAN_AFTER_S = 0.02
"""An attempt that still runs after this is reported as begun; one that ended sooner never is."""

CHECKPOINTS_WAITING_MAX = 16
"""Checkpoints of one attempt offered and not yet answered."""

DEAF_SHARE = 4
"""One slot in so many may be lost to coroutines that catch their cancellation and go on; more are not put up with."""

_PR_SET_PDEATHSIG = 1

Tasks: TypeAlias = Mapping[str, TaskFunction[..., ..., Any, Any]]
_Waiting: TypeAlias = "asyncio.Future[None] | concurrent.futures.Future[None]"

_decode_value = msgspec.msgpack.Decoder().decode
_log = logging.getLogger("mesh.agent")


class Attempt:
    """One attempt while it runs; also the reach of its Context."""

    __slots__ = ("begun", "context", "lease", "order", "process", "sequence", "task", "thread", "waiting", "what")

    def __init__(self, process: "AgentProcess", order: AttemptOrder, what: TaskFunction[..., ..., Any, Any]) -> None:
        self.process = process
        self.order = order
        self.what = what
        self.lease: Lease = (order.task_id, order.token)
        self.begun = what.is_coroutine
        self.task: asyncio.Task[None] | None = None
        self.thread: concurrent.futures.Future[None] | None = None
        self.context: Context | None = None
        self.sequence = 0
        self.waiting: dict[int, tuple[_Waiting, bytes]] | None = None

    def call(self) -> Any:
        """Begin to run user code."""
        order = self.order
        if self.what.wants_context:
            self.context = Context(
                order.task_id,
                attempt=order.attempt,
                token=order.token,
                node=self.process.node,
                checkpoint=order.checkpoint,
                reach=self,
                deadline=order.deadline_ms / 1_000 or None,
                priority=order.priority,
            )
        try:
            payload = _decode_value(order.payload) if order.payload else None
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InvalidPayload(f"the payload is not MessagePack: {error}") from None
        return self.what.call(self.context, payload)

    def failed(self, error: BaseException) -> AttemptOutcome:
        never: tuple[type[BaseException], ...] = self.what.never
        return failed(self.order, error, never)

    def keep(self, state: bytes) -> Awaitable[None]:
        if self.process.on_loop():
            future = self.process.loop.create_future()
            self.process.offer(self, state, future)
            return future
        self.keep_blocking(state)
        return Done()

    def keep_blocking(self, state: bytes) -> None:
        if self.process.on_loop():
            raise RuntimeError("checkpoint_sync would block the event loop: `await ctx.checkpoint(state)` instead")
        future: concurrent.futures.Future[None] = concurrent.futures.Future()
        self.process.loop.call_soon_threadsafe(self.process.offer, self, state, future)
        future.result()

    def submit(self, capability: str, payload: object, options: dict[str, Any]) -> Any:
        if self.process.on_loop():
            return self.process.client.submit(capability, payload, options)
        return self.process.client.submit_blocking(capability, payload, options)


class Client:
    """This process's own way into the mesh, for child tasks. Opened when first used, once for all attempts."""

    def __init__(self) -> None:
        self._peer = os.environ.get("MESH_PEER", "")
        self._secret_file = os.environ.get("MESH_SECRET_FILE") or None
        self._mesh: asyncio.Task[Any] | None = None
        self._blocking: Any = None
        self._lock = threading.Lock()

    async def submit(self, capability: str, payload: object, options: dict[str, Any]) -> Any:
        if self._mesh is None or (self._mesh.done() and self._mesh.exception() is not None):
            self._mesh = asyncio.create_task(self._connect())
        mesh = await asyncio.shield(self._mesh)
        return await mesh.submit(capability, payload, **options)

    async def _connect(self) -> Any:
        from mesh.client import connect

        return await connect(self._peer, secret_file=self._secret_file)

    def submit_blocking(self, capability: str, payload: object, options: dict[str, Any]) -> Any:
        from mesh.client import connect_sync

        with self._lock:
            if self._blocking is None:
                self._blocking = connect_sync(self._peer, secret_file=self._secret_file)
        return self._blocking.submit(capability, payload, **options)


class AgentProcess:
    """Runs attempts and tells the node what becomes of them. All but `_in_thread` happens on the loop."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, tasks: Tasks, *, node: str, slots: int, grace_s: float, solo: bool
    ) -> None:
        self.loop = loop
        self.node = node
        self.client = Client()
        self._tasks = tasks
        self._solo = solo
        self._thread = threading.get_ident()
        self._pool = concurrent.futures.ThreadPoolExecutor(max_workers=slots, thread_name_prefix="task")
        self._wire: Wire[NodeWord, AgentWord] | None = None
        self._running: dict[Lease, Attempt] = {}
        self._grace_s = grace_s
        self._deaf_max = slots // DEAF_SHARE
        self._stopping: dict[Lease, Attempt] = {}
        """Stopped, and their code still runs. The loop itself holds no strong reference to a task."""
        self._deaf: set[Lease] = set()
        """Of those, coroutines that had their time."""
        self._over: list[Lease] = []
        self._leaving: asyncio.Task[None] | None = None
        self._outcomes: list[AttemptOutcome] = []
        self._says: list[AgentWord] = []
        self._from_threads: deque[tuple[Attempt, AttemptOutcome]] = deque()
        self._collecting = False
        self._busy_threads = 0
        self._young: deque[tuple[float, list[Attempt]]] = deque()
        self.left = False

    def on_loop(self) -> bool:
        return threading.get_ident() == self._thread

    def speak_through(self, wire: "Wire[NodeWord, AgentWord]") -> None:
        """Say hello, and from then on what there is to say."""
        self._wire = wire
        offers: list[tuple[str, str, str]] = []
        for name, task in self._tasks.items():
            offers.append((name, task.runs_on, task.version))
        self._say(Hello(offers))

    def _say(self, word: AgentWord) -> None:
        self._says.append(word)
        self._wake()

    def _wake(self) -> None:
        assert self._wire is not None, "nothing is said before the wire is there"
        self._wire.wake()

    def gather(self) -> list[AgentWord]:
        """What this turn has to say: checkpoints before outcomes."""
        words, self._says = self._says, []
        if self._outcomes:
            words.append(Ended(self._outcomes))
            self._outcomes = []
        if self._over:
            words.append(Stopped(self._over))
            self._over = []
        return words

    def heard(self, words: list[NodeWord]) -> None:
        for word in words:
            match word:
                case Run(orders):
                    self._run(orders)
                case Stop(leases):
                    for lease in leases:
                        self._stop(lease)
                case Kept():
                    self._kept(word)
                case Ping():
                    self._say(Pong())
                case Leave(grace_ms):
                    self._leaving = self.loop.create_task(self._leave(grace_ms / 1_000))

    # --- running ------------------------------------------------------------------------------------------------------

    def _run(self, orders: list[AttemptOrder]) -> None:
        batch = []
        for order in orders:
            what = self._tasks.get(order.capability)
            if what is None:
                error = f"UnknownCapability: no app of {self.node} offers {order.capability!r}"
                self._outcomes.append(not_run(order, error))
                self._wake()
                continue
            attempt = Attempt(self, order, what)
            self._running[attempt.lease] = attempt
            if what.is_coroutine:
                attempt.task = asyncio.Task(self._on_loop(attempt), loop=self.loop, name=order.task_id)
            else:
                self._busy_threads += 1
                attempt.thread = self._pool.submit(self._in_thread, attempt)
            batch.append(attempt)
        if batch and not self._solo:
            self._young.append((self.loop.time() + BEGAN_AFTER_S, batch))
            if len(self._young) == 1:
                self.loop.call_at(self._young[0][0], self._report_begun)

    async def _on_loop(self, attempt: Attempt) -> None:
        order = attempt.order
        try:
            value = await attempt.call()
            outcome = AttemptOutcome(order.task_id, order.token, encode_value(value, "result"))
        except BaseException as error:  # SystemExit and the like are this attempt's failure, not the process's end.
            outcome = attempt.failed(error)
        self._end(attempt, outcome)

    def _in_thread(self, attempt: Attempt) -> None:
        order = attempt.order
        attempt.begun = True
        try:
            outcome = AttemptOutcome(order.task_id, order.token, encode_value(attempt.call(), "result"))
        except BaseException as error:  # As above.
            outcome = attempt.failed(error)
        self._from_threads.append((attempt, outcome))
        if not self._collecting:
            self._collecting = True
            self.loop.call_soon_threadsafe(self._collect)

    def _collect(self) -> None:
        """Take over what threads have finished. The flag falls first: whoever appends later asks again."""
        self._collecting = False
        while self._from_threads:
            self._busy_threads -= 1
            self._end(*self._from_threads.popleft())

    def _end(self, attempt: Attempt, outcome: AttemptOutcome) -> None:
        attempt.context = None  # The two hold each other; parted, they need no garbage collector.
        if self._running.pop(attempt.lease, None) is not None:
            self._outcomes.append(outcome)
            self._wake()
        elif attempt.task is None:  # It was stopped, and nobody asks what came of it. (A coroutine's task says it too.)
            self._is_over(attempt)

    def _report_begun(self) -> None:
        now = self.loop.time()
        begun: list[Lease] = []
        queued: list[Attempt] = []
        while self._young and self._young[0][0] <= now:
            for attempt in self._young.popleft()[1]:
                if attempt.lease in self._running:
                    if attempt.begun:
                        begun.append(attempt.lease)
                    else:
                        queued.append(attempt)
        if begun:
            self._say(Began(begun))
        if queued:
            self._young.append((now + BEGAN_AFTER_S, queued))
        if self._young:
            self.loop.call_at(self._young[0][0], self._report_begun)

    # --- stopping -----------------------------------------------------------------------------------------------------

    def _stop(self, lease: Lease) -> None:
        attempt = self._running.pop(lease, None)
        if attempt is None:  # Its outcome is on its way.
            return
        self._stopping[lease] = attempt
        if attempt.context is not None:
            attempt.context.cancelled = True
        if attempt.task is not None:
            attempt.task.add_done_callback(lambda _: self._is_over(attempt))
            attempt.task.cancel()
        if attempt.thread is not None and attempt.thread.cancel():
            self._busy_threads -= 1
            self._is_over(attempt)
        else:
            self.loop.call_later(self._grace_s, self._insist, attempt)
        for future, _ in (attempt.waiting or {}).values():
            if isinstance(future, concurrent.futures.Future) and not future.done():
                future.set_exception(TaskCancelled(f"attempt {attempt.order.attempt} of {lease[0]} was stopped"))

    def _is_over(self, attempt: Attempt) -> None:
        """No code of it runs any more."""
        del self._stopping[attempt.lease]
        self._deaf.discard(attempt.lease)
        self._over.append(attempt.lease)
        self._wake()

    def _insist(self, attempt: Attempt) -> None:
        """It has had its time. A coroutine is cancelled again; a thread can only be ended with this process."""
        if attempt.lease not in self._stopping:
            return
        if attempt.task is not None:
            self._deaf.add(attempt.lease)
            if len(self._deaf) <= self._deaf_max:
                attempt.task.cancel()
                self.loop.call_later(self._grace_s, self._insist, attempt)
                return
        self._say(Stuck())

    async def _leave(self, grace_s: float) -> None:
        """Cancel everything, give it time to clean up, and end the process."""
        until = self.loop.time() + grace_s
        for lease in list(self._running):
            self._stop(lease)
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in sorted(others, key=lambda task: task.get_name()):
            task.cancel()
        if others:
            await asyncio.wait(others, timeout=grace_s)
        while self._busy_threads and self.loop.time() < until:
            await asyncio.sleep(0.01)
        if self._busy_threads:
            exit_now(0)  # A thread cannot be ended otherwise.
        self.left = True
        self.loop.stop()

    # --- checkpoints --------------------------------------------------------------------------------------------------

    def offer(self, attempt: Attempt, state: bytes, future: _Waiting) -> None:
        """Ask for a checkpoint to be kept; `future` hears the answer."""
        if attempt.lease not in self._running:
            future.set_exception(Refused(f"this attempt no longer holds {attempt.order.task_id}"))
            return
        if attempt.waiting is None:
            attempt.waiting = {}
        if len(attempt.waiting) >= CHECKPOINTS_WAITING_MAX:
            sentence = f"{CHECKPOINTS_WAITING_MAX} checkpoints of {attempt.order.task_id} are waiting: await them"
            future.set_exception(Refused(sentence))
            return
        attempt.sequence += 1
        attempt.waiting[attempt.sequence] = (future, state)
        self._say(Offered(attempt.order.task_id, attempt.order.token, attempt.sequence, state))

    def _kept(self, word: Kept) -> None:
        """An answer to one checkpoint answers the earlier ones too: a later state replaces them."""
        attempt = self._running.get((word.task_id, word.token))
        waiting = attempt.waiting if attempt is not None else None
        if attempt is None or not waiting:
            return
        for sequence in [sequence for sequence in waiting if sequence <= word.sequence]:
            future, state = waiting.pop(sequence)
            if word.kept and attempt.context is not None:
                attempt.context.kept(state)
            if future.done():
                continue
            if word.kept:
                future.set_result(None)
            else:
                sentence = f"the checkpoint of {word.task_id} was refused: this attempt no longer holds the task"
                future.set_exception(Refused(sentence))


# --- the process ------------------------------------------------------------------------------------------------------


def exit_now(code: int) -> None:
    """End the process whatever its threads do."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def die_with(parent: int) -> None:
    """Have the kernel kill this process when the one that started it dies, however that dies (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(0)


def main() -> None:
    """Load the apps, say hello (or why not), run attempts until told to leave."""
    parser = argparse.ArgumentParser(prog="mesh-agent")
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--slots", type=int, required=True)
    parser.add_argument("--grace-ms", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    parser.add_argument("--solo", action="store_true")
    parser.add_argument("apps", nargs="+")
    asked = parser.parse_args()
    die_with(asked.parent)
    faulthandler.enable()
    os.set_inheritable(asked.fd, False)  # What user code starts must not hold the socket open.
    sock = socket.socket(fileno=asked.fd)
    sys.argv[1:] = []
    sys.path.insert(0, os.getcwd())
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)  # What a handler printed before it crashed is in the log.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        tasks = load_all(asked.apps)
    except AppRefused as refusal:
        print(refusal, file=sys.stderr, flush=True)
        _refuse(loop, sock, str(refusal))
        return
    if not logging.getLogger().handlers:
        logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    gc.collect()
    gc.freeze()
    grace_s = asked.grace_ms / 1_000
    process = AgentProcess(loop, tasks, node=asked.node, slots=asked.slots, grace_s=grace_s, solo=asked.solo)
    process.speak_through(
        Wire(loop, sock, decode, heard=process.heard, gather=process.gather, closed=lambda _: exit_now(0))
    )
    while not process.left:
        try:
            loop.run_forever()
        except (SystemExit, KeyboardInterrupt) as error:  # From a task some handler started on the side.
            _log.warning("a background task raised %r; the agent process goes on", error)


def _refuse(loop: asyncio.AbstractEventLoop, sock: socket.socket, sentence: str) -> None:
    wire: Wire[NodeWord, AgentWord] = Wire(
        loop, sock, decode, heard=lambda _: None, gather=lambda: [Refusal(sentence)], closed=lambda _: None
    )
    wire.flush()
    wire.close()


if __name__ == "__main__":
    main()
