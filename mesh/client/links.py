"""Which nodes a client talks to, and to which of them it speaks just now.

It dials every peer it was given, the leader, and later the other voters, so that it survives all it was given. Requests
go to the leader if its link is up, else to any node that is up, which forwards them. A node that stays silent is
avoided until it is heard again.
"""

from collections.abc import Callable, Iterable
from typing import Final, Protocol, TypeAlias

from mesh.errors import MeshError
from mesh.messages import WatchTasks
from mesh.wire.codec import encode

LINKS_MAX: Final = 16
"""Nodes dialled at once. The oldest of those learned, and not leading, makes room."""


GREETING: Final = encode(WatchTasks([]))
"""Asks for nothing. A node tells who leads to those it has heard, at once and whenever that changes."""


class Link(Protocol):
    """One connection to a node; redials by itself until closed."""

    def send(self, data: bytes) -> bool:
        """False if it could not be sent."""

    def close(self) -> None: ...


class LinkEvents(Protocol):
    """Where a link tells what happens to it."""

    def on_message(self, data: bytes) -> None: ...
    def on_up(self, node_id: str, incarnation: int) -> None: ...
    def on_down(self, reason: str) -> None: ...


Dial: TypeAlias = Callable[[str, LinkEvents], Link]
"""Open a link to the node at HOST:PORT."""


class Peer:
    """One dialled address."""

    __slots__ = ("_links", "address", "link", "node_id", "silent", "up", "used", "why_down")

    def __init__(self, links: "Links", address: str) -> None:
        self._links = links
        self.address = address
        self.link: Link | None = None
        self.node_id = ""
        self.up = False
        self.used = False
        self.silent = False
        self.why_down = "no answer"

    def on_message(self, data: bytes) -> None:
        if self.silent:
            self.silent = False
            self._links.changed()
        self._links.deliver(data)

    def on_up(self, node_id: str, _incarnation: int) -> None:
        self.node_id = node_id
        self.up = True
        self.silent = False
        self.used = False
        if self.link is not None:
            self.link.send(GREETING)
        self._links.changed()

    def on_down(self, reason: str) -> None:
        used = self.used
        self.up = self.used = False
        self.why_down = reason or "link down"
        self._links.changed()
        if used:
            self._links.lost()


class Links:
    """All links of one client.

    `deliver` gets every message. `lost` is called when a link that was used broke: what was sent there may never be
    answered. `changed` is called when another node than before is spoken to.
    """

    def __init__(
        self,
        dial: Dial,
        addresses: Iterable[str],
        *,
        deliver: Callable[[bytes], None],
        lost: Callable[[], None],
        rerouted: Callable[[], None],
    ) -> None:
        self._dial = dial
        self.deliver = deliver
        self.lost = lost
        self._rerouted = rerouted
        self.given = tuple(dict.fromkeys(addresses))
        self.peers: dict[str, Peer] = {}
        self.term = 0
        self.leader = ""
        self.leader_address = ""
        self.heard = False
        self._route: Peer | None = None

    def open(self) -> None:
        for address in self.given:
            self._add(address)

    def close(self) -> None:
        for peer in self.peers.values():
            if peer.link is not None:
                peer.link.close()
        self.peers.clear()
        self._route = None

    def why_down(self) -> str:
        """For the error message: what became of each peer."""
        return ", ".join(f"{peer.address}: {peer.why_down}" for peer in self.peers.values())

    def learn(self, addresses: Iterable[str]) -> None:
        """Dial these as well. Some node named them; one that cannot be dialled is left out."""
        for address in addresses:
            if address and address not in self.peers:
                self._try(address)

    def lead(self, term: int, leader: str, address: str) -> bool:
        """Some node says who leads. True if that is news."""
        is_missing = self.leader == "" or self.leader_address == ""
        news = term > self.term or (term == self.term and leader != "" and is_missing)
        self.heard = True
        if not news:
            return False
        known = leader != "" and (leader != self.leader or term > self.term)
        self.term, self.leader, self.leader_address = term, leader, address
        is_dialled = address in self.peers or any(p.up and p.node_id == leader for p in self.peers.values())
        if leader and address and not is_dialled:  # A node that was away for long may not know where its leader is.
            self._try(address)
        self.changed()
        return known

    def send(self, data: bytes) -> bool:
        """Send to the leader, or to whoever is up. False if nobody is."""
        peer = self._route
        if peer is None:
            return False
        assert peer.link is not None, "a route is a peer that was dialled"
        if peer.link.send(data):
            peer.used = True
            return True
        # Full or just broken. The next one may do; what fails here is sent again by its own timer.
        peer.silent = True
        self.changed()
        other = self._route
        if other is None or other is peer or other.link is None or not other.link.send(data):
            return False
        other.used = True
        return True

    def avoid_silent(self) -> None:
        """Whoever is spoken to just now has not answered in time: try another until it is heard again."""
        if self._route is not None:
            self._route.silent = True
            self.changed()

    def changed(self) -> None:
        """Choose again whom to speak to."""
        before = self._route
        self._route = self._choose()
        if self._route is not before and self._route is not None:
            self._rerouted()

    def _choose(self) -> Peer | None:
        up = [peer for peer in self.peers.values() if peer.up]
        speaking = [peer for peer in up if not peer.silent]
        for peer in speaking:
            if peer.node_id == self.leader:
                return peer
        if self._route in speaking:
            return self._route
        if speaking:
            return speaking[0]
        for peer in up:  # All silent: give the next one in turn its chance.
            if peer is not self._route:
                return peer
        return up[0] if up else None

    def _try(self, address: str) -> None:
        """Dial what a node said is an address."""
        try:
            self._add(address)
        except MeshError:
            del self.peers[address]

    def _add(self, address: str) -> None:
        if len(self.peers) >= LINKS_MAX and not self._make_room():
            return
        peer = Peer(self, address)
        self.peers[address] = peer
        peer.link = self._dial(address, peer)

    def _make_room(self) -> bool:
        for address, peer in self.peers.items():
            if address not in self.given and peer.node_id != self.leader and peer is not self._route:
                del self.peers[address]
                if peer.link is not None:
                    peer.link.close()
                return True
        return False
