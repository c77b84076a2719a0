"""A node's own account of how long its loop stood still."""

import asyncio
import time

from nodes.stalls import STALL_MS, WatchedLoop


def test_a_turn_that_takes_long_is_noted_and_one_that_does_not_is_not_counted() -> None:
    """Something in the loop holds it for 80 ms; before `begin` that is nobody's business."""
    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, WatchedLoop)

        async def hold(seconds: float) -> None:
            end_s = time.thread_time() + seconds
            while time.thread_time() < end_s:
                pass
            await asyncio.sleep(0)

        runner.run(hold(0.2))
        loop.watch.begin()
        runner.run(hold(0.0))
        quiet_ms = loop.watch.busiest_ms()
        runner.run(hold(0.080))
        assert quiet_ms < 80 <= loop.watch.busiest_ms() <= loop.watch.longest_ms() + 1
        assert loop.watch.stalls >= 1
        assert STALL_MS < 80


def test_waiting_for_nothing_is_no_stall() -> None:
    """The loop sleeps 100 ms because nobody wants anything: nobody was kept waiting."""
    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        loop = runner.get_loop()
        assert isinstance(loop, WatchedLoop)
        loop.watch.begin()
        runner.run(asyncio.sleep(0.1))
        assert loop.watch.busiest_ms() < 50
