"""S4's face, row by row. ana, ben and eva are agents; the mesh under them is real, and so is time.

Every story waits for what must come, never for a while.
"""

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import wraps
from random import Random
from typing import Any, ParamSpec

import pytest

from mesh import Context
from mesh.client import MeshClient
from mesh.client.courier import Courier
from mesh.client.links import Link, LinkEvents
from mesh.documents import AgentView, BreakerView, EventLine, EventPage
from mesh.errors import InvalidPayload, MeshUnavailable, NotFound, Refused, TaskCancelled, TaskFailed
from mesh.facades import coordinator as facade
from mesh.facades.coordinator import (
    AgentCoordinator,
    AgentCriteria,
    AgentInfo,
    AgentRegistry,
    AgentStatus,
    AgentType,
    AssignedTask,
    LoadBalancingStrategy,
    TaskPriority,
)
from mesh.ids import NodeId
from mesh.testing import LocalMesh
from mesh.testing.machine import MemoryLink

Given = ParamSpec("Given")
ACTIVE, INACTIVE, BUSY, STALE = AgentStatus.ACTIVE, AgentStatus.INACTIVE, AgentStatus.BUSY, AgentStatus.STALE


def on_a_loop(story: Callable[Given, Awaitable[None]]) -> Callable[Given, None]:
    """An async story as a test, on an event loop of its own, with 20 seconds to end."""

    @wraps(story)
    def test(*args: Given.args, **kwargs: Given.kwargs) -> None:
        async def told() -> None:
            async with asyncio.timeout(20):
                await story(*args, **kwargs)

        asyncio.run(told())

    return test


def agent(name: str, *capabilities: str, max_tasks: int = 10, **fields: Any) -> AgentInfo:
    metadata = {"max_tasks": max_tasks} | fields.pop("metadata", {})
    return AgentInfo(name, capabilities=list(capabilities or ("code",)), metadata=metadata, **fields)


class Office(AgentCoordinator):
    """A coordinator whose agents write down what they begin, and wait to be let go on."""

    def __init__(self, heartbeat_timeout: float = 15.0, **said: Any) -> None:
        super().__init__(heartbeat_timeout=heartbeat_timeout, **said)
        self.gate = asyncio.Event()
        self.began: list[tuple[str, str]] = []
        self.handler = self.work

    @property
    def mesh(self) -> LocalMesh:
        assert self._own is not None
        return self._own

    async def work(self, agent: AgentInfo, task: AssignedTask) -> str:
        self.began.append((agent.agent_id, task.task_id))
        await self.gate.wait()
        if task.payload == "no good":
            raise ValueError("no good")
        return f"{task.task_id} by {agent.agent_id}"

    async def until(self, condition: Callable[[], bool]) -> None:
        await self.mesh.until(condition)

    async def running(self, count: int) -> None:
        """So many handlers have begun, and the ledger knows who has which task."""
        await self.until(lambda: len(self.began) == count)

    async def status_of(self, agent_id: str) -> AgentStatus:
        found = await self.registry.get_agent(agent_id)
        assert found is not None
        return found.status


@asynccontextmanager
async def another_client(mesh: LocalMesh) -> AsyncIterator[MeshClient]:
    """Somebody else who has dialled the mesh."""

    def dial(address: str, events: LinkEvents) -> Link:
        assert mesh._network is not None
        return MemoryLink(mesh._network, address, events)

    courier = Courier([address for _, address in mesh._voters], dial, Random(1))
    await courier.open(5)
    async with MeshClient(courier) as client:
        yield client


async def ids(agents: Awaitable[list[AgentInfo]]) -> list[str]:
    return [found.agent_id for found in await agents]


# --- names ------------------------------------------------------------------------------------------------------------


def test_s4_16_17_21_24_enumerations_have_these_members() -> None:
    assert [(kind.name, kind.value) for kind in AgentType] == [
        ("WORKER", "worker"),
        ("PROVIDER", "provider"),
        ("CONSUMER", "consumer"),
        ("GENERAL", "general"),
    ]
    assert [status.value for status in AgentStatus] == ["active", "inactive", "busy", "stale"]
    assert [(strategy.name, strategy.value) for strategy in LoadBalancingStrategy] == [
        ("LEAST_CONNECTIONS", "least_connections"),
        ("ROUND_ROBIN", "round_robin"),
        ("WEIGHTED_ROUND_ROBIN", "weighted_round_robin"),
        ("RESOURCE_BASED", "resource_based"),
        ("GEOGRAPHIC", "geographic"),
        ("RANDOM", "random"),
    ]
    assert [(priority.name, int(priority)) for priority in TaskPriority] == [
        ("URGENT", 0),
        ("CRITICAL", 1),
        ("HIGH", 3),
        ("NORMAL", 5),
        ("LOW", 8),
    ]


def test_s4_18_agent_info_has_these_thirteen_fields_in_this_order() -> None:
    assert [each.name for each in dataclasses.fields(AgentInfo)] == [
        "agent_id",
        "agent_type",
        "status",
        "capabilities",
        "services",
        "endpoints",
        "metadata",
        "last_heartbeat",
        "registration_time",
        "load_metrics",
        "health_score",
        "version",
        "tags",
    ]
    before = time.time()
    made = AgentInfo("ana")
    assert (made.agent_type, made.status, made.health_score, made.capabilities) == (AgentType.GENERAL, ACTIVE, 1.0, [])
    assert before <= made.registration_time <= time.time()


