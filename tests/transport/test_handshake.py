"""Greetings: read strictly, believed only when signed."""

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.admission import Verdict
from mesh.config import PROTOCOL
from mesh.effects import Channel
from mesh.ids import LogIndex
from mesh.transport import TransportRefused
from mesh.transport.curve import derive
from mesh.transport.handshake import (
    CLIENT,
    HELLO,
    NODE,
    NONCE_BYTES,
    PROTOCOL_MIN,
    TURNED_AWAY,
    WELCOME,
    Hello,
    Identity,
    Notary,
    TurnAway,
    Welcome,
    read_hello,
    read_refused,
    read_turned_away,
    read_welcome,
    refused,
)
from tests.transport.stage import ANA, BEN, EVA, SECRET

NONCE = b"n" * NONCE_BYTES


SPOKEN = range(PROTOCOL_MIN, PROTOCOL + 1)


def _notary(
    name: str,
    *,
    cluster: str = "cast",
    role: str = NODE,
    secret: bytes | None = SECRET,
    mark: str = "m-1",
    protocol: int = PROTOCOL,
) -> Notary:
    identity = Identity(
        node_id=name, cluster=cluster, incarnation=3, role=role, secret=secret, mark=mark, protocol=protocol
    )
    notary = Notary(identity, derive(secret) if secret is not None else None, "127.0.0.1:21000")
    notary.since = LogIndex(7)
    return notary


def _hello(notary: Notary, channel: Channel = Channel.CTL, protocol: int = PROTOCOL) -> Hello:
    hello = read_hello(notary.hello(channel, NONCE, protocol))
    assert hello is not None
    return hello


def _welcome(notary: Notary, hello: Hello, channel: Channel = Channel.CTL) -> Welcome:
    welcome = read_welcome(notary.welcome(channel, hello))
    assert welcome is not None
    return welcome


@pytest.mark.parametrize("protocol", SPOKEN)
@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_a_greeting_arrives_as_it_was_meant(secret: bytes | None, protocol: int) -> None:
    """Ben greets, Ana believes him and answers in his protocol, Ben believes her."""
    ana, ben = _notary("ana", secret=secret), _notary("ben", secret=secret)
    hello = _hello(ben, protocol=protocol)
    assert (hello.protocol, hello.node_id, hello.cluster, hello.incarnation, hello.role) == (
        protocol,
        BEN,
        "cast",
        3,
        NODE,
    )
    later = ("m-1", 7, "127.0.0.1:21000", PROTOCOL_MIN)
    assert (hello.mark, hello.since, hello.address, hello.protocol_min) == (later if protocol > 1 else ("", 0, "", 1))
    assert ana.hello_flaw(hello, Channel.CTL) == ""
    welcome = _welcome(ana, hello)
    assert (welcome.protocol, welcome.node_id, welcome.cluster, welcome.incarnation) == (protocol, ANA, "cast", 3)
    assert (welcome.mark, welcome.since, welcome.address) == (later[:3] if protocol > 1 else ("", 0, ""))
    assert ben.welcome_flaw(welcome, Channel.CTL, NONCE, ANA, protocol) == ""
    assert ben.welcome_flaw(welcome, Channel.CTL, NONCE, None, protocol) == ""


@pytest.mark.parametrize("field", [field for field in Hello.__struct_fields__ if field != "protocol"])
def test_no_signed_field_can_be_changed(field: str) -> None:
    """Whatever is altered in a signed HELLO, its signature included, is noticed."""
    hello = _hello(_notary("ben"))
    value = getattr(hello, field)
    changed = value + 1 if isinstance(value, int) else value[::-1] + value[:1]
    forged = msgspec.structs.replace(hello, **{field: changed})
    assert "not signed" in _notary("ana").hello_flaw(forged, Channel.CTL)


@pytest.mark.parametrize("field", [field for field in Welcome.__struct_fields__ if field != "protocol"])
def test_no_signed_field_of_a_welcome_can_be_changed(field: str) -> None:
    """The same for the answer."""
    welcome = _welcome(_notary("ana"), _hello(_notary("ben")))
    value = getattr(welcome, field)
    changed = value + 1 if isinstance(value, int) else value[::-1] + value[:1]
    forged = msgspec.structs.replace(welcome, **{field: changed})
    assert "not signed" in _notary("ben").welcome_flaw(forged, Channel.CTL, NONCE, None, PROTOCOL)


