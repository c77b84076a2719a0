"""Objects to bytes and back: one encoder and one decoder for every message, command and record. MessagePack."""
