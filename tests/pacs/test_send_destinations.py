"""Destinations: what is understood, and what is refused with a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from miad_cli.errors import UsageError
from miad_cli.pacs.destinations import Destination, Retries, find_destination, load_destinations

TOML = """
[archive]
purpose = "release"
aet = "ARCHIVE"
host = "pacs.example.org"
port = 104
calling_aet = "SENDER"

[archive.tls]
ca = "certificates/ca.pem"
cert = "/etc/miad/cert.pem"
key = "key.pem"

[web]
purpose = "release"
url = "https://pacs.example.org/dicom-web"

[web.auth]
user = "miad"
file = "secret.txt"

[plain]
aet = "PLAIN"
host = "10.0.0.1"
port = 11112
"""


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "destinations.toml"
    path.write_text(TOML)
    return path


def test_paths_count_from_the_folder_of_the_file(toml: Path, tmp_path: Path) -> None:
    found = load_destinations(toml)

    tls, auth = found["archive"].tls, found["web"].auth
    assert tls is not None and auth is not None
    assert tls.ca == tmp_path / "certificates" / "ca.pem"
    assert tls.cert == Path("/etc/miad/cert.pem")
    assert auth.file == tmp_path / "secret.txt"


def test_example_of_the_documentation_is_valid(tmp_path: Path) -> None:
    """docs/pacs.md shows every key, with the defaults where there are some."""
    page = (Path(__file__).resolve().parents[2] / "docs" / "pacs.md").read_text(encoding="utf-8")
    path = tmp_path / "destinations.toml"
    path.write_text(page.split("```toml\n")[1].split("```")[0], encoding="utf-8")

    found = load_destinations(path)

    dimse, web = found["research"], found["web"]
    assert (dimse.kind, web.kind) == ("dimse", "dicomweb")
    assert (dimse.timeouts, dimse.retries, dimse.commit) == (web.timeouts, web.retries, web.commit)
    shown = {*dimse.model_fields_set, *web.model_fields_set}
    assert shown == set(Destination.model_fields)


def test_kinds_and_purposes(toml: Path) -> None:
    found = load_destinations(toml)

    assert {name: one.kind for name, one in found.items()} == {
        "archive": "dimse",
        "web": "dicomweb",
        "plain": "dimse",
    }
    found["archive"].check_purpose()
    with pytest.raises(UsageError, match="no purpose"):
        found["plain"].check_purpose(not_clinical=True)


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ("A@host:104", ("A", "host", 104)),
        ("MY PACS@10.0.0.1:11112", ("MY PACS", "10.0.0.1", 11112)),
        ("A@[::1]:104", ("A", "::1", 104)),
    ],
)
def test_written_out(text: str, facts: tuple[str, str, int]) -> None:
    found = find_destination(text, {})

    assert (found.aet, found.host, found.port) == facts
    assert not found.is_declared and found.kind == "dimse"


def test_written_out_is_what_is_declared_for_the_same_place(toml: Path) -> None:
    found = find_destination("ARCHIVE@pacs.example.org:104", load_destinations(toml))

    assert found.name == "archive" and found.calling_aet == "SENDER" and found.is_declared


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("nowhere", "no destination nowhere"),
        ("A@host", "no destination"),
        ("A@host:0", "greater than or equal to 1"),
        ("A@host:65536", "less than or equal to 65535"),
        ("AN-AE-TITLE-OF-17@host:104", "no destination"),
        ("@host:104", "no destination"),
        ("http://pacs.example.org/dicom-web", "in clear"),
        ("ftp://pacs.example.org/", "https://HOST/PATH"),
        ("https://user:secret@pacs.example.org/", "no login in the URL"),
        ("https://pacs.example.org/?a=b", "neither"),
        ("https://", "https://HOST/PATH"),
        ("https://host:notaport/", "no URL"),
    ],
)
def test_what_cannot_be_meant(text: str, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        find_destination(text, {})

    assert "secret" not in caught.value.message.replace("//user:secret@", "")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_http_is_for_this_machine(host: str) -> None:
    assert find_destination(f"http://{host}:8042/dicom-web", {}).kind == "dicomweb"


def test_every_fault_is_said_at_once(tmp_path: Path) -> None:
    path = tmp_path / "destinations.toml"
    path.write_text(
        """
a = 1
[b]
aet = "B"
[c]
url = "https://c/"
colour = "red"
[d]
aet = "D"
host = "d"
port = 0
[e]
url = "https://e/"
[e.auth]
user = "e"
[f]
aet = "F"
host = "f"
port = 1
[f.tls]
key = "key.pem"
"""
    )

    with pytest.raises(UsageError) as caught:
        load_destinations(path)

    for fault in ("a:", "b:", "c.colour", "d.port", "e.auth", "f.tls"):
        assert fault in caught.value.message


def test_secrets_come_from_a_file_or_a_variable(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "token").write_text("abc\nrest\n")
    monkeypatch.setenv("TOKEN", "def")
    by_file = Destination(url="https://a/", auth={"file": tmp_path / "token"}).auth
    by_variable = Destination(url="https://a/", auth={"env": "TOKEN", "user": "u"}).auth

    assert by_file is not None and (by_file.kind, by_file.secret()) == ("bearer", "abc")
    assert by_variable is not None
    assert (by_variable.kind, by_variable.secret()) == ("basic", "def")


@pytest.mark.parametrize("content", [None, b"", b"\n", b"a\x01b\n", b"\xff\xfe"])
def test_secret_that_is_none(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "token").write_bytes(content)
    auth = Destination(url="https://a/", auth={"file": tmp_path / "token"}).auth

    assert auth is not None
    with pytest.raises(UsageError):
        auth.secret()


def test_pauses_grow_up_to_the_longest() -> None:
    assert [Retries(delay=1, longest=5).pause(n) for n in (1, 2, 3, 4)] == [1, 2, 4, 5]
