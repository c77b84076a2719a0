"""The event loop whose clock jumps, by itself: slices, threads, sockets, and lengths of time as people write them."""

import asyncio
import socket
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from time import monotonic

import pytest

from mesh.testing.driving import Driver, cleared
from mesh.testing.durations import in_words, seconds
from mesh.testing.virtual_time import Rest, VirtualTimeLoop


@pytest.fixture
def loop():  # type: ignore[no-untyped-def]
    made = VirtualTimeLoop()
    yield made
    made.close()


def driver_of(loop: VirtualTimeLoop) -> Driver:
    return Driver(loop, patience_s=3_600, real_patience_s=20, why=lambda _: "")


def test_a_slice_ends_at_the_horizon_or_with_its_turns_or_when_nothing_is_left(loop: VirtualTimeLoop) -> None:
    rang: list[float] = []
    loop.call_later(10, lambda: rang.append(loop.time()))
    assert (loop.run_slice(100, 4), loop.time()) == (Rest.HORIZON, 4)
    assert (loop.run_slice(1, 20), loop.time()) == (Rest.TURNS, 4)
    assert (loop.run_slice(100, 20), rang, loop.time()) == (Rest.NOTHING, [10], 10)

    def again() -> None:
        loop.call_soon(again)

    loop.call_soon(again)
    assert (loop.run_slice(100), loop.time()) == (Rest.TURNS, 10)


def test_news_end_a_slice_before_time_passes(loop: VirtualTimeLoop) -> None:
    loop.call_later(1, loop.end_slice)
    loop.call_later(2, lambda: None)
    assert (loop.run_slice(100), loop.time()) == (Rest.NEWS, 1)
    assert (loop.run_slice(100), loop.time()) == (Rest.NOTHING, 2)


def test_threads_speak_in_the_order_they_were_started(loop: VirtualTimeLoop) -> None:
    """The second ends before the first does; it is heard after it all the same, and at the same time."""
    second_is_done, heard = threading.Event(), list[tuple[str, float]]()

    def first() -> str:
        assert second_is_done.wait(10)
        return "first"

    def second() -> str:
        second_is_done.set()
        return "second"

    async def hear(work: "asyncio.Future[str]") -> None:
        heard.append((await work, loop.time()))

    async def story() -> None:
        works = [loop.run_in_executor(None, work) for work in (first, second)]
        await asyncio.gather(asyncio.sleep(60), *(hear(work) for work in works))

    driver_of(loop).run(story(), "both")
    assert (heard, loop.time()) == ([("first", 0), ("second", 0)], 60)


def test_work_in_other_processes_is_waited_for_too(loop: VirtualTimeLoop) -> None:
    async def story() -> int:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
            return await loop.run_in_executor(pool, len, "abc")

    assert (driver_of(loop).run(story(), "three"), loop.time()) == (3, 0)


def test_a_thread_that_goes_on_for_long_is_not_waited_for(loop: VirtualTimeLoop) -> None:
    """The other has spoken, and is heard when the clock has stood still for long enough."""
    gate = threading.Event()

    async def story() -> float:
        slow = loop.run_in_executor(None, gate.wait, 20)
        await loop.run_in_executor(None, len, "quick")
        await asyncio.sleep(0.1)
        gate.set()
        assert await slow
        return loop.time()

    began_s = monotonic()
    assert driver_of(loop).run(story(), "both") == 0.1
    assert 0.5 <= monotonic() - began_s < 15


def test_a_stranger_s_thread_may_call_in_and_take_it_back(loop: VirtualTimeLoop) -> None:
    heard: list[str] = []

    def call_in() -> None:
        loop.call_soon_threadsafe(heard.append, "taken back").cancel()
        loop.call_soon_threadsafe(heard.append, "hello")

    thread = threading.Thread(target=call_in)
    thread.start()
    thread.join()
    assert loop.run_slice(100) is Rest.NOTHING
    loop.call_soon_threadsafe(heard.append, "from home")
    loop.run_slice(100)
    assert heard == ["hello", "from home"]


def test_a_closed_loop_hears_nobody() -> None:
    loop = VirtualTimeLoop()
    loop.close()
    errors: list[str] = []

    def call_in() -> None:
        try:
            loop.call_soon_threadsafe(print)
        except RuntimeError as error:
            errors.append(str(error))

    thread = threading.Thread(target=call_in)
    thread.start()
    thread.join()
    assert errors == ["Event loop is closed"]


def test_a_socket_is_waited_for_in_real_time(loop: VirtualTimeLoop) -> None:
    """What comes through a socket comes in no time; with no timer left, only it can come."""
    here, there = socket.socketpair()
    here.setblocking(False)

    async def story() -> bytes:
        reading = asyncio.ensure_future(loop.sock_recv(here, 10))
        await asyncio.sleep(0)
        threading.Timer(0.05, there.send, [b"hello"]).start()
        return await reading

    with here, there:
        assert driver_of(loop).run(story(), "hello") == b"hello"
        assert loop.time() == 0


def test_whoever_spins_is_told_from_outside_all_the_same() -> None:
    """A task that never rests lets no time pass; what has ended is told after a while."""

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    async def story() -> int:
        loop = VirtualTimeLoop()
        driver = driver_of(loop)
        spinning = loop.create_task(spin())

        async def answer() -> int:
            return 42

        try:
            result = await driver.call(answer(), "an answer")
            await driver.call(cleared(), "the end")
            assert spinning.cancelled()
            return result
        finally:
            loop.close()

    assert asyncio.run(story()) == 42


def test_what_is_cancelled_there_is_cancelled_here() -> None:
    async def story() -> None:
        loop = VirtualTimeLoop()
        driver = driver_of(loop)

        async def gives_up() -> None:
            raise asyncio.CancelledError

        try:
            with pytest.raises(asyncio.CancelledError):
                await driver.call(gives_up(), "nothing")
        finally:
            loop.close()

    asyncio.run(story())


@pytest.mark.parametrize(
    ("written", "meant"),
    [(20, 20), (0.5, 0.5), ("500ms", 0.5), ("20s", 20), ("1.5m", 90), ("2h", 7_200), ("1d", 86_400), ("1h 30m", 5_400)],
)
def test_lengths_of_time(written: float | str, meant: float) -> None:
    assert seconds(written) == meant


@pytest.mark.parametrize("wrong", ["", "soon", "5", "5 parsecs", "-1s", -1, float("nan"), float("inf")])
def test_what_is_no_length_of_time(wrong: float | str) -> None:
    with pytest.raises(ValueError, match="is no length of time"):
        seconds(wrong)


def test_lengths_of_time_in_words() -> None:
    assert [in_words(s) for s in (0.25, 90, 1_234, 3_600, 7_200)] == ["0.25 s", "90 s", "1234 s", "1 h", "2 h"]
