"""A user tests an app against a whole mesh whose clock is virtual: hours pass at once.

The same test is the same run. Nodes are n1 to n5. Nothing here sleeps but handlers, and those by the mesh's clock.
"""

import asyncio
from datetime import UTC, datetime
from time import monotonic

import pytest

import mesh.testing
from mesh.config import RaftConfig
from mesh.errors import Conflict, MeshUnavailable, NotFound, TaskFailed, TaskTimeout
from mesh.testing import Stuck
from tests.testing.workshop import Workshop, on_a_loop

# --- work and time ----------------------------------------------------------------------------------------------------


@on_a_loop
async def test_time_passes_only_while_the_mesh_is_awaited() -> None:
    async with mesh.testing.local(Workshop().app, nodes=3) as m:
        assert m.now == 0
        handle = await m.submit("nap", {"seconds": 40}, task_id="t1")
        assert m.now == 0
        await asyncio.sleep(0.01)
        assert m.now == 0
        await m.advance("20s")
        assert (m.now, m.task("t1").state) == (20, "running")
        assert await handle in m.nodes
        assert m.now == 40
        await m.advance("500ms")
        await m.advance(0.25)
        assert m.now == 40.75


@on_a_loop
async def test_a_retry_waits_its_second_and_a_delay_its_hour() -> None:
    """S1-60 and the like: nobody waits for real. The hour of a single node is computed in less than a second."""
    async with mesh.testing.local(Workshop().app, nodes=1) as m:
        handle = await m.submit("fails_once")
        assert await handle == 2
        assert 1.0 <= m.now <= 1.2
        handle = await m.submit("double", {"number": 4}, delay=3_600, task_id="late")
        began_s = monotonic()
        await m.advance("59m")
        assert m.task("late").state == "scheduled"
        assert await handle == 8
        assert 3_600 <= m.now <= 3_603
        assert monotonic() - began_s < 20
        m.assert_invariants()


@on_a_loop
async def test_the_time_of_day_is_the_mesh_s_own() -> None:
    noon = datetime(2030, 1, 1, 12, tzinfo=UTC)
    async with mesh.testing.local(Workshop().app, nodes=1, starts_at=noon) as m:
        await m.advance("1h")
        await m.submit("double", {"number": 1}, task_id="t1")
        at_s = m.task("t1").submitted_at / 1_000
        assert 3_600 <= at_s - noon.timestamp() <= 3_605


@on_a_loop
async def test_limits_and_schedules_go_by_the_mesh_s_clock() -> None:
    """Half past noon. A schedule for every full hour fires at one; a task that takes too long is stopped after 5 s; a
    pause of ten minutes is over after ten minutes.
    """
    noon = datetime(2030, 1, 1, 12, 30, tzinfo=UTC)
    async with mesh.testing.local(Workshop().app, nodes=1, starts_at=noon) as m:
        await m.client.set_cron("hourly", "0 * * * *", "double", {"number": 3})
        handle = await m.submit("nap", {"seconds": 60}, max_attempts=1, run_timeout=5, task_id="t1")
        with pytest.raises(TaskFailed):
            await handle
        assert 5 <= m.now <= 6
        await m.client.pause("double", until="10m")
        paused = await m.submit("double", {"number": 4})
        assert await paused == 8
        assert 605 <= m.now <= 607
        await m.advance("30m")
        fired = [event for event in m.events() if event.event == "cron_fired"]
        assert len(fired) == 1
        assert fired[0].at - noon.timestamp() * 1_000 == pytest.approx(30 * 60_000, abs=100)
        m.assert_invariants()