def test_s4_20_23_everything_can_be_imported_from_one_place() -> None:
    assert all(hasattr(facade, name) for name in facade.__all__)
    wanted = {"AgentInfo", "AgentRegistry", "AgentDiscoveryService", "LoadBalancer", "TaskDistributor"}
    assert wanted < set(facade.__all__)


# --- a whole session --------------------------------------------------------------------------------------------------


@on_a_loop
async def test_s4_25_a_task_is_submitted_queued_given_to_an_eligible_agent_and_counted() -> None:
    """The flow from end to end: nobody can do it at first; then ana can, and is chosen; her load and the figures say
    so, then and when she is done."""
    async with Office() as office:
        await office.registry.register_agent(agent("ben", "search"))
        task_id = await office.distributor.submit_task(
            "code", {"prompt": "write sort"}, TaskPriority.HIGH, task_id="t1"
        )
        assert task_id == "t1"
        assert (await office.distributor.get_queue_sizes())["high"] == 1
        assert await office.load_balancer.find_eligible_agents("code") == []
        assert await office.load_balancer.select_agent("code") is None

        ana = agent("ana", "code", "search")
        assert await office.registry.register_agent(ana) is True
        await office.running(1)
        assert office.began == [("ana", "t1")]
        assert await office.load_balancer.find_eligible_agents("code") == [ana]
        assert await office.load_balancer.select_agent("code") is ana
        assert (ana.load_metrics["active_connections"], ana.load_metrics["max_connections"]) == (1, 10)
        assert (await office.distributor.get_queue_sizes())["high"] == 0

        office.gate.set()
        assert await office.result("t1", 5) == "t1 by ana"
        assert await office.registry.get_agent("ana") is ana
        assert ana.load_metrics["active_connections"] == 0
        stats = await office.distributor.get_distribution_stats()
        assert (stats.tasks_distributed, stats.tasks_completed, stats.tasks_failed) == (1, 1, 0)
        events = [event async for event in office.mesh.client.events()]
        told = [(event.event, event.node) for event in events if event.task == "t1"]
        assert [each for each in told if each[0] != "task_started"] == [
            ("task_submitted", None),
            ("task_dispatched", "ana"),
            ("task_completed", "ana"),
        ]


@on_a_loop
async def test_s4_25_a_handler_is_given_the_task_as_it_was_submitted() -> None:
    """None, nothing in a dict, a list and a dict arrive as what they are."""
    seen: list[Any] = []

    async def look(found: AgentInfo, task: AssignedTask) -> None:
        assert task.context.task_id == task.task_id
        seen.append((found.agent_id, task.capability, task.payload, task.priority, task.attempt))

    async with AgentCoordinator() as office:
        office.handler = look
        await office.registry.register_agent(agent("ana", "code", "search"))
        for payload in (None, {}, [1, 2], {"ctx": 1, "self": 2}):
            await office.result(await office.distributor.submit_task("search", payload, "low"), 5)
        assert office.handler is look
    assert seen == [("ana", "search", payload, 8, 1) for payload in (None, {}, [1, 2], {"ctx": 1, "self": 2})]


@on_a_loop
async def test_without_a_handler_of_its_own_an_agent_gives_back_what_it_was_given() -> None:
    async with AgentCoordinator() as office:
        await office.registry.register_agent(agent("ana"))
        task_id = await office.distributor.submit_task("code", [1])
        assert await office.result(task_id, 5) == {"agent": "ana", "capability": "code", "payload": [1]}


# --- registry (S4-15, S4-27 to S4-29) ---------------------------------------------------------------------------------


@on_a_loop
async def test_s4_27_a_registered_agent_is_a_node_and_says_all_thirteen_fields() -> None:
    """Somebody else sees the same of it, but for when it was registered, and what is no short text of its metadata."""
    ana = agent(
        "ana",
        agent_type=AgentType.WORKER,
        services=["lint"],
        endpoints={"http": "http://ana:80"},
        metadata={"location": "eu/berlin", "gpus": [1, 2], "note": "x" * 300},
        version="2.1",
        tags=["fast", "new"],
    )
    async with Office() as office:
        before = dataclasses.replace(ana)
        await office.registry.register_agent(ana)
        assert await office.registry.get_agent("ana") is ana
        assert abs(ana.last_heartbeat - time.time()) < 10
        assert dataclasses.replace(ana, last_heartbeat=0, load_metrics={}) == dataclasses.replace(
            before, last_heartbeat=0, load_metrics={}
        )
        assert ana.load_metrics == {"active_connections": 0, "max_connections": 10, "cpu": 0.0, "memory": 0.0}
        async with another_client(office.mesh) as client:
            other = AgentCoordinator(client)
            seen = await other.registry.get_agent("ana")
            assert seen is not None
            assert seen == dataclasses.replace(
                ana,
                endpoints={"mesh": "ana:0", "http": "http://ana:80"},
                metadata={"location": "eu/berlin"},
                last_heartbeat=seen.last_heartbeat,
                registration_time=0.0,
            )
            assert abs(seen.last_heartbeat - time.time()) < 10
        assert await office.registry.get_agent("eva") is None


@on_a_loop
async def test_s4_27_registering_again_changes_what_is_offered_or_nothing() -> None:
    async with Office() as office:
        await office.registry.register_agent(agent("ana"))
        await office.registry.register_agent(agent("ana"))
        assert office.mesh.node("ana").config.incarnation == 1
        await office.registry.register_agent(agent("ana", tags=["fast"]))
        assert office.mesh.node("ana").config.incarnation == 2
        assert await ids(office.discovery.discover(tags="fast")) == ["ana"]


