"""One node as a process: the shell around mesh.node.Node. Waits for an event, hands it in, performs what is asked.

Everything happens on one event loop. The disk has threads of its own and user code processes of its own; both report
back as events. A turn of the loop ends with TurnEnded, so that what arrived together leaves together.
"""

import asyncio
import gc
import signal
import time
from collections.abc import Callable
from functools import partial
from random import Random, SystemRandom
from typing import Any

from mesh.effects import Effect
from mesh.errors import MeshError
from mesh.events import DeadlineReached, DiskFailed, Durable, Event, Leave, TurnEnded
from mesh.ids import NodeId
from mesh.node import Node
from mesh.storage.faults import StoreRefused
from mesh.storage.store import Store
from mesh.transport.handshake import Identity
from mesh.transport.zeromq import Transport
from nodes.agents import Agents, AgentsRefused
from nodes.joining import Found, knock
from nodes.machine_load import measure
from nodes.opening import Opened, open_directory, refuse_other_mesh
from nodes.perform import Performer
from nodes.settings import NodeSettings, SettingsRefused
from nodes.stalls import STALL_MS, WatchedLoop
from nodes.telemetry import LOG, complain, start_logging

LEAVE_SLACK_S = 5.0
"""A node that has not left so long after its time was over ends all the same."""
LAST_WORDS_S = 0.1
"""A last heartbeat is sent by another thread; it takes a millisecond, and a busy machine more."""
MEASURE_S = 5.0
"""The machine is looked at so often."""
AGENTS_GRACE_S = 2.0
HURRIED_S = 0.3
"""Instead of that, for a node that must not go on."""
INTERRUPTED = 130
_TURN_ENDED = TurnEnded()
_DEADLINE = DeadlineReached()