@on_a_loop
async def test_it_is_a_whole_client() -> None:
    shop = Workshop()
    async with mesh.testing.local(shop.app, nodes=3) as m:
        handles = await m.map("double", [{"number": number} for number in range(20)])
        assert [await handle for handle in handles] == list(range(0, 40, 2))
        assert {handle.id async for handle in m.client.as_completed(handles)} == {handle.id for handle in handles}
        late = [await m.submit("nap", {"seconds": seconds}, task_id=f"{seconds}s") for seconds in (9, 3, 6)]
        assert [handle.id async for handle in m.client.as_completed(late)] == ["3s", "6s", "9s"]
        async for handle in m.client.as_completed([await m.submit("wait", task_id="slow"), late[0]]):
            assert handle.id == "9s"
            break
        with pytest.raises(Conflict):
            await m.submit("nap", {"seconds": 10}, task_id="9s")
        with pytest.raises(TaskTimeout):
            await anext(m.client.as_completed([m.client.handle("slow")], timeout=5))
        with pytest.raises(TaskTimeout):
            await m.client.handle("slow").result(timeout=5)
        await handles[0].task()
        assert (await m.client.status()).quorum and m.status().quorum
        assert (m.explain("slow").reason, (await m.client.explain("slow")).reason) == ("running", "running")
        assert [event.event async for event in m.client.events()] == [event.event for event in m.events()]
        with pytest.raises(NotFound):
            m.task("nobody")
        with pytest.raises(NotFound):
            m.explain("nobody")
        shop.gate.set()
        assert await m.result("slow") in m.nodes
        m.assert_invariants()


@on_a_loop
async def test_finished_tasks_are_found_when_they_have_left_memory() -> None:
    async with mesh.testing.local(Workshop().app, nodes=1) as m:
        await (await m.submit("double", {"number": 4}, task_id="t1"))
        await m.advance("1m")
        assert (m.task("t1").result, m.task("t1").state) == (8, "completed")
        m.assert_invariants()


@on_a_loop
async def test_a_test_may_wait_for_whatever_its_handlers_do() -> None:
    shop = Workshop()
    async with mesh.testing.local(shop.app, nodes=3) as m:
        handle = await m.submit("wait")
        await m.until(lambda: shop.began != [])
        waiting = asyncio.ensure_future(handle.result())
        await m.advance("1m")
        shop.gate.set()
        assert await waiting == shop.began[0][0]
        with pytest.raises(TimeoutError):
            await m.until(lambda: False, timeout="3s")


@on_a_loop
async def test_plain_functions_take_no_time_and_what_they_wait_for_does() -> None:
    """`family` blocks its thread for an hour of the mesh's time, while its child sleeps."""
    async with mesh.testing.local(Workshop().app, nodes=1, patience="2h") as m:
        handle = await m.submit("family", task_id="t1")
        assert await handle == len("completed")
        assert 3_600 <= m.now <= 3_605
        assert m.task("t1/child").state == "completed"
        m.assert_invariants()


@on_a_loop
async def test_the_clock_waits_for_a_thread_and_then_goes_by_a_real_one() -> None:
    """A plain function that hangs holds the clock up for half a second; then a second of the mesh's takes one."""
    shop = Workshop()
    async with mesh.testing.local(shop.app, nodes=1) as m:
        began_s = monotonic()
        handle = await m.submit("latched")
        await m.advance("500ms")
        assert 0.9 <= monotonic() - began_s < 10
        shop.latch.set()
        assert await handle is True
        assert m.now == 0.5


# --- what goes wrong --------------------------------------------------------------------------------------------------


@on_a_loop
async def test_a_task_outlives_its_leader_its_node_and_the_next_ones() -> None:
    """S0-25: whoever leads is killed, and then whoever holds the task; it goes on from its last checkpoint."""
    shop = Workshop()
    async with mesh.testing.local(shop.app, nodes=5) as m:
        handle = await m.submit("steps", {"count": 30}, task_id="t1")
        await m.advance("10s")
        first = await m.elected()
        await m.kill(first)
        await m.advance("10s")
        holder = m.task("t1").node
        assert holder is not None and holder != first
        await m.kill(holder)
        assert await handle == [number * number for number in range(30)]
        assert [m.is_up(node) for node in (first, holder)] == [False, False]
        assert shop.began[0][1] == 0 and all(step > 0 for _, step in shop.began[1:])
        assert m.now < 35
        m.assert_invariants()
        await m.restart(first)
        await m.restart(holder)
        await m.advance("10s")
        m.assert_invariants()
        assert len({m.node(node).ledger.digest for node in m.nodes}) == 1