@on_a_loop
async def test_s4_27_who_gives_up_on_registering_again_is_still_registered() -> None:
    """The node is on its way up with what it is to offer now."""
    async with Office() as office:
        await office.registry.register_agent(agent("ana"))
        changed = agent("ana", tags=["fast"])
        again = asyncio.create_task(office.registry.register_agent(changed))
        await office.until(lambda: office.mesh.node("ana").config.incarnation == 2)
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)
        assert await office.registry.list_agents() == [changed]


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        (agent(""), "a name of an agent is text"),
        (agent("mesh"), "'mesh' is the node that keeps the log"),
        (agent("ana", ""), "a capability is text"),
        (agent("ana", max_tasks=-1), "max_tasks is a number from 0"),
        (agent("ana", tags=["\n"]), "a label has only printable"),
        (agent("ana", endpoints={"http": ""}), "value of the label 'endpoint.http'"),
        (agent("ana", tags=[f"t{k}" for k in range(64)]), "'ana' has 65 labels; a node has 64"),
        (AgentInfo("ana", "robot"), "an agent type is one of worker, provider"),  # type: ignore[arg-type]
    ],
)
@on_a_loop
async def test_what_cannot_be_registered_is_refused_in_one_sentence(wrong: AgentInfo, sentence: str) -> None:
    async with AgentCoordinator() as office:
        with pytest.raises(InvalidPayload, match=sentence):
            await office.registry.register_agent(wrong)
        assert await office.registry.list_agents() == []


@on_a_loop
async def test_a_founding_node_of_a_given_mesh_is_no_agent_to_be_registered() -> None:
    """And is not taken for one afterwards."""
    async with LocalMesh(voters=("ana",)) as mesh:
        office = AgentCoordinator(mesh)
        with pytest.raises(ValueError, match="'ana' is a founding node"):
            await office.registry.register_agent(agent("ana"))
        assert office.registry._registered == {}


@on_a_loop
async def test_s4_29_a_deregistered_agent_is_inactive_listed_and_may_come_back() -> None:
    """It finishes what it has begun. Its history stays: the task says who did it."""
    async with Office() as office:
        ana = agent("ana")
        await office.registry.register_agent(ana)
        await office.distributor.submit_task("code", task_id="t1")
        await office.running(1)
        going = asyncio.create_task(office.registry.deregister_agent("ana"))
        await office.until(lambda: office.mesh.node("ana").leaving.is_leaving)
        office.gate.set()
        assert await going is True
        assert await office.result("t1", 5) == "t1 by ana"
        assert (await office.registry.list_agents(), ana.status) == ([ana], INACTIVE)
        assert await office.registry.get_active_agents() == []
        assert await ids(office.discovery.discover(status="inactive")) == ["ana"]
        assert await office.registry.cleanup_stale_agents() == [], "it left, it did not fall silent"
        assert (await office.mesh.client.task("t1")).node == "ana"

        await office.distributor.submit_task("code", task_id="t2")
        assert await office.registry.register_agent(ana) is True
        assert await office.result("t2", 5) == "t2 by ana"
        assert await office.registry.get_active_agents() == [ana]
        assert await office.registry.deregister_agent("eva") is False


@on_a_loop
async def test_s4_29_what_takes_too_long_is_given_back_and_charged_to_nobody() -> None:
    async with Office() as office:
        await office.registry.register_agent(agent("ana"))
        await office.distributor.submit_task("code", task_id="t1")
        await office.running(1)
        await office.registry.register_agent(agent("ben"))
        assert await office.registry.deregister_agent("ana", within=0.05) is True
        await office.running(2)
        office.gate.set()
        assert await office.result("t1", 5) == "t1 by ben"
        assert (await office.mesh.client.task("t1")).attempts == 1
        stats = await office.distributor.get_distribution_stats()
        assert stats.load_balancer_success_rate == 0.5, "of two grants one did not stand"


@on_a_loop
async def test_s4_28_a_silent_agent_is_stale_then_inactive_and_its_task_runs_elsewhere() -> None:
    """Heartbeats every 0.5 s: one missed, three missed. Registered again it is active at once."""
    async with Office(heartbeat_timeout=1.5) as office:
        ana = agent("ana")
        await office.registry.register_agent(ana)
        await office.distributor.submit_task("code", task_id="t1")
        await office.running(1)
        await office.registry.register_agent(agent("ben"))
        assert await office.registry.process_heartbeat("ana") is True
        office.mesh.kill("ana", silent=True)
        detector = office.mesh.node("mesh").detector
        await office.until(lambda: detector.health(NodeId("ana")).word == "degraded")
        assert (await office.status_of("ana"), ana.health_score) == (STALE, 0.75)
        assert await ids(office.registry.get_active_agents()) == ["ben"]
        silent_since = ana.last_heartbeat
        await office.until(lambda: detector.health(NodeId("ana")).word == "failed")
        assert (await office.status_of("ana"), ana.health_score) == (INACTIVE, 0.0)
        assert abs(ana.last_heartbeat - silent_since) < 0.1
        assert await office.registry.cleanup_stale_agents() == ["ana"]
        assert await office.registry.process_heartbeat("ana") is False
        office.gate.set()
        assert await office.result("t1", 5) == "t1 by ben"
        await office.registry.register_agent(ana)
        assert await office.status_of("ana") is ACTIVE
        assert await office.registry.cleanup_stale_agents() == []


