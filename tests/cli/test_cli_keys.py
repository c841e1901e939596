"""`miad keys`, and the key options of the other commands: who can sign, open and be believed."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from helpers import encrypt_to_passphrase

from miad_cli.seal.identities import load_identities
from miad_cli.seal.owner import OwnerKey, OwnerPublicKey

PASSPHRASE = "correct horse Schädel"


@pytest.fixture
def through_fd():
    """A file descriptor that gives these lines."""
    opened = []

    def give(*lines):
        reading, writing = os.pipe()
        os.write(writing, "\n".join(lines).encode())
        os.close(writing)
        opened.append(reading)
        return reading

    yield give
    for one in opened:
        os.close(one)


@pytest.fixture
def typed(monkeypatch):
    """A terminal on which these answers are typed; gives the list of the questions."""

    def answer(*answers):
        left, asked = list(answers), []

        def getpass(prompt, stream=None):
            asked.append(prompt)
            return left.pop(0)

        monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
        monkeypatch.setattr("getpass.getpass", getpass)
        return asked

    return answer


@pytest.fixture
def command(work):
    """A command that prints the passphrase, and writes down for which key it was asked."""
    script = work / "ask.py"
    script.write_text(
        "import os, pathlib, sys\n"
        f"open({str(work / 'asked')!r}, 'a').write(os.environ['MIAD_KEY_FILE'] + '\\n')\n"
        f"sys.stdout.buffer.write({(PASSPHRASE + chr(10)).encode()!r})\n"
    )
    return f"{sys.executable} {script}"


def public_part(path):
    return load_identities(path)[0].to_public()


def ssh_pair(kind):
    private = (
        ed25519.Ed25519PrivateKey.generate()
        if kind == "ed25519"
        else rsa.generate_private_key(65537, 2048)
    )
    secret = private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.OpenSSH,
        serialization.NoEncryption(),
    )
    public = private.public_key().public_bytes(
        serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    )
    return secret, public.decode()


# --- keys new


def test_new_identity(miad, work):
    said = miad("keys", "new", "identity", "me.txt")

    assert said.code == 0
    assert str(public_part(work / "me.txt")) in said.out
    assert "AGE-SECRET-KEY" not in said.out + said.err
    assert stat.S_IMODE((work / "me.txt").stat().st_mode) == 0o600


def test_new_owner(miad, work):
    said = miad("keys", "new", "owner", "release.pem", "--json")

    key = OwnerPublicKey.load(work / "release.pub.pem")
    assert OwnerKey.load(work / "release.pem").public == key
    assert (said.code, said.json["fingerprint"]) == (0, key.fingerprint)
    assert stat.S_IMODE((work / "release.pem").stat().st_mode) == 0o600
    assert "PRIVATE" not in said.out + said.err


def test_new_owner_without_a_path_is_ones_own(miad, home):
    assert miad("keys", "new", "owner").code == 0
    assert sorted(one.name for one in home.iterdir()) == ["owner.pem", "owner.pub.pem"]
    assert miad("keys", "new", "owner").code == 8


@pytest.mark.parametrize("kind", ["owner", "identity"])
@pytest.mark.parametrize("obstacle", ["key.pem", "key.pub.pem"])
def test_new_key_overwrites_nothing(miad, work, left, kind, obstacle):
    if (kind, obstacle) == ("identity", "key.pub.pem"):
        pytest.skip("an identity has one file")
    (work / obstacle).write_text("dear to somebody")

    said = miad("keys", "new", kind, "key.pem")

    assert said.code == 8
    assert left(work) == [obstacle]
    assert (work / obstacle).read_text() == "dear to somebody"


@pytest.mark.parametrize("kind", ["owner", "identity"])
@pytest.mark.parametrize("way", ["prompt", "fd", "command"])
def test_new_key_under_a_passphrase(miad, work, through_fd, typed, command, kind, way):
    options = {
        "prompt": lambda: ["--passphrase"],
        "fd": lambda: ["--passphrase-fd", through_fd(PASSPHRASE)],
        "command": lambda: ["--passphrase-command", command],
    }[way]()
    asked = typed(PASSPHRASE, PASSPHRASE)

    said = miad("keys", "new", kind, "key.pem", *options)

    assert said.code == 0
    assert len(asked) == (2 if way == "prompt" else 0)
    content = (work / "key.pem").read_bytes()
    assert b"AGE-SECRET-KEY" not in content and b"BEGIN PRIVATE KEY" not in content
    shown = miad("keys", "show", "key.pem", "--json", "--passphrase-fd", through_fd(PASSPHRASE))
    assert shown.code == 0
    assert shown.json["keys"][0]["public"] in said.out + (
        (work / "key.pub.pem").read_text() if kind == "owner" else ""
    )


@pytest.mark.parametrize("kind", ["owner", "identity"])
def test_new_passphrase_is_typed_twice(miad, work, left, typed, kind):
    typed("one", "another")

    said = miad("keys", "new", kind, "key.pem", "--passphrase")

    assert (said.code, left(work)) == (2, [])
    assert "differ" in said.err


def test_new_passphrase_without_a_terminal_says_how(miad, work, left):
    said = miad("keys", "new", "identity", "key.txt", "--passphrase")

    assert (said.code, left(work)) == (7, [])
    assert "--passphrase-fd" in said.err


def test_owner_key_under_a_passphrase_is_one_of_openssl(miad, work, through_fd, tool):
    miad("keys", "new", "owner", "key.pem", "--passphrase-fd", through_fd("secret"))
    (work / "pass").write_text("secret\n")

    done = tool("openssl", "pkey", "-in", "key.pem", "-passin", f"file:{work / 'pass'}", "-pubout")

    assert done.stdout == (work / "key.pub.pem").read_text()


# --- Passphrases


@pytest.fixture
def locked(sealed):
    """The identity and the owner's key under a passphrase; gives the study."""
    content = sealed.key.read_bytes()
    sealed.key.write_bytes(encrypt_to_passphrase(content, PASSPHRASE))
    owner = OwnerKey.load(sealed.home / "owner.pem")
    (sealed.home / "owner.pem").unlink()
    owner.save(sealed.home / "owner.pem", PASSPHRASE.encode())
    return sealed


