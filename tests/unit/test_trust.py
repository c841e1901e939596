"""Whose signatures count: named keys, the trust folder, certificates under a given root."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519

from miad_cli.errors import KeyUnusable
from miad_cli.seal import trust
from miad_cli.seal.owner import OwnerKey, OwnerPublicKey
from miad_cli.seal.places import default_owner

NOW = datetime(2026, 6, 1, tzinfo=UTC)
ROOT_KEY, MIDDLE_KEY, OTHER_KEY = (ec.generate_private_key(ec.SECP256R1()) for _ in range(3))
OWNER_KEY = ed25519.Ed25519PrivateKey.generate()
OWNER = OwnerKey(OWNER_KEY).public


def certificate(
    name: str,
    key: Any,
    issuer: str,
    issuer_key: Any,
    *,
    authority: bool = False,
    signs: bool = True,
    days: tuple[int, int] = (-1, 30),
) -> x509.Certificate:
    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, text)])

    usage = x509.KeyUsage(
        digital_signature=signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=not signs,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )
    built = x509.CertificateBuilder(
        named(issuer),
        named(name),
        key.public_key(),
        x509.random_serial_number(),
        NOW + timedelta(days[0]),
        NOW + timedelta(days[1]),
    )
    for extension, critical in (
        (x509.BasicConstraints(authority, None), True),
        (usage, True),
        (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False),
        (x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False),
    ):
        built = built.add_extension(extension, critical)
    edwards = isinstance(issuer_key, ed25519.Ed25519PrivateKey)
    return built.sign(issuer_key, None if edwards else hashes.SHA256())


ROOT = certificate("root", ROOT_KEY, "root", ROOT_KEY, authority=True)
MIDDLE = certificate("middle", MIDDLE_KEY, "root", ROOT_KEY, authority=True)
LEAF = certificate("owner", OWNER_KEY, "middle", MIDDLE_KEY)
OTHER_ROOT = certificate("root", OTHER_KEY, "root", OTHER_KEY, authority=True)


def written(path: Path, *certificates: x509.Certificate) -> Path:
    pem = serialization.Encoding.PEM
    path.write_bytes(b"".join(one.public_bytes(pem) for one in certificates))
    return path


# --- Certificates


def test_chain_to_the_root_pins_the_owners_key(tmp_path: Path) -> None:
    chain = written(tmp_path / "chain.pem", LEAF, MIDDLE)
    root = written(tmp_path / "root.pem", OTHER_ROOT, ROOT)
    assert trust.trusted_owners([chain], [root], NOW) == [OWNER]


@pytest.mark.parametrize(
    ("certificates", "root", "at"),
    [
        ((LEAF, MIDDLE), OTHER_ROOT, NOW),
        ((LEAF,), ROOT, NOW),
        ((MIDDLE, LEAF), ROOT, NOW),
        ((LEAF, MIDDLE), ROOT, NOW + timedelta(31)),
        ((LEAF, MIDDLE), ROOT, NOW - timedelta(2)),
        ((LEAF, certificate("middle", MIDDLE_KEY, "root", ROOT_KEY)), ROOT, NOW),
        ((certificate("owner", OWNER_KEY, "middle", OTHER_KEY), MIDDLE), ROOT, NOW),
        ((certificate("o", OWNER_KEY, "root", ROOT_KEY, authority=True),), ROOT, NOW),
        ((certificate("o", OWNER_KEY, "root", ROOT_KEY, signs=False),), ROOT, NOW),
        ((certificate("o", OWNER_KEY, "o", OWNER_KEY),), ROOT, NOW),
    ],
    ids=[
        "another root of that name",
        "a link is missing",
        "wrong way round",
        "expired",
        "not yet valid",
        "issued by no authority",
        "signed by somebody else",
        "an authority itself",
        "not for signatures",
        "signed by itself",
    ],
)
def test_no_other_chain_counts(
    tmp_path: Path, certificates: tuple[x509.Certificate, ...], root: x509.Certificate, at: datetime
) -> None:
    chain = written(tmp_path / "chain.pem", *certificates)
    with pytest.raises(KeyUnusable, match="does not lead to the given root"):
        trust.trusted_owners([chain], [written(tmp_path / "root.pem", root)], at)


def test_chain_is_judged_now_unless_said_otherwise(tmp_path: Path) -> None:
    past = [
        certificate("root", ROOT_KEY, "root", ROOT_KEY, authority=True, days=(-9000, -8000)),
        certificate("owner", OWNER_KEY, "root", ROOT_KEY, days=(-9000, -8000)),
    ]
    chain, root = written(tmp_path / "chain", past[1]), written(tmp_path / "root", past[0])
    with pytest.raises(KeyUnusable, match="at this time"):
        trust.trusted_owners([chain], [root])


def test_authorities_with_edwards_keys_are_refused_and_told(tmp_path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    root = written(tmp_path / "root", certificate("r", key, "r", key, authority=True))
    chain = written(tmp_path / "chain", certificate("owner", OWNER_KEY, "r", key))
    with pytest.raises(KeyUnusable) as caught:
        trust.trusted_owners([chain], [root], NOW)
    assert "RSA or ECDSA" in caught.value.hint


def test_owner_needs_an_edwards_key(tmp_path: Path) -> None:
    chain = written(tmp_path / "chain", certificate("owner", OTHER_KEY, "root", ROOT_KEY))
    with pytest.raises(KeyUnusable, match="not an Ed25519 key"):
        trust.trusted_owners([chain], [written(tmp_path / "root", ROOT)], NOW)


def test_without_a_root_a_certificate_is_its_key(tmp_path: Path) -> None:
    assert trust.trusted_owners([written(tmp_path / "leaf", LEAF)]) == [OWNER]


def test_a_bare_key_is_pinned_beside_a_root(tmp_path: Path) -> None:
    OWNER.save(tmp_path / "owner.pub.pem")
    root = written(tmp_path / "root", ROOT)
    assert trust.trusted_owners([tmp_path / "owner.pub.pem"], [root]) == [OWNER]


def test_a_root_that_is_none_is_told(tmp_path: Path) -> None:
    OWNER.save(tmp_path / "owner.pub.pem")
    with pytest.raises(KeyUnusable, match="holds no certificate"):
        trust.trusted_owners([], [tmp_path / "owner.pub.pem"])


# --- The trust folder


def test_nobody_is_trusted_at_first() -> None:
    assert trust.trusted_owners() == []
    assert not trust.trust_directory().exists()


def test_trusted_once_trusted_until_removed() -> None:
    assert trust.trust(OWNER)
    assert not trust.trust(OWNER)
    assert trust.trusted_owners() == [OWNER]
    assert [one.key for one in trust.distrust(OWNER.fingerprint)] == [OWNER]
    assert trust.trusted_owners() == []


@pytest.mark.parametrize("by", ["fingerprint", "key_id", "file"])
def test_removed_by_any_of_its_names(tmp_path: Path, by: str) -> None:
    trust.trust(OWNER)
    OWNER.save(tmp_path / "owner.pub.pem")
    trust.distrust(
        str(tmp_path / "owner.pub.pem") if by == "file" else str(getattr(OWNER, by)).upper()
    )
    assert trust.trust_list() == []


def test_removing_somebody_unknown_is_told() -> None:
    trust.trust(OWNER)
    with pytest.raises(KeyUnusable, match="No such key"):
        trust.distrust("0000-0000-0000-0000-0000")
    assert len(trust.trust_list()) == 1


def test_own_key_counts() -> None:
    own = default_owner().public
    assert trust.trusted_owners() == [own]


def test_a_broken_file_in_the_folder_stops_everything() -> None:
    trust.trust(OWNER)
    (trust.trust_directory() / "broken.pem").write_text("no key")
    with pytest.raises(KeyUnusable, match=r"broken\.pem"):
        trust.trusted_owners()


def test_folder_that_others_can_write_is_told() -> None:
    assert trust.trust_warning() is None
    trust.trust(OWNER)
    assert trust.trust_warning() is None
    trust.trust_directory().chmod(0o770)
    assert "0770" in (trust.trust_warning() or "")


def test_folder_without_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIAD_HOME")
    assert trust.trust_directory().parts[-2:] == ("miad", "trust")


def test_fingerprint_names_the_file() -> None:
    trust.trust(OWNER)
    path = trust.trust_directory() / f"{OWNER.fingerprint}.pem"
    assert OwnerPublicKey.load(path) == OWNER
