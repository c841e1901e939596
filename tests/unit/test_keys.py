"""Key files: what is written, what is accepted, what each mistake is answered with."""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyrage
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from helpers import encrypt_to_passphrase
from pyrage import ssh, x25519

from miad_cli.errors import KeyUnusable, OutputExists
from miad_cli.seal import identities, key_files, places
from miad_cli.seal.owner import OwnerKey, OwnerPublicKey

ED25519_SEED = bytes(range(32))


@pytest.fixture
def owner() -> OwnerKey:
    return OwnerKey(ed25519.Ed25519PrivateKey.from_private_bytes(ED25519_SEED))


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    directory = tmp_path / "home"
    monkeypatch.setenv("MIAD_HOME", str(directory))
    return directory


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def ssh_key_pair() -> tuple[bytes, str]:
    private = ed25519.Ed25519PrivateKey.generate()
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    pem = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    return pem, public.decode()


def armoured(content: bytes) -> bytes:
    lines = base64.b64encode(content).decode()
    wrapped = "\n".join(lines[start : start + 64] for start in range(0, len(lines), 64))
    armour = "-----{} AGE ENCRYPTED FILE-----"
    return "\n".join([armour.format("BEGIN"), wrapped, armour.format("END"), ""]).encode()


# --- Owner keys


def test_owner_survives_saving(owner: OwnerKey, tmp_path: Path) -> None:
    owner.save(tmp_path / "owner.pem")
    owner.public.save(tmp_path / "owner.pub.pem")
    signature = OwnerKey.load(tmp_path / "owner.pem").sign(b"message")
    assert OwnerPublicKey.load(tmp_path / "owner.pub.pem").is_valid(signature, b"message")


def test_signature_is_that_of_rfc_8032() -> None:
    """Test 2 of RFC 8032, Section 7.1."""
    seed = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
    owner = OwnerKey(ed25519.Ed25519PrivateKey.from_private_bytes(seed))
    raw = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
    assert owner.public.raw == raw
    assert owner.public.key_id == hashlib.sha256(raw).hexdigest()
    assert owner.sign(b"\x72").hex().startswith("92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8f")


@pytest.mark.parametrize(
    ("signature", "message"),
    [(b"", b"m"), (b"\0" * 64, b"m"), (None, b"other"), (b"\0" * 63, b"m")],
)
def test_wrong_signatures_are_not_valid(
    owner: OwnerKey, signature: bytes | None, message: bytes
) -> None:
    made = owner.sign(b"m") if signature is None else signature
    assert not owner.public.is_valid(made, message)


def test_private_files_are_for_their_owner_alone(owner: OwnerKey, tmp_path: Path) -> None:
    owner.save(tmp_path / "owner.pem")
    identities.new_identity(tmp_path / "identity.txt")
    assert mode_of(tmp_path / "owner.pem") == 0o600
    assert mode_of(tmp_path / "identity.txt") == 0o600
    assert sorted(os.listdir(tmp_path)) == ["identity.txt", "owner.pem"]


@pytest.mark.parametrize("write", ["private", "public", "identity"])
@pytest.mark.parametrize("obstacle", ["file", "dangling link"])
def test_nothing_is_overwritten(owner: OwnerKey, tmp_path: Path, write: str, obstacle: str) -> None:
    path = tmp_path / "key"
    if obstacle == "file":
        path.write_bytes(b"dear to somebody")
    else:
        path.symlink_to(tmp_path / "elsewhere")
    writers: dict[str, Callable[[Path], object]] = {
        "private": owner.save,
        "public": owner.public.save,
        "identity": identities.new_identity,
    }
    with pytest.raises(OutputExists):
        writers[write](path)
    assert os.listdir(tmp_path) == ["key"]
    assert obstacle != "file" or path.read_bytes() == b"dear to somebody"


def test_keys_are_written_where_there_are_no_links(
    owner: OwnerKey, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_link)
    owner.save(tmp_path / "owner.pem")
    with pytest.raises(OutputExists):
        owner.save(tmp_path / "owner.pem")
    assert OwnerKey.load(tmp_path / "owner.pem").public == owner.public
    assert os.listdir(tmp_path) == ["owner.pem"]