class Process:
    """A node and the parts of the world it uses.

    Its end is the future `_ended`: set once, with the exit code, by whatever comes first.
    """

    _store: Store
    _transport: Transport
    _agents: Agents
    _performer: Performer
    _node: Node

    def __init__(self, settings: NodeSettings, on_ready: Callable[[dict[str, Any]], None]) -> None:
        settings.check()
        self._settings = settings
        self._secret = settings.secret()
        self._on_ready: Callable[[dict[str, Any]], None] | None = on_ready
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._turn_due = False
        self._timer: asyncio.TimerHandle | None = None
        self._measuring: asyncio.TimerHandle | None = None
        self._timer_ms = 0
        self._agents_ready = False
        self._is_running = False
        self._is_leaving = False
        self._has_last_words = False

    async def run(self) -> int:
        """Serve until told to stop. Returns the exit code."""
        settings = self._settings
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        opened = await self._open()
        if opened is None:
            return self._ended.result()
        self._store = opened.store
        try:
            self._build(opened)
        except BaseException:
            self._store.close()
            raise
        try:
            self._transport.bind()
            self._start_node(opened)
        except BaseException:
            self._transport.close()
            self._store.close()
            raise
        self._loop.set_exception_handler(self._on_exception)
        background = [
            self._loop.create_task(self._start_agents(), name="start agents"),
            self._loop.create_task(
                knock(
                    settings.id,
                    settings.seeds,
                    settings.secret_file,
                    opened.found,
                    self._is_member,
                    partial(self._dial, opened),
                ),
                name="knock",
            ),
        ]
        code = await self._ended
        for task in background:
            task.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        await self._close(hurried=code != 0)
        return code

    # --- beginning ---

    async def _open(self) -> Opened | None:
        """The data directory; None if told to stop meanwhile. A node that joins may wait long for somebody to ask."""
        opening = self._loop.create_task(open_directory(self._settings, self._post_from_thread))
        await asyncio.wait((opening, self._ended), return_when=asyncio.FIRST_COMPLETED)
        if opening.done():
            return opening.result()
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        return None

    def _build(self, opened: Opened) -> None:
        settings, store = self._settings, opened.store
        identity = Identity(
            node_id=settings.id,
            cluster=opened.cluster,
            incarnation=store.incarnation,
            role="node",
            secret=self._secret,
            mark=store.created,
            protocol=settings.spoken,
        )
        self._transport = Transport(
            identity,
            bind=settings.bind,
            advertise=settings.address,
            deliver=self._deliver,
            turn_ended=self._end_turn,
            loop=self._loop,
        )
        self._agents = Agents(
            settings.apps,
            node_id=settings.id,
            slots=settings.slots,
            post=self._deliver,
            turn_ended=self._end_turn,
            peer_address=settings.address,
            log_dir=settings.directory,
            secret_file=settings.secret_file,
        )
        self._performer = Performer(store, self._transport, self._agents, retire=self._stop)

    def _start_node(self, opened: Opened) -> None:
        now_ms = _now_ms()
        config = self._settings.node_config(
            cluster=opened.cluster,
            voters=opened.voters,
            incarnation=opened.store.incarnation,
            epoch_ms=time.time_ns() // 1_000_000 - now_ms,
            mark=opened.store.created,
            trouble=opened.trouble,
        )
        gc.disable()  # A million tasks are no garbage; to look whether they are takes longer than to read them.
        try:
            self._node = Node(config, opened.take_recovered(), Random(SystemRandom().getrandbits(64)), now_ms)
        except AssertionError as error:  # A later release has written what this one cannot go on from.
            raise StoreRefused(f"{self._settings.directory}: {error}.") from None
        self._refuse_to_move()
        self._store.start()
        self._is_running = True
        gc.collect()
        gc.freeze()
        gc.enable()
        # Every waiting task is one more object to look at. A collection of the middle generation must stay small (8
        # ms), and one of all generations rare: with a million of them it takes 150 ms.
        gc.set_threshold(10_000, 5, 1_000)
        if isinstance(self._loop, WatchedLoop):
            self._loop.watch.begin()
        self._measure()
        self._end_turn()

    def _measure(self) -> None:
        """Tell the node how busy its machine is, now and from now on."""
        self._deliver(measure())
        self._measuring = self._loop.call_later(MEASURE_S, self._measure)

    def _refuse_to_move(self) -> None:
        """A member lives at the address its mesh knows, where the others listen to it. Raises StoreRefused."""
        member = self._node.raft.configuration.member(NodeId(self._settings.id))
        if member is not None and self._is_member() and member.address and not self._settings.is_at(member.address):
            raise StoreRefused(
                f"{member.node_id} takes part in its mesh as {member.address}, and nobody would hear it at "
                f"{self._settings.address}: give it the address it had, or an empty --data-dir and --join after "
                f"`mesh node forget {member.node_id}`."
            )

    async def _start_agents(self) -> None:
        try:
            capabilities = await self._agents.start()
        except AgentsRefused as error:
            sentence, _, traceback = str(error).partition("\n")
            log = self._settings.directory / "agent.log"
            self._stop(1, f"{sentence} (its traceback is in {log})" if traceback else sentence)
            return
        LOG.info("offers %s", ", ".join(capabilities) or "no capability")
        self._agents_ready = True
        self._check_ready()

    def _dial(self, opened: Opened, found: Found) -> bool:
        """Dial whom the seeds know of. False if they are of another mesh, which ends this node."""
        try:
            refuse_other_mesh(opened, found, self._settings)
        except StoreRefused as error:
            self._stop(1, str(error))
            return False
        for node_id, address in found.nodes:
            if node_id != self._settings.id:
                self._transport.dial(node_id, address)
        return True

    def _is_member(self) -> bool:
        """Whether the configuration in force has this node, and this log of it."""
        member = self._node.raft.configuration.member(NodeId(self._settings.id))
        return member is not None and member.mark in ("", self._store.created)

    # --- the loop's one circle: event, effects, deeds ---

    def _deliver(self, event: Event) -> None:
        if self._ended.done() and isinstance(event, DiskFailed):
            return
        try:
            self._perform(self._node.handle(event, _now_ms()))
        except AssertionError as error:
            self._stop(1, f"A broken invariant: {error}. This node stops before it does harm.")
            LOG.exception("broken invariant")
            raise
        if type(event) is DiskFailed:
            self._has_last_words = True
            self._stop(1, f"The disk failed: {event.reason}")

    def _perform(self, wanted: list[Effect]) -> None:
        if wanted:
            self._performer.perform(wanted)

    def _end_turn(self) -> None:
        """Nothing more to read just now."""
        self._turn_due = False
        self._deliver(_TURN_ENDED)
        self._arm()
        if self._on_ready is not None:
            self._check_ready()

    def _post_from_thread(self, event: Event) -> None:
        """The disk reports, from a thread of its own."""
        try:
            self._loop.call_soon_threadsafe(self._from_disk, event)
        except RuntimeError:
            return  # The loop is closed: the process is ending.

    def _from_disk(self, event: Event) -> None:
        if type(event) is Durable:
            self._performer.durable(event.token)
        self._deliver(event)
        if not self._turn_due:
            self._turn_due = True
            self._loop.call_soon(self._end_turn)

    def _arm(self) -> None:
        """Keep one timer, for the node's next deadline. A later deadline lets the timer come early and look again."""
        deadline_ms = self._node.next_deadline_ms()
        if self._timer is not None:
            if self._timer_ms <= deadline_ms:
                return
            self._timer.cancel()
        self._timer_ms = deadline_ms
        self._timer = self._loop.call_later(max(0, deadline_ms - _now_ms()) / 1_000, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        if _now_ms() >= self._node.next_deadline_ms():
            self._count_stalls()
            self._count_stuck()
            self._deliver(_DEADLINE)
        self._arm()

    def _count_stalls(self) -> None:
        """Shown with the node's own counters."""
        if isinstance(self._loop, WatchedLoop):
            watch = self._loop.watch
            self._node.counters["loop_stall_ms_max"] = watch.longest_ms()
            self._node.counters["loop_cpu_ms_max"] = watch.busiest_ms()
            self._node.counters[f"loop_stalls_over_{STALL_MS}_ms"] = watch.stalls

    def _count_stuck(self) -> None:
        """Likewise: what user code does to the process it shares."""
        self._node.counters["agents_blocked_ms"] = self._agents.blocked_ms()
        self._node.counters["attempts_late"] = self._agents.late()

    # --- end ---

    def _check_ready(self) -> None:
        """Say once that this node serves: user code is loaded, and it takes part in a mesh that has a leader."""
        if self._on_ready is None or not self._agents_ready or self._ended.done():
            return
        leader = self._node.raft.leader_id
        if leader is None or not self._is_member():
            return
        on_ready, self._on_ready = self._on_ready, None
        settings, config = self._settings, self._node.config
        on_ready(
            {
                "event": "ready",
                "id": settings.id,
                "address": settings.address,
                "pid": config.pid,
                "data_dir": str(settings.directory),
                "cluster": config.cluster,
                "leader": leader,
                "incarnation": config.incarnation,
            }
        )

    def _on_signal(self) -> None:
        """Once: leave in order. Twice: end now. Three times: whatever it is doing."""
        if self._ended.done():
            raise KeyboardInterrupt
        if not self._is_running:
            self._stop(0, "asked to stop")
        elif self._is_leaving:
            self._stop(INTERRUPTED, "Told twice to stop: what ran here is given up, and runs elsewhere.")
        else:
            self._is_leaving = True
            self._on_ready = None
            drain_s = self._settings.drain_s
            LOG.info("leaving: what runs may go on for %g s", drain_s)
            self._deliver(Leave(round(drain_s * 1_000)))
            self._end_turn()
            self._loop.call_later(drain_s + LEAVE_SLACK_S, self._stop, 0, "nobody agreed to its leaving in time")

    def _stop(self, code: int, why: str) -> None:
        """End with this exit code, unless it is ending already."""
        if not self._ended.done():
            if code:
                complain(why)
            else:
                LOG.info("stopping: %s", why)
            self._ended.set_result(code)

    async def _close(self, *, hurried: bool) -> None:
        """Let go of everything. Where the disk failed, not without a word: the others hear why."""
        if self._has_last_words:
            await asyncio.sleep(LAST_WORDS_S)
        for timer in (self._timer, self._measuring):
            if timer is not None:
                timer.cancel()
        await self._agents.stop(HURRIED_S if hurried else AGENTS_GRACE_S)
        self._transport.close()
        if self._has_last_words:
            self._store.close(HURRIED_S)
        else:
            self._store.close()

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """What no callback caught. Going on with half an event handled would be guessing."""
        LOG.error("%s", context.get("message"), exc_info=context.get("exception"))
        self._stop(1, f"An unexpected error: {context.get('exception')!r}. This node stops.")


def _now_ms() -> int:
    return time.monotonic_ns() // 1_000_000


async def run_node(settings: NodeSettings, *, on_ready: Callable[[dict[str, Any]], None]) -> int:
    """Run one node until it is told to stop, or has nothing more to do here.

    Returns:
        The exit code: 0 when told to stop, 1 when it cannot run or must not go on, 2 when its settings contradict each
        other, 130 when told twice to stop. The reason is on stderr, in one sentence.
    """
    start_logging(settings.id)
    try:
        process = Process(settings, on_ready)
        return await process.run()
    except SettingsRefused as error:
        complain(str(error))
        return 2
    except (StoreRefused, MeshError, OSError) as error:
        complain(str(error))
        return 1