@on_a_loop
async def test_s4_16_an_agent_with_all_slots_taken_is_busy_and_still_active() -> None:
    async with Office() as office:
        await office.registry.register_agent(agent("ana", max_tasks=1))
        await office.distributor.submit_task("code", task_id="t1")
        await office.running(1)
        assert await office.status_of("ana") is BUSY
        assert await ids(office.registry.get_active_agents()) == ["ana"]
        office.gate.set()
        await office.result("t1", 5)
        assert await office.status_of("ana") is ACTIVE


@on_a_loop
async def test_s4_10_an_agent_is_set_inactive_and_active_again() -> None:
    async with Office() as office:
        office.gate.set()
        ana = agent("ana")
        await office.registry.register_agent(ana)
        assert await office.registry.update_agent_status("ana", "inactive", {"pending_tasks": 3}) is True
        assert await office.status_of("ana") is INACTIVE
        assert ana.load_metrics["pending_tasks"] == 3
        await office.distributor.submit_task("code", task_id="t1")
        assert (await office.distributor.get_queue_sizes()).total == 1
        assert await office.registry.update_agent_status("ana", AgentStatus.ACTIVE) is True
        assert await office.result("t1", 5) == "t1 by ana"
        assert await office.registry.update_agent_status("eva", "active") is False
        assert await office.registry.update_agent_status("eva", "inactive") is False
        with pytest.raises(InvalidPayload, match="busy is what the mesh finds an agent to be"):
            await office.registry.update_agent_status("ana", "busy")
        await office.registry.update_agent_status("ana", "inactive")
        await office.registry.register_agent(ana)
        assert await office.status_of("ana") is ACTIVE, "who registers wants to work"
        office.mesh.kill("ana")
        assert await office.registry.deregister_agent("ana") is True
        assert await office.status_of("ana") is INACTIVE


@on_a_loop
async def test_s4_28_an_agent_says_how_busy_it_is_and_its_score_and_the_balance_follow() -> None:
    async with Office(heartbeat_timeout=0.6, strategy="resource_based") as office:
        office.gate.set()
        ana, ben = agent("ana"), agent("ben")
        for each in (ana, ben):
            await office.registry.register_agent(each)
        assert await office.registry.process_heartbeat("ana", {"cpu": 0.95, "memory": 0.5, "queue": 2}) is True
        detector = office.mesh.node("mesh").detector
        await office.until(lambda: _cpu_of(detector, "ana") == 950)
        assert await office.registry.get_agent("ana") is ana
        assert (ana.health_score, ana.load_metrics["queue"], ana.load_metrics["cpu"]) == (0.9, 2, 0.95)
        assert [await office.load_balancer.select_agent("code") for _ in range(3)] == [ben, ben, ben]
        for number in range(3):
            assert await office.result(await office.distributor.submit_task("code", task_id=f"t{number}"), 5)
        assert {name for name, _ in office.began} == {"ben"}
        with pytest.raises(InvalidPayload, match="cpu is a number from 0 to 1"):
            await office.registry.process_heartbeat("ana", {"cpu": 95})
        with pytest.raises(Refused, match="'eva' was not registered here"):
            await office.registry.process_heartbeat("eva", {"cpu": 0.5})


def _cpu_of(detector: Any, name: str) -> int:
    last = detector.member(NodeId(name)).last
    return 0 if last is None else int(last.cpu_permille)


# --- discovery (S4-20, S4-22) -----------------------------------------------------------------------------------------


@on_a_loop
async def test_s4_20_agents_are_discovered_by_type_status_capabilities_services_and_tags() -> None:
    async with Office() as office:
        ana = agent("ana", "code", "search", agent_type=AgentType.WORKER, tags=["fast", "new"])
        ben = agent("ben", "code", agent_type=AgentType.PROVIDER, services=["lint"], tags=["fast"], max_tasks=1)
        for each in (ana, ben):
            await office.registry.register_agent(each)
        discover = office.discovery.discover
        assert await ids(discover()) == ["ana", "ben"]
        assert await ids(discover(agent_type="worker")) == ["ana"]
        assert await ids(discover(agent_type=AgentType.PROVIDER, tags="fast")) == ["ben"]
        assert await ids(discover(capabilities=["code", "search"])) == ["ana"]
        assert await ids(discover(services="lint")) == ["ben"]
        assert await ids(discover(tags=["fast", "new"])) == ["ana"]
        assert await ids(discover(min_health_score=1.0, status=ACTIVE)) == ["ana", "ben"]
        assert await ids(discover(status="busy")) == []
        registry = office.registry
        assert await ids(registry.discover_agents({"tags": ["fast"], "agent_type": None})) == ["ana", "ben"]
        assert await ids(registry.discover_agents(AgentCriteria(capabilities="search"))) == ["ana"]
        assert await registry.discover_agents() == [ana, ben]
        with pytest.raises(InvalidPayload, match="agents are not told apart by 'colour'"):
            await registry.discover_agents({"colour": "red"})
        with pytest.raises(InvalidPayload, match="an agent type is one of worker, provider, consumer, general"):
            await discover(agent_type="robot")


# --- balancing (S4-21, S4-22, S4-26) ----------------------------------------------------------------------------------


