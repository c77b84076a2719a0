"""The cast of the desk's stories: boss leads, and ana, ben and eva run tasks. Time goes on when a story says so."""

from random import Random
from typing import Any

from mesh.config import DispatchConfig, NodeConfig
from mesh.dispatch.dispatcher import Dispatcher
from mesh.gossip.detector import Detector
from mesh.ids import FencingToken, LogIndex, NodeId, TaskId, Term
from mesh.ledger.applied import Applied
from mesh.ledger.commands import AdmitNode, Batch, Command, GrantLease, RaiseLevel, SubmitTask
from mesh.ledger.ledger import Ledger
from mesh.ledger.task import STATE_NAMES
from mesh.messages import AttemptOrder, AttemptOutcome, Failure, Heartbeat, NodeReport, TaskSpec
from mesh.options import Options
from mesh.wire.codec import encode

BOSS, ANA, BEN, EVA = (NodeId(name) for name in ("boss", "ana", "ben", "eva"))
CODE = ("code", "draft", "mail")
"""What each of them can do."""


def heartbeat(node_id: NodeId, sequence: int = 1, **given: Any) -> Heartbeat:
    """`given` instead of what is ordinary."""
    ordinary: dict[str, Any] = {
        "cluster": "c",
        "incarnation": 1,
        "address": "h",
        "pid": 1,
        "slots": 2,
        "running": 0,
        "draining": False,
        "capabilities": CODE,
        "labels": (),
        "held": (),
        "held_total": 0,
        "term": Term(2),
        "leader": None,
        "commit": LogIndex(0),
        "applied": LogIndex(0),
        "digest": b"",
        "views": (),
    }
    return Heartbeat(node_id=node_id, sequence=sequence, **(ordinary | given))


class Office:
    """A ledger, the nodes that are there, and whoever leads. `turn` proposes what there is and applies it at once."""

    def __init__(self, *nodes: NodeId, **given: Any) -> None:
        """`given` is said by every node's heartbeat."""
        self.names = nodes or (ANA, BEN)
        self.given = given
        self.at_ms = 10_000
        self.ledger = Ledger()
        self.config = NodeConfig(
            node_id=BOSS,
            cluster="c",
            incarnation=1,
            address="h",
            voters=((BOSS, "h:1"),),
            dispatch=DispatchConfig(),
        )
        self.detector = Detector(self.config.gossip, BOSS, "c", [(name, "h:1") for name in self.names], 0)
        self.dispatcher = Dispatcher(self.config, self.ledger, self.detector, Random(1))
        for name in self.names:
            self.beat(name)
        self.commit([RaiseLevel(1), *(AdmitNode(name, 1) for name in self.names)])
        self.lead()

    def lead(self, seed: int = 1) -> None:
        """Another leader takes office over the same table; what the one before had proposed may still be applied."""
        self.dispatcher = Dispatcher(self.config, self.ledger, self.detector, Random(seed))
        self.dispatcher.take_office()
        for name in self.names:
            held = [(task.task_id, task.token) for task in self.ledger.holder_leases(name).values()]
            self.dispatcher.node_report(name, NodeReport(Term(2), 1, 2, CODE, held, []))

    def beat(self, name: NodeId, **given: Any) -> None:
        """The node says how it is; the detector hears it, and the desk looks again."""
        state = self.detector.member(name)
        sequence = 1 if state is None or state.last is None else state.last.sequence + 1
        assert self.detector.heard(heartbeat(name, sequence, **(self.given | given)), 1)
        self.detector.tick(2)
        self.dispatcher.refresh()

    def submit(self, *specs: TaskSpec) -> None:
        for one in specs:
            self.dispatcher.submit(one)

    def put(self, *specs: TaskSpec) -> None:
        """Tasks come into the table without being granted."""
        self.commit([SubmitTask(one) for one in specs])

    def propose(self) -> list[Command]:
        """The next entry, which is on its way from now on."""
        return self.dispatcher.next_commands(self.at_ms)

    def commit(self, commands: list[Command]) -> dict[NodeId, list[AttemptOrder]]:
        """An entry is applied."""
        index = LogIndex(self.ledger.applied_index + 1)
        batch = Batch(self.at_ms, commands)
        self.applied: Applied = self.ledger.apply(index, Term(2), batch, encode(batch))
        return self.dispatcher.applied(self.applied, commands) if self.dispatcher.in_office else {}

    def turn(self, at_ms: int | None = None) -> list[Command]:
        self.at_ms = at_ms or self.at_ms
        commands = self.propose()
        if commands:
            self.commit(commands)
        return commands

    def grants(self, at_ms: int | None = None) -> list[tuple[str, str]]:
        """What the next entry grants, to whom."""
        return grants(self.turn(at_ms))

    def done(self, *names: str, error: str = "", failure: Failure = Failure.HANDLER, is_final: bool = True) -> None:
        """Whoever holds these reports them."""
        tasks = [self.ledger.tasks[TaskId(name)] for name in names]
        outcomes = [AttemptOutcome(task.task_id, task.token, b"\x01", error, "", is_final, failure) for task in tasks]
        self.dispatcher.report(outcomes)

    def holder(self, name: str) -> str:
        return str(self.ledger.tasks[TaskId(name)].node_id)

    def state(self, name: str) -> str:
        task = self.ledger.tasks.get(TaskId(name)) or self.ledger.changed[TaskId(name)]
        return STATE_NAMES[task.state]

    def loads(self) -> dict[str, int]:
        return {name: self.dispatcher.candidates[name].load for name in self.names}


def grants(commands: list[Command]) -> list[tuple[str, str]]:
    return [(str(command.task_id), str(command.node_id)) for command in commands if isinstance(command, GrantLease)]


def spec(
    name: str,
    options: Options | None = None,
    *,
    priority: int = 5,
    capability: str = "code",
    attempts_max: int = 3,
    not_before_ms: int = 0,
) -> TaskSpec:
    return TaskSpec(TaskId(name), capability, b"", priority, attempts_max, not_before_ms, options=options)


def token(number: int) -> FencingToken:
    return FencingToken(number)