def test_missing_folder_is_named(owner: OwnerKey, tmp_path: Path) -> None:
    with pytest.raises(KeyUnusable, match="cannot be written"):
        owner.save(tmp_path / "nowhere" / "owner.pem")


def test_encrypted_owner_key(owner: OwnerKey, tmp_path: Path) -> None:
    path = tmp_path / "owner.pem"
    owner.save(path, passphrase=b"correct")
    assert OwnerKey.load(path, lambda: b"correct").public == owner.public
    with pytest.raises(KeyUnusable, match="passphrase does not open"):
        OwnerKey.load(path, lambda: b"wrong")
    with pytest.raises(KeyUnusable, match="passphrase does not open"):
        OwnerKey.load(path, lambda: b"")
    with pytest.raises(KeyUnusable, match="protected by a passphrase"):
        OwnerKey.load(path)


def test_encrypted_owner_key_is_slow_to_guess(owner: OwnerKey, tmp_path: Path) -> None:
    """PBES2 (RFC 8018) with HMAC-SHA256 and at least 600,000 rounds, as `cryptography` reads it."""
    owner.save(tmp_path / "owner.pem", passphrase=b"correct")
    content = (tmp_path / "owner.pem").read_bytes()
    der = base64.b64decode(b"".join(content.splitlines()[1:-1]))
    rounds = der.index(bytes.fromhex("0203")) + 2
    assert int.from_bytes(der[rounds : rounds + 3], "big") >= 600_000
    key = serialization.load_pem_private_key(content, b"correct")
    assert isinstance(key, ed25519.Ed25519PrivateKey)
    assert key.private_bytes_raw() == ED25519_SEED
    assert mode_of(tmp_path / "owner.pem") == 0o600


def test_passphrase_is_not_asked_for_in_vain(owner: OwnerKey, tmp_path: Path) -> None:
    owner.save(tmp_path / "owner.pem")

    def ask() -> bytes:
        raise AssertionError("asked")

    assert OwnerKey.load(tmp_path / "owner.pem", ask).public == owner.public


def test_certificate_counts_as_its_key(tmp_path: Path) -> None:
    private = ed25519.Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "hospital")])
    certificate = (
        x509.CertificateBuilder(name, name, private.public_key(), 1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2021, 1, 1, tzinfo=UTC))
        .sign(private, None)
    )
    path = tmp_path / "owner.crt"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    assert OwnerPublicKey.load(path) == OwnerKey(private).public