@on_a_loop
async def test_s4_26_each_of_the_five_filters_turns_somebody_down_and_is_counted() -> None:
    """One agent for each filter, and eva, who passes them all."""
    async with Office(heartbeat_timeout=0.6, health_score_threshold=0.95) as office:
        worker: dict[str, Any] = {"agent_type": AgentType.WORKER}
        for each in (
            agent("away", **worker),
            agent("eva", **worker),
            agent("full", max_tasks=1, **worker),
            agent("other", "search", **worker),
            agent("seller", agent_type=AgentType.PROVIDER),
            agent("tired", **worker),
        ):
            await office.registry.register_agent(each)
        await office.distributor.submit_task("code", require={"node": "full"})
        await office.running(1)
        await office.registry.update_agent_status("away", "inactive")
        await office.registry.process_heartbeat("tired", {"cpu": 1.0})
        detector = office.mesh.node("mesh").detector
        await office.until(lambda: _cpu_of(detector, "tired") == 1_000)

        found = await office.load_balancer.explain("code", agent_type="worker")
        assert [each.agent_id for each in found.agents] == ["eva"]
        assert found.rejected == {"status": 1, "capabilities": 1, "agent_type": 1, "health_score": 1, "load": 1}
        assert {verdict.node: verdict.why for verdict in found.verdicts} == {
            "away": "is draining",
            "eva": "fits",
            "full": "is full: 1 of 1 slots taken",
            "other": "does not offer 'code' (it offers search)",
            "seller": "has type='provider', not 'worker'",
            "tired": "has a health score of 0.90, less than 0.95: its processors are 100 % busy (-0.10)",
        }
        assert await ids(office.load_balancer.find_eligible_agents("code", agent_type=AgentType.WORKER)) == ["eva"]
        assert await ids(office.load_balancer.find_eligible_agents(["code", "search"])) == []
        assert (await office.load_balancer.explain("code", require={"gpu": "yes"})).rejected["labels"] == 3
        await office.distributor.submit_task("code", task_id="t1", agent_type="worker")
        await office.running(2)
        assert office.began[1] == ("eva", "t1"), "the leader thinks the same"
        office.gate.set()


@on_a_loop
async def test_s4_26_the_leader_explains_a_waiting_task_in_the_same_words() -> None:
    async with Office() as office:
        await office.registry.register_agent(agent("ana", max_tasks=0))
        await office.registry.register_agent(agent("ben", "search"))
        await office.distributor.submit_task("code", task_id="t1")
        told = await office.mesh.client.explain("t1")
        ours = await office.load_balancer.explain("code")
        assert [verdict for verdict in told.nodes if verdict.node != "mesh"] == ours.verdicts


@on_a_loop
async def test_s2_22_an_open_breaker_is_a_filter_too() -> None:
    async with Office() as office:
        office.gate.set()
        await office.registry.register_agent(agent("ana", "code", "search"))
        await office.mesh.client.set("breaker_failures", 1)
        task_id = await office.distributor.submit_task("code", "no good", max_attempts=1)
        with pytest.raises(TaskFailed, match="no good"):
            await office.result(task_id, 5)
        found = await office.load_balancer.explain("code")
        assert (found.agents, found.rejected["breaker"]) == ([], 1)
        assert await ids(office.load_balancer.find_eligible_agents("search")) == ["ana"]


@pytest.mark.parametrize("strategy", list(LoadBalancingStrategy))
@on_a_loop
async def test_s4_22_a_strategy_set_at_run_time_is_committed_and_everybody_sees_it(
    strategy: LoadBalancingStrategy,
) -> None:
    """In force for the leader, for another client, and for a coordinator that says nothing of strategies."""
    async with Office() as office:
        office.gate.set()
        await office.registry.register_agent(agent("ana", metadata={"location": "eu/berlin"}))
        await office.registry.register_agent(agent("ben", metadata={"location": "us/boston"}))
        assert await office.load_balancer.get_strategy() is LoadBalancingStrategy.LEAST_CONNECTIONS
        await office.load_balancer.set_strategy(strategy)
        async with another_client(office.mesh) as client:
            assert (await client.agents()).strategy == strategy.value
            async with AgentCoordinator(client) as other:
                assert await other.load_balancer.get_strategy() is strategy
        for number in range(6):
            task_id = await office.distributor.submit_task("code", task_id=f"t{number}", location="us")
            assert await office.result(task_id, 5)
        chosen = [name for name, _ in office.began]
        looks = [await office.load_balancer.select_agent("code", location="us") for _ in range(6)]
        looked = [found.agent_id for found in looks if found is not None]
        if strategy is LoadBalancingStrategy.GEOGRAPHIC:
            assert chosen == looked == ["ben"] * 6
        elif strategy is LoadBalancingStrategy.RANDOM:
            assert len(looked) == len(chosen) == 6
        else:
            assert sorted(chosen) == sorted(looked) == ["ana"] * 3 + ["ben"] * 3


@on_a_loop
async def test_s4_22_an_agent_is_selected_by_another_strategy_without_changing_the_one_in_force() -> None:
    async with Office(strategy=LoadBalancingStrategy.RANDOM) as office:
        await office.registry.register_agent(agent("ana", metadata={"location": "eu"}))
        await office.registry.register_agent(agent("ben", metadata={"location": "us"}))
        select = office.load_balancer.select_agent
        turns = [await select("code", LoadBalancingStrategy.ROUND_ROBIN) for _ in range(4)]
        assert [turn.agent_id for turn in turns if turn] == ["ana", "ben", "ana", "ben"]
        near = await select("code", "geographic", location="us/boston")
        assert near is not None
        assert near.agent_id == "ben"
        assert await office.load_balancer.get_strategy() is LoadBalancingStrategy.RANDOM
        with pytest.raises(InvalidPayload, match="a load balancing strategy is one of least_connections"):
            await select("code", "by height")
        with pytest.raises(InvalidPayload):
            await office.load_balancer.set_strategy("by height")