def _turned_away(notary: Notary, hello: Hello) -> TurnAway:
    answer = read_turned_away(notary.turned_away(Channel.CTL, hello, Verdict.REMOVED, LogIndex(9), "Gone."))
    assert answer is not None
    return answer


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_a_verdict_arrives_as_it_was_meant(secret: bytes | None) -> None:
    """Ana turns Ben away as removed, by her roll at 9. Ben believes it of her, and of nobody else."""
    ana, ben = _notary("ana", secret=secret), _notary("ben", secret=secret)
    answer = _turned_away(ana, _hello(ben))
    assert (answer.node_id, answer.verdict, answer.index, answer.sentence) == (ANA, Verdict.REMOVED, 9, "Gone.")
    assert ben.turn_away_flaw(answer, Channel.CTL, NONCE, ANA) == ""
    assert "It is 'ana'" in ben.turn_away_flaw(answer, Channel.CTL, NONCE, EVA)
    elsewhere = _turned_away(_notary("ana", cluster="other", secret=secret), _hello(ben))
    assert "mesh 'other'" in ben.turn_away_flaw(elsewhere, Channel.CTL, NONCE, ANA)


@pytest.mark.parametrize("field", TurnAway.__struct_fields__)
def test_no_signed_field_of_a_verdict_can_be_changed(field: str) -> None:
    """A node may end for good by what it says: so not a word of it can be altered, nor used for another greeting, nor
    on another channel, nor made without the secret."""
    ana, ben = _notary("ana"), _notary("ben")
    answer = _turned_away(ana, _hello(ben))
    value = getattr(answer, field)
    if isinstance(value, Verdict):
        changed: object = Verdict.STRANGER
    else:
        changed = value + 1 if isinstance(value, int) else value[::-1] + value[:1]
    assert "not signed" in ben.turn_away_flaw(
        msgspec.structs.replace(answer, **{field: changed}), Channel.CTL, NONCE, ANA
    )
    assert "not signed" in ben.turn_away_flaw(answer, Channel.DATA, NONCE, ANA)
    assert "not signed" in ben.turn_away_flaw(answer, Channel.CTL, NONCE[::-1] + b"x", ANA)
    stranger = _turned_away(_notary("ana", secret=None), _hello(ben))
    assert "not signed" in ben.turn_away_flaw(stranger, Channel.CTL, NONCE, ANA)


def test_a_verdict_is_one_of_those_there_are() -> None:
    """One that accepts, or has an unknown number, a negative index or another field, is none."""
    for verdict, index, more in ((0, 1, []), (4, 1, []), (3, -1, []), (3, 1, ["more"]), ("3", 1, [])):
        said = ["cast", "ana", verdict, index, "Gone.", b"", *more]
        assert read_turned_away(bytes((TURNED_AWAY,)) + msgspec.msgpack.encode(said)) is None
    long = _notary("ana").turned_away(Channel.CTL, _hello(_notary("ben")), Verdict.REMOVED, LogIndex(9), "x" * 9_999)
    answer = read_turned_away(long)
    assert answer is not None
    assert len(answer.sentence) == 400


def test_greetings_belong_to_their_channel_their_nonce_and_their_direction() -> None:
    """A HELLO for ctl is none for data; a WELCOME answers one nonce; the other mesh's secret signs nothing here."""
    ana, ben, other = _notary("ana"), _notary("ben"), _notary("ben", secret=b"x" * 32)
    assert "not signed" in ana.hello_flaw(_hello(ben, Channel.DATA), Channel.CTL)
    assert "not signed" in ana.hello_flaw(_hello(other), Channel.CTL)
    welcome = _welcome(ana, _hello(ben))
    assert "not signed" in ben.welcome_flaw(welcome, Channel.CTL, b"m" * NONCE_BYTES, ANA, PROTOCOL)
    assert "not signed" in ben.welcome_flaw(welcome, Channel.DATA, NONCE, ANA, PROTOCOL)
    assert "not signed" in other.welcome_flaw(welcome, Channel.CTL, NONCE, ANA, PROTOCOL)
    open_ana = _notary("ana", secret=None)
    assert "not signed" in open_ana.hello_flaw(_hello(ben), Channel.CTL)
    assert "not signed" in ana.hello_flaw(_hello(_notary("ben", secret=None)), Channel.CTL)


def test_who_is_turned_away_and_why() -> None:
    """Wrong mesh, wrong protocol, no role, a client on the wrong port, one's own name: each gets its own sentence."""
    ana = _notary("ana")
    assert "This is mesh 'cast', not 'other'" in ana.hello_flaw(_hello(_notary("ben", cluster="other")), Channel.CTL)
    assert "This is mesh 'cast', not ''" in ana.hello_flaw(_hello(_notary("ben", cluster="")), Channel.CTL)
    assert "no role" in ana.hello_flaw(_hello(_notary("ben", role="king")), Channel.CTL)
    assert "own id" in ana.hello_flaw(_hello(_notary("ana")), Channel.CTL)
    later = msgspec.structs.replace(_hello(_notary("ben")), protocol=PROTOCOL + 1)
    assert ana.hello_flaw(later, Channel.CTL) == "Protocol 3 is not spoken here, 1 and 2 are."
    assert _notary("ana", protocol=1).hello_flaw(later, Channel.CTL) == "Protocol 3 is not spoken here, 1 is."
    client = _notary("cli", cluster="", role=CLIENT)
    assert ana.hello_flaw(_hello(client, Channel.DATA), Channel.DATA) == ""
    assert "data port only" in ana.hello_flaw(_hello(client, Channel.CTL), Channel.CTL)
    picky = _notary("cli", cluster="other", role=CLIENT)
    assert "This is mesh" in ana.hello_flaw(_hello(picky, Channel.DATA), Channel.DATA)
    namesake = _notary("ana", cluster="", role=CLIENT)
    assert ana.hello_flaw(_hello(namesake, Channel.DATA), Channel.DATA) == ""