def test_unlock_with_a_passphrase_typed(miad, locked, typed, work, digests):
    asked = typed(PASSPHRASE)
    said = miad("unlock", "protected", "--key", locked.key, "-o", "out")
    assert (said.code, len(asked)) == (0, 1)
    assert str(locked.key) in asked[0]
    assert digests(work / "out") == digests(locked.study)


def test_unlock_with_a_passphrase_through_fd(miad, locked, through_fd):
    fd = through_fd(PASSPHRASE)
    said = miad("unlock", "protected", "--key", locked.key, "-o", "out", "--passphrase-fd", fd)
    assert said.code == 0


def test_verify_with_a_passphrase_through_a_command(miad, locked, command, work):
    said = miad("verify", "protected", "--key", locked.key, "--passphrase-command", command)
    assert said.code == 0
    assert (work / "asked").read_text() == f"{locked.key}\n"


@pytest.mark.parametrize("verb", ["unlock", "verify"])
def test_wrong_passphrase_has_its_own_sentence(miad, locked, through_fd, work, verb):
    said = miad(verb, "protected", "--key", locked.key, "--passphrase-fd", through_fd("Xylophon9"))
    assert said.code == 7
    assert "The passphrase does not open" in said.err
    assert "Xylophon9" not in said.out + said.err
    assert not (work / "protected-unlocked").exists()


@pytest.mark.parametrize("verb", ["unlock", "verify"])
@pytest.mark.parametrize("terminal", [True, False])
def test_no_passphrase_says_how(miad, locked, typed, verb, terminal):
    asked = typed() if terminal else []
    options = ["--no-input"] if terminal else []
    said = miad(verb, "protected", "--key", locked.key, *options)
    assert (said.code, asked) == (7, [])
    assert "protected by a passphrase" in said.err
    assert "--passphrase-fd or --passphrase-command" in said.err


def test_two_keys_take_a_line_each(miad, locked, through_fd, work):
    other = through_fd("another")
    miad("keys", "new", "identity", "two.txt", "--passphrase-fd", other)
    keys = ["--key", "two.txt", "--key", locked.key]
    said = miad("verify", "protected", *keys, "--passphrase-fd", through_fd("another", PASSPHRASE))
    assert said.code == 0


def test_the_last_line_serves_the_rest(miad, locked, through_fd):
    fd = through_fd(PASSPHRASE)
    recipient = ["--to", _new_recipient(miad), "--key", "new.txt"]
    said = miad(
        "keys", "rekey", "protected", "--key", locked.key, *recipient, "--passphrase-fd", fd
    )
    assert said.code == 0


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        (["--passphrase-command", "false"], 7, "command failed (exit code 1)"),
        (["--passphrase-command", "/nowhere/at-all"], 7, "cannot be run"),
        (["--passphrase-command", ""], 7, "cannot be run"),
        (["--passphrase-command", "true"], 7, "is empty"),
        (["--passphrase-fd", "997"], 7, "file descriptor 997"),
        (["--passphrase-fd", "997", "--passphrase-command", "true"], 2, "exclude each other"),
    ],
)
def test_passphrase_that_cannot_be_had(miad, locked, options, code, sentence):
    said = miad("verify", "protected", "--key", locked.key, *options)
    assert (said.code, sentence in said.err) == (code, True)