def test_s4_21_a_faster_agent_is_chosen_more_often_where_turns_are_weighted() -> None:
    """By the times the leader has seen, which take many tasks to measure: here they are as it would tell them."""
    asyncio.run(_weighted())


async def _weighted() -> None:
    async with Office() as office:
        quick, slow = (view("ana", mean_ms={"code": 100}), view("ben", mean_ms={"code": 300}))

        async def views() -> list[AgentView]:
            return [quick, slow]

        for name in ("ana", "ben"):
            await office.registry.register_agent(agent(name))
        office.registry.views = views  # type: ignore[method-assign]  # What a leader would say after an hour.
        chosen = [await office.load_balancer.select_agent("code", "weighted_round_robin") for _ in range(8)]
        assert [found.agent_id for found in chosen if found].count("ana") == 6


def view(name: str, **fields: Any) -> AgentView:
    breakers: list[BreakerView] = []
    return AgentView(
        id=name,
        address=f"{name}:0",
        type="general",
        status="active",
        health="healthy",
        health_score=1.0,
        causes=[],
        capabilities=["code"],
        labels={"node": name, "type": "general"},
        slots=10,
        running=0,
        cpu=0.0,
        memory=0.0,
        breakers=breakers,
        **fields,
    )


# --- queues (S4-02 to S4-06, S4-34) -----------------------------------------------------------------------------------


@on_a_loop
async def test_s4_05_queue_sizes_are_by_name_and_number() -> None:
    async with Office() as office:
        for priority in (TaskPriority.URGENT, "low", 8, 7, "normal"):
            await office.distributor.submit_task("code", priority=priority)
        sizes = await office.distributor.get_queue_sizes()
        assert sizes == {0: 1, 1: 0, 3: 0, 5: 1, 7: 1, 8: 2}
        assert (sizes[TaskPriority.LOW], sizes["low"], sizes[8], sizes[200], sizes.total) == (2, 2, 2, 0, 5)
        assert [priority.name for priority in sizes if isinstance(priority, TaskPriority)] == [
            "URGENT",
            "CRITICAL",
            "HIGH",
            "NORMAL",
            "LOW",
        ]
        with pytest.raises(InvalidPayload, match="no priority is called 'lowest'"):
            sizes["lowest"]


@on_a_loop
async def test_s4_06_a_cleared_queue_is_audited_and_its_tasks_end_as_cancelled() -> None:
    """Only what waits under that priority; what ana runs goes on."""
    async with Office() as office:
        await office.registry.register_agent(agent("ana", max_tasks=1))
        await office.distributor.submit_task("code", priority="low", task_id="runs")
        await office.running(1)
        for name, priority in (("a", "low"), ("b", "low"), ("c", "high")):
            await office.distributor.submit_task("code", priority=priority, task_id=name)
        assert await office.distributor.clear_queue(TaskPriority.LOW, "the sale is over") == 2
        assert await office.distributor.clear_queue("urgent") == 0
        with pytest.raises(TaskCancelled):
            await office.result("a", 5)
        ended = await office.mesh.client.task("a")
        assert (ended.state, ended.history[-1].detail) == ("cancelled", "the sale is over")
        office.gate.set()
        assert [await office.result(name, 5) for name in ("runs", "c")] == ["runs by ana", "c by ana"]
        events = [event async for event in office.mesh.client.events() if event.event == "task_cancelled"]
        assert [(event.task, event.detail) for event in events] == [
            ("a", "the sale is over"),
            ("b", "the sale is over"),
        ]


@on_a_loop
async def test_s4_34_the_six_figures() -> None:
    """Two tasks completed, one failed for good, one runs, two wait."""
    async with Office() as office:
        await office.registry.register_agent(agent("ana", max_tasks=1))
        await office.registry.register_agent(agent("ben", "search"))
        empty = await office.distributor.get_distribution_stats()
        assert (empty.tasks_distributed, empty.average_distribution_time, empty.load_balancer_success_rate) == (0, 0, 1)
        office.gate.set()
        for name, payload in (("t1", None), ("t2", None), ("t3", "no good")):
            await office.distributor.submit_task("code", payload, task_id=name, max_attempts=1)
            await office.mesh.client.handle(name).outcome(5)
        office.gate.clear()
        await office.distributor.submit_task("code", task_id="t4")
        await office.running(4)
        for name in ("t5", "t6"):
            await office.distributor.submit_task("code", priority="high", task_id=name)
        stats = await office.distributor.get_distribution_stats()
        assert stats == facade.DistributionStats(
            active_agents=2,
            tasks_distributed=4,
            tasks_completed=2,
            tasks_failed=1,
            average_distribution_time=stats.average_distribution_time,
            load_balancer_success_rate=1.0,
            agent_load_distribution={"ana": 1, "ben": 0},
            queue_sizes=facade.QueueSizes({0: 0, 1: 0, 3: 2, 5: 0, 8: 0}),
        )
        async with another_client(office.mesh) as client:
            other = await AgentCoordinator(client).distributor.get_distribution_stats()
            assert other.average_distribution_time == stats.average_distribution_time, "S4-38: all say the same"


