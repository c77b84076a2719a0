"""Where the other systems are: a folder to be thrown away, with virtual environments and unpacked packages."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""Where `bench` and `mesh` are imported from."""
INSTALL_TIMEOUT_S = 900.0
PATHS = ("usr/bin", "usr/sbin", "bin")
MULTIARCH = "usr/lib/*-linux-gnu*"


@dataclass(frozen=True, slots=True)
class Needs:
    """What a system is made of: requirements for pip, and commands with the Debian package that has each."""

    python: tuple[str, ...] = ()
    commands: tuple[tuple[str, str], ...] = ()


class NotInstalled(Exception):
    """One sentence that says what failed."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Installs under `folder` and finds what is there. What is installed on the machine already is found too."""

    folder: Path

    def python(self, name: str) -> Path:
        """The interpreter of one system."""
        return self.folder / name / "venv" / "bin" / "python"

    def script(self, name: str, script: str) -> Path:
        """A script that came with its Python packages."""
        return self.python(name).with_name(script)

    def debian(self, package: str) -> Path:
        """Where the files of a Debian package and of what it depends on are unpacked."""
        return self.folder / "debian" / package

    def command(self, command: str, package: str) -> Path | None:
        """The program: unpacked here, or on the machine's path; None if neither."""
        for path in PATHS:
            found = self.debian(package) / path / command
            if found.exists():
                return found
        on_path = shutil.which(command)
        return Path(on_path) if on_path is not None else None

    def libraries(self, package: str) -> dict[str, str]:
        """Environment variables that let an unpacked program find its libraries."""
        found = [str(path) for path in sorted(self.debian(package).glob(MULTIARCH)) if path.is_dir()]
        return {"LD_LIBRARY_PATH": os.pathsep.join(found)} if found else {}

    def missing(self, name: str, needs: Needs) -> str:
        """What is not there, in a few words; empty if nothing is."""
        lacks = [command for command, package in needs.commands if self.command(command, package) is None]
        if needs.python and not (self.folder / name / "whole").exists():
            lacks += needs.python
        return f"not installed: {', '.join(lacks)} (--install)" if lacks else ""

    def install(self, name: str, needs: Needs, say: Callable[[str], None]) -> None:
        """Everything that is missing. Raises NotInstalled."""
        for command, package in needs.commands:
            if self.command(command, package) is None:
                say(f"{package} is unpacked ...")
                self._unpack(package)
        if needs.python and not (self.folder / name / "whole").exists():
            say(f"{', '.join(needs.python)}: installed ...")
            venv = self.python(name).parents[1]
            _run([sys.executable, "-m", "venv", "--clear", str(venv)])
            quiet = ["-qq", "--no-input", "--disable-pip-version-check"]
            _run([str(self.python(name)), "-m", "pip", *quiet, "install", *needs.python])
            (self.folder / name / "whole").touch()

    def _unpack(self, package: str) -> None:
        """Download a package and those it needs that the machine has not, and unpack them without installing any."""
        if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
            raise NotInstalled(f"{package}: this is not a Debian system; install it by hand")
        plan = _run(["apt-get", "--simulate", "--no-install-recommends", "install", package])
        target = self.debian(package)
        archives = target.with_name(f"{package}.archives")
        shutil.rmtree(archives, ignore_errors=True)
        archives.mkdir(parents=True)
        _run(["apt-get", "-qq", "download", *planned(plan)], cwd=archives)
        half = target.with_name(f"{package}.half")
        shutil.rmtree(half, ignore_errors=True)
        for archive in sorted(archives.glob("*.deb")):
            _run(["dpkg-deb", "--extract", str(archive), str(half)])
        shutil.rmtree(archives)
        shutil.rmtree(target, ignore_errors=True)
        half.rename(target)


def planned(plan: str) -> list[str]:
    """The packages that `apt-get --simulate install` says it would install."""
    return re.findall(r"^Inst (\S+)", plan, re.MULTILINE)


def _run(argv: list[str], cwd: Path | None = None) -> str:
    try:
        done = subprocess.run(
            argv,
            cwd=cwd,
            check=False,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalled(f"{argv[0]}: {error}") from None
    if done.returncode != 0:
        words = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
        raise NotInstalled(f"{' '.join(argv[:4])} ...: {words}")
    return done.stdout
