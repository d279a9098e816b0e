"""Data of a DVC project at a revision: through DVC itself, fetched once, refused in one message."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from medloop import params
from medloop.errors import Refused, Unreachable
from medloop.fetching import project, watermark
from medloop.fetching.data import combined, data_hash, fetched

FILES = {"labels.csv": b"path,label\n", "Doe^Jane/1.dcm": b"\x00" * 3000}


def run(folder: Path, *command: str) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    names = {f"GIT_{role}_{what}": "a@localhost" for role in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    env = {**os.environ, **names, "PATH": path, "DVC_NO_ANALYTICS": "1"}
    subprocess.run(command, cwd=folder, env=env, check=True, capture_output=True)


@pytest.fixture(scope="module")
def origin(tmp_path_factory) -> Path:
    """A DVC project with a remote in the folder beside it; the data of v2 was not pushed."""
    folder = tmp_path_factory.mktemp("origin") / "project"
    (folder / "data/wards/Doe^Jane").mkdir(parents=True)
    for name, content in FILES.items():
        (folder / "data/wards" / name).write_bytes(content)
    run(folder, "git", "init", "-q")
    run(folder, "dvc", "init", "-q")
    run(folder, "dvc", "remote", "add", "-d", "beside", str(folder.parent / "remote"))
    (folder / "plain").mkdir()
    (folder / "plain/a.txt").write_text("in Git alone")
    for tag in ("v1", "v2"):
        run(folder, "dvc", "add", "-q", "data/wards")
        run(folder, "git", "add", ".")
        run(folder, "git", "commit", "-qm", tag)
        run(folder, "git", "tag", tag)
        if tag == "v1":
            run(folder, "dvc", "push", "-q")
        (folder / "data/wards/2.dcm").write_bytes(b"two")
    return folder


@pytest.fixture
def downloads(monkeypatch) -> list[str]:
    """The files that were downloaded."""
    seen, download = [], project.Revision.download

    def counted(self, each, path):
        seen.append(each.path)
        return download(self, each, path)

    monkeypatch.setattr(project.Revision, "download", counted)
    return seen


def section(repo: Path | str, path: str = "data/wards", rev: str = "v1") -> params.Ingest:
    return params.Ingest(source="folder", dvc={"repo": str(repo), "path": path, "rev": rev})


def got(repo: Path | str, path: str = "data/wards", rev: str = "v1") -> tuple[dict[str, bytes], str | None]:
    with fetched(section(repo, path, rev)) as (folder, digests):
        files = [each for each in folder.rglob("*") if each.is_file()]
        return {each.relative_to(folder).as_posix(): each.read_bytes() for each in files}, combined(digests)


def cached() -> list[Path]:
    place = Path(os.environ["MEDLOOP_STATE"]) / "private/data"
    return [path for path in place.rglob("*") if path.is_file()]


@pytest.mark.parametrize("address", ["{}", "file://{}"])
def test_a_revision_comes_with_the_hash_that_dvc_gives_it(origin, downloads, tmp_path, address):
    files, digest = got(address.format(origin))
    assert files == FILES
    for name, content in FILES.items():
        (tmp_path / "here" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "here" / name).write_bytes(content)
    assert digest == data_hash(tmp_path / "here")
    assert digest.startswith("md5:")
    assert digest.endswith(".dir")
    assert sorted(downloads) == sorted(FILES)
    assert got(address.format(origin)) == (files, digest)
    assert sorted(downloads) == sorted(FILES), "fetched again"


@pytest.mark.parametrize(
    ("path", "rev", "message"),
    [
        ("data/wards", "nix", "has no revision nix; check ingest.dvc.rev"),
        ("data/none", "v1", r"^data/none at v1 of \S+ does not exist; check ingest.dvc.path"),
        (
            "data/wards",
            "v2",
            r"^the DVC remote of \S+ lacks the data of data/wards at v2 of \S+, or will not give it: `dvc push` there",
        ),
        ("plain", "v1", r"^plain at v1 of \S+ holds files that DVC does not track"),
        ("data/wards/labels.csv", "v1", "is no folder with files"),
    ],
)
def test_what_is_not_there_is_refused(origin, path, rev, message):
    with pytest.raises(Refused, match=message):
        got(f"file://{origin}", path, rev)
    assert cached() == []


def test_a_repository_that_is_away_is_unreachable(tmp_path):
    for repo in (tmp_path / "nowhere", "http://127.0.0.1:9/data.git"):
        with pytest.raises(Unreachable, match=r"cannot be cloned; check ingest.dvc.repo"):
            got(repo)


def test_a_file_that_is_damaged_or_lost_in_the_remote_is_refused_and_not_kept(origin, tmp_path):
    shutil.copytree(origin.parent, tmp_path / "copy")
    folder = tmp_path / "copy/project"
    run(folder, "dvc", "remote", "modify", "beside", "url", str(tmp_path / "copy/remote"))
    run(folder, "git", "commit", "-qam", "moved")
    run(folder, "git", "checkout", "-q", "-B", "moved")
    run(folder, "git", "checkout", "v1", "--", "data/wards.dvc")
    run(folder, "git", "commit", "-qm", "first data")
    [path] = [path for path in (tmp_path / "copy/remote").rglob("*") if path.is_file() and path.stat().st_size == 11]
    path.chmod(0o600)
    path.write_bytes(b"xxxx,label\n")
    with pytest.raises(Refused, match=r"^file [0-9a-f]{16} of data/wards at moved of \S+ is not what was stored: "):
        got(f"file://{folder}", rev="moved")
    path.unlink()
    with pytest.raises(Refused, match=r"^the DVC remote of \S+ lacks file [0-9a-f]{16} of data/wards at moved"):
        got(f"file://{folder}", rev="moved")
    assert [each for each in cached() if each.stat().st_size == 11] == []


def test_a_password_in_the_address_is_refused():
    reference = {"repo": "https://me:hunter2@example.org/data", "path": "wards", "rev": "v1"}
    with pytest.raises(Refused, match=r"ingest.dvc.repo: repo must not hold a password or token") as refused:
        params.check({"schema_version": 1, "ingest": {"dvc": reference}}, where="params.yaml")
    assert "hunter2" not in str(refused.value)


def test_one_place_at_a_time():
    reference = {"repo": "r", "path": "wards", "rev": "v1"}
    with pytest.raises(Refused, match="with dvc the root must be data/none, got data/wards"):
        params.check({"schema_version": 1, "ingest": {"dvc": reference, "root": "data/wards"}}, where="params.yaml")


def test_a_watermark_is_told_without_fetching(origin, downloads):
    found = watermark.read(section(origin))
    assert (found.files, found.newest) == (2, None)
    assert found == watermark.read(section(origin))
    assert not downloads
    with pytest.raises(Refused, match="lacks the data of data/wards at v2"):
        watermark.read(section(origin, rev="v2"))