def test_wrong_kind_of_file_is_told(owner: OwnerKey, tmp_path: Path) -> None:
    private, public, junk = tmp_path / "private", tmp_path / "public", tmp_path / "junk"
    identity, curve, huge = tmp_path / "identity", tmp_path / "curve", tmp_path / "huge"
    owner.save(private)
    owner.public.save(public)
    identities.new_identity(identity)
    junk.write_bytes(b"\xff\xfe not a key \0")
    huge.write_bytes(b"#" * (key_files.KEY_FILE_LIMIT + 1))
    curve.write_bytes(
        ec.generate_private_key(ec.SECP256R1()).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    cases: list[tuple[Callable[[Path], object], Path, str]] = [
        (OwnerKey.load, public, "public key where a private one is needed"),
        (OwnerKey.load, identity, "age identity"),
        (OwnerKey.load, junk, "no private key"),
        (OwnerKey.load, curve, "not an Ed25519"),
        (OwnerKey.load, tmp_path / "absent", "cannot be read"),
        (OwnerKey.load, tmp_path, "cannot be read"),
        (OwnerKey.load, huge, "too large"),
        (OwnerPublicKey.load, private, "holds a private key"),
        (OwnerPublicKey.load, identity, "holds a private key"),
        (OwnerPublicKey.load, junk, "no public key"),
        (identities.load_identities, public, "public key where a private one is needed"),
        (identities.load_identities, private, "not an identity"),
        (identities.load_identities, junk, "not a key file"),
        (identities.load_identities, tmp_path / "absent", "cannot be read"),
        (identities.load_recipients, identity, "secret identity"),
        (identities.load_recipients, junk, "not a key file"),
    ]
    for load, path, sentence in cases:
        with pytest.raises(KeyUnusable, match=sentence):
            load(path)


# --- Derived UIDs


def test_uid_is_fixed_for_ever(owner: OwnerKey) -> None:
    """Computed apart from the code under test: HKDF by hand (RFC 5869), HMAC, UUID v8."""
    pseudorandom = hmac.digest(bytes(32), ED25519_SEED, "sha256")
    key = hmac.digest(pseudorandom, b"miad/v1/uid\x01", "sha256")
    message = b"\0\0\0\0\0\0\0\3sop" + b"\0\0\0\0\0\0\0\3abc" + b"\0\0\0\0\0\0\0\0"
    value = bytearray(hmac.digest(key, message, "sha256")[:16])
    value[6] = value[6] & 0x0F | 0x80
    value[8] = value[8] & 0x3F | 0x80
    assert owner.derive_uid("sop", b"abc", b"") == f"2.25.{int.from_bytes(value, 'big')}"


def test_uids_differ_with_everything_they_come_from(owner: OwnerKey) -> None:
    uids = {
        owner.derive_uid("sop", b"ab", b"c"),
        owner.derive_uid("sop", b"a", b"bc"),
        owner.derive_uid("sop", b"abc"),
        owner.derive_uid("series", b"abc"),
        owner.derive_uid("sopabc"),
        OwnerKey.generate().derive_uid("sop", b"abc"),
    }
    assert len(uids) == 6


def test_uids_are_dicom_uids(owner: OwnerKey) -> None:
    for number in range(200):
        uid = owner.derive_uid("sop", bytes([number]))
        assert len(uid) <= 64
        assert re.fullmatch(r"2\.25\.[1-9][0-9]*", uid)


# --- Identities and recipients


def test_identity_file_is_one_of_age(tmp_path: Path) -> None:
    path = tmp_path / "identity.txt"
    recipient = identities.new_identity(path)
    created, public, secret = path.read_text().splitlines()
    assert re.fullmatch(r"# created: \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", created)
    assert public == f"# public key: {recipient}"
    assert str(x25519.Identity.from_str(secret).to_public()) == recipient


def test_every_identity_in_a_file_counts(tmp_path: Path) -> None:
    made = [x25519.Identity.generate() for _ in range(2)]
    path = tmp_path / "identities.txt"
    path.write_text(f"# mine\r\n{made[0]}\r\n\r\n  {made[1]}\n")
    sealed = pyrage.encrypt(b"x", [made[1].to_public()])
    assert [str(i) for i in identities.load_identities(path)] == [str(i) for i in made]
    assert pyrage.decrypt(sealed, identities.load_identities(path)) == b"x"


@pytest.mark.parametrize(
    "line", ["AGE-SECRET-KEY-1QQQ", "AGE-PLUGIN-YUBIKEY-1XYZ", "AGE-SECRET-KEY-PQ-1XYZ", "hunter2"]
)
def test_bad_identity_is_not_repeated(tmp_path: Path, line: str) -> None:
    path = tmp_path / "identities.txt"
    path.write_text(f"# comment\n{line}\n")
    with pytest.raises(KeyUnusable, match="Line 2 of") as caught:
        identities.load_identities(path)
    assert line not in caught.value.message + caught.value.hint


def test_empty_identity_file(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text("# nothing\n")
    with pytest.raises(KeyUnusable, match="holds no identity"):
        identities.load_identities(tmp_path / "empty")


@pytest.mark.parametrize("wrap", [bytes, armoured])
def test_identity_file_under_a_passphrase(tmp_path: Path, wrap: type[bytes]) -> None:
    identity = str(x25519.Identity.generate())
    path = tmp_path / "identity.age"
    path.write_bytes(wrap(encrypt_to_passphrase(identity.encode(), "correct")))
    assert [str(i) for i in identities.load_identities(path, lambda: "correct")] == [identity]
    with pytest.raises(KeyUnusable, match="passphrase does not open"):
        identities.load_identities(path, lambda: "wrong")
    with pytest.raises(KeyUnusable, match="protected by a passphrase"):
        identities.load_identities(path)


def test_new_identity_under_a_passphrase(tmp_path: Path) -> None:
    path = tmp_path / "identity.age"
    recipient = identities.new_identity(path, "correct")
    assert path.read_bytes().startswith(b"-----BEGIN AGE ENCRYPTED FILE-----")
    (identity,) = identities.load_identities(path, lambda: "correct")
    assert str(identity.to_public()) == recipient
    assert mode_of(path) == 0o600


def test_huge_work_factor_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "identity.age"
    path.write_bytes(encrypt_to_passphrase(b"x", "correct", work_factor=40))
    with pytest.raises(KeyUnusable, match="not an identity that a passphrase can open"):
        identities.load_identities(path, lambda: "correct")


def test_age_file_to_a_recipient_is_no_identity_file(tmp_path: Path) -> None:
    path = tmp_path / "identity.age"
    path.write_bytes(pyrage.encrypt(b"x", [x25519.Identity.generate().to_public()]))
    with pytest.raises(KeyUnusable, match="not an identity that a passphrase can open"):
        identities.load_identities(path, lambda: "any")


def test_ssh_keys_serve(tmp_path: Path) -> None:
    private, public = ssh_key_pair()
    (tmp_path / "id_ed25519").write_bytes(private)
    (tmp_path / "recipients.txt").write_text(f"# radiology\n{public} reader@workstation\n")
    sealed = pyrage.encrypt(
        b"x", [one.age for one in identities.load_recipients(tmp_path / "recipients.txt")]
    )
    loaded = identities.load_identities(tmp_path / "id_ed25519")
    assert isinstance(loaded[0], ssh.Identity)
    assert pyrage.decrypt(sealed, loaded) == b"x"


def encrypted_ssh_key(form: str) -> bytes:
    if form == "pem":
        return rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.BestAvailableEncryption(b"correct"),
        )

    def text(*contents: bytes) -> bytes:
        return b"".join(len(content).to_bytes(4, "big") + content for content in contents)

    public = text(b"ssh-ed25519", bytes(32))
    options = text(os.urandom(16)) + (16).to_bytes(4, "big")
    key = b"openssh-key-v1\0" + text(b"aes256-ctr", b"bcrypt", options)
    key += (1).to_bytes(4, "big") + text(public, os.urandom(160))
    armour = b"-----%s OPENSSH PRIVATE KEY-----\n"
    return armour % b"BEGIN" + base64.encodebytes(key) + armour % b"END"


@pytest.mark.parametrize("form", ["openssh", "pem"])
def test_ssh_key_under_a_passphrase_is_told(tmp_path: Path, form: str) -> None:
    (tmp_path / "id").write_bytes(encrypted_ssh_key(form))
    with pytest.raises(KeyUnusable, match="SSH key under a passphrase"):
        identities.load_identities(tmp_path / "id")


def test_ssh_key_of_an_unknown_kind(tmp_path: Path) -> None:
    private = ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    (tmp_path / "id_ecdsa").write_bytes(private)
    with pytest.raises(KeyUnusable, match="not an SSH key that age can use"):
        identities.load_identities(tmp_path / "id_ecdsa")


def test_recipient_lines(tmp_path: Path) -> None:
    identity = x25519.Identity.generate()
    path = tmp_path / "recipients.txt"
    path.write_text(f"\n# us\n{identity.to_public()}\n{ssh_key_pair()[1]}\n")
    recipients = identities.load_recipients(path)
    assert len(recipients) == 2
    assert recipients[0].text == str(identity.to_public())


def test_equal_recipients_have_equal_texts() -> None:
    public = ssh_key_pair()[1]
    assert identities.parse_recipient(f"  {public} me@here") == identities.parse_recipient(public)
    assert identities.parse_recipient(public).text == public


def test_public_half_lies_beside_the_private_one() -> None:
    assert places.public_half_of(Path("a/owner.pem")) == Path("a/owner.pub.pem")
    assert places.public_half_of(Path("a/owner.key")) == Path("a/owner.key.pub.pem")


@pytest.mark.parametrize("text", ["", "age1xyz", "ssh-ed25519 AAAA", "ecdsa-sha2-nistp256 AAAA"])
def test_no_recipient(text: str) -> None:
    with pytest.raises(KeyUnusable, match="not a recipient"):
        identities.parse_recipient(text)


def test_secret_given_as_recipient_is_not_repeated() -> None:
    secret = str(x25519.Identity.generate())
    with pytest.raises(KeyUnusable, match="secret identity") as caught:
        identities.parse_recipient(secret.lower())
    assert secret.lower() not in caught.value.message + caught.value.hint


def test_recipient_file_without_recipients(tmp_path: Path) -> None:
    (tmp_path / "recipients.txt").write_text("# none\n")
    with pytest.raises(KeyUnusable, match="names no recipient"):
        identities.load_recipients(tmp_path / "recipients.txt")


def test_permission_warning(tmp_path: Path) -> None:
    identities.new_identity(tmp_path / "identity.txt")
    assert key_files.permission_warning(tmp_path / "identity.txt") is None
    (tmp_path / "identity.txt").chmod(0o640)
    assert "0640" in (key_files.permission_warning(tmp_path / "identity.txt") or "")
    assert key_files.permission_warning(tmp_path / "absent") is None


# --- Default places


def test_default_owner_is_made_once(home: Path) -> None:
    assert places.local_owner() is None
    assert not home.exists()
    owner = places.default_owner()
    assert places.default_owner().public == owner.public == places.local_owner()
    assert mode_of(home) == 0o700
    assert mode_of(home / "owner.pem") == 0o600
    assert sorted(os.listdir(home)) == ["owner.pem", "owner.pub.pem"]


def test_lost_public_half_is_written_again(home: Path) -> None:
    owner = places.default_owner()
    (home / "owner.pub.pem").unlink()
    assert places.default_owner().public == owner.public == places.local_owner()


def test_public_half_of_another_key_is_told(home: Path) -> None:
    places.default_owner()
    (home / "owner.pub.pem").unlink()
    OwnerKey.generate().public.save(home / "owner.pub.pem")
    with pytest.raises(KeyUnusable, match="does not belong"):
        places.default_owner()


def test_loser_of_a_race_takes_the_winners_key(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    winner = places.default_owner()
    monkeypatch.setattr(Path, "exists", lambda _: False)
    assert places.default_owner().public == winner.public


def test_processes_that_start_at_once_share_one_key(home: Path, tmp_path: Path) -> None:
    script = (
        "import sys; from miad_cli.seal.places import default_owner, job_identity;"
        "from pathlib import Path; sys.stdin.read(1);"
        "print(default_owner().public.key_id, job_identity(Path('/out'))[1])"
    )
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(places.__file__).parents[2],
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("x")
        process.stdin.flush()
    answers = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * 4
    assert len(set(answers)) == 1
    assert sorted(os.listdir(home)) == ["identities", "owner.pem", "owner.pub.pem"]
    assert len(os.listdir(home / "identities")) == 1


def test_job_identity_stays_and_differs_by_output(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path, recipient = places.job_identity(tmp_path / "out")
    name = hashlib.sha256(os.fsencode(tmp_path / "out")).hexdigest()[:16]
    assert path == home / "identities" / f"{name}.txt"
    assert places.job_identity(Path("out")) == (path, recipient)
    assert places.job_identity(tmp_path / "other")[1] != recipient
    assert str(identities.load_identities(path)[0].to_public()) == recipient
    assert mode_of(path) == 0o600
    assert mode_of(home / "identities") == 0o700


def test_data_directory_without_a_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MIAD_HOME", raising=False)
    assert places.data_directory().name == "miad"


def test_keys_do_not_show_themselves(owner: OwnerKey) -> None:
    assert repr(owner) == "OwnerKey()"
