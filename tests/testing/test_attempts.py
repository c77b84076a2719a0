"""User code in the process of the test says of itself what it says in a node's agent process."""

import asyncio
from typing import Any

import msgspec

from mesh import Context, Mesh, Retry
from mesh.client import MeshClient
from mesh.effects import StartAttempts
from mesh.events import AttemptsEnded, Event
from mesh.ids import FencingToken, TaskId
from mesh.messages import AttemptOrder, AttemptOutcome, Failure
from mesh.testing.attempts import Attempts, versions_of

app = Mesh("workshop")


@app.task(retry=Retry(never=(LookupError,)), version="2.1")
async def hopeless(what: str) -> None:
    raise KeyError(what) if what == "key" else ValueError(what)


@app.task()
def until_when(ctx: Context) -> Any:
    return ctx.deadline


def outcome_of(capability: str, payload: Any = None, deadline_ms: int = 0) -> AttemptOutcome:
    """Run one attempt to its end."""

    async def story() -> AttemptOutcome:
        heard: asyncio.Queue[Event] = asyncio.Queue()

        def no_client() -> MeshClient:
            raise AssertionError("nothing is submitted here")

        attempts = Attempts("ana", app, 1, asyncio.get_running_loop(), heard.put_nowait, no_client)
        data = msgspec.msgpack.encode(payload)
        order = AttemptOrder(TaskId("t1"), FencingToken(7), 1, capability, data, b"", deadline_ms=deadline_ms)
        attempts.start(StartAttempts([order]))
        while not isinstance(event := await asyncio.wait_for(heard.get(), 20), AttemptsEnded):
            pass
        attempts.end()
        (outcome,) = event.outcomes
        return outcome

    return asyncio.run(story())


def test_whose_fault_it_was_and_whether_another_try_may_help() -> None:
    """LookupError was named as hopeless: KeyError is one. A capability that is not there is nobody's fault."""
    final = outcome_of("hopeless", {"what": "key"})
    assert (final.error, final.final, final.failure) == ("KeyError: 'key'", True, Failure.HANDLER)
    other = outcome_of("hopeless", {"what": "value"})
    assert (other.error, other.final, other.failure) == ("ValueError: value", False, Failure.HANDLER)
    unknown = outcome_of("paint")
    assert (unknown.error, unknown.failure) == ("UnknownCapability: ana does not offer 'paint'", Failure.NOT_RUN)


def test_a_context_knows_when_its_attempt_will_be_stopped() -> None:
    assert outcome_of("until_when").result == msgspec.msgpack.encode(None)
    assert outcome_of("until_when", deadline_ms=1_500).result == msgspec.msgpack.encode(1.5)


def test_versions_are_those_of_handlers_that_have_one() -> None:
    assert versions_of(app) == (("hopeless", "2.1"),)
