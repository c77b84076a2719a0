"""Attempts that are stopped: the rungs of the ladder, down to the end of their process, and what that costs others.

S1-34: stopped at once, what they held is free again.
"""

import asyncio
import os
import socket
from pathlib import Path

import msgspec
import pytest

from mesh.events import AttemptsEnded, CheckpointOffered
from mesh.messages import AttemptOutcome, Failure, Lease
from tests.nodes.cast import PATIENCE_S, Ana, ana, ear, gone, play

GRACE_S = 0.3


def disturbed(lease: Lease) -> AttemptOutcome:
    return AttemptOutcome(*lease, b"", "its process was ended for another's sake", failure=Failure.DISTURBED)


async def begin_bystander(node: Ana) -> Lease:
    lease = node.begin("waits", {"path": os.devnull})
    await node.began(lease)
    return lease


def test_a_stopped_coroutine_is_cancelled_and_owes_nothing(tmp_path: Path) -> None:
    async def story() -> None:
        async with ana() as node:
            lease = node.begin("waits", {"path": str(tmp_path / "said")})
            await node.began(lease)
            node.stop(lease)
            assert await node.run("echo") == {}  # The first outcome heard is this one's.
            assert (tmp_path / "said").read_text() == "cancelled"

    play(story)


def test_an_attempt_stopped_in_the_turn_it_was_started_never_ends() -> None:
    async def story() -> None:
        async with ana() as node:
            node.stop(node.begin("echo"), node.begin("in_thread"), node.begin("pid_of_its_own"))
            assert await node.run("echo", {"n": 2}) == {"n": 2}

    play(story)


def test_a_stopped_thread_is_told(tmp_path: Path) -> None:
    """It waits for a checkpoint; the wait ends with TaskCancelled, and ctx.cancelled says why."""

    async def story() -> None:
        async with ana(slots=1) as node:
            lease = node.begin("waits_in_thread", {"path": str(tmp_path / "said")})
            await node.hears(CheckpointOffered)
            node.stop(lease)
            await node.run("in_thread")  # There is one thread, so it is free again.
            assert (tmp_path / "said").read_text() == "cancelled"

    play(story)


def test_an_outcome_that_crosses_its_stop_frees_the_slot(tmp_path: Path) -> None:
    """Ana is busy while her only attempt ends, and stops it before she hears so: the core says what that is worth."""

    async def story() -> None:
        async with ana(slots=1) as node:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
                listening.bind(str(tmp_path / "ear"))
                listening.settimeout(PATIENCE_S)
                lease = node.begin("says", {"path": str(tmp_path / "ear")})
                await asyncio.sleep(0)
                assert listening.recv(64) == b"said"  # Nothing else happens here meanwhile.
                node.stop(lease)
            assert await node.outcome() == AttemptOutcome(*lease, msgspec.msgpack.encode("said"))
            assert await node.run("echo") == {}

    play(story)


# --- the last rungs ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "capability", ["never_yields", "never_looks", "holds_the_lock_from_now_on", "holds_the_lock_in_thread"]
)
def test_what_does_not_end_is_ended_with_its_process(capability: str, tmp_path: Path) -> None:
    """A coroutine that never yields, a thread that never looks, and both holding the interpreter's lock: after the
    grace their process is ended. The bystander is told so, and of the one that was stopped there is no word."""

    async def story() -> None:
        async with ana(grace_s=GRACE_S) as node:
            (first,) = node.agents.pids()
            bystander = await begin_bystander(node)
            with ear(tmp_path) as (path, hear):
                deaf = node.begin(capability, {"path": path})
                assert await hear() == "begun"
                node.stop(deaf)
                assert (await node.hears(AttemptsEnded)).outcomes == [disturbed(bystander)]
            assert await node.run("pid") != first

    play(story)


def test_what_waits_for_a_slot_runs_in_the_process_that_comes_next(tmp_path: Path) -> None:
    """A slot is free when the code in it has ended, not when it was told to."""

    async def story() -> None:
        async with ana(grace_s=GRACE_S, slots=1) as node:
            (first,) = node.agents.pids()
            with ear(tmp_path) as (path, hear):
                deaf = node.begin("never_looks", {"path": path})
                assert await hear() == "begun"
                node.stop(deaf)
                assert await node.run("pid") != first

    play(story)


def test_a_coroutine_that_caught_its_cancellation_is_cancelled_again(tmp_path: Path) -> None:
    async def story() -> None:
        async with ana(grace_s=GRACE_S) as node:
            (first,) = node.agents.pids()
            with ear(tmp_path) as (path, hear):
                lease = node.begin("heeds_the_second", {"path": path})
                assert await hear() == "begun"
                node.stop(lease)
                assert [await hear(), await hear()] == ["once", "twice"]
                assert await node.run("pid") == first
                assert node.agents.late() == 0

    play(story)