@on_a_loop
async def test_s4_34_the_average_time_is_from_submit_to_the_first_grant(monkeypatch: pytest.MonkeyPatch) -> None:
    """t1 waits until ana is there. What the log says of it is what the figure says, page by page."""
    monkeypatch.setattr(facade, "PAGE", 2)
    async with Office() as office:
        office.gate.set()
        await office.distributor.submit_task("code", task_id="t1")
        await office.registry.register_agent(agent("ana"))
        await office.result("t1", 5)
        at = {event.event: event.at async for event in office.mesh.client.events() if event.task == "t1"}
        stats = await office.distributor.get_distribution_stats()
        assert stats.average_distribution_time == (at["task_dispatched"] - at["task_submitted"]) / 1_000
        monkeypatch.setattr(facade, "PAGES_MAX", 1)
        assert (await office.distributor.get_distribution_stats()).load_balancer_success_rate == 1.0


# --- over a running mesh ----------------------------------------------------------------------------------------------


@on_a_loop
async def test_over_a_client_the_nodes_of_the_mesh_are_the_agents() -> None:
    """Nobody is registered by hand there. Discovery, balancing, submit, queues and clearing work as everywhere."""
    async with Office() as office:
        await office.registry.register_agent(agent("ana", tags=["fast"], agent_type=AgentType.WORKER))
        async with another_client(office.mesh) as client, AgentCoordinator(client) as other:
            with pytest.raises(Refused, match="agents of a running mesh are its nodes, and join by themselves"):
                await other.registry.register_agent(agent("eva"))
            assert await ids(other.registry.list_agents()) == ["ana", "mesh"]
            assert await ids(other.discovery.discover(tags="fast", agent_type="worker", status="active")) == ["ana"]
            assert await ids(other.load_balancer.find_eligible_agents("code")) == ["ana"]
            found = await other.load_balancer.select_agent("code")
            assert found is not None
            assert found.agent_id == "ana"
            await other.distributor.submit_task("code", task_id="t1")
            await office.running(1)
            assert await other.registry.deregister_agent("ana") is True, "which drains it"
            assert await ids(other.discovery.discover(status=INACTIVE)) == ["ana"]
            await other.distributor.submit_task("code", priority="low", task_id="t2")
            assert await other.distributor.clear_queue("low") == 1
            office.gate.set()
            assert await other.result("t1", 5) == "t1 by ana"
            assert await other.registry.process_heartbeat("ana") is True
            with pytest.raises(Refused, match="its node measures its load by itself"):
                await other.registry.process_heartbeat("ana", {"cpu": 0.1})
            assert await other.registry.update_agent_status("ana", ACTIVE) is True
        assert await office.registry.get_active_agents() != [], "the mesh goes on"


def test_s4_17_a_node_of_an_unknown_type_is_shown_as_general() -> None:
    async def story() -> None:
        async with LocalMesh() as mesh:
            registry = AgentRegistry(mesh)
            odd = view("odd")
            odd.type = "robot"
            assert registry.shown(odd).agent_type is AgentType.GENERAL

    asyncio.run(story())


# --- beginning and end (S4-44) ----------------------------------------------------------------------------------------


@on_a_loop
async def test_s4_44_it_starts_in_order_and_stops_clean() -> None:
    """What it was to say of strategy and threshold is committed before its background begins; all of it ends."""
    office = Office(strategy="round_robin", health_score_threshold=0.4)
    assert not office.mesh.is_open
    async with office:
        await office.start()  # Once is enough.
        assert await office.load_balancer.get_strategy() is LoadBalancingStrategy.ROUND_ROBIN
        assert (await office.mesh.client.settings()).settings["health_permille_min"] == 400
        loops = list(office._background)
        assert [loop.get_name() for loop in loops] == [
            "coordinator: start_distribution",
            "coordinator: start_processing",
        ]
        waiting = asyncio.create_task(office.distributor.start_distribution())
        await office.registry.register_agent(agent("ana"))
        assert not any(loop.done() for loop in [*loops, waiting])
    assert all(loop.done() for loop in loops)
    await waiting
    assert not office.mesh.is_open


@on_a_loop
async def test_s4_44_a_mesh_that_was_given_goes_on_and_its_settings_are_left_alone() -> None:
    async with LocalMesh() as mesh:
        await mesh.client.strategy("random")
        async with AgentCoordinator(mesh) as office:
            await office.registry.register_agent(agent("ana"))
            assert await office.load_balancer.get_strategy() is LoadBalancingStrategy.RANDOM
        assert mesh.is_open
        async with another_client(mesh) as client:
            other = AgentCoordinator(client)
            serving = asyncio.create_task(other.distributor.start_distribution())
            assert await ids(other.discovery.discover(capabilities="code")) == ["ana"]
            await other.close()
            await serving


@on_a_loop
async def test_a_start_that_fails_leaves_nothing_running(monkeypatch: pytest.MonkeyPatch) -> None:
    office = Office(strategy="random")

    async def refuse(strategy: object) -> None:
        raise Refused("not now")

    monkeypatch.setattr(office.load_balancer, "set_strategy", refuse)
    with pytest.raises(Refused, match="not now"):
        async with office:
            pass
    assert not office.mesh.is_open


