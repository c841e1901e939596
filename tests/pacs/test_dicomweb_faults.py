"""DICOMweb against a server that misbehaves: each answer, and what follows from it."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pictures import Study, miad
from servers import HOST
from web import JSON, Reply, WebServer, stow_answer, uid_of
from web_instances import instances_of

from miad_cli.errors import PacsFailed, UsageError
from miad_cli.pacs import dicomweb
from miad_cli.pacs.destinations import Auth, Destination, Retries
from miad_cli.pacs.dicomweb import DicomwebStore, batches
from miad_cli.pacs.http import Answer, parts_of
from miad_cli.pacs.outcome import Instance, Outcome

RETRIES = Retries(times=3, delay=1, longest=8)


@pytest.fixture
def web() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


@pytest.fixture
def other() -> Iterator[WebServer]:
    server = WebServer()
    yield server
    server.close()


class Sender:
    """Sends a study's instances, and counts the seconds instead of waiting."""

    def __init__(self, url: str, instances: list[Instance], **settings: Any) -> None:
        self.waited: list[float] = []
        destination = Destination(name="there", url=url, retries=RETRIES, **settings)
        self.store = DicomwebStore(destination, pause=self.waited.append)
        self.instances = instances

    def send(self) -> list[Outcome]:
        """The outcomes, in the order of the instances."""
        got = {one.instance: one for one in self.store.send(self.instances)}
        return [got[one] for one in self.instances]


@pytest.fixture
def sender(web: WebServer, study: Study) -> Sender:
    return Sender(web.url, instances_of(study))


def say(status: int, content: bytes = b"", **headers: str) -> Any:
    """The same answer to whatever comes."""
    return lambda files: (
        status,
        {name.replace("_", "-"): h for name, h in headers.items()},
        content,
    )


def contents(sender: Sender) -> list[bytes]:
    return [one.path.read_bytes() for one in sender.instances]


# --- What goes out ----------------------------------------------------------------------------


def test_one_request_holds_the_files_as_they_are(web: WebServer, sender: Sender) -> None:
    assert [one.state for one in sender.send()] == ["stored"] * 3
    assert web.posts == [contents(sender)]


def test_batches_are_bounded_by_bytes_and_count(sender: Sender) -> None:
    sizes = [len(one) for one in contents(sender)]
    first, second, third = sender.instances
    assert list(batches(sender.instances, sum(sizes[:2]), 100)) == [[first, second], [third]]
    assert list(batches(sender.instances, 1, 100)) == [[first], [second], [third]]
    assert list(batches(sender.instances, 1 << 30, 2)) == [[first, second], [third]]


def test_a_file_that_changed_is_not_sent(web: WebServer, sender: Sender) -> None:
    place = sender.instances[1].path
    place.write_bytes(place.read_bytes() + b"\0\0")
    outcomes = sender.send()
    assert [one.is_stored for one in outcomes] == [True, False, True]
    assert outcomes[1].exit_code == 3
    assert len(web.posts[0]) == 2