def test_passphrase_that_is_no_text(miad, locked):
    reading, writing = os.pipe()
    os.write(writing, b"\xff\xfe")
    os.close(writing)
    said = miad("verify", "protected", "--key", locked.key, "--passphrase-fd", reading)
    os.close(reading)
    assert (said.code, "UTF-8" in said.err) == (7, True)


def test_nobody_is_asked_where_no_key_needs_it(miad, sealed, typed):
    asked = typed()
    assert miad("verify", "protected", "--key", sealed.key).code == 0
    assert asked == []


@pytest.mark.parametrize("named", [True, False])
def test_protect_signs_with_a_key_under_a_passphrase(miad, locked, logo, through_fd, named):
    options = ["--sign-with", locked.home / "owner.pem"] if named else []
    arguments = ["protect", "originals", "--logo", logo, "-o", "out", "--search", "random"]
    assert miad(*arguments, *options).code == 7
    said = miad(*arguments, *options, "--passphrase-fd", through_fd(PASSPHRASE))
    assert said.code == 0
    assert miad("verify", "out", "--owner", locked.owner).code == 0


# --- keys show


def test_show_of_every_kind(miad, work, through_fd):
    miad("keys", "new", "owner", "owner.pem")
    miad("keys", "new", "identity", "me.txt")
    secret, public = ssh_pair("ed25519")
    (work / "id").write_bytes(secret)
    (work / "id").chmod(0o600)
    (work / "id.pub").write_text(f"{public} me@work\n")

    said = miad("keys", "show", "owner.pem", "owner.pub.pem", "me.txt", "id", "id.pub", "--json")

    kinds = [(one["kind"], one["is_private"]) for one in said.json["keys"]]
    assert kinds == [
        ("owner, signing key", True),
        ("owner, public key", False),
        ("identity, age", True),
        ("identity, SSH key", True),
        ("recipient, SSH key", False),
    ]
    assert len({one["fingerprint"] for one in said.json["keys"]}) == 3
    assert said.json["keys"][3]["public"] == said.json["keys"][4]["public"] == public
    for path in ("owner.pem", "me.txt", "id"):
        secrets = [line for line in (work / path).read_text().splitlines() if "#" not in line]
        shown = said.out + miad("keys", "show", path).out
        assert not [
            line for line in secrets if len(line) > 20 and "---" not in line and line in shown
        ]


def test_show_fingerprint_is_that_of_ssh_keygen(miad, work, tool):
    (work / "id.pub").write_text(ssh_pair("ed25519")[1] + "\n")
    done = tool("ssh-keygen", "-l", "-f", work / "id.pub")
    shown = miad("keys", "show", "id.pub", "--json").json["keys"][0]["fingerprint"]
    assert shown in done.stdout.split()


def test_show_warns_of_readers(miad, work):
    miad("keys", "new", "identity", "me.txt")
    (work / "me.txt").chmod(0o644)
    assert "can be reached by other users" in miad("keys", "show", "me.txt").err


def test_show_of_no_key(miad, work):
    (work / "notes").write_text("dear diary")
    said = miad("keys", "show", "notes")
    assert said.code == 7
    assert "diary" not in said.out + said.err


# --- Recipients


def _new_recipient(miad, name="new.txt"):
    return miad("keys", "new", "identity", name, "--json").json["public"]


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_ssh_key_as_recipient_and_identity(miad, study, logo, work, digests, kind):
    secret, public = ssh_pair(kind)
    (work / "id").write_bytes(secret)
    (work / "id").chmod(0o600)
    options = ["--logo", logo, "--search", "random", "--to", f"{public} reader@workstation"]
    assert miad("protect", "study", *options).code == 0
    assert miad("unlock", "study-protected", "--key", "id").code == 0
    assert digests(work / "study-protected-unlocked") | digests(work / "study-unlocked") == digests(
        study
    )


@pytest.fixture
def organisation(work, miad):
    """A profile in a folder of its own that names the organisation's recipients beside it."""
    (work / "policy").mkdir()
    (work / "policy" / "hospital.toml").write_text(
        'name = "hospital"\ntitle = "Ours"\n[search]\nmethod = "random"\n'
        '[seal]\nrecipients = "readers.txt"\n'
    )
    recipient = _new_recipient(miad, "policy/reader.key")
    (work / "policy" / "readers.txt").write_text(f"# radiology\n{recipient}\n")
    return work / "policy" / "hospital.toml"


