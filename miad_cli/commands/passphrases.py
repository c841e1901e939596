"""Where passphrases come from: a prompt, a file descriptor, a command.

Never from an argument or a variable of the environment: other users see the one, child
processes and crash reports the other.

- On a terminal a passphrase is asked for, once for each key file that needs one, unless
  `--no-input` is given.
- `--passphrase-fd N` takes a line of that file descriptor for each key file that needs one, in
  the order `--key`, then `--sign-with`; the last line serves all that are left.
- `--passphrase-command CMD` runs CMD, without a shell, once for each such key file, with its
  path in `MIAD_KEY_FILE`, and takes the first line that it prints.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from miad_cli.errors import KeyUnusable, UsageError

_LIMIT = 64 << 10
_HOW = "Use --passphrase-fd or --passphrase-command, or run it on a terminal."


@dataclass
class Passphrases:
    """The passphrases of one run, each got when a key file turns out to need it.

    Raises:
        UsageError: two places are named.
    """

    fd: int | None = None
    command: str | None = None
    no_input: bool = False
    _lines: list[str] | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.fd is not None and self.command is not None:
            raise UsageError("--passphrase-fd and --passphrase-command exclude each other")

    @property
    def are_named(self) -> bool:
        """Whether an option says where they come from."""
        return self.fd is not None or self.command is not None

    def of(self, path: Path) -> str:
        """The passphrase that opens the key file `path`.

        Raises:
            KeyUnusable: there is none to be had.
        """
        if self.are_named:
            return _not_empty(self._next(path))
        self._need_terminal(f"{path} is protected by a passphrase, and none was given.")
        return _not_empty(_ask(f"Passphrase of {path}: "))

    def bytes_of(self, path: Path) -> bytes:
        """The same in UTF-8."""
        return self.of(path).encode()

    def new(self, path: Path) -> str:
        """A passphrase for the key file `path` that is about to be made, asked for twice.

        Raises:
            KeyUnusable: there is none to be had.
            UsageError: the two are not the same.
        """
        if self.are_named:
            return _not_empty(self._next(path))
        self._need_terminal("There is no terminal to ask for the new passphrase on.")
        first = _not_empty(_ask(f"New passphrase of {path}: "))
        if _ask("The same again: ") != first:
            raise UsageError("the two passphrases differ; no key was made")
        return first

    def _need_terminal(self, message: str) -> None:
        if self.no_input or not sys.stdin.isatty():
            raise KeyUnusable(message, _HOW)

    def _next(self, path: Path) -> str:
        if self.command is not None:
            return _first_line(_output_of(self.command, path))
        if self._lines is None:
            self._lines = _text(_read_descriptor(self.fd or 0)).splitlines() or [""]
        return self._lines.pop(0) if len(self._lines) > 1 else self._lines[0]


def _ask(question: str) -> str:
    import getpass

    try:
        return getpass.getpass(question, stream=sys.stderr)
    except EOFError:
        return ""


def _read_descriptor(descriptor: int) -> bytes:
    try:
        with open(descriptor, "rb", closefd=False) as source:
            return source.read(_LIMIT)
    except (OSError, ValueError):
        raise KeyUnusable(f"No passphrase can be read from file descriptor {descriptor}.") from None


def _output_of(command: str, path: Path) -> bytes:
    try:
        done = subprocess.run(  # noqa: S603  # running it is what the user asks for
            shlex.split(command),
            stdout=subprocess.PIPE,
            env={**os.environ, "MIAD_KEY_FILE": str(path)},
            check=False,
        )
    except (OSError, ValueError, IndexError):
        raise KeyUnusable("The passphrase command cannot be run.") from None
    if done.returncode:
        raise KeyUnusable(f"The passphrase command failed (exit code {done.returncode}).")
    return done.stdout[:_LIMIT]


def _first_line(content: bytes) -> str:
    lines = _text(content).splitlines()
    return lines[0] if lines else ""


def _text(content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise KeyUnusable("The passphrase given is not text in UTF-8.") from None


def _not_empty(passphrase: str) -> str:
    if not passphrase:
        raise KeyUnusable("The passphrase given is empty.", _HOW)
    return passphrase