def test_the_login_goes_out_as_a_header(
    web: WebServer, study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TOKEN", "abc.def")
    Sender(web.url, instances_of(study), auth=Auth(env="TOKEN")).send()
    assert web.seen[-1][2]["Authorization"] == "Bearer abc.def"
    (tmp_path / "password").write_text("pass:wörd\n", encoding="utf-8")
    auth = Auth(user="me", file=tmp_path / "password")
    Sender(web.url, instances_of(study), auth=auth).send()
    kind, _, pair = web.seen[-1][2]["Authorization"].partition(" ")
    assert (kind, base64.b64decode(pair).decode("utf-8")) == ("Basic", "me:pass:wörd")


def test_a_login_that_http_cannot_carry(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "sésame")
    for auth in (Auth(env="SECRET"), Auth(env="SECRET", user="a:b")):
        with pytest.raises(UsageError) as raised:
            DicomwebStore(Destination(name="there", url=web.url, auth=auth))
        assert "sésame" not in raised.value.message + raised.value.hint


def test_nothing_is_taken_from_the_surroundings(
    web: WebServer, study: Study, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """No proxy of the environment sees the pictures, no .netrc logs in."""
    (tmp_path / "netrc").write_text(f"machine {HOST} login me password secret\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, f"http://{HOST}:1")
    monkeypatch.delenv("no_proxy", raising=False)
    outcomes = Sender(web.url, instances_of(study)).send()
    assert [one.state for one in outcomes] == ["stored"] * 3
    assert all("Authorization" not in headers for _, _, headers in web.seen)


# --- Answers that name instances ----------------------------------------------------------------


def test_each_instance_gets_its_own_answer(web: WebServer, sender: Sender) -> None:
    first, second, third = (one.sop_instance_uid for one in sender.instances)
    answer = stow_answer(202, {first: 0, second: 0xB006}, {third: 0x0122})
    web.script.append(lambda files: answer)
    outcomes = sender.send()
    assert [one.state for one in outcomes] == ["stored", "stored with warning", "failed"]
    assert [one.status for one in outcomes] == [0, 0xB006, 0x0122]
    assert "dropped attributes" in outcomes[1].reason
    assert "objects of this kind (0x0122)" in outcomes[2].reason
    assert [one.exit_code for one in outcomes] == [0, 0, 10]
    assert len(web.posts) == 1


def test_all_failed(web: WebServer, sender: Sender) -> None:
    failed = {one.sop_instance_uid: 0xC000 for one in sender.instances}
    web.script.append(lambda files: stow_answer(409, {}, failed))
    assert [one.status for one in sender.send()] == [0xC000] * 3
    assert len(web.posts) == 1


def test_what_an_answer_does_not_name_is_not_stored(web: WebServer, sender: Sender) -> None:
    first = sender.instances[0].sop_instance_uid
    web.script.append(lambda files: stow_answer(200, {first: 0}))
    outcomes = sender.send()
    assert [one.is_stored for one in outcomes] == [True, False, False]
    assert "says nothing about it" in outcomes[1].reason


def test_a_failure_whose_reason_is_a_warnings_is_a_failure(web: WebServer, sender: Sender) -> None:
    uids = [one.sop_instance_uid for one in sender.instances]
    web.script.append(lambda files: stow_answer(202, {uids[0]: 0, uids[1]: 0}, {uids[2]: 0xB00E}))
    assert [one.is_stored for one in sender.send()] == [True, True, False]


def test_no_room_now_is_tried_again(web: WebServer, sender: Sender) -> None:
    first, second, third = (one.sop_instance_uid for one in sender.instances)
    for _ in range(2):
        web.script.append(lambda files: stow_answer(202, {first: 0, third: 0}, {second: 0xA700}))
    outcomes = sender.send()
    assert [one.state for one in outcomes] == ["stored"] * 3
    assert [one.attempts for one in outcomes] == [1, 3, 1]
    assert [[uid_of(one) for one in post] for post in web.posts[1:]] == [[second], [second]]
    assert sender.waited == [1, 2]


def test_no_room_for_ever_ends(web: WebServer, sender: Sender) -> None:
    failed = {one.sop_instance_uid: 0xA700 for one in sender.instances}
    web.script.extend([lambda files: stow_answer(409, {}, failed)] * 20)
    outcomes = sender.send()
    assert [one.state for one in outcomes] == ["failed"] * 3
    assert len(web.posts) == 1 + RETRIES.times
    assert sender.waited == [1, 2, 4]


# --- Answers that name none -------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b"<xml/>", b"[" * 5000])
def test_success_without_a_list_is_success(web: WebServer, sender: Sender, content: bytes) -> None:
    web.script.append(say(200, content))
    assert [one.state for one in sender.send()] == ["stored"] * 3


def test_some_without_a_list_is_asked_one_by_one(web: WebServer, sender: Sender) -> None:
    """202 means that some were stored, or changed; alone it can only mean the latter."""
    web.script.extend([say(202)] * 20)
    assert [one.state for one in sender.send()] == ["stored with warning"] * 3
    assert [len(post) for post in web.posts] == [3, 1, 2, 1, 1]


@pytest.mark.parametrize("status", [400, 409, 413, 415, 500])
def test_one_bad_instance_does_not_take_the_others_along(
    web: WebServer, sender: Sender, status: int
) -> None:
    bad = sender.instances[1].sop_instance_uid

    def answer(files: list[bytes]) -> Reply:
        if bad in [uid_of(one) for one in files]:
            return status, {}, b""
        return web.keep(files)

    web.script.extend([answer] * 30)
    outcomes = sender.send()
    assert [one.is_stored for one in outcomes] == [True, False, True]
    assert outcomes[1].status == status
    assert f"(HTTP {status})" in outcomes[1].reason
    assert len(sender.waited) == (RETRIES.times if status == 500 else 0)


@pytest.mark.parametrize("status", [408, 429, 502, 503, 504, 507])
def test_a_busy_server_is_asked_again(web: WebServer, sender: Sender, status: int) -> None:
    web.script.extend([say(status, Retry_After="5"), say(status, Retry_After="999"), say(status)])
    outcomes = sender.send()
    assert [one.state for one in outcomes] == ["stored"] * 3
    assert [one.attempts for one in outcomes] == [4] * 3
    assert sender.waited == [5, RETRIES.longest, 4]


def test_a_server_that_stays_busy(web: WebServer, sender: Sender) -> None:
    web.script.extend([say(503)] * 20)
    outcomes = sender.send()
    assert [one.status for one in outcomes] == [503] * 3
    assert [one.exit_code for one in outcomes] == [10] * 3
    assert len(web.posts) == 1 + RETRIES.times


def test_only_one_batch_is_waited_for(
    web: WebServer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dicomweb, "batches", lambda instances: ([one] for one in instances))
    web.script.extend([say(503)] * 20)
    assert not any(one.is_stored for one in sender.send())
    assert sender.waited == [1, 2, 4]
    assert len(web.posts) == 1 + RETRIES.times + 2


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "wants a login"), (403, "does not allow us"), (404, "no DICOMweb service"),
     (405, "no DICOMweb service"), (501, "no DICOMweb service")],
)  # fmt: skip
def test_what_concerns_everything_ends_the_sending(
    web: WebServer, sender: Sender, monkeypatch: pytest.MonkeyPatch, status: int, words: str
) -> None:
    monkeypatch.setattr(dicomweb, "batches", lambda instances: ([one] for one in instances))
    web.script.extend([say(status)] * 20)
    outcomes = sender.send()
    assert [one.exit_code for one in outcomes] == [10] * 3
    assert words in outcomes[0].reason
    assert outcomes[2].reason.startswith("not sent: ")
    assert [one.attempts for one in outcomes] == [1, 0, 0]
    assert len(web.posts) == 1
    assert not sender.waited