def test_recipients_of_the_profile(miad, study, logo, organisation, home):
    said = miad("protect", study, "--logo", logo, "--profile", organisation, "--payload", "auto")
    assert said.code == 0
    assert not (home / "identities").exists()
    key = organisation.with_name("reader.key")
    assert miad("unlock", "study-protected", "--key", key).code == 0


def test_recipients_of_the_command_line_come_before_the_profiles(miad, study, logo, organisation):
    options = ["--to", _new_recipient(miad), "--profile", organisation]
    assert miad("protect", study, "--logo", logo, *options).code == 0
    assert (
        miad("verify", "study-protected", "--key", organisation.with_name("reader.key")).code == 7
    )
    assert miad("verify", "study-protected", "--key", "new.txt").code == 0


def test_recipients_of_the_profile_must_be_there(miad, study, logo, organisation, work):
    organisation.with_name("readers.txt").unlink()
    said = miad("protect", study, "--logo", logo, "--profile", organisation)
    assert said.code == 7
    assert not (work / "study-protected").exists()


# --- Trust


@pytest.fixture
def stranger(sealed, monkeypatch, work):
    """Somebody who has the protected study, and another home."""
    monkeypatch.setenv("MIAD_HOME", str(work / "stranger"))
    shutil.copyfile(sealed.owner, work / "owner.pub.pem")
    return work / "stranger"


def test_meeting_an_owner_twice_trusts_nobody(miad, stranger):
    for _ in range(2):
        said = miad("verify", "protected", "--json")
        assert (said.code, said.json["counts"]) == (6, {"owner unknown": 3})
    assert not stranger.exists()


def test_trusted_until_removed(miad, stranger):
    fingerprint = OwnerPublicKey.load(stranger.parent / "owner.pub.pem").fingerprint
    added = miad("keys", "trust", "owner.pub.pem", "--json")
    assert (added.code, added.json["added"]) == (0, [fingerprint])
    assert miad("verify", "protected").code == 0
    assert fingerprint in miad("keys", "trust").out
    assert miad("keys", "trust", "--remove", fingerprint).code == 0
    assert miad("verify", "protected").code == 6
    assert miad("keys", "trust", "--remove", fingerprint).code == 7


def test_every_owner_named_is_trusted(miad, stranger):
    miad("keys", "new", "owner", "other.pem")
    owners = ["--owner", "other.pub.pem", "--owner", "owner.pub.pem"]
    assert miad("verify", "protected", "--owner", "other.pub.pem").code == 6
    assert miad("verify", "protected", *owners).code == 0


def test_private_key_is_not_put_into_the_trust_folder(miad, sealed):
    said = miad("keys", "trust", sealed.home / "owner.pem")
    assert said.code == 7
    assert not (sealed.home / "trust").exists()


def test_certificate_under_a_root(miad, stranger, sealed, work, tool):
    """Made by OpenSSL, as a hospital's authority would."""
    for name in ("root", "other"):
        curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        files = ["-keyout", f"{name}.key", "-out", f"{name}.pem", "-subj", "/CN=Hospital"]
        usage = ["-addext", "keyUsage=critical,keyCertSign,cRLSign", "-days", "30"]
        tool("openssl", "req", "-x509", *curve, *files, *usage)
    request = ["-key", sealed.home / "owner.pem", "-subj", "/CN=Radiology", "-out", "owner.csr"]
    tool("openssl", "req", "-new", *request)
    sign = ["-CA", "root.pem", "-CAkey", "root.key", "-CAcreateserial", "-days", "30"]
    files = ["-in", "owner.csr", "-out", "owner.crt", "-extfile", _extensions(work)]
    tool("openssl", "x509", "-req", *sign, *files)

    under = ["--owner", "owner.crt", "--owner-root"]
    assert miad("verify", "protected", *under, "root.pem").code == 0
    refused = miad("verify", "protected", *under, "other.pem")
    assert refused.code == 7
    assert "does not lead to the given root" in refused.err
    assert miad("unlock", "protected", "--key", "key.txt", *under, "other.pem").code == 7


