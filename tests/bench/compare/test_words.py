"""The conversation with a client process: each request has its answer, and what goes wrong is an answer too."""

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from bench.compare.clients.words import Client, Conversation, End, check, note, payload


class Shop(Client):
    """A system that runs everything at once, where it stands, and can be shut."""

    packages = ("msgspec",)

    def __init__(self) -> None:
        self.served: list[int] = []
        self.shut_for = 0
        self.at_once = 0
        self.most_at_once = 0

    async def one(self, number: int, timeout_s: float) -> None:
        if self.shut_for:
            self.shut_for -= 1
            raise ConnectionError("the shop is shut")
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        self.served.append(number)
        check(number, payload(number))

    async def nap(self, number: int, seconds: float, log: str) -> End:
        if number == 2:
            raise ConnectionError("the shop is full")
        note(log, "s", number)
        note(log, "e", number)

        async def end(timeout_s: float) -> None:
            if number == 1:
                raise TimeoutError

        return end


def _ask(shop: Client, *requests: dict[str, Any]) -> list[dict[str, Any]]:
    async def talk() -> list[dict[str, Any]]:
        conversation = Conversation(shop)
        return [json.loads(await conversation.answer(json.dumps(request))) for request in requests]

    return asyncio.run(talk())


def test_many_are_submitted_in_order_with_no_more_in_flight_than_asked_for() -> None:
    shop = Shop()
    (answer,) = _ask(shop, {"do": "many", "first": 100, "tasks": 7, "in_flight": 3})
    assert answer["seconds"] > 0
    assert sorted(shop.served) == [100, 101, 102, 103, 104, 105, 106]
    assert shop.most_at_once == 3


def test_latency_is_one_figure_a_task_and_never_two_at_once() -> None:
    shop = Shop()
    (answer,) = _ask(shop, {"do": "latency", "first": 0, "tasks": 4})
    assert len(answer["ms"]) == 4
    assert shop.most_at_once == 1


def test_naps_tell_what_was_accepted_and_ends_what_came_back(tmp_path: Path) -> None:
    log = tmp_path / "naps"
    answers = _ask(
        Shop(),
        {"do": "naps", "tasks": 4, "seconds": 0.0, "log": str(log)},
        {"do": "ends", "timeout_s": 1},
    )
    assert answers == [{"accepted": [0, 1, 3]}, {"ended": 2}]
    assert [line.split()[:2] for line in log.read_text().splitlines()] == [
        *(["s", "0"], ["e", "0"], ["s", "1"], ["e", "1"], ["s", "3"], ["e", "3"])
    ]


def test_a_new_round_of_naps_forgets_the_one_before(tmp_path: Path) -> None:
    naps = {"do": "naps", "tasks": 1, "seconds": 0.0, "log": str(tmp_path / "naps")}
    assert _ask(Shop(), naps, naps, {"do": "ends", "timeout_s": 1})[-1] == {"ended": 1}


def test_again_tries_until_the_shop_is_open() -> None:
    shop = Shop()
    shop.shut_for = 2
    (answer,) = _ask(shop, {"do": "again", "timeout_s": 30})
    assert answer["seconds"] > 0
    assert shop.served == [1_000_000_003]


def test_again_gives_up_in_the_end() -> None:
    shop = Shop()
    shop.shut_for = 1_000_000
    assert _ask(shop, {"do": "again", "timeout_s": 0.01}) == [{"seconds": None}]


def test_what_a_system_cannot_tell_is_null() -> None:
    held, leader, versions = _ask(Shop(), {"do": "held"}, {"do": "leader"}, {"do": "versions"})
    assert (held, leader) == ({"held": None}, {"leader": None})
    assert list(versions["versions"]) == ["msgspec"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"do": "latency", "first": 0, "tasks": 1}', "ConnectionError: the shop is shut"),
        ('{"do": "nothing"}', "AttributeError"),
        ("what?", "JSONDecodeError"),
    ],
)
def test_what_goes_wrong_is_an_answer_of_one_line(line: str, words: str) -> None:
    shop = Shop()
    shop.shut_for = 1
    answer = asyncio.run(Conversation(shop).answer(line))
    assert "\n" not in answer
    assert json.loads(answer)["error"].startswith(words)


def test_a_result_that_is_not_the_tasks_own_is_noticed() -> None:
    with pytest.raises(RuntimeError, match="task 3 came back as"):
        check(3, payload(4))
    with pytest.raises(RuntimeError, match="task 3 came back as None"):
        check(3, None)


def test_a_payload_is_about_100_bytes() -> None:
    assert 90 <= len(json.dumps(payload(5))) <= 120
