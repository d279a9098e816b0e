"""`dvc repro` with data that lies in S3 or in a DVC project: run when it changed, left alone when it did not."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import support
import weed
from medloop import params
from support import CANARY, Project

SETTINGS = {
    "base": {"dataset": "wards"},
    "ingest": {"source": "dicom", "split": {"val": 0.25, "test": 0.35}, "workers": 1},
}
RAN = "Running stage 'ingest'"


def git(folder: Path, *arguments: str) -> None:
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True)


def write_params(project: Project, **ingest) -> None:
    content = params.merge(params.mapping(support.ROOT / "params.yaml"), SETTINGS)
    (project.folder / "params.yaml").write_text(yaml.safe_dump(params.merge(content, {"ingest": ingest})))


def data_hash(project: Project) -> str:
    return json.loads((project.folder / "artifacts/samples/lineage.json").read_text())["data_hash"]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with weed.serving(tmp_path_factory.mktemp("weed")) as env:
        weed.client(env).create_bucket(Bucket="scans")
        yield env


@pytest.fixture(scope="module")
def project(server, tmp_path_factory) -> Project:
    project = Project(tmp_path_factory.mktemp("project"))
    project.env |= server
    return project


def test_dvc_sees_that_a_bucket_changed(project, server, tmp_path):
    tree = support.dicom_tree(tmp_path / "wards", 40, name=CANARY)
    s3 = weed.client(server)
    for path in tree.rglob("*"):
        if path.is_file():
            s3.put_object(Bucket="scans", Key=f"wards/{path.relative_to(tree).as_posix()}", Body=path.read_bytes())
    write_params(project, root="s3://scans/wards")
    assert RAN in project.run("dvc", "repro", "ingest")
    first = data_hash(project)
    assert "Data and pipelines are up to date" in project.run("dvc", "repro", "ingest")
    table = (tree / "labels.csv").read_text().splitlines()
    s3.put_object(Bucket="scans", Key="wards/labels.csv", Body="\n".join(table).encode())
    assert RAN in project.run("dvc", "repro", "ingest")
    assert data_hash(project) != first
    assert CANARY not in project.output


def test_the_command_says_what_is_wrong_with_a_bucket_before_dvc_does(project):
    write_params(project, root="s3://scans/wards")
    before = project.contents()
    said = project.run("medloop", "repro", fails=True, AWS_SECRET_ACCESS_KEY="wrong")
    assert said.startswith("medloop: s3://scans/wards: http://127.0.0.1:")
    assert "refused access (SignatureDoesNotMatch)" in said
    assert "Running stage" not in said
    said = project.run("medloop", "ingest", fails=True, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert project.returncode == 4
    assert "Traceback" not in said
    assert project.contents() == before


SLOW_CLOCK = """
import datetime
import botocore.auth
now = botocore.auth.get_current_datetime
botocore.auth.get_current_datetime = lambda *asked, **how: now(*asked, **how) - datetime.timedelta(hours=2)
from medloop.cli import main
main()
"""


@pytest.mark.parametrize("command", ["ingest", "repro"])
def test_the_command_says_that_the_clock_is_wrong(project, command):
    write_params(project, root="s3://scans/wards")
    before = project.contents()
    said = project.run(sys.executable, "-c", SLOW_CLOCK, command, fails=True)
    assert project.returncode == 2
    [line] = [line for line in said.splitlines() if line.startswith("medloop: ")]
    assert line.startswith("medloop: s3://scans/wards: http://127.0.0.1:")
    assert "refused the request since its clock and this machine's differ (RequestTimeTooSkewed): set the clock" in line
    assert "Traceback" not in said
    assert project.contents() == before


def test_a_dvc_project_that_cannot_be_reached_ends_as_any_other_service(project):
    write_params(project, dvc={"repo": "https://127.0.0.1:9/wards.git", "path": "wards", "rev": "v1"})
    before = project.contents()
    said = project.run("medloop", "repro", fails=True)
    assert project.returncode == 4
    last = said.splitlines()[-1]
    assert last.startswith("medloop: https://127.0.0.1:9/wards.git cannot be cloned; check ingest.dvc.repo")
    assert "Traceback" not in said
    assert project.contents() == before


def test_a_revision_of_a_dvc_project_runs_ingest_when_it_is_changed(project, server, tmp_path):
    """The remote of the project is S3; the same files give the same hash as in the bucket and as DVC has it."""
    other = Project.__new__(Project)
    other.folder, other.env, other.output = tmp_path / "data", project.env, ""
    other.folder.mkdir()
    tree = support.dicom_tree(other.folder / "wards", 40, name=CANARY)
    git(other.folder, "init", "-q")
    other.run("dvc", "init", "-q")
    other.run("dvc", "remote", "add", "-d", "s3", "s3://scans/dvc-remote")
    for tag in ("v1", "v2"):
        other.run("dvc", "add", "-q", "wards")
        git(other.folder, "add", ".")
        git(other.folder, "commit", "-qm", tag)
        git(other.folder, "tag", tag)
        other.run("dvc", "push", "-q")
        (tree / "labels.csv").write_text("\n".join((tree / "labels.csv").read_text().splitlines()))
    found = []
    for tag in ("v1", "v2"):
        write_params(project, dvc={"repo": f"file://{other.folder}", "path": "wards", "rev": tag})
        assert RAN in project.run("dvc", "repro", "ingest")
        found.append(data_hash(project))
        git(other.folder, "checkout", "-q", tag)
        listed = yaml.safe_load((other.folder / "wards.dvc").read_text())["outs"][0]["md5"]
        assert found[-1] == f"md5:{listed}"
    assert found[0] != found[1]
    assert "Data and pipelines are up to date" in project.run("dvc", "repro", "ingest")
    write_params(project, dvc={"repo": f"file://{other.folder}", "path": "wards", "rev": "v1"})
    git(other.folder, "checkout", "-q", "v2")
    (tree / "labels.csv").write_text("path,label\n")
    other.run("dvc", "add", "-q", "wards")
    git(other.folder, "commit", "-qam", "v3")
    git(other.folder, "tag", "v3")  # and nobody pushes
    before = project.contents()
    for rev, message in (
        ("v3", f"the DVC remote of file://{other.folder} lacks the data of wards at v3 of file://{other.folder}, or "),
        ("v4", f"file://{other.folder} has no revision v4; check ingest.dvc.rev"),
    ):
        write_params(project, dvc={"repo": f"file://{other.folder}", "path": "wards", "rev": rev})
        said = project.run("medloop", "ingest", fails=True)
        assert project.returncode == 2
        assert f"medloop: {message}" in said
        assert "Traceback" not in said
        assert project.contents() == before
    write_params(project, dvc={"repo": f"file://{other.folder}", "path": "wards", "rev": "v1"})
    fresh = {"MEDLOOP_STATE": str(tmp_path / "state")}
    for wrong in ({"AWS_SECRET_ACCESS_KEY": "wrong"}, {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}):
        said = project.run("medloop", "ingest", fails=True, **fresh, **wrong)
        assert f"medloop: the DVC remote of file://{other.folder}" in said
        assert "Traceback" not in said
    assert CANARY not in project.output