def _extensions(work):
    path = work / "extensions"
    path.write_text(
        "basicConstraints=critical,CA:false\nkeyUsage=critical,digitalSignature\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    return path


# --- keys rekey


@pytest.fixture
def rekey(miad, sealed):
    def call(*options):
        return miad("keys", "rekey", "protected", "--key", sealed.key, *options)

    return call


def _opens(miad, key):
    return miad("verify", "protected", "--key", key).code == 0


def test_rekey_by_the_whole_list(miad, rekey, sealed, work, digests):
    recipient = _new_recipient(miad)
    said = rekey("--key", "new.txt", "--to", recipient, "--json")

    assert said.code == 0
    assert [one["state"] for one in said.json["files"]] == ["rekeyed"] * 3
    assert said.json["files"][0]["recipients"] == [recipient]
    assert miad("verify", "protected", "--key", sealed.key).code == 7
    assert miad("unlock", "protected", "--key", "new.txt", "-o", "out").code == 0
    assert digests(work / "out") == digests(sealed.study)


def test_rekey_by_adding_and_removing(miad, rekey, sealed):
    first, second = _new_recipient(miad, "a.txt"), _new_recipient(miad, "b.txt")
    assert rekey("--add", first, "--add", second).code == 0
    assert all(_opens(miad, key) for key in ("a.txt", "b.txt", sealed.key))
    assert rekey("--remove", first).code == 0
    assert [_opens(miad, key) for key in ("a.txt", "b.txt", sealed.key)] == [False, True, True]


def test_rekey_says_that_copies_cannot_be_recalled(miad, rekey):
    said = rekey("--add", _new_recipient(miad))
    assert "cannot be recalled" in said.err
    assert "cannot be recalled" in " ".join(miad("keys", "rekey", "--help").out.split())


def test_rekey_names_a_removed_recipient_who_was_none(miad, rekey):
    recipient = _new_recipient(miad)
    said = rekey("--remove", recipient)
    assert said.code == 0
    assert f"{recipient} was among the recipients of none of these files" in said.err
    assert "3 were so already" in said.out


def test_rekey_dry_run_lists_who_can_open(miad, rekey, sealed, digests):
    before = digests(sealed.protected)
    said = rekey("--add", _new_recipient(miad), "--dry-run", "--json")
    assert said.code == 0
    assert str(public_part(sealed.key)) in said.json["files"][0]["recipients"]
    assert digests(sealed.protected) == before


@pytest.mark.parametrize(
    ("options", "code", "sentence"),
    [
        ([], 2, "say who is to be able"),
        (["--to", "AGE", "--add", "AGE"], 2, "say who is to be able"),
        (["--add", "AGE", "--remove", "AGE"], 2, "both added and removed"),
        (["--to", "AGE"], 2, "would open it any more"),
        (["--add", "rubbish"], 7, "not a recipient"),
        (["--add", "AGE", "--sign-with", "other.pem"], 7, "signed by another owner"),
        (["--add", "AGE", "--sign-with", "nowhere.pem"], 7, "cannot be read"),
    ],
)
def test_rekey_refuses(miad, rekey, sealed, digests, options, code, sentence):
    recipient = _new_recipient(miad)
    miad("keys", "new", "owner", "other.pem")
    before = digests(sealed.protected)
    said = rekey(*(recipient if one == "AGE" else one for one in options))
    assert (said.code, sentence in said.err) == (code, True)
    assert digests(sealed.protected) == before


def test_rekey_needs_a_key_that_opens(miad, sealed):
    recipient = _new_recipient(miad)
    assert miad("keys", "rekey", "protected", "--add", recipient).code == 2
    said = miad("keys", "rekey", "protected", "--key", "new.txt", "--add", recipient)
    assert (said.code, "None of the keys given opens" in said.err) == (7, True)


def test_rekey_without_an_own_key_makes_none(miad, stranger):
    recipient = _new_recipient(miad)
    said = miad("keys", "rekey", "protected", "--key", "key.txt", "--add", recipient)
    assert (said.code, "no signing key of your own" in said.err) == (7, True)
    assert not stranger.exists()


def test_rekey_log_lines_name_no_key_file(miad, rekey):
    said = rekey("--add", _new_recipient(miad), "--log-json", "--quiet")
    lines = [json.loads(line) for line in said.err.splitlines()]
    assert [one.get("state") for one in lines[:3]] == ["rekeyed"] * 3
    assert "key.txt" not in said.err


# --- A real process


def test_passphrase_stays_out_of_sight(environment, sealed, work):
    """Through standard input of a real process, and in none of what it says."""
    arguments = ["keys", "new", "identity", "me.txt", "--passphrase-fd", "0"]
    done = subprocess.run(
        [sys.executable, "-m", "miad_cli", *arguments],
        input=PASSPHRASE,
        capture_output=True,
        text=True,
        encoding="utf-8",
        env=environment,
        check=False,
    )
    assert done.returncode == 0
    assert PASSPHRASE not in done.stdout + done.stderr
    assert (work / "me.txt").read_bytes().startswith(b"-----BEGIN AGE ENCRYPTED FILE-----")
