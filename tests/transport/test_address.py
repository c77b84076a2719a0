"""HOST:PORT, read strictly: an address may come from a stranger."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mesh.effects import Channel
from mesh.transport.address import PORT_BASE_MAX, Address, TransportRefused, parse


@pytest.mark.parametrize(
    ("text", "host", "endpoint"),
    [
        ("127.0.0.1:21000", "127.0.0.1", "tcp://127.0.0.1:21001"),
        ("localhost:21000", "127.0.0.1", "tcp://127.0.0.1:21001"),
        ("[::1]:21000", "::1", "tcp://[::1]:21001"),
        ("[fe80::1]:21000", "fe80::1", "tcp://[fe80::1]:21001"),
        ("[::ffff:127.0.0.1]:21000", "127.0.0.1", "tcp://127.0.0.1:21001"),
        ("node-1.mesh.svc:21000", "node-1.mesh.svc", "tcp://node-1.mesh.svc:21001"),
        ("*:21000", "*", "tcp://*:21001"),
        ("0.0.0.0:21000", "0.0.0.0", "tcp://0.0.0.0:21001"),
    ],
)
def test_addresses_that_are(text: str, host: str, endpoint: str) -> None:
    """Each becomes host and base port, and names the data port as libzmq wants it."""
    address = parse(text)
    assert address == Address(host, 21_000)
    assert address.endpoint(Channel.DATA) == endpoint


@pytest.mark.parametrize(
    "text",
    """
    21000 :21000 127.0.0.1 127.0.0.1: 127.0.0.1:0 127.0.0.1:-1 127.0.0.1:+1 127.0.0.1:32765 127.0.0.1:65536
    127.0.0.1:21e3 127.0.0.1:١٢٣ 127.0.0.1:000021000 tcp://127.0.0.1:21000 ipc:///x:21000
    ::1:21000 [127.0.0.1]:21000 [::1:21000 [::g]:21000
    [fe80::1%eth0]:21000 256.0.0.1:21000 1.2.3:21000 -x:21000 x-:21000 a,b:21000 a/b:21000 eth0;x:21000
    """.split(),
)
def test_addresses_that_are_not(text: str) -> None:
    """Other schemes, bare v6, ports out of range or of the ephemeral range, and nonsense are refused in one
    sentence."""
    with pytest.raises(TransportRefused) as refused:
        parse(text)
    assert str(refused.value).endswith(".")


@given(st.text("abz019.:[]*%-_/@ \né", max_size=24) | st.text("0123456789.:", max_size=24))
def test_nothing_else_comes_out_of_any_text(text: str) -> None:
    """Any text is an address that prints and reads back as itself, or is refused."""
    try:
        address = parse(text)
    except TransportRefused:
        return
    assert parse(str(address)) == address


@given(st.ip_addresses(), st.integers(1, PORT_BASE_MAX))
def test_every_literal_survives_print_and_parse(host: object, base: int) -> None:
    """E14: version 4 and 6, any base: reading what was printed gives the same; of 4 in the clothes of 6, the former."""
    address = Address(str(host), base)
    plain = getattr(host, "ipv4_mapped", None) or host
    assert parse(str(address)) == Address(str(plain), base)
    assert address.base + Channel.BULK < 32_768


def test_who_can_be_reached_from_elsewhere() -> None:
    """Only loopback literals are loopback. A wildcard and a name are not."""
    loopback = {text: parse(text).is_loopback for text in ("127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1")}
    assert loopback == dict.fromkeys(loopback, True)
    exposed = {text: parse(text).is_loopback for text in ("*:1", "0.0.0.0:1", "[::]:1", "10.0.0.1:1", "localhost.x:1")}
    assert exposed == dict.fromkeys(exposed, False)


def test_names_are_resolved_for_binding_and_unknown_ones_refused() -> None:
    """A literal stays; a name nobody knows is refused with the name in the sentence."""
    assert Address("127.0.0.1", 1).resolved() == Address("127.0.0.1", 1)
    assert Address("localhost", 1).resolved() == Address("127.0.0.1", 1)
    with pytest.raises(TransportRefused, match=r"no-such-host\.invalid"):
        Address("no-such-host.invalid", 1).resolved()
