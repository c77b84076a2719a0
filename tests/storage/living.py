"""Whole nodes on real disks, in virtual time: messages take a millisecond, tasks five, and a disk as long as it takes.

Each turn waits for the disk before anything leaves, so nothing is promised that is not durable, and a story goes the
same way each time.
"""

import heapq
from pathlib import Path
from random import Random

from mesh import effects, events
from mesh.config import DispatchConfig, NodeConfig
from mesh.effects import Effect
from mesh.events import Event
from mesh.ids import ClientId, NodeId, TaskId
from mesh.messages import AttemptOutcome, SubmitTasks, TaskSpec
from mesh.node import Node
from mesh.storage.store import StorageEffect
from mesh.wire.codec import encode
from tests.storage.disk import WAIT_S, Disk

CLIENT = ClientId(1)
SEND_MS, RUN_MS = 1, 5
_TO_DISK = StorageEffect.__args__
_ANSWERED = (effects.WriteLedger, effects.LoadRows, effects.LoadHistory, effects.InstallSnapshot)


class Life:
    """The node of one directory, until it is stopped."""

    def __init__(self, path: Path, name: str, voters: tuple[str, ...], now_ms: int, tail_entries_max: int) -> None:
        self.disk = Disk(path, node_id=name, cluster="mesh-1")
        config = NodeConfig(
            node_id=name,
            cluster="mesh-1",
            incarnation=self.disk.store.incarnation,
            address=f"{name}:1",
            voters=tuple((voter, f"{voter}:1") for voter in voters),
            slots=2,
            dispatch=DispatchConfig(log_tail_entries_max=tail_entries_max),
            mark=self.disk.store.created,
        )
        self.node = Node(config, self.disk.recovered, Random(f"7/{name}/{config.incarnation}"), now_ms)
        self._durable = 0
        self._answers = 0
        self._asked = 0

    def say(self, event: Event, now_ms: int) -> list[Effect]:
        """One event and the end of the turn. Returns what is asked of the rest of the world, after the disk is done."""
        wanted = self.node.handle(event, now_ms) + self.node.handle(events.TurnEnded(), now_ms)
        others: list[Effect] = []
        while wanted:
            token = self._durable
            for effect in wanted:
                if not isinstance(effect, _TO_DISK):
                    others.append(effect)
                    continue
                self.disk.store.perform(effect)
                token = effect.token if isinstance(effect, effects.Persist) else token
                self._asked += isinstance(effect, _ANSWERED)
            wanted = []
            for answer in self._await(token):
                wanted += self.node.handle(answer, now_ms)
            wanted += self.node.handle(events.TurnEnded(), now_ms)
        return others

    def _await(self, token: int) -> list[Event]:
        answers: list[Event] = []
        while self._durable < token or self._answers < self._asked:
            answer = self.disk.events.get(timeout=WAIT_S)
            if isinstance(answer, events.Durable):
                self._durable = answer.token
            else:
                self._answers += 1
            answers.append(answer)
        return answers


class Meadow:
    """Nodes, the wires between them, and a client at each."""

    def __init__(self, path: Path, tail_entries_max: int = 4_096) -> None:
        self.path = path
        self.now_ms = 1_000
        self.lives: dict[str, Life] = {}
        self.ran: list[TaskId] = []
        self._tail_entries_max = tail_entries_max
        self._coming: list[tuple[int, int, str, Event]] = []
        self._count = 0

    def start(self, name: str, voters: tuple[str, ...]) -> Life:
        life = self.lives[name] = Life(self.path / name, name, voters, self.now_ms, self._tail_entries_max)
        self.say(name, events.AgentsReady(("code",)))
        return life

    def stop(self, *names: str) -> None:
        for name in names or tuple(self.lives):
            self.lives.pop(name).disk.store.close()

    def submit(self, name: str, *task_ids: str) -> None:
        specs = [TaskSpec(TaskId(task_id), "code", b"\x01", 5, 3, 0, "test", b"") for task_id in task_ids]
        self.say(name, events.ClientMessage(CLIENT, encode(SubmitTasks(False, specs))))

    def say(self, name: str, event: Event) -> None:
        for effect in self.lives[name].say(event, self.now_ms):
            match effect:
                case effects.Send():
                    self._later(SEND_MS, effect.to, events.PeerMessage(NodeId(name), effect.data))
                case effects.Publish():
                    for other in self.lives:
                        if other != name:
                            self._later(SEND_MS, other, events.GossipReceived(effect.data))
                case effects.StartAttempts():
                    self.ran += [order.task_id for order in effect.orders]
                    outcomes = [AttemptOutcome(order.task_id, order.token, encode("done")) for order in effect.orders]
                    self._later(RUN_MS, name, events.AttemptsEnded(outcomes))
                case _:
                    pass

    def run(self, duration_ms: int) -> None:
        until_ms = self.now_ms + duration_ms
        while True:
            due_ms, name = min((life.node.next_deadline_ms(), name) for name, life in self.lives.items())
            coming_ms = self._coming[0][0] if self._coming else until_ms + 1
            if min(due_ms, coming_ms) > until_ms:
                self.now_ms = until_ms
                return
            self.now_ms = max(self.now_ms, min(due_ms, coming_ms))
            if coming_ms > due_ms:
                self.say(name, events.DeadlineReached())
                continue
            _, _, name, event = heapq.heappop(self._coming)
            if name in self.lives:
                self.say(name, event)

    def _later(self, delay_ms: int, name: str, event: Event) -> None:
        self._count += 1
        heapq.heappush(self._coming, (self.now_ms + delay_ms, self._count, name, event))
