"""A payload from the command line: JSON text, @file, or - for standard input."""

from __future__ import annotations

import json
import sys
from typing import Any

import click

BYTES_MAX = 16 << 20
"""JSON text longer than this cannot be a payload of 1 MiB, however wastefully it is written."""


def payload_argument(text: str | None) -> Any:
    """The JSON value. None stands for no payload. Anything that is not JSON is a usage error."""
    if text is None:
        return None
    try:
        return json.loads(_text(text), parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        raise click.UsageError(f"the payload is not JSON: {error}") from None
    except (ValueError, RecursionError) as error:
        raise click.UsageError(f"the payload is not JSON: {' '.join(str(error).split())}") from None


def _text(argument: str) -> str:
    if argument == "-":
        if sys.stdin is None:
            raise click.UsageError("the payload should come from standard input, which is closed")
        data = sys.stdin.buffer.read(BYTES_MAX + 1)
    elif argument.startswith("@"):
        try:
            with open(argument[1:], "rb") as file:
                data = file.read(BYTES_MAX + 1)
        except OSError as error:
            raise click.UsageError(f"{argument[1:]} cannot be read: {error.strerror}") from None
    else:
        return argument
    if len(data) > BYTES_MAX:
        raise click.UsageError("the payload is far beyond 1 MiB")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise click.UsageError("the payload is not JSON: it is not UTF-8") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
