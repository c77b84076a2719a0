"""The one place where bytes become objects. Typed, bounded by the transport's frame limits, never pickle.

Every struct is a MessagePack array whose first element is its tag where the type is one of several, so any language
with a MessagePack library can speak it (examples/raw_client.py does).
"""

from typing import Any

import msgspec

from mesh.durable import Configuration
from mesh.ledger.commands import Batch
from mesh.ledger.ledger import Summary
from mesh.ledger.task import Happening, Task
from mesh.messages import ClientReply, ClientRequest, Heartbeat, PeerMessageBody


class Rubbish(Exception):
    """Bytes that no correct peer sends. Never leaves the core: whoever decodes counts and drops."""


encode = msgspec.msgpack.Encoder().encode
"""Any message, batch, record or user value to bytes."""

_peer: msgspec.msgpack.Decoder[PeerMessageBody] = msgspec.msgpack.Decoder(PeerMessageBody)
_request: msgspec.msgpack.Decoder[ClientRequest] = msgspec.msgpack.Decoder(ClientRequest)
_reply: msgspec.msgpack.Decoder[ClientReply] = msgspec.msgpack.Decoder(ClientReply)
_heartbeat = msgspec.msgpack.Decoder(Heartbeat)
_batch = msgspec.msgpack.Decoder(Batch)
_configuration = msgspec.msgpack.Decoder(Configuration)
_task = msgspec.msgpack.Decoder(Task)
_summary = msgspec.msgpack.Decoder(Summary)
_happenings = msgspec.msgpack.Decoder(list[Happening])


def decode_peer(data: bytes) -> PeerMessageBody:
    """What a node said. Raises Rubbish."""
    try:
        return _peer.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Rubbish(str(error)) from None


def decode_request(data: bytes) -> ClientRequest:
    """What a client asked. Raises Rubbish."""
    try:
        return _request.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Rubbish(str(error)) from None


def decode_reply(data: bytes) -> ClientReply:
    """What a node answered a client. Raises Rubbish."""
    try:
        return _reply.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Rubbish(str(error)) from None


def decode_heartbeat(data: bytes) -> Heartbeat:
    """One publication. Raises Rubbish."""
    try:
        return _heartbeat.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Rubbish(str(error)) from None


def decode_batch(data: bytes) -> Batch:
    """A committed entry's commands. What is committed is well formed. What cannot be read all the same was proposed by
    a later release: to go on without it would be to have another table than the others.
    """
    try:
        return _batch.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise AssertionError(f"an entry holds commands that this release does not know ({error}); upgrade it") from None


def decode_configuration(data: bytes) -> Configuration:
    return _configuration.decode(data)


def decode_task(data: bytes) -> Task:
    """A task as the ledger store keeps it."""
    return _task.decode(data)


def decode_rows(records: list[bytes]) -> list[Task]:
    """Tasks as another node's ledger store keeps them. Raises Rubbish."""
    try:
        return [_task.decode(record) for record in records]
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Rubbish(str(error)) from None


def decode_summary(data: bytes) -> Summary:
    """What of a table is not a task. Raises Rubbish."""
    try:
        return _summary.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Rubbish(str(error)) from None


def decode_happenings(data: bytes) -> list[Happening]:
    """The events of one entry, as the ledger store keeps them."""
    return _happenings.decode(data)


def decode_value(data: bytes) -> Any:
    """A user value. Raises Rubbish."""
    try:
        return msgspec.msgpack.decode(data)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise Rubbish(str(error)) from None
