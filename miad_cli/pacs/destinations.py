"""Where to send: a name from a TOML file, `AET@HOST:PORT`, or the URL of a DICOMweb service.

A destination that feeds clinical AI or primary reading must never get protected pictures, since
authorised AI is disturbed as well. So one has to be declared: `purpose = "release"`.
"""

from __future__ import annotations

import ipaddress
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from miad_cli.errors import UsageError

RELEASE = "release"

_AET = r"^[ -\[\]-~]{1,16}$"
_WRITTEN_OUT = re.compile(
    r"(?P<aet>[^@\\]{1,16})@(?P<host>\[[0-9A-Fa-f:.]+\]|[^@:/\s]+):(?P<port>\d+)"
)
_PURPOSE = (
    "Protected pictures fool authorised AI and readers as well: they never go to a PACS that "
    "feeds clinical AI or primary reading."
)


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Tls(_Table):
    """TLS 1.2 or later. `ca` are the authorities to trust (PEM; without it the system's), `cert`
    and `key` are ours, for a server that asks who we are; paths count from the TOML's folder.

    `check_host` compares the certificate's name with the host, or with `server_name`.
    """

    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    check_host: bool = True
    server_name: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Tls:
        if self.key is not None and self.cert is None:
            raise ValueError("a key without its certificate (cert)")
        return self


class Auth(_Table):
    """How to log in to a DICOMweb service; the secret stands in a file or in a variable of the
    environment, never here: a bearer token, or with `user` a password."""

    user: str | None = None
    file: Path | None = None
    env: str | None = None

    @model_validator(mode="after")
    def _whole(self) -> Auth:
        if (self.file is None) == (self.env is None):
            raise ValueError("name either a file or an environment variable (env)")
        return self

    @property
    def kind(self) -> Literal["basic", "bearer"]:
        return "bearer" if self.user is None else "basic"

    def secret(self) -> str:
        """The token or password: the first line of the file, or the variable.

        Raises:
            UsageError: there is none.
        """
        try:
            text = os.environ.get(self.env or "", "") if self.env else _read(self.file or Path())
        except (OSError, UnicodeDecodeError):
            raise UsageError(f"{self.file}: the login cannot be read") from None
        secret = text.splitlines()[0].strip() if text.strip() else ""
        if not secret or not secret.isprintable():
            place = f"the variable {self.env}" if self.env else str(self.file)
            raise UsageError(f"{place} holds no login")
        return secret


class Timeouts(_Table):
    """Seconds: to `connect`, for an answer to the request for an association (`associate`), for
    a message of DIMSE or HTTP (`message`), and without any traffic at all (`network`)."""

    connect: Annotated[float, Field(gt=0, le=3600)] = 10
    associate: Annotated[float, Field(gt=0, le=3600)] = 30
    message: Annotated[float, Field(gt=0, le=3600)] = 60
    network: Annotated[float, Field(gt=0, le=3600)] = 90


class Retries(_Table):
    """What passes is tried again: `times` at most, first after `delay` seconds, then twice that,
    up to `longest`."""

    times: Annotated[int, Field(ge=0, le=100)] = 5
    delay: Annotated[float, Field(ge=0, le=3600)] = 1
    longest: Annotated[float, Field(ge=0, le=3600)] = 30

    def pause(self, attempt: int) -> float:
        """Seconds to wait after the attempt of that number, counted from 1."""
        return float(min(self.delay * 2 ** (attempt - 1), self.longest))


class Commit(_Table):
    """Where we listen for the answer to a request for storage commitment, and for how long
    (seconds). The PACS has to know our title with this port."""

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 11112
    wait: Annotated[float, Field(gt=0, le=86400)] = 60


