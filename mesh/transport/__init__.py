"""ZeroMQ sockets, links, authentication: how bytes get from node to node, and who is believed to have sent them."""

from mesh.transport.address import TransportRefused
from mesh.transport.client_link import ClientLink
from mesh.transport.handshake import CLIENT, NODE, Identity
from mesh.transport.zeromq import Transport

__all__ = ["CLIENT", "NODE", "ClientLink", "Identity", "Transport", "TransportRefused"]