def test_no_redirect_is_followed(
    web: WebServer, other: WebServer, study: Study, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TOKEN", "abc")
    sender = Sender(web.url, instances_of(study), auth=Auth(env="TOKEN"))
    where = f"{other.url}/studies"
    for status in (301, 302, 307, 308):
        web.script.append(say(status, Location=f"{where}?token=1"))
        outcomes = sender.send()
        assert not any(one.is_stored for one in outcomes)
        assert where in outcomes[0].hint
        assert "token" not in outcomes[0].hint
    assert not other.seen


def test_a_connection_that_breaks_is_made_again(web: WebServer, sender: Sender) -> None:
    web.script.append(lambda files: None)
    outcomes = sender.send()
    assert [one.state for one in outcomes] == ["stored"] * 3
    assert [one.attempts for one in outcomes] == [2] * 3
    assert sender.waited == [1]


def test_one_that_breaks_the_connection_every_time(web: WebServer, sender: Sender) -> None:
    bad = sender.instances[1].sop_instance_uid
    web.script.extend(
        [lambda files: None if bad in [uid_of(one) for one in files] else web.keep(files)] * 40
    )
    outcomes = sender.send()
    assert [one.is_stored for one in outcomes] == [True, False, True]
    assert "the connection broke" in outcomes[1].reason


def test_something_else_listens(study: Study) -> None:
    """What is no HTTP gets no pictures."""
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        sender = Sender(
            f"http://{HOST}:{port}", instances_of(study), timeouts={"message": 0.2, "connect": 1}
        )
        with pytest.raises(PacsFailed, match="no answer came"):
            sender.store.check()


@pytest.mark.parametrize("status", [400, 405, 406, 501])
def test_a_service_without_a_search_can_be_sent_to(
    web: WebServer, sender: Sender, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    answer = Answer(status, b"", "", {})
    with monkeypatch.context() as patch:
        patch.setattr(sender.store._service, "ask", lambda *arguments: answer)
        sender.store.check()
    sender.send()
    assert set(web.stored) == {one.sop_instance_uid for one in sender.instances}


# --- Reading back -------------------------------------------------------------------------------


def test_what_is_not_there_is_not_read_back(web: WebServer, sender: Sender) -> None:
    sender.send()
    del web.stored[sender.instances[1].sop_instance_uid]
    fetched = {one.instance: one for one in sender.store.fetch(sender.instances)}
    back = [fetched[one].content for one in sender.instances]
    mine = contents(sender)
    assert back == [mine[0], None, mine[2]]
    assert "does not have it" in fetched[sender.instances[1]].reason


def test_an_answer_without_end_is_left(
    web: WebServer, sender: Sender, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender.send()
    monkeypatch.setattr(dicomweb, "LARGEST_GROWTH", 0)
    first = sender.instances[0]
    web.stored[first.sop_instance_uid] += bytes(4 * first.path.stat().st_size)
    fetched = list(sender.store.fetch(sender.instances))
    assert [one.content is None for one in fetched] == [True, False, False]
    assert "has no end" in fetched[0].reason


@pytest.mark.parametrize(
    ("kind", "content", "parts"),
    [
        ('multipart/related; boundary="b c"', b"--b c\r\n\r\n1\r\n--b c--", [b"1"]),
        ("multipart/related; boundary=b", b"--b\r\n\r\n1\r\n--b--", [b"1"]),
        ("Multipart/Related; Boundary=b", b"\r\n--b\r\nX: y\r\n\r\n\r\n1\r\n--b--", [b"\r\n1"]),
        ("multipart/related; boundary=b", b"--b\r\n\r\n1\r\n--b\r\n\r\n2\r\n--b--", [b"1", b"2"]),
        ("multipart/related; boundary=b", b"--b\r\n\r\n1\r\n", []),
        ("multipart/related; boundary=b", b"--b\r\n\r\n1", []),
        ("multipart/related; boundary=b", b"", []),
        ("multipart/related", b"--b\r\n\r\n1\r\n--b--", []),
        ("text/html; boundary=b", b"--b\r\n\r\n1\r\n--b--", []),
    ],
)  # fmt: skip
def test_parts(kind: str, content: bytes, parts: list[bytes]) -> None:
    assert parts_of(Answer(200, content, kind, {})) == parts


def test_a_reference_that_leads_elsewhere_is_not_followed(
    web: WebServer, other: WebServer, sender: Sender
) -> None:
    for reference in (
        f"{other.url}/studies/1/bulk", f"{web.url}.evil/1", f"{web.url}/../secret",
        "file:///etc/passwd", "",
    ):  # fmt: skip
        assert sender.store.bulk_data(reference) is None
    assert not web.seen
    assert not other.seen


def test_a_login_that_is_no_longer_good_is_said_once(
    web: WebServer, study: Study, capfd: pytest.CaptureFixture[str]
) -> None:
    web.script.extend([say(401)] * 20)
    assert miad("send", study.protected, "--dest", web.url, "--yes-not-clinical") == 10
    assert "wants a login (HTTP 401)" in capfd.readouterr().err
    assert len(web.posts) == 1


def test_json_of_any_shape_is_no_crash(web: WebServer, sender: Sender) -> None:
    odd = (
        b'{"00081199": 1}', b'{"00081199": {"Value": [1, null, {"00081155": []}]}}',
        b'{"00081198": {"Value": {"a": 1}}}', b"null", b'"x"', b"[1, 2]",
        b'{"00081199": {"Value": [{"00081155": {"Value": [{}]}}]}}',
    )  # fmt: skip
    for content in odd:
        web.script.append(lambda files, content=content: (200, JSON, content))
        assert [one.state for one in sender.send()] == ["stored"] * 3
