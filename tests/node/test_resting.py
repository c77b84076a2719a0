"""Schedules that rest: nothing else about them changes, and nothing they would have done is made up for."""

from mesh.documents import Crons
from mesh.ledger.commands import SetCron
from mesh.ledger.registry import Cron
from mesh.messages import Action, Code, Order, Question
from mesh.node import rulings
from mesh.options import CronSpec
from mesh.wire.codec import encode
from tests.node.client import EPOCH_MS, Client
from tests.node.trio import BEN, Trio, settled


def at_ease() -> tuple[Trio, Client]:
    """Nodes that have told each other what orders they know; and a client of ben, who does not lead."""
    trio = settled()
    trio.run(3_000)
    assert trio.leader.node.ledger.level
    return trio, trio.client(BEN)


def test_a_schedule_rests_and_goes_on_as_it_was() -> None:
    """Its payload and all else stay. What it would have fired meanwhile is not made up for."""
    trio, client = at_ease()
    often = CronSpec("often", "@every 1s", "nobody", b"\x07", overlap=1)
    done = [(Code.OK, "done")]
    asked = client.order(Action.SET_CRON, "often", value=encode(often))
    trio.run(20)
    assert client.answers(asked) == done
    paused = client.order(Action.PAUSE_CRON, "often")
    trio.run(5_000)
    assert client.answers(paused) == done
    [seen] = client.now(Question.CRONS, Crons).crons
    assert (seen.paused, seen.next, seen.fired) == (True, None, 0)
    again = client.order(Action.PAUSE_CRON, "often")
    resumed = client.order(Action.RESUME_CRON, "often")
    trio.run(1_500)
    assert (client.answers(again), client.answers(resumed)) == ([(Code.OK, "already so")], done)
    cron = trio.leader.node.ledger.crons["often"]
    assert (cron.spec, 1 <= cron.fired <= 2) == (often, True)
    for action in (Action.PAUSE_CRON, Action.RESUME_CRON):
        unknown = client.order(action, "never")
        trio.run(20)
        assert client.answers(unknown) == [(Code.NOT_FOUND, "no schedule is called 'never'")]


def test_a_schedule_whose_zone_is_not_known_here_is_not_resumed() -> None:
    """The leader that took it knew more zones than the one that leads now. It may rest all the same."""
    trio, _ = at_ease()
    ledger = trio.leader.node.ledger
    ledger.crons["far"] = Cron(CronSpec("far", "0 3 * * *", "code", b"\xc0", "Nowhere/Else", is_paused=True), 9)
    made = rulings.command(Order(1, Action.RESUME_CRON, "far"), ledger, EPOCH_MS)
    assert isinstance(made, tuple)
    assert (made[0], "Nowhere/Else" in made[1]) == (Code.INVALID, True)
    assert isinstance(rulings.command(Order(1, Action.PAUSE_CRON, "far"), ledger, EPOCH_MS), SetCron)