class Destination(_Table):
    """One destination, valid once constructed: DIMSE (`aet`, `host`, `port`) or DICOMweb (`url`).

    Attributes:
        name: as it was named on the command line.
        is_declared: it stands in the TOML file, and was not just written out.
    """

    name: str = ""
    is_declared: bool = False
    purpose: str | None = None
    aet: Annotated[str, Field(pattern=_AET)] | None = None
    host: str | None = None
    port: Annotated[int, Field(ge=1, le=65535)] | None = None
    calling_aet: Annotated[str, Field(pattern=_AET)] = "MIAD"
    url: str | None = None
    tls: Tls | None = None
    auth: Auth | None = None
    timeouts: Timeouts = Timeouts()
    retries: Retries = Retries()
    commit: Commit = Commit()

    @model_validator(mode="after")
    def _whole(self) -> Destination:
        dimse = [self.aet, self.host, self.port]
        if self.url is None:
            if None in dimse:
                raise ValueError("name aet, host and port, or a url")
            if self.auth is not None:
                raise ValueError("auth is for DICOMweb (url); DIMSE has TLS certificates")
        elif any(one is not None for one in dimse):
            raise ValueError("a url needs no aet, host and port")
        else:
            _check_url(self.url)
        return self

    @property
    def kind(self) -> Literal["dimse", "dicomweb"]:
        return "dimse" if self.url is None else "dicomweb"

    @property
    def identity(self) -> str:
        """The destination itself, whatever it is called: what a journal belongs to."""
        return self.url.rstrip("/") if self.url else f"{self.aet}@{self.host}:{self.port}"

    def check_purpose(self, not_clinical: bool = False) -> None:
        """Refuse a destination of which nobody said that it is for releases.

        Raises:
            UsageError: it is not declared, and `not_clinical` was not said of one written out.
        """
        if self.purpose == RELEASE or (not_clinical and not self.is_declared):
            return
        if self.is_declared:
            said = f'says purpose = "{self.purpose}"' if self.purpose else "has no purpose"
            raise UsageError(
                f"the destination {self.name} {said}, so nothing was sent. {_PURPOSE}",
                hint=f'If it is for releases, put purpose = "{RELEASE}" into its table.',
            )
        raise UsageError(
            f"nobody declared what {self.name} is for, so nothing was sent. {_PURPOSE}",
            hint=f'Name it in the destinations file with purpose = "{RELEASE}", or say '
            "--yes-not-clinical.",
        )


def load_destinations(path: Path) -> dict[str, Destination]:
    """Every destination of a TOML file, a table each, by name.

    Raises:
        UsageError: every fault of the file, each with its path, in one message.
    """
    try:
        tables = tomllib.loads(_read(path))
    except OSError as error:
        raise UsageError(f"{path}: the destinations cannot be read ({error.strerror})") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not valid TOML: {error}") from None
    found: dict[str, Destination] = {}
    faults: list[str] = []
    for name, table in tables.items():
        try:
            found[name] = _destination(name, table, path.parent)
        except ValidationError as error:
            for fault in error.errors(include_input=False, include_url=False):
                place = ".".join([name, *(str(part) for part in fault["loc"])])
                faults.append(f"  {place}: {fault['msg']}")
    if faults:
        raise UsageError(f"{path}: the destinations are not valid:\n" + "\n".join(faults))
    return found


def find_destination(text: str, declared: Mapping[str, Destination]) -> Destination:
    """The destination that `--dest` means: a declared name, `AET@HOST:PORT` or a URL.

    One written out gets what is declared for the same place, its purpose too.

    Raises:
        UsageError: it is none of them.
    """
    if text in declared:
        return declared[text]
    facts: dict[str, Any]
    if "://" in text:
        facts = {"url": text}
    elif match := _WRITTEN_OUT.fullmatch(text):
        facts = {**match.groupdict(), "port": int(match["port"])}
        facts["host"] = facts["host"].strip("[]")
    else:
        known = ", ".join(declared)
        raise UsageError(
            f"there is no destination {text}",
            hint=f"Declared are: {known}."
            if known
            else "Write AET@HOST:PORT or https://…, or "
            "declare it in destinations.toml in the settings folder.",
        )
    try:
        written = Destination(name=text, **facts)
    except ValidationError as error:
        message = error.errors(include_input=False, include_url=False)[0]["msg"]
        raise UsageError(f"{text}: {message.removeprefix('Value error, ')}") from None
    same = [one for one in declared.values() if one.identity == written.identity]
    return same[0] if same else written


def _destination(name: str, table: object, folder: Path) -> Destination:
    """One table, its paths counted from `folder`."""
    if not isinstance(table, dict):
        return Destination.model_validate(table)
    settings = {**table, "name": name, "is_declared": True}
    for group, keys in (("tls", ("ca", "cert", "key")), ("auth", ("file",))):
        part = table.get(group)
        if isinstance(part, dict):
            paths = {key: folder / part[key] for key in keys if isinstance(part.get(key), str)}
            settings[group] = {**part, **paths}
    return Destination.model_validate(settings)


def _check_url(url: str) -> None:
    """Refuse what is no URL of a service, and a plain one that leaves this machine."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError("that is no URL") from None
    if parts.scheme not in ("http", "https") or not host or port == 0:
        raise ValueError("a DICOMweb service is https://HOST/PATH")
    if parts.username is not None or parts.password is not None:
        raise ValueError("no login in the URL: name a file or a variable in [NAME.auth]")
    if parts.query or parts.fragment:
        raise ValueError("a service's URL has neither ? nor #")
    if parts.scheme == "http" and not _is_this_machine(host):
        raise ValueError("http sends pictures in clear; use https")


def _is_this_machine(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")
