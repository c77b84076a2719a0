"""Bytes from anywhere: what is no message is Rubbish (None where a greeting is read), and nothing else comes out."""

import tracemalloc
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import msgspec
import pytest

from mesh.admission import Verdict
from mesh.config import PROTOCOL
from mesh.effects import Channel
from mesh.ids import LogIndex, NodeId
from mesh.raft import configuration
from mesh.transport import handshake
from mesh.transport.handshake import Hello, Identity, Notary, TurnAway, Welcome
from mesh.wire import codec
from mesh.wire.codec import Rubbish
from tests.fuzz.mutations import STRANGE, mutated
from tests.fuzz.words import Known, Maker, sample_of_every_kind

CORPUS = sorted((Path(__file__).parent / "corpus").glob("decode_*.hex"))
OF_STRANGERS = ("decode_peer", "decode_request", "decode_reply", "decode_heartbeat", "decode_value")
OF_OUR_DISK = ("decode_batch", "decode_configuration", "decode_task", "decode_summary", "decode_happenings")
ROUNDS = 250
BYTES_MAX = 4 << 20


def decoder(name: str) -> Callable[[bytes], Any]:
    found: Callable[[bytes], Any] = getattr(codec, name)
    return found


def comes_out(name: str, data: bytes) -> Any:
    """What a decoder makes of it; None if it is Rubbish. What is understood can be said again."""
    try:
        message = decoder(name)(data)
    except Rubbish:
        return None
    codec.encode(message)
    return message


@pytest.mark.parametrize("path", CORPUS, ids=lambda path: path.stem)
def test_what_once_went_wrong(path: Path) -> None:
    name = path.stem.partition("-")[0]
    comes_out(name, bytes.fromhex(path.read_text(encoding="ascii")))


@pytest.mark.parametrize("seed", range(4))
def test_messages_made_bad_are_understood_or_rubbish(seed: int) -> None:
    """Every kind of message, mutated over and over, given to its own decoder and to each other."""
    roll = Random(seed)
    understood = rubbish = 0
    for _ in range(ROUNDS // 10):
        for name, data in sample_of_every_kind(roll, Known(task_ids=["t1"], tokens=[4])):
            assert comes_out(name, data) is not None, f"{name} does not read what was said"
            bad = mutated(data, roll)
            for other in (name, roll.choice(OF_STRANGERS)):
                if comes_out(other, bad) is None:
                    rubbish += 1
                else:
                    understood += 1
    assert min(understood, rubbish) > 50, "both kinds must have come up"


@pytest.mark.parametrize("name", OF_STRANGERS)
def test_any_bytes_are_understood_or_rubbish(name: str) -> None:
    roll = Random(name)
    for _ in range(ROUNDS * 8):
        comes_out(name, roll.randbytes(roll.randrange(60)))


@pytest.mark.parametrize("name", OF_STRANGERS)
def test_nothing_is_kept_ready_for_what_is_only_announced(name: str) -> None:
    """A message of 30 bytes that promises 4 GiB costs no memory; nor does one nested as deep as it is long."""
    good = next(data for wanted, data in sample_of_every_kind(Random(1), Known()) if wanted == name)
    tracemalloc.start()
    try:
        for strange in STRANGE:
            for at in range(min(len(good), 40)):
                comes_out(name, good[:at] + strange + good[at + 1 :])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < BYTES_MAX


@pytest.mark.parametrize("name", OF_OUR_DISK)
def test_what_is_no_record_is_told_by_errors_that_are_known(name: str) -> None:
    """Damage on our own disk is found by checksums; if it were not, it is an error that is known. Commands that cannot
    be read are a broken invariant.
    """
    roll = Random(name)
    maker = Maker(roll, Known())
    good = codec.encode(maker.batch() if name == "decode_batch" else maker.configuration())
    for _ in range(ROUNDS * 4):
        try:
            decoder(name)(mutated(good, roll))
        except (msgspec.MsgspecError, ValueError, RecursionError, codec.Rubbish):
            continue
        except AssertionError as error:
            if name != "decode_batch" or "commands that this release does not know" not in str(error):
                raise


def test_what_is_no_configuration_is_none() -> None:
    roll = Random(1)
    maker = Maker(roll, Known())
    found = {configuration.decode(mutated(codec.encode(maker.configuration()), roll)) is None for _ in range(ROUNDS)}
    assert found == {True, False}


def test_what_is_no_greeting_is_none() -> None:
    """HELLO, WELCOME, a refusal, a turning away, mutated: read (and judged), or None, or a printable sentence."""
    roll = Random(2)
    notary = Notary(Identity(node_id="ana", cluster="c", incarnation=3, role="node", secret=None, mark="m"), None)
    nonce = bytes(handshake.NONCE_BYTES)
    frame = notary.hello(Channel.CTL, nonce, PROTOCOL)
    hello = handshake.read_hello(frame)
    assert hello is not None
    away = notary.turned_away(Channel.CTL, hello, Verdict.STRANGER, LogIndex(4), "not in the mesh")
    frames = [frame, notary.welcome(Channel.CTL, hello), handshake.refused("no"), away]
    readers = [getattr(handshake, name) for name in dir(handshake) if name.startswith("read_")]
    assert len(readers) >= 4
    for _ in range(ROUNDS * 4):
        bad = roll.choice((mutated(roll.choice(frames), roll), roll.randbytes(roll.randrange(1, 60))))
        for read in readers:
            said = read(bad)
            if isinstance(said, str):
                assert said.isprintable()
            elif isinstance(said, Hello):
                notary.hello_flaw(said, Channel.CTL)
                notary.can_say_it_again(said)
            elif isinstance(said, Welcome):
                notary.welcome_flaw(said, Channel.CTL, nonce, None, PROTOCOL)
            elif isinstance(said, TurnAway):
                notary.turn_away_flaw(said, Channel.CTL, nonce, NodeId("ben"))