def test_a_few_coroutines_that_heed_nothing_cost_their_slots_and_more_cost_the_process(tmp_path: Path) -> None:
    """They yield, so the others go on; a quarter of the eight slots may be lost to them, and no more."""

    async def story() -> None:
        async with ana(grace_s=GRACE_S, slots=8) as node:
            (first,) = node.agents.pids()
            bystander = await begin_bystander(node)
            with ear(tmp_path) as (path, hear):
                lease = node.begin("heeds_nothing", {"path": path})
                assert await hear() == "begun"
                node.stop(lease)
                assert [await hear(), await hear()] == ["cancelled", "cancelled"]  # The second time after its grace.
                assert await node.run("pid") == first
                assert node.agents.late() == 1
                others = [node.begin("heeds_nothing", {"path": path}) for _ in range(2)]
                begun = 0
                while begun < 2:  # The first one is cancelled again and again meanwhile.
                    begun += await hear() == "begun"
                node.stop(*others)
                assert (await node.hears(AttemptsEnded)).outcomes == [disturbed(bystander)]
            assert await node.run("pid") != first
            assert node.agents.late() == 0

    play(story)


# --- processes of their own -------------------------------------------------------------------------------------------


def test_a_solo_process_whose_attempt_heeds_its_stop_runs_the_next_one() -> None:
    async def story() -> None:
        async with ana(slots=1) as node:
            lease = node.alone("waits", {"path": os.devnull})
            await node.began(lease)
            shared, solo = node.agents.pids()
            node.stop(lease)
            assert await node.run("pid_of_its_own") == solo
            assert node.agents.pids() == [shared, solo]

    play(story)


def test_a_solo_process_that_holds_its_interpreter_is_ended_and_replaced() -> None:
    async def story() -> None:
        async with ana(slots=1, grace_s=GRACE_S) as node:
            lease = node.begin("spins")
            await node.began(lease)
            shared, solo = node.agents.pids()
            node.stop(lease)
            assert await node.run("pid_of_its_own") not in (shared, solo)
            assert node.agents.pids()[0] == shared

    play(story)


def test_a_process_that_ignores_sigterm_is_killed() -> None:
    """Its coroutine is cancelled and catches that, and it has but one slot to lose."""

    async def story() -> None:
        async with ana(slots=1, grace_s=GRACE_S) as node:
            lease = node.begin("ignores_sigterm")
            node.kept(await node.hears(CheckpointOffered))
            await node.began(lease)
            solo = os.pidfd_open(node.agents.pids()[1])
            node.stop(lease)
            assert await gone(solo)
            await node.run("pid_of_its_own")

    play(story)


def test_a_task_that_is_to_run_alone_hurts_nobody() -> None:
    """A coroutine, a plain function, and one that takes its process with it, while another runs in the shared one."""

    async def story() -> None:
        async with ana() as node:
            (shared,) = node.agents.pids()
            bystander = await begin_bystander(node)
            node.alone("pid")
            solo = msgspec.msgpack.decode((await node.outcome()).result)
            assert solo != shared
            lease = node.alone("in_thread")
            outcome = await node.outcome()
            assert msgspec.msgpack.decode(outcome.result) == [solo, False, lease[0]]
            lease = node.alone("dies")
            crashed = AttemptOutcome(*lease, b"", "agent process died (exit code 3)", failure=Failure.CRASH)
            assert await node.outcome() == crashed
            assert await node.run("pid") == shared
            node.stop(bystander)

    play(story)


# --- the watch over the event loop ------------------------------------------------------------------------------------


def test_a_blocked_loop_is_seen_and_nothing_is_lost_by_it(tmp_path: Path) -> None:
    """A coroutine reads where nobody writes. What is ordered meanwhile waits; then somebody writes, and all end."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)

    async def story() -> None:
        async with ana() as node:
            (shared,) = node.agents.pids()
            assert node.agents.blocked_ms() == 0
            blocking = node.begin("reads", {"path": str(pipe)})
            while node.agents.blocked_ms() < 1_000:
                await asyncio.sleep(0.01)  # Seen after two beats of a second.
            waiting = node.begin("pid")
            pipe.write_text("at last")
            assert await node.outcome() == AttemptOutcome(*blocking, msgspec.msgpack.encode("at last"))
            assert await node.outcome() == AttemptOutcome(*waiting, msgspec.msgpack.encode(shared))
            assert node.agents.blocked_ms() == 0

    play(story)