@on_a_loop
async def test_a_silent_node_is_given_up_after_three_heartbeats() -> None:
    """S0-08, to the millisecond: 3 x 1 s after the last heartbeat that was heard."""
    shop = Workshop()
    async with mesh.testing.local(shop.app, nodes=3) as m:
        leader = await m.elected()
        others = [node for node in m.nodes if node != leader]
        await m.advance("5s")
        heard_ms = {node.id: node.last_heartbeat_ms for node in m.status().nodes}
        await m.kill(others[0], silent=True)
        killed_s = m.now
        await m.until(lambda: any(event.event == "node_failed" for event in m.events()))
        took_ms = (m.now - killed_s) * 1_000
        assert took_ms == pytest.approx(3_000 - heard_ms[others[0]], abs=2)


@on_a_loop
async def test_the_minority_of_a_partition_accepts_nothing_and_forgets_nothing() -> None:
    """The leader is cut off with one other. The three elect another, work goes on there; healed, all are one again."""
    shop = Workshop()
    async with mesh.testing.local(shop.app, nodes=5) as m:
        old = await m.elected()
        few = [old, next(node for node in m.nodes if node != old)]
        many = [node for node in m.nodes if node not in few]
        handles = await m.map("nap", [{"seconds": 30}] * 10)
        await m.partition(few, many)
        await m.advance("5s")
        assert await m.elected() in many
        handle = await m.submit("double", {"number": 3})
        assert await handle == 6
        assert not m.node(few[1]).raft.serving
        results = [await handle for handle in handles]
        assert {*results} <= {*many}
        m.assert_invariants()
        await m.heal()
        await m.advance("10s")
        assert len({m.node(node).ledger.digest for node in m.nodes}) == 1
        m.assert_invariants()


@on_a_loop
async def test_nobody_named_is_the_other_side() -> None:
    async with mesh.testing.local(Workshop().app, nodes=3) as m:
        lonely = await m.elected()
        await m.partition([lonely])
        await m.until(lambda: m.leader not in (None, lonely))
        with pytest.raises(ValueError, match="no node 'n9'"):
            await m.partition(["n9"])
        with pytest.raises(ValueError, match="named twice"):
            await m.partition(["n1"], ["n2", "n1"])


@on_a_loop
async def test_without_a_majority_nothing_is_accepted() -> None:
    async with mesh.testing.local(Workshop().app, nodes=3) as m:
        await m.kill("n1")
        await m.kill("n2")
        with pytest.raises(MeshUnavailable):
            await m.submit("double", {"number": 1})
        with pytest.raises(TimeoutError):
            await m.elected()
        with pytest.raises(ValueError, match="nobody leads"):
            await m.kill(m.leader)
        m.assert_invariants()


@on_a_loop
async def test_a_node_that_sleeps_past_its_verdict_is_fenced() -> None:
    """n_k is paused with a task in hand that ends meanwhile. It is given up, the task runs elsewhere; its own result
    comes late, and does not count. A pause leaves links up: heartbeats alone tell.
    """
    shop = Workshop()
    async with mesh.testing.local(shop.app, nodes=3) as m:
        handle = await m.submit("nap", {"seconds": 2}, task_id="t1")
        await m.advance("1s")
        sleeper = m.task("t1").node
        assert sleeper is not None
        await m.pause(sleeper)
        await m.pause(sleeper)
        result = await handle
        assert result != sleeper
        assert m.leader != sleeper
        assert shop.began == [(sleeper, 1), (result, 2)]
        await m.resume(sleeper)
        await m.resume(sleeper)
        await m.advance("10s")
        assert m.task("t1").result == result
        fenced = {event.detail for event in m.events() if event.event == "completion_fenced"}
        assert fenced == {f"token {m.task('t1').history[1].token} of a task that has ended"}
        assert m.is_up(sleeper)
        m.assert_invariants()


