"""Which node a client speaks to. The nodes are ana, ben and eva; wires are lists."""

from collections.abc import Iterable

from mesh.client.links import GREETING, LINKS_MAX, LinkEvents, Links
from mesh.errors import MeshError


class Wire:
    """One dialled link: what was sent on it, and a way to make it speak."""

    def __init__(self, address: str, events: LinkEvents) -> None:
        self.address = address
        self.events = events
        self.sent: list[bytes] = []
        self.greetings = 0
        self.takes = True
        self.closed = False

    def send(self, data: bytes) -> bool:
        if data == GREETING:
            self.greetings += 1
        elif self.takes:
            self.sent.append(data)
        return self.takes

    def close(self) -> None:
        self.closed = True


class Client:
    """Links of one client over wires."""

    def __init__(self, *addresses: str) -> None:
        self.wires: dict[str, Wire] = {}
        self.delivered: list[bytes] = []
        self.losses = 0
        self.links = Links(self._dial, addresses, deliver=self.delivered.append, lost=self._lost, rerouted=lambda: None)
        self.links.open()

    def _dial(self, address: str, events: LinkEvents) -> Wire:
        if " " in address:
            raise MeshError(f"{address!r} cannot be dialled")
        wire = self.wires[address] = Wire(address, events)
        return wire

    def _lost(self) -> None:
        self.losses += 1

    def up(self, *names: str) -> None:
        for name in names:
            self.wires[name].events.on_up(name, 1)

    def heard(self, data: bytes, names: Iterable[str] = ()) -> list[str]:
        """Send; say on which wires it left."""
        self.links.send(data)
        return [name for name, wire in self.wires.items() if data in wire.sent]


def test_any_node_that_is_up_will_do() -> None:
    client = Client("ana", "ben")
    assert not client.links.send(b"0")
    client.up("ben")
    assert client.heard(b"1") == ["ben"]


def test_every_node_is_greeted_each_time_it_comes_up() -> None:
    """A node tells who leads only to those it has heard."""
    client = Client("ana", "ben")
    client.up("ana", "ben")
    client.wires["ben"].events.on_down("gone")
    client.up("ben")
    assert {name: wire.greetings for name, wire in client.wires.items()} == {"ana": 1, "ben": 2}


def test_the_leader_is_spoken_to_once_it_is_known_and_up() -> None:
    """ben says that eva leads; nobody named eva, so she is dialled; until she is up, ben forwards."""
    client = Client("ana", "ben")
    client.up("ana", "ben")
    assert client.links.lead(3, "eva", "eva")
    assert client.heard(b"1") == ["ana"]
    client.up("eva")
    assert client.heard(b"2") == ["eva"]


def test_old_news_about_the_leader_is_ignored() -> None:
    client = Client("ana", "ben")
    client.up("ana", "ben")
    assert client.links.lead(5, "ben", "ben")
    assert not client.links.lead(4, "ana", "ana")
    assert not client.links.lead(5, "ben", "ben")
    assert client.heard(b"1") == ["ben"]


def test_a_leader_may_be_named_later_in_its_term() -> None:
    client = Client("ana", "ben")
    client.up("ana", "ben")
    assert not client.links.lead(6, "", "")
    assert client.links.lead(6, "ben", "ben")
    assert client.heard(b"1") == ["ben"]


def test_a_leader_whose_address_nobody_knows_yet_is_dialled_once_somebody_does() -> None:
    """Ben has been away, and follows eva before he knows where she is. Until then he forwards."""
    client = Client("ben")
    client.up("ben")
    assert client.links.lead(3, "eva", "")
    assert client.heard(b"1") == ["ben"]
    assert not client.links.lead(3, "eva", "eva"), "who leads is no news"
    client.up("eva")
    assert client.heard(b"2") == ["eva"]


def test_what_a_node_says_is_an_address_and_is_none_costs_nothing() -> None:
    """In a hint, and in a status."""
    client = Client("ben")
    client.up("ben")
    assert client.links.lead(3, "eva", "no address")
    client.links.learn(["", "no address", "ana"])
    assert sorted(client.links.peers) == sorted(client.wires) == ["ana", "ben"]
    assert client.heard(b"1") == ["ben"]


def test_when_the_leaders_link_breaks_another_node_is_spoken_to_and_the_loss_is_told() -> None:
    client = Client("ana", "ben")
    client.up("ana", "ben")
    client.links.lead(1, "ana", "ana")
    client.heard(b"1")
    client.wires["ana"].events.on_down("gone")
    assert client.losses == 1
    assert client.heard(b"2") == ["ben"]

    # It was up and down again meanwhile, but nothing was said to it: nothing was lost.
    client.wires["ana"].events.on_up("ana", 2)
    client.wires["ana"].events.on_down("gone")
    assert client.losses == 1


def test_a_silent_node_is_avoided_until_it_is_heard_again() -> None:
    """ana leads, but is paused: her link is up and says nothing."""
    client = Client("ana", "ben")
    client.up("ana", "ben")
    client.links.lead(1, "ana", "ana")
    client.links.avoid_silent()
    assert client.heard(b"1") == ["ben"]
    client.wires["ana"].events.on_message(b"hello")
    assert client.delivered == [b"hello"]
    assert client.heard(b"2") == ["ana"]


def test_if_all_are_silent_they_get_their_turn() -> None:
    client = Client("ana", "ben")
    client.up("ana", "ben")
    client.links.avoid_silent()
    first = client.heard(b"1")
    client.links.avoid_silent()
    second = client.heard(b"2")
    assert sorted(first + second) == ["ana", "ben"]


def test_a_full_queue_is_passed_by() -> None:
    client = Client("ana", "ben")
    client.up("ana", "ben")
    client.wires["ana"].takes = False
    assert client.heard(b"1") == ["ben"]


def test_the_same_node_under_another_address_is_not_dialled_twice() -> None:
    """The user wrote localhost; the node calls itself 127.0.0.1."""
    client = Client("localhost:1")
    client.wires["localhost:1"].events.on_up("ana", 1)
    client.links.lead(1, "ana", "127.0.0.1:1")
    assert list(client.wires) == ["localhost:1"]


def test_links_are_bounded_and_those_given_are_kept() -> None:
    client = Client("ana", "ben")
    client.up("ana", "ben")
    client.links.learn([f"node{number}" for number in range(LINKS_MAX + 5)])
    open_wires = [name for name, wire in client.wires.items() if not wire.closed]
    assert len(open_wires) == LINKS_MAX
    assert open_wires[:2] == ["ana", "ben"]


def test_closing_closes_every_wire() -> None:
    client = Client("ana", "ben")
    client.links.close()
    assert all(wire.closed for wire in client.wires.values())
    assert not client.links.send(b"1")


def test_why_nobody_answers_is_kept_for_the_message() -> None:
    client = Client("ana", "ben")
    client.wires["ana"].events.on_down("Nobody listens at ana.")
    assert client.links.why_down() == "ana: Nobody listens at ana., ben: no answer"
