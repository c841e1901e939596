"""Certificates for the tests: an authority, a server's, a client's, an expired one, another's."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Key = ec.EllipticCurvePrivateKey


@dataclass(frozen=True)
class Certificates:
    """PEM files. `server` and `client` (with their keys) were issued by `ca`; `other_ca` issued
    nothing that anyone here uses. `expired` is a server's that ended yesterday; `elsewhere` is
    one for another host."""

    ca: Path
    other_ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path
    client_locked_key: Path
    expired: Path
    expired_key: Path
    elsewhere: Path
    elsewhere_key: Path

    passphrase = "correct horse"


def make_certificates(folder: Path) -> Certificates:
    folder.mkdir(parents=True, exist_ok=True)
    authority = ec.generate_private_key(ec.SECP256R1())
    other = ec.generate_private_key(ec.SECP256R1())
    _write(folder / "ca.pem", _certificate("Test CA", authority, None))
    _write(folder / "other-ca.pem", _certificate("Other CA", other, None))
    for name, host, days in (
        ("server", "localhost", 30),
        ("client", "client", 30),
        ("expired", "localhost", -1),
        ("elsewhere", "elsewhere.example", 30),
    ):
        key = ec.generate_private_key(ec.SECP256R1())
        _write(folder / f"{name}.pem", _certificate(name, key, authority, host, days))
        _write(folder / f"{name}-key.pem", _private(key))
        if name == "client":
            locked = _private(key, Certificates.passphrase)
            _write(folder / "client-locked-key.pem", locked)
    named = (field.name.replace("_", "-") for field in fields(Certificates))
    return Certificates(*(folder / f"{name}.pem" for name in named))


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    path.chmod(0o600)


def _private(key: Key, passphrase: str = "") -> bytes:
    how: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        how = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, how)


def _certificate(
    name: str, key: Key, authority: Key | None, host: str = "", days: int = 30
) -> bytes:
    """One certificate, signed by the authority, or by itself where there is none."""
    now = datetime.now(UTC)
    issuer = "Test CA" if authority else name
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=authority is None, path_length=None), True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
    )
    signer = authority or key
    builder = builder.add_extension(
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), False
    )
    if host:
        names: list[x509.GeneralName] = [x509.DNSName(host)]
        if host == "localhost":
            names.append(x509.IPAddress(ipaddress.ip_address("127.0.0.1")))
        builder = builder.add_extension(x509.SubjectAlternativeName(names), False)
    else:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, True)
    return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
