"""User code in child processes, real ones: what comes back, and what cannot hurt the node."""

import asyncio
import os
from pathlib import Path
from typing import Any

import msgspec

from mesh.config import PAYLOAD_BYTES_MAX
from mesh.effects import StartAttempts
from mesh.events import AttemptsEnded, CheckpointOffered
from mesh.ids import FencingToken, TaskId
from mesh.messages import AttemptOutcome, Failure
from nodes.agent_outcomes import DETAIL_BYTES_MAX, ERROR_CHARS_MAX
from tests.nodes.cast import ana, dies, play

T2 = FencingToken(2)

# --- what handlers are given and give back ----------------------------------------------------------------------------


def test_a_mapping_becomes_keyword_arguments() -> None:
    """Ana's coroutine gets {"n": 1} as n=1 and returns it."""

    async def story() -> None:
        async with ana() as node:
            assert await node.run("echo", {"n": 1, "text": "ü"}) == {"n": 1, "text": "ü"}

    play(story)


def test_anything_else_becomes_the_one_argument_and_none_no_argument() -> None:
    async def story() -> None:
        async with ana() as node:
            assert await node.run("whole", [1, 2]) == [1, 2]
            assert await node.run("whole") is None  # It needs one argument, so it gets None.
            assert await node.run("echo") == {}  # It needs none.

    play(story)


def test_a_context_knows_its_attempt() -> None:
    async def story() -> None:
        async with ana() as node:
            said = await node.run("who", {"note": "hello"}, msgspec.msgpack.encode({"i": 3}))
            assert said == ["t1", 1, 1, "ana", {"i": 3}, "hello", "127.0.0.1:21000"]

    play(story)


def test_a_context_knows_when_its_attempt_will_be_stopped() -> None:
    async def story() -> None:
        async with ana() as node:
            assert await node.run("until_when") is None
            node.start(msgspec.structs.replace(node.order("until_when"), deadline_ms=1_700_000_000_500))
            assert msgspec.msgpack.decode((await node.outcome()).result) == 1_700_000_000.5

    play(story)


def test_a_plain_function_runs_on_a_thread_of_the_shared_process() -> None:
    async def story() -> None:
        async with ana() as node:
            shared = await node.run("pid")
            assert await node.run("in_thread") == [shared, False, "t2"]
            assert node.agents.pids() == [shared]
            assert shared != os.getpid()

    play(story)


def test_process_handlers_run_in_a_process_of_their_own_which_is_kept() -> None:
    """A plain function and a coroutine, both with executor="process": not here, not in the shared process."""

    async def story() -> None:
        async with ana() as node:
            (shared,) = node.agents.pids()
            solo = await node.run("pid_of_its_own")
            assert node.agents.pids() == [shared, solo]
            node.begin("coroutine_of_its_own")
            node.kept(await node.hears(CheckpointOffered))
            assert msgspec.msgpack.decode((await node.outcome()).result) == solo

    play(story)


def test_more_process_attempts_than_processes_wait_their_turn() -> None:
    async def story() -> None:
        async with ana(slots=1) as node:
            for _ in range(5):
                node.begin("pid_of_its_own")
            outcomes = [await node.outcome() for _ in range(5)]
            assert [outcome.task_id for outcome in outcomes] == ["t1", "t2", "t3", "t4", "t5"]
            assert len({outcome.result for outcome in outcomes}) == 1
            assert len(node.agents.pids()) == 2

    play(story)


def test_what_one_turn_brings_is_one_event() -> None:
    """Fifty attempts ordered at once end at once: one event, one turn, and none of them is reported as started."""

    async def story() -> None:
        async with ana(slots=50) as node:
            turns = node.turns
            node.agents.perform(StartAttempts([node.order("noop") for _ in range(50)]))
            ended = await node.hears(AttemptsEnded)
            assert [outcome.task_id for outcome in ended.outcomes] == [f"t{i}" for i in range(1, 51)]
            assert node.turns == turns + 1
            assert node.started == []

    play(story)