@on_a_loop
async def test_a_short_pause_harms_nobody() -> None:
    async with mesh.testing.local(Workshop().app, nodes=3) as m:
        handle = await m.submit("nap", {"seconds": 5})
        follower = next(node for node in m.nodes if node != m.leader)
        await m.pause(follower)
        await m.advance("1s")
        await m.resume(follower)
        await handle
        assert "node_failed" not in [event.event for event in m.events()]
        await m.pause(follower)
        await m.kill(follower)
        await m.restart(follower)
        await m.advance("5s")
        assert m.node(follower).ledger.digest == m.node(await m.elected()).ledger.digest


@on_a_loop
async def test_nodes_beyond_the_fifth_have_no_vote() -> None:
    async with mesh.testing.local(Workshop().app, nodes=7) as m:
        assert [node.id for node in m.status().nodes if node.role == "learner"] == ["n6", "n7"]
        assert m.now == 0
        await m.add_node("spare", slots=2)
        await m.kill("n6")
        handles = await m.map("nap", [{"seconds": 1}] * 70)
        assert {await handle for handle in handles} == {"n1", "n2", "n3", "n4", "n5", "n7", "spare"}
        m.assert_invariants()


# --- the same again ---------------------------------------------------------------------------------------------------


async def a_stormy_night(seed: int) -> list[tuple[float, str, str | None, str | None]]:
    """Forty tasks on threads and on the loop, three deaths, a partition. Returns everything that happened, and when."""
    shop = Workshop()
    async with mesh.testing.local(shop.app, nodes=5, seed=seed, starts_at=datetime(2030, 1, 1, tzinfo=UTC)) as m:
        handles = await asyncio.gather(
            *(m.submit("double", {"number": number}, max_attempts=9) for number in range(20)),
            *(m.submit("nap", {"seconds": 5 + number / 10}, max_attempts=9) for number in range(10)),
            *(m.submit("fails_once", max_attempts=9) for _ in range(10)),
        )
        for _ in range(3):
            leader = await m.elected()
            await m.kill(leader)
            await m.advance("1s")
            await m.restart(leader)
        await m.partition(["n1", "n2"])
        await asyncio.gather(*(handle.result() for handle in handles))
        m.assert_invariants()
        return [(event.at, event.event, event.node, event.task) for event in m.events()]


def test_the_same_test_is_the_same_run_and_another_seed_another() -> None:
    first, again = asyncio.run(a_stormy_night(7)), asyncio.run(a_stormy_night(7))
    assert first == again
    assert first != asyncio.run(a_stormy_night(8))


# --- waiting in vain --------------------------------------------------------------------------------------------------


@on_a_loop
async def test_whoever_waits_in_vain_is_told_why() -> None:
    async with mesh.testing.local(Workshop().app, nodes=1, patience="1m") as m:
        handle = await m.submit("nobody can", task_id="t1")
        with pytest.raises(Stuck) as stuck:
            await handle
        assert str(stuck.value).startswith("waited 60 s of the mesh's time (")
        assert str(stuck.value).endswith(
            "of real time) for the result of t1. t1 is pending (no_capability): No node offers the capability "
            "'nobody can'; it waits until one does. n1 leads."
        )
        await m.advance("10m")
        assert await (await m.submit("double", {"number": 1})) == 2
        with pytest.raises(Stuck, match=r"The mesh knows no task 'never'\."):
            await m.driver.call(asyncio.sleep(7_200), "it", task_id="never")