def test_what_cannot_be_a_coordinator_is_refused_in_one_sentence() -> None:
    with pytest.raises(TypeError, match="agents are those of a LocalMesh or of a connected client, not of 'host:1'"):
        AgentCoordinator("host:1")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="heartbeat_timeout is for a coordinator's own mesh"):
        AgentCoordinator(LocalMesh(), heartbeat_timeout=3.0)
    with pytest.raises(InvalidPayload, match="health_score_threshold is a number from 0 to 1"):
        AgentCoordinator(health_score_threshold=50)
    with pytest.raises(InvalidPayload, match="load balancing strategy"):
        AgentCoordinator(strategy="by height")


def test_s4_30_the_timeout_is_three_heartbeats_of_five_seconds_unless_said_otherwise() -> None:
    assert Office().mesh._gossip.heartbeat_interval_ms == 5_000
    assert Office(heartbeat_timeout=300.0).mesh._gossip.heartbeat_interval_ms == 100_000
    assert Office(heartbeat_timeout=0.01).mesh._gossip.heartbeat_interval_ms == 50
    assert AgentCoordinator()._own is not None


# --- hearing what happens (S4-23) -------------------------------------------------------------------------------------


@on_a_loop
async def test_s4_23_whoever_subscribes_hears_what_is_committed_in_order_and_once() -> None:
    """ben raises at all he hears, which is told on by the loop and spoils nothing for ana."""
    heard: list[tuple[str, str | None]] = []
    told_on: list[str] = []
    done = asyncio.Event()

    def ana(event: EventLine) -> None:
        if event.event in ("task_submitted", "task_completed"):
            heard.append((event.event, event.task))
        if len(heard) == 4:
            done.set()

    def ben(event: EventLine) -> None:
        raise ValueError("too loud")

    asyncio.get_running_loop().set_exception_handler(lambda _, context: told_on.append(str(context["exception"])))
    async with Office() as office:
        office.gate.set()
        await office.registry.register_agent(agent("ana"))
        await office.result(await office.distributor.submit_task("code", task_id="before"), 5)
        processor = office.message_processor
        await processor.subscribe(ana)
        await processor.subscribe(ben)
        again = asyncio.create_task(processor.start_processing())
        for name in ("t1", "t2"):
            await office.result(await office.distributor.submit_task("code", task_id=name), 5)
        await done.wait()
        assert heard == [(word, name) for name in ("t1", "t2") for word in ("task_submitted", "task_completed")]
        assert set(told_on) == {"too loud"}
        processor.unsubscribe(ana)
        processor.unsubscribe(ben)
        processor.unsubscribe(ben)
        again.cancel()


@on_a_loop
async def test_s4_23_whoever_subscribes_later_hears_from_then_on() -> None:
    """Nobody was left to hear in between. A mesh that has nobody to answer for a while is asked again."""
    async with Office() as office:
        office.gate.set()
        await office.registry.register_agent(agent("ana"))
        heard: list[str | None] = []
        ended = asyncio.Event()

        def first(event: EventLine) -> None:
            office.message_processor.unsubscribe(first)
            ended.set()

        def second(event: EventLine) -> None:
            if event.event == "task_completed":
                heard.append(event.task)
                ended.set()

        await office.message_processor.subscribe(first)
        await office.result(await office.distributor.submit_task("code", task_id="t1"), 5)
        await ended.wait()
        await office.result(await office.distributor.submit_task("code", task_id="t2"), 5)
        ended.clear()
        await office.message_processor.subscribe(second)
        await office.result(await office.distributor.submit_task("code", task_id="t3"), 5)
        await ended.wait()
        assert heard == ["t3"]


@on_a_loop
async def test_s4_23_a_mesh_without_an_answer_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """And each hears what came after it subscribed: ana both settings, ben the second."""
    monkeypatch.setattr(facade, "PAUSE_S", 0.01)
    async with LocalMesh() as mesh, another_client(mesh) as client:
        office = AgentCoordinator(client)
        ana: list[str] = []
        ben: list[str] = []
        heard = asyncio.Event()
        await office.message_processor.subscribe(lambda event: ana.append(event.detail))
        await mesh.client.set("ageing_ms", 1)
        await office.message_processor.subscribe(lambda event: ben.append(event.detail))
        await office.message_processor.subscribe(lambda event: heard.set())
        await mesh.client.set("ageing_ms", 2)
        event_page, calls = client.event_page, 0

        async def fails_first(after: str, **options: Any) -> EventPage:
            nonlocal calls
            calls += 1
            if calls == 1:
                raise MeshUnavailable("nobody answered")
            return await event_page(after, **options)

        monkeypatch.setattr(client, "event_page", fails_first)
        async with office:
            await heard.wait()
        assert (len(ana), ben) == (2, ana[1:])
        assert calls > 1


@on_a_loop
async def test_a_task_that_has_ended_meanwhile_is_not_begun() -> None:
    """Its attempt finds no task any more; and none finds a registry that is gone."""
    async with Office() as office:
        await office.registry.register_agent(agent("ana"))
        app = office.mesh._machines["ana"].app
        with pytest.raises(NotFound, match="'t9' has ended meanwhile"):
            await app.tasks["code"].call(Context("t9"), None)
    orphan = AgentRegistry(LocalMesh())._app("ana", ["code"])
    with pytest.raises(RuntimeError, match="the registry is gone"):
        await orphan.tasks["code"].call(Context("t9"), None)