def test_an_attempt_that_goes_on_is_reported_as_started() -> None:
    """On the loop, on a thread, and in a process of its own that holds its interpreter's lock."""

    async def story() -> None:
        async with ana() as node:
            for capability, payload in [("waits", {"path": os.devnull}), ("waits_on_thread", None), ("spins", None)]:
                lease = node.begin(capability, payload)
                await node.began(lease)
                assert node.started.count(lease) == 1

    play(story)


def test_an_attempt_that_waits_for_a_thread_is_not_reported_as_started() -> None:
    """Ana stops an attempt that does not heed it, and the next one waits for its thread: it is not reported before that
    is free, though an attempt that came after it is, elsewhere."""

    async def story() -> None:
        async with ana(slots=1) as node:
            deaf = node.begin("waits_deaf_in_thread")
            offered = await node.hears(CheckpointOffered)
            await node.began(deaf)
            node.stop(deaf)
            later = node.begin("waits_in_thread", {"path": os.devnull})
            elsewhere = node.begin("spins")
            await node.began(elsewhere)
            assert later not in node.started
            Path(msgspec.msgpack.decode(offered.state)).touch()
            assert (await node.hears(CheckpointOffered)).task_id == later[0]
            await node.began(later)

    play(story)


# --- failures of user code --------------------------------------------------------------------------------------------


def test_an_exception_fails_the_attempt_with_one_line_and_its_traceback() -> None:
    async def story() -> None:
        async with ana() as node:
            outcome = await node.run("raises", {"message": "no\nsuch  luck"})
            assert outcome.error == "ValueError: no such luck"
            assert outcome.result == b""
            lines = outcome.detail.splitlines()
            assert lines[0] == "Traceback (most recent call last):"
            assert "agent_app.py" in lines[1]  # Our own frames are left out.
            assert lines[-2:] == ["ValueError: no", "such  luck"]

    play(story)


def test_an_error_that_is_never_to_be_retried_is_final() -> None:
    """LookupError was named; KeyError is one, ValueError is none."""

    async def story() -> None:
        async with ana() as node:
            final = await node.run("hopeless", {"what": "key"})
            assert (final.error, final.final, final.failure) == ("KeyError: 'key'", True, Failure.HANDLER)
            other = await node.run("hopeless", {"what": "value"})
            assert (other.error, other.final, other.failure) == ("ValueError: value", False, Failure.HANDLER)

    play(story)


def test_errors_are_bounded_and_can_be_sent() -> None:
    """A message of a million characters, a lone surrogate, an exception whose message raises."""

    async def story() -> None:
        async with ana() as node:
            outcome = await node.run("raises", {"message": "x" * 1_000_000})
            assert len(outcome.error) == ERROR_CHARS_MAX
            assert outcome.error.endswith("xxx...")
            assert len(outcome.detail.encode()) == DETAIL_BYTES_MAX
            assert (await node.run("raises_surrogate")).error == "ValueError: \\ud800"
            assert (await node.run("raises_odd")).error == "Odd: (its message raised RuntimeError)"

    play(story)


def test_leaving_the_interpreter_fails_the_attempt_only() -> None:
    """sys.exit on a thread, KeyboardInterrupt on the loop, sys.exit in a task on the side: the process goes on."""

    async def story() -> None:
        async with ana() as node:
            before = node.agents.pids()
            assert (await node.run("exits", {"code": 3})).error == "SystemExit: 3"
            assert (await node.run("interrupts")).error == "KeyboardInterrupt"
            assert await node.run("exits_on_the_side") == "went on"
            assert (await node.run("cancels_itself")).error == "CancelledError"
            assert node.agents.pids() == before

    play(story)


def test_a_result_that_cannot_be_sent_fails_the_attempt_in_one_line() -> None:
    async def story() -> None:
        async with ana() as node:
            unspeakable = await node.run("unspeakable")
            assert unspeakable.error == (
                "InvalidPayload: result cannot be sent as MessagePack: Encoding objects of type object is unsupported"
            )
            assert (await node.run("surrogate")).error.startswith("InvalidPayload: result cannot be sent")
            size = PAYLOAD_BYTES_MAX - 5  # Its header takes five.
            assert len(await node.run("large", {"size": size})) == size
            too_large = await node.run("large", {"size": size + 1})
            assert too_large.error == "InvalidPayload: result is 1048577 bytes; at most 1048576 travel"

    play(story)


