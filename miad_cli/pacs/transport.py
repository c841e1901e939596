"""Which transport a destination takes."""

from __future__ import annotations

from miad_cli.pacs.destinations import Destination
from miad_cli.pacs.outcome import Store
from miad_cli.pacs.security import AskPassphrase


def open_store(destination: Destination, passphrase: AskPassphrase | None = None) -> Store:
    """DIMSE or DICOMweb. Nothing is sent yet.

    Raises:
        UsageError, KeyUnusable: a certificate, key or login cannot be used.
    """
    if destination.kind == "dicomweb":
        from miad_cli.pacs.dicomweb import DicomwebStore

        return DicomwebStore(destination, passphrase)
    from miad_cli.pacs.store import DimseStore

    return DimseStore(destination, passphrase)
