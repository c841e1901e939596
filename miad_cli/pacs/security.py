"""TLS as the destinations ask for it: 1.2 or later, an authority, perhaps who we are."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

from miad_cli.errors import KeyUnusable, UsageError
from miad_cli.pacs.destinations import Tls

AskPassphrase = Callable[[Path], str]
"""Gives the passphrase of a key file, or raises KeyUnusable."""


def client_context(tls: Tls, passphrase: AskPassphrase | None = None) -> ssl.SSLContext:
    """What a connection is wrapped in: the peer's certificate is checked, and its name unless
    `check_host` is off.

    Raises:
        UsageError: a certificate file cannot be used.
        KeyUnusable: the key does not fit or stays locked.
    """
    context = _trusting(ssl.Purpose.SERVER_AUTH, tls)
    context.check_hostname = tls.check_host
    if tls.cert is not None:
        _present(context, tls, passphrase)
    return context


def server_context(tls: Tls, passphrase: AskPassphrase | None = None) -> ssl.SSLContext:
    """For our own listener: our certificate, and one of the peer's that the authority issued.

    Raises:
        UsageError, KeyUnusable: as for `client_context`, or we have no certificate.
    """
    if tls.cert is None:
        raise UsageError(
            "the answer to a request for storage commitment comes over TLS as well, and we have "
            "no certificate for it",
            hint="Put cert and key into the destination's table for tls.",
        )
    context = _trusting(ssl.Purpose.CLIENT_AUTH, tls)
    context.verify_mode = ssl.CERT_REQUIRED
    _present(context, tls, passphrase)
    return context


def _trusting(purpose: ssl.Purpose, tls: Tls) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(purpose, cafile=tls.ca)
    except (OSError, ssl.SSLError):
        raise UsageError(f"{tls.ca}: no certificates of an authority can be read there") from None
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


def _present(context: ssl.SSLContext, tls: Tls, ask: AskPassphrase | None) -> None:
    """Load our certificate and key; only a key under a passphrase asks for one."""
    certificate = tls.cert or Path()
    key = tls.key or certificate
    asked: list[KeyUnusable] = []

    def passphrase() -> str:
        try:
            if ask is None:
                raise KeyUnusable(f"{key} is protected by a passphrase, and none was given.")
            return ask(key)
        except KeyUnusable as error:  # ssl would show a traceback of its own
            asked.append(error)
            return ""

    try:
        context.load_cert_chain(certificate, key, passphrase)
    except (OSError, ssl.SSLError):
        if asked:
            raise asked[0] from None
        raise KeyUnusable(
            f"The certificate {certificate} and the key {key} cannot be used together.",
            "Both are PEM; the passphrase may be wrong.",
        ) from None