def test_orders_that_make_no_sense_fail() -> None:
    """An unknown capability, arguments that do not fit, a payload that is no MessagePack, one that is far too large."""

    async def story() -> None:
        async with ana() as node:
            unknown = "UnknownCapability: no app of ana offers 'nonsense'"
            lease = node.begin("nonsense")
            assert await node.outcome() == AttemptOutcome(*lease, b"", unknown, failure=Failure.NOT_RUN)
            assert (await node.run("raises", {"massage": 1})).error == (
                "TypeError: raises() got an unexpected keyword argument 'massage'"
            )
            odd = msgspec.structs.replace(node.order("whole"), payload=b"\xc1")
            node.agents.perform(StartAttempts([odd]))
            assert (await node.outcome()).error.startswith("InvalidPayload: the payload is not MessagePack: ")
            huge = msgspec.structs.replace(node.order("whole"), payload=b"x" * (3 << 20))
            node.agents.perform(StartAttempts([huge]))
            assert node.events.empty()  # Never from inside perform.
            too_large = "InvalidPayload: more than 2101248 bytes"
            expected = AttemptOutcome(huge.task_id, huge.token, b"", too_large, failure=Failure.NOT_RUN)
            assert await node.outcome() == expected

    play(story)


def test_large_orders_and_results_travel_in_several_frames() -> None:
    """Twelve payloads of 1 MB at once, both ways: more than one frame may hold."""

    async def story() -> None:
        async with ana(slots=12) as node:
            value = "x" * 1_000_000
            node.agents.perform(StartAttempts([node.order("whole", value) for _ in range(12)]))
            outcomes: list[AttemptOutcome] = []
            while len(outcomes) < 12:
                outcomes += (await node.hears(AttemptsEnded)).outcomes
            assert {outcome.task_id for outcome in outcomes} == {f"t{i}" for i in range(1, 13)}
            assert {outcome.result for outcome in outcomes} == {msgspec.msgpack.encode(value)}

    play(story)


# --- death ------------------------------------------------------------------------------------------------------------


def test_a_process_that_dies_fails_what_it_ran_and_is_replaced() -> None:
    """One handler leaves by os._exit, another by a segmentation fault: the bystander fails too, the next one runs."""

    async def story() -> None:
        async with ana() as node:
            (first,) = node.agents.pids()
            bystander = node.begin("waits", {"path": os.devnull})
            await node.began(bystander)
            node.begin("dies", {"code": 3})
            ended = await node.hears(AttemptsEnded)
            assert ended.outcomes == [
                AttemptOutcome(*bystander, b"", "agent process died (exit code 3)", failure=Failure.CRASH),
                AttemptOutcome(TaskId("t2"), T2, b"", "agent process died (exit code 3)", failure=Failure.CRASH),
            ]
            second = await node.run("pid")
            assert (await node.run("dies_of_memory")).error == "agent process died (signal 11)"
            third = await node.run("pid")
            assert len({first, second, third}) == 3

    play(story)


def test_a_solo_process_that_dies_takes_nothing_with_it() -> None:
    async def story() -> None:
        async with ana() as node:
            (shared,) = node.agents.pids()
            assert (await node.run("dies_alone")).error == "agent process died (signal 11)"
            assert await node.run("pid") == shared
            assert await node.run("pid_of_its_own") != shared

    play(story)


def test_outcomes_said_before_death_count() -> None:
    """Ana is busy while an attempt ends with more than she reads at once and its process dies: she hears all of it."""

    async def story() -> None:
        async with ana() as node:
            (shared,) = node.agents.pids()
            pidfd = os.pidfd_open(shared)
            node.agents.perform(StartAttempts([node.order("large", {"size": 280_000}), node.order("dies_soon")]))
            await asyncio.sleep(0)
            assert dies(pidfd)  # Nothing else happens here meanwhile.
            assert len((await node.outcome()).result) == 280_005
            assert (await node.outcome()).error == "agent process died (exit code 0)"

    play(story)


