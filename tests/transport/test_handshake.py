"""Greetings: read strictly, believed only when signed."""

import dataclasses

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.effects import Channel
from mesh.transport.curve import derive
from mesh.transport.handshake import (
    CLIENT,
    HELLO,
    NODE,
    NONCE_BYTES,
    PROTOCOL,
    Hello,
    Identity,
    Notary,
    Welcome,
    read_hello,
    read_refused,
    read_welcome,
    refused,
)
from tests.transport.stage import ANA, BEN, EVA, SECRET

NONCE = b"n" * NONCE_BYTES


def _notary(name: str, *, cluster: str = "cast", role: str = NODE, secret: bytes | None = SECRET) -> Notary:
    identity = Identity(node_id=name, cluster=cluster, incarnation=3, role=role, secret=secret)
    return Notary(identity, derive(secret) if secret is not None else None)


def _hello(notary: Notary, channel: Channel = Channel.CTL) -> Hello:
    hello = read_hello(notary.hello(channel, NONCE))
    assert hello is not None
    return hello


@pytest.mark.parametrize("secret", [None, SECRET], ids=["open", "secret"])
def test_a_greeting_arrives_as_it_was_meant(secret: bytes | None) -> None:
    """Ben greets, Ana believes him and answers, Ben believes her."""
    ana, ben = _notary("ana", secret=secret), _notary("ben", secret=secret)
    hello = _hello(ben)
    assert (hello.node_id, hello.cluster, hello.incarnation, hello.role) == (BEN, "cast", 3, NODE)
    assert ana.hello_flaw(hello, Channel.CTL) == ""
    welcome = read_welcome(ana.welcome(Channel.CTL, hello.nonce))
    assert welcome is not None
    assert ben.welcome_flaw(welcome, Channel.CTL, NONCE, ANA) == ""
    assert ben.welcome_flaw(welcome, Channel.CTL, NONCE, None) == ""


@pytest.mark.parametrize("field", [field for field in Hello.__struct_fields__ if field != "protocol"])
def test_no_signed_field_can_be_changed(field: str) -> None:
    """Whatever is altered in a signed HELLO, its signature included, is noticed."""
    hello = _hello(_notary("ben"))
    value = getattr(hello, field)
    changed = value + 1 if isinstance(value, int) else value[::-1] + value[:1]
    forged = msgspec.structs.replace(hello, **{field: changed})
    assert "not signed" in _notary("ana").hello_flaw(forged, Channel.CTL)


def test_greetings_belong_to_their_channel_their_nonce_and_their_direction() -> None:
    """A HELLO for ctl is none for data; a WELCOME answers one nonce; the other mesh's secret signs nothing here."""
    ana, ben, other = _notary("ana"), _notary("ben"), _notary("ben", secret=b"x" * 32)
    assert "not signed" in ana.hello_flaw(_hello(ben, Channel.DATA), Channel.CTL)
    assert "not signed" in ana.hello_flaw(_hello(other), Channel.CTL)
    welcome = read_welcome(ana.welcome(Channel.CTL, NONCE))
    assert welcome is not None
    assert "not signed" in ben.welcome_flaw(welcome, Channel.CTL, b"m" * NONCE_BYTES, ANA)
    assert "not signed" in ben.welcome_flaw(welcome, Channel.DATA, NONCE, ANA)
    assert "not signed" in other.welcome_flaw(welcome, Channel.CTL, NONCE, ANA)
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
    assert f"Protocol {PROTOCOL + 1}" in ana.hello_flaw(later, Channel.CTL)
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
    welcome = read_welcome(ana.welcome(Channel.CTL, NONCE))
    other = read_welcome(_notary("ana", cluster="other").welcome(Channel.CTL, NONCE))
    assert welcome is not None
    assert other is not None
    assert "It is 'ana', not 'eva'" in ben.welcome_flaw(welcome, Channel.CTL, NONCE, EVA)
    assert "mesh 'other'" in ben.welcome_flaw(other, Channel.CTL, NONCE, ANA)
    later = Welcome(PROTOCOL + 1, "cast", ANA, 1, welcome.mac)
    assert "protocol" in ben.welcome_flaw(later, Channel.CTL, NONCE, ANA)


@given(st.binary(max_size=200), st.sampled_from([b"", bytes((HELLO,)), bytes((HELLO,)) + b"\x97\x01"]))
def test_rubbish_is_no_greeting_and_no_error(tail: bytes, start: bytes) -> None:
    """Whatever the bytes, reading gives a greeting of sane size or nothing."""
    for greeting in (read_hello(start + tail), read_welcome(start + tail)):
        assert greeting is None or len(greeting.node_id) <= 255


def test_a_greeting_has_bounds() -> None:
    """Names beyond 255 characters, a nonce of another length, more fields or more bytes than there are: no greeting."""
    long = _notary("b" * 256)
    assert read_hello(long.hello(Channel.CTL, NONCE)) is None
    assert read_hello(_notary("b" * 255).hello(Channel.CTL, NONCE)) is not None
    assert read_hello(_notary("ben").hello(Channel.CTL, NONCE[1:])) is None
    assert read_hello(_notary("ben").hello(Channel.CTL, NONCE) + b"\0") is None
    assert read_hello(bytes((HELLO,)) + msgspec.msgpack.encode([1, "c", "n", 1, "node", NONCE, b"", 8])) is None
    assert read_hello(bytes((HELLO,)) + msgspec.msgpack.encode([1, "c", "n", -1, "node", NONCE, b""])) is None


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
    assert SECRET.decode() not in repr(identity)