def test_whom_a_dialler_does_not_believe() -> None:
    """Another node than the one dialled, another mesh, another protocol."""
    ana, ben = _notary("ana"), _notary("ben")
    welcome = _welcome(ana, _hello(ben))
    other = _welcome(_notary("ana", cluster="other"), _hello(ben))
    assert "It is 'ana', not 'eva'" in ben.welcome_flaw(welcome, Channel.CTL, NONCE, EVA, PROTOCOL)
    assert "mesh 'other'" in ben.welcome_flaw(other, Channel.CTL, NONCE, ANA, PROTOCOL)
    later = msgspec.structs.replace(welcome, protocol=PROTOCOL + 1)
    assert ben.welcome_flaw(later, Channel.CTL, NONCE, ANA, PROTOCOL) == "It speaks protocol 3, not 2."
    earlier = _welcome(ana, _hello(ben, protocol=1))
    assert ben.welcome_flaw(earlier, Channel.CTL, NONCE, ANA, PROTOCOL) == "It speaks protocol 1, not 2."


_STARTS = [b"", *(bytes((kind,)) + start for kind in (HELLO, WELCOME, TURNED_AWAY) for start in (b"", b"\x97\x01"))]


@given(st.binary(max_size=200), st.sampled_from([*_STARTS, bytes((HELLO,)) + b"\x9b\x02\x01"]))
def test_rubbish_is_no_greeting_and_no_error(tail: bytes, start: bytes) -> None:
    """Whatever the bytes, reading gives a greeting of sane size or nothing."""
    for spoken in SPOKEN:
        for greeting in (read_hello(start + tail, spoken), read_welcome(start + tail, spoken)):
            assert greeting is None or len(greeting.node_id) <= 255
    answer = read_turned_away(start + tail)
    assert answer is None or len(answer.node_id) <= 255


def test_a_greeting_has_bounds() -> None:
    """Names beyond 255 characters, a nonce of another length, more fields or more bytes than there are: no greeting."""
    for protocol in SPOKEN:
        long, longest = _notary("b" * 256), _notary("b" * 255)
        assert read_hello(long.hello(Channel.CTL, NONCE, protocol)) is None
        assert read_hello(longest.hello(Channel.CTL, NONCE, protocol)) is not None
        assert read_hello(_notary("ben").hello(Channel.CTL, NONCE[1:], protocol)) is None
        assert read_hello(_notary("ben").hello(Channel.CTL, NONCE, protocol) + b"\0") is None
    assert read_hello(_notary("ben", mark="m" * 256).hello(Channel.CTL, NONCE, 2)) is None
    for said in (
        [1, "c", "n", 1, "node", NONCE, b"", 8],
        [1, "c", "n", -1, "node", NONCE, b""],
        [2, 1, "c", "n", 1, "node", NONCE, "m", 0, "a", b"", 8],
        [2, 1, "c", "n", 1, "node", NONCE, "m", -1, "a", b""],
        [2, 1, "c", "n", 1, "node", NONCE, "m", 0, "a"],
        ["2", 1, "c", "n", 1, "node", NONCE, "m", 0, "a", b""],
        [],
    ):
        assert read_hello(bytes((HELLO,)) + msgspec.msgpack.encode(said)) is None


def test_a_refusal_is_one_clean_sentence() -> None:
    """What a peer gives as its reason is fit to be logged, whatever it sent."""
    assert read_refused(refused("No such node.")) == "No such node."
    assert read_refused(b"\4\x1b[31mred\n\xff") == "?[31mred?\ufffd"
    assert len(read_refused(refused("x" * 1_000_000))) < 2_048


def test_an_identity_is_not_changed_once_made() -> None:
    """Frozen: links made earlier and later say the same."""
    identity = _notary("ana").identity
    with pytest.raises(dataclasses.FrozenInstanceError):
        identity.incarnation = 4  # type: ignore[misc]
    for protocol in (0, 3):
        with pytest.raises(TransportRefused, match=f"Protocol {protocol} is not spoken here, 1 and 2 are"):
            _notary("ana", protocol=protocol)
    assert SECRET.decode() not in repr(identity)