def test_a_process_that_breaks_its_connection_is_replaced() -> None:
    """User code closes every descriptor; then user code writes rubbish to every socket."""

    async def story() -> None:
        async with ana() as node:
            assert (await node.run("shuts_the_door")).error.startswith("agent process died (")
            rubbish = "rubbish: a frame of 4294967295 bytes, at most 8388608 are meant"
            assert (await node.run("speaks_rubbish")).error == f"agent process died (killed, it sent {rubbish})"
            assert await node.run("echo") == {}

    play(story)


def test_what_a_process_leaves_behind_dies_with_it() -> None:
    async def story() -> None:
        async with ana() as node:
            node.begin("leaves_a_child")
            offered = await node.hears(CheckpointOffered)
            grandchild = os.pidfd_open(msgspec.msgpack.decode(offered.state))
            node.kept(offered)
            assert (await node.outcome()).error == "agent process died (exit code 1)"
            assert dies(grandchild)

    play(story)


def test_a_handler_that_holds_the_interpreter_does_not_hold_the_node() -> None:
    """The shared process is stuck for minutes; the node's loop turns, and attempts in other processes run."""

    async def story() -> None:
        async with ana() as node:
            stuck = node.begin("holds_the_lock")
            await node.run("pid_of_its_own")
            node.stop(stuck)
            await node.run("pid_of_its_own")

    play(story)


def test_a_solo_process_that_holds_its_interpreter_delays_nobody() -> None:
    async def story() -> None:
        async with ana() as node:
            await node.began(node.begin("spins"))
            assert await node.run("echo", {"n": 1}) == {"n": 1}

    play(story)


# --- checkpoints ------------------------------------------------------------------------------------------------------


def test_a_checkpoint_returns_once_it_is_kept() -> None:
    async def story() -> None:
        async with ana() as node:
            lease = node.begin("saves", {"state": {"i": 1}}, msgspec.msgpack.encode({"i": 0}))
            offered = await node.hears(CheckpointOffered)
            assert offered == CheckpointOffered(*lease, 1, msgspec.msgpack.encode({"i": 1}))
            node.kept(offered)
            assert msgspec.msgpack.decode((await node.outcome()).result) == [{"i": 0}, {"i": 1}]

    play(story)


def test_a_refused_checkpoint_raises() -> None:
    async def story() -> None:
        async with ana() as node:
            node.begin("saves", {"state": 1})
            node.kept(await node.hears(CheckpointOffered), kept=False)
            sentence = "the checkpoint of t1 was refused: this attempt no longer holds the task"
            assert msgspec.msgpack.decode((await node.outcome()).result) == ["refused", sentence]

    play(story)


def test_a_thread_blocks_until_its_checkpoint_is_kept() -> None:
    """With checkpoint_sync, and with checkpoint, which needs no await there."""

    async def story() -> None:
        async with ana() as node:
            node.begin("saves_in_thread", {"state": 1})
            first = await node.hears(CheckpointOffered)
            assert (first.sequence, msgspec.msgpack.decode(first.state)) == (1, 1)
            node.kept(first)
            second = await node.hears(CheckpointOffered)
            assert (second.sequence, msgspec.msgpack.decode(second.state)) == (2, [1, "again"])
            node.kept(second)
            assert msgspec.msgpack.decode((await node.outcome()).result) == [[1, "again"]]

    play(story)


def test_an_answer_to_a_later_checkpoint_answers_the_earlier_ones() -> None:
    """Eighteen offered at once: sixteen may wait, and the answer to the last of those is an answer to all."""

    async def story() -> None:
        async with ana() as node:
            node.begin("saves_greedily")
            offered = [await node.hears(CheckpointOffered) for _ in range(16)]
            assert [one.sequence for one in offered] == list(range(1, 17))
            node.kept(offered[15])
            refused = "16 checkpoints of t1 are waiting: await them"
            assert msgspec.msgpack.decode((await node.outcome()).result) == ["kept"] * 16 + [refused] * 2

    play(story)


def test_a_checkpoint_that_would_block_the_loop_or_is_too_large_raises() -> None:
    async def story() -> None:
        async with ana() as node:
            outcome = await node.run("saves_wrongly")
            assert outcome.error.startswith("RuntimeError: checkpoint_sync would block the event loop")
            large: Any = await node.run("saves_too_much")
            assert large.error == "InvalidPayload: checkpoint is 1048581 bytes; at most 1048576 travel"

    play(story)
