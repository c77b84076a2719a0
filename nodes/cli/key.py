"""`mesh key`: the secret that closes a mesh."""

from __future__ import annotations

import os
import secrets

import click

from nodes.cli.command import OK, MeshGroup, Shared
from nodes.cli.printing import print_json, say

SECRET_BYTES = 32


@click.group("key", cls=MeshGroup)
def key() -> None:
    """Secrets.

    \b
    mesh key new mesh.secret
    mesh up --secret-file mesh.secret
    """


@key.command("new")
@click.argument("path", metavar="[FILE]", required=False)
@click.pass_obj
def new(shared: Shared, path: str | None) -> int:
    """Make a secret. With FILE it is written there, readable by its owner only; an existing file is not touched."""
    secret = secrets.token_hex(SECRET_BYTES)
    if path is None:
        if shared.as_json:
            print_json({"secret": secret})
        else:
            click.echo(secret)
        return OK
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
            file.write(secret + "\n")
    except OSError as error:
        raise click.ClickException(f"{path} cannot be written: {error.strerror}") from None
    if shared.as_json:
        print_json({"file": path})
    else:
        say(f"wrote {path}; give it to every node and client with --secret-file, and keep it to yourself")
    return OK
