"""protect, send, fetch with DCMTK, verify, unlock: identical to the original files."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from certificates import Certificates
from pictures import Study, make_study, miad
from pydicom import dcmread
from servers import Server, StartServer, free_port, need

Fetch = Callable[[Server, Study, Path], None]


def run_tool(folder: Path, preload: Path, *line: object) -> None:
    """Run one of DCMTK's tools in `folder`; movescu with +B writes nowhere else."""
    settings = {**os.environ, "LD_PRELOAD": str(preload)}
    done = subprocess.run(
        [str(one) for one in line],
        cwd=folder,
        env=settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def study_uid(study: Study) -> str:
    return str(dcmread(study.files[0]).StudyInstanceUID)


def by_getscu(server: Server, study: Study, target: Path) -> None:
    run_tool(
        target, server.preload,
        need("getscu"), "-S", "-aec", server.aet, "+B",
        "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_uid(study)}",
        server.host, server.port,
    )  # fmt: skip


def by_movescu(server: Server, study: Study, target: Path) -> None:
    port = free_port()
    server.introduce("MOVESCU", port)
    run_tool(
        target, server.preload,
        need("movescu"), "-S", "-aec", server.aet, "-aet", "MOVESCU", "-aem", "MOVESCU",
        "--port", port, "+B",
        "-k", "QueryRetrieveLevel=STUDY", "-k", f"StudyInstanceUID={study_uid(study)}",
        server.host, server.port,
    )  # fmt: skip


def unlock_all(fetched: Path, study: Study, target: Path) -> list[bytes]:
    """What verifies and unlocks to, in the originals' order of content."""
    assert miad("verify", fetched, "--quiet") == 0
    assert miad("unlock", fetched, "--key", study.key, "-o", target, "--quiet") == 0
    return sorted(path.read_bytes() for path in target.rglob("*") if path.is_file())


def originals_of(study: Study) -> list[bytes]:
    return sorted(path.read_bytes() for path in study.originals.rglob("*.dcm"))


@pytest.mark.parametrize("fetch", [by_getscu, by_movescu], ids=["C-GET", "C-MOVE"])
def test_through_orthanc_and_back(
    study: Study, orthanc: Server, tmp_path: Path, fetch: Fetch
) -> None:
    fetched = tmp_path / "fetched"
    fetched.mkdir()

    code = miad("send", study.protected, "--dest", orthanc.dest, "--yes-not-clinical", "-q")
    fetch(orthanc, study, fetched)

    assert code == 0
    assert len(list(fetched.iterdir())) == 3
    assert unlock_all(fetched, study, tmp_path / "unlocked") == originals_of(study)


def test_through_orthanc_and_back_over_tls(
    study: Study, orthanc_tls: Server, certificates: Certificates, tmp_path: Path
) -> None:
    toml = tmp_path / "destinations.toml"
    toml.write_text(
        f"""
[release]
purpose = "release"
aet = "ORTHANC"
host = "localhost"
port = {orthanc_tls.port}
[release.tls]
ca = "{certificates.ca}"
cert = "{certificates.client}"
key = "{certificates.client_key}"
"""
    )
    fetched = tmp_path / "fetched"
    fetched.mkdir()

    code = miad(
        "send", study.protected, "--dest", "release", "--destinations", toml, "--verify", "-q"
    )
    for uid, content in orthanc_tls.instances().items():
        (fetched / f"{uid}.dcm").write_bytes(content)

    assert code == 0
    assert unlock_all(fetched, study, tmp_path / "unlocked") == originals_of(study)


def test_storescp_gets_what_was_verified_byte_for_byte(study: Study, storescp: Server) -> None:
    code = miad("send", study.protected, "--dest", storescp.dest, "--yes-not-clinical", "-q")

    stored = {
        str(dcmread(path).SOPInstanceUID): data_set(path)
        for path in (storescp.folder / "stored").iterdir()
    }
    assert code == 0
    assert stored == {
        uid: data_set(path) for uid, path in zip(study.uids, study.files, strict=True)
    }


def data_set(path: Path) -> bytes:
    content = path.read_bytes()
    return content[144 + int.from_bytes(content[140:144], "little") :]


def test_small_pdus(study: Study, start_storescp: StartServer) -> None:
    server = start_storescp("--max-pdu", "4096")

    code = miad("send", study.protected, "--dest", server.dest, "--yes-not-clinical", "-q")

    stored = sorted(data_set(path) for path in (server.folder / "stored").iterdir())
    assert code == 0 and stored == sorted(map(data_set, study.files))


@pytest.mark.parametrize("kind", ["orthanc", "dcmqrscp"])
def test_read_back_in_several_portions(
    tmp_path: Path,
    kind: str,
    request: pytest.FixtureRequest,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """More instances of a series than one C-GET asks for."""
    server = request.getfixturevalue(kind)
    study = make_study(tmp_path / "many", slices=40, side=16)
    code = miad(
        "send", study.protected, "--dest", server.dest, "--yes-not-clinical", "--verify", "--json"
    )

    said = json.loads(capfd.readouterr().out)
    assert code == 0
    assert [one["read_back"] for one in said["files"]] == [True] * 40


def test_protect_with_the_shipped_program_and_send(
    tmp_path: Path, orthanc: Server, study: Study
) -> None:
    """Not the helper's marks: what `protect` itself writes."""
    from PIL import Image

    logo = tmp_path / "logo.png"
    Image.new("RGBA", (20, 10), (255, 255, 255, 255)).save(logo)
    out, key, fetched = tmp_path / "out", tmp_path / "k.txt", tmp_path / "fetched"
    line = ["protect", study.originals, "--logo", logo, "-o", out, "--key-out", key, "-q"]
    (study.home / "owner.pub.pem").unlink()  # it makes its own

    assert miad(*line, "--search", "random", "--effort", "fast") == 0
    assert miad("send", out, "--dest", orthanc.dest, "--yes-not-clinical", "--verify", "-q") == 0
    fetched.mkdir()
    for uid, content in orthanc.instances().items():
        (fetched / f"{uid}.dcm").write_bytes(content)
    back = tmp_path / "back"
    assert miad("unlock", fetched, "--key", key, "-o", back, "-q") == 0
    assert sorted(one.read_bytes() for one in back.rglob("*.dcm")) == originals_of(study)


# --- Storage commitment -----------------------------------------------------------------------

COMMIT = """
[there]
purpose = "release"
aet = "{aet}"
host = "127.0.0.1"
port = {port}
[there.commit]
port = {listen}
wait = {wait}
"""


def test_storage_commitment(
    study: Study, orthanc: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    listen = free_port()
    orthanc.introduce("MIAD", listen)
    toml = tmp_path / "destinations.toml"
    toml.write_text(COMMIT.format(aet=orthanc.aet, port=orthanc.port, listen=listen, wait=20))

    code = miad(
        "send", study.protected, "--dest", "there", "--destinations", toml, "--commit", "--json"
    )

    said = json.loads(capfd.readouterr().out)
    assert code == 0, said
    assert [one["committed"] for one in said["files"]] == [True] * 3


def test_storage_commitment_over_tls(
    study: Study,
    orthanc_tls: Server,
    certificates: Certificates,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    listen = free_port()
    orthanc_tls.introduce("MIAD", listen, tls=True)
    toml = tmp_path / "destinations.toml"
    facts = {"aet": orthanc_tls.aet, "port": orthanc_tls.port, "listen": listen, "wait": 20}
    files = [certificates.ca, certificates.client, certificates.client_key]
    lines = [f'{key} = "{file}"' for key, file in zip(("ca", "cert", "key"), files, strict=True)]
    toml.write_text("\n".join([COMMIT.format(**facts), "[there.tls]", *lines, ""]))

    code = miad(
        "send", study.protected, "--dest", "there", "--destinations", toml, "--commit", "--json"
    )

    said = json.loads(capfd.readouterr().out)
    assert code == 0, said
    assert [one["committed"] for one in said["files"]] == [True] * 3


def test_storage_commitment_of_what_was_lost(
    study: Study, orthanc: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Sent before, deleted there since: the PACS does not commit to it."""
    listen = free_port()
    orthanc.introduce("MIAD", listen)
    toml = tmp_path / "destinations.toml"
    toml.write_text(COMMIT.format(aet=orthanc.aet, port=orthanc.port, listen=listen, wait=20))
    line = ["send", study.protected, "--dest", "there", "--destinations", toml, "--json"]
    assert miad(*line) == 0
    orthanc.clear()
    capfd.readouterr()

    code = miad(*line, "--commit", "--resume")

    said = json.loads(capfd.readouterr().out)
    assert code == 10
    assert [one["committed"] for one in said["files"]] == [False] * 3
    assert "does not have it" in said["files"][0]["reason"]
    assert miad(*line, "--resume") == 0
    assert set(orthanc.instances()) == set(study.uids)


def test_storage_commitment_that_nobody_answers(
    study: Study, orthanc: Server, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Orthanc sends its answer to another port than the one we listen on."""
    orthanc.introduce("MIAD", free_port())
    toml = tmp_path / "destinations.toml"
    facts = {"aet": orthanc.aet, "port": orthanc.port, "listen": free_port(), "wait": 1}
    toml.write_text(COMMIT.format(**facts))

    code = miad(
        "send", study.protected, "--dest", "there", "--destinations", toml, "--commit", "--json"
    )

    said = json.loads(capfd.readouterr().out)
    assert code == 10
    assert "no answer about storage commitment" in said["files"][0]["reason"]
    assert "MIAD" in said["files"][0]["hint"]


def test_pacs_without_storage_commitment(
    study: Study, storescp: Server, capfd: pytest.CaptureFixture[str]
) -> None:
    code = miad(
        "send", study.protected, "--dest", storescp.dest, "--yes-not-clinical", "--commit", "--json"
    )

    assert code == 10
    assert all(one["committed"] is False for one in json.loads(capfd.readouterr().out)["files"])