@on_a_loop
async def test_real_time_is_bounded_too() -> None:
    """A plain function that hangs, and no node that could go on without it."""
    shop = Workshop()
    async with mesh.testing.local(shop.app, nodes=1, real_patience_s=0.2) as m:
        handle = await m.submit("latched", task_id="t1")
        with pytest.raises(Stuck, match=r"the result of t1\. 1 plain function\(s\) still run on threads.* t1 is "):
            await handle
        shop.latch.set()
        assert await handle is True
        await m.kill("n1")
        with pytest.raises(Stuck, match=r"for a condition\. Nobody leads\. Down: n1\.$"):
            await m.until(lambda: False)


@on_a_loop
async def test_whoever_stops_waiting_leaves_no_trace() -> None:
    shop = Workshop()
    async with mesh.testing.local(shop.app, nodes=1) as m:
        handle = await m.submit("latched")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(handle.result(), 0.05)
        shop.latch.set()
        assert await handle is True
        waiting = [asyncio.ensure_future(m.result("nobody's")) for _ in range(2)]
        waiting[0].cancel()
        with pytest.raises(NotFound):
            await waiting[1]


# --- beginning and end ------------------------------------------------------------------------------------------------


@on_a_loop
async def test_closed_it_can_still_be_looked_at() -> None:
    async with mesh.testing.local(Workshop().app, nodes=3, raft=RaftConfig()) as m:
        handle = await m.submit("double", {"number": 3}, task_id="t1")
        assert await handle == 6
        await m.submit("wait")
    await m.close()
    assert (m.leader, m.task("t1").result, m.status().tasks.completed) == (None, 6, 1)
    m.assert_invariants()


@on_a_loop
async def test_what_a_test_fails_of_is_not_hidden() -> None:
    """A node breaks as well, and closing would say so; what the test said comes first."""

    async def test(fails: bool) -> None:
        async with mesh.testing.local(Workshop().app, nodes=1) as m:
            m.loop.set_exception_handler(lambda loop, context: None)
            m.node("n1").ledger.applied_index -= 1  # type: ignore[assignment]
            with pytest.raises(MeshUnavailable):
                await m.submit("double", {"number": 1})
            if fails:
                raise KeyError("the test's own")

    with pytest.raises(KeyError, match="the test's own"):
        await test(fails=True)
    with pytest.raises(AssertionError, match="applied after"):
        await test(fails=False)


@on_a_loop
async def test_a_mesh_that_cannot_start_says_so_and_one_is_started_once() -> None:
    m = mesh.testing.local(Workshop().app, nodes=7, patience="100ms")
    with pytest.raises(Stuck, match="for the mesh to start"):
        async with m:
            pytest.fail("it has started")
    with pytest.raises(RuntimeError, match="is started once"):
        await m.start()
    await m.close()
    await mesh.testing.local(Workshop().app).close()


def test_names_of_the_package_are_loaded_when_they_are_used() -> None:
    assert {"LocalMesh", "local", "run_once"} <= {*dir(mesh.testing)}
    with pytest.raises(AttributeError, match="no attribute 'remote'"):
        mesh.testing.remote  # noqa: B018


def test_it_serves_one_event_loop_after_another_on_its_own_thread() -> None:
    m = mesh.testing.local(Workshop().app, nodes=1)

    async def begin() -> None:
        await m.start()
        with pytest.raises(RuntimeError, match="another thread"):
            await asyncio.to_thread(asyncio.run, m.advance("1m"))
        left.append(asyncio.ensure_future(m.advance("1m")))
        await asyncio.sleep(0)

    async def finish() -> int:
        result: int = await (await m.submit("double", {"number": 2}))
        await m.close()
        return result

    left: list[asyncio.Task[None]] = []
    first = asyncio.new_event_loop()
    first.run_until_complete(begin())
    first.close()
    assert asyncio.run(finish()) == 4
    assert m.now < 60
    assert not left[0].done()
    left[0]._log_destroy_pending = False  # type: ignore[attr-defined]


@pytest.mark.parametrize("wrong", [{"nodes": 0}, {"patience": "soon"}, {"failure_threshold": 1}])
def test_what_cannot_be_is_refused_at_once(wrong: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        mesh.testing.local(**wrong)  # type: ignore[arg-type]
