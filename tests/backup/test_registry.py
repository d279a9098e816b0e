"""A registry that is backed up, lost with all its servers' data, and brought back into fresh servers."""

import io
import json
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

import boto3
import mlflow
import psycopg2
import pytest
import requests
import yaml
from mlflow import MlflowClient
from mlflow.artifacts import download_artifacts

from laptop import COMMAND, Laptop, folder
from medloop import cli, params, provenance
from medloop.backup import making
from medloop.errors import Refused
from medloop.operations.promote import promote
from medloop.stack import postgres, settings
from medloop.tracking import registry
from support import ROOT
from toy_registry import Toy, registered

NAME = "medloop-classification-toy"


@dataclass
class Story:
    """What was, what came back, and what was refused in between."""

    laptop: Laptop
    backups: Path
    secrets: list[str]
    before: dict = field(default_factory=dict)
    after: dict = field(default_factory=dict)
    said: dict[str, subprocess.CompletedProcess] = field(default_factory=dict)


def run(*words: object, **env: str) -> subprocess.CompletedProcess:
    """Run `medloop registry WORDS` in this process: to start one costs more than what most of them do."""
    argv = ["medloop", "registry", *map(str, words)]
    code, out, err = 0, io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patched, redirect_stdout(out), redirect_stderr(err):
        patched.setattr("sys.argv", argv)
        for name, value in env.items():
            patched.setenv(name, value)
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code or 0
    return subprocess.CompletedProcess(argv, code, out.getvalue(), err.getvalue())


def listed(place: Path | str) -> list[str]:
    """Return the names of the whole backups."""
    return [line.split()[0] for line in run("backups", place).stdout.splitlines() if "MLflow" in line]


def everything(folder: Path) -> dict:
    """Return what the registry says of itself to an administrator, each artifact's bytes as a digest."""
    client, found = MlflowClient(), {}
    for version in client.search_model_versions():
        run = client.get_run(version.run_id)
        named = client.get_registered_model(version.name)
        history = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        files = folder / version.version
        download_artifacts(f"models:/{version.name}/{version.version}", dst_path=str(files / "model"))
        download_artifacts(f"runs:/{run.info.run_id}/", dst_path=str(files / "run"))
        found[version.version] = {
            "version": dict(version),
            "aliases": named.aliases,
            "run": run.to_dictionary(),
            "metrics": {name: [dict(each) for each in values] for name, values in history.items()},
            "files": provenance.tree(files),
        }
    connection = psycopg2.connect(dbname="mlflow_auth")
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT username, is_admin, password_hash FROM users WHERE username <> 'admin' ORDER BY 1")
        users = cursor.fetchall()
    connection.close()
    s3 = boto3.Session().client("s3")
    objects = s3.list_objects_v2(Bucket="mlflow", Prefix="leases/")["Contents"]
    journal = {each["Key"]: s3.get_object(Bucket="mlflow", Key=each["Key"])["Body"].read() for each in objects}
    return {"versions": found, "users": users, "journal": journal}


def enter(monkeypatch: pytest.MonkeyPatch, laptop: Laptop) -> None:
    for name, value in laptop.env.items():
        monkeypatch.setenv(name, value)
    mlflow.set_tracking_uri(laptop.env["MLFLOW_TRACKING_URI"])


def kill_amid(place: Path, files: int) -> None:
    """Start a backup and kill it when so many files are there."""
    started = subprocess.Popen([*COMMAND, "registry", "backup", str(place)], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(list((place / "files").glob("*"))) < files and started.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    started.send_signal(signal.SIGKILL)
    assert started.wait() == -signal.SIGKILL, "it ended before it was killed"


@pytest.fixture(scope="module")
def story(tmp_path_factory) -> Iterator[Story]:
    with folder() as path, pytest.MonkeyPatch.context() as monkeypatch:
        laptop, scratch = Laptop(path / "stack"), tmp_path_factory.mktemp("registry")
        monkeypatch.setenv("MEDLOOP_STATE", str(scratch / "state"))
        monkeypatch.setenv("MEDLOOP_KEY_FILE", str(scratch / "key"))
        laptop.up()
        try:
            enter(monkeypatch, laptop)
            story = Story(laptop, scratch / "backups", [laptop.env[name] for name in settings.SECRETS])
            for noise in (0.3, 0.0):
                registered(scratch / "loop", noise=noise)
            assert promote(Toy().base, params.Promote(resamples=100), version="1", samples=scratch / "loop/samples").ok
            assert laptop.run("user", "anna", "--role", "writer").returncode == 0
            anna = (laptop.folder / "users/anna.env").read_text()
            story.before = everything(scratch / "before")
            for files in (1, 3, 12):
                kill_amid(story.backups, files)
                story.said[f"listed after a kill at {files}"] = run("backups", story.backups)
                story.said[f"restored after a kill at {files}"] = run("restore", story.backups)
            story.said["first"] = run("backup", story.backups)
            story.said["second"] = run("backup", story.backups, "--keep", 2)
            story.said["to S3"] = run("backup", "s3://dvc/backups")
            story.said["from S3"] = run("backups", "s3://dvc/backups", "--verify")
            story.said["into what is in use"] = run("restore", story.backups)
            laptop.run("down")
            shutil.rmtree(laptop.folder)
            laptop.up()
            enter(monkeypatch, laptop)
            damaged = scratch / "damaged"
            shutil.copytree(story.backups, damaged)
            flip(damaged, lambda name: name.endswith("model.onnx"))
            story.said["damaged"] = run("restore", damaged)
            story.said["objects then"] = boto3.Session().client("s3").list_objects_v2(Bucket="mlflow")["KeyCount"]
            story.said["users then"] = [user for user, *_ in users()]
            story.said["restored"] = run("restore", story.backups)
            story.after = everything(scratch / "after")
            story.said["anna"] = anna
            yield story
        finally:
            laptop.run("down")


def users() -> list:
    connection = psycopg2.connect(dbname="mlflow_auth")
    with connection, connection.cursor() as cursor:
        cursor.execute("SELECT username FROM users")
        found = cursor.fetchall()
    connection.close()
    return found


def flip(backups: Path, chosen) -> None:
    """Turn one bit of the first file that the latest backup calls by a name that is `chosen`."""
    record = json.loads(sorted((backups / "backups").iterdir())[-1].read_text())
    found = record["databases"] | record["objects"]
    path = backups / "files" / found[next(name for name in sorted(found) if chosen(name))]["sha256"]
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def test_all_comes_back_as_it_was(story):
    said = story.said["restored"]
    assert said.returncode == 0, said.stderr
    assert set(story.before["versions"]) == {"1", "2"}
    for number, before in story.before["versions"].items():
        after = story.after["versions"][number]
        assert before["files"], "there are artifacts"
        for what in before:
            assert after[what] == before[what], (number, what)
    assert story.before["versions"]["1"]["aliases"] == {"champion": "1", "challenger": "2"}
    assert story.after["users"] == story.before["users"] != []
    assert story.after["journal"] == story.before["journal"]
    assert any(key.endswith(".journal.json") for key in story.after["journal"])
    seconds = {name: story.said[name].stdout.split()[-2:] for name in ("first", "second")}
    print(seconds, said.stdout)


def test_the_restored_model_loads_and_is_listed(story, monkeypatch):
    enter(monkeypatch, story.laptop)
    assert registry.load(f"models:/{NAME}@champion") is not None
    command = [*COMMAND, "models", "--set", "base.dataset=toy"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert "champion" in done.stdout, done.stderr


def test_users_keep_their_passwords_and_the_administrator_has_the_new_one(story):
    anna = dict(line.split("=", 1) for line in story.said["anna"].splitlines())
    address = f"{story.laptop.env['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/get?experiment_id=0"

    def status(user: str, password: str) -> int:
        return requests.get(address, auth=(user, password), timeout=10).status_code

    assert status("anna", anna["MLFLOW_TRACKING_PASSWORD"]) == 200
    assert status("admin", story.laptop.env["MLFLOW_TRACKING_PASSWORD"]) == 200
    assert status("admin", story.secrets[settings.SECRETS.index("MLFLOW_TRACKING_PASSWORD")]) == 401


def test_a_pod_of_the_model_server_can_fetch_it(story, monkeypatch, tmp_path):
    """The words are those of the manifest, the user one who was restored."""
    enter(monkeypatch, story.laptop)
    for line in story.said["anna"].splitlines():
        monkeypatch.setenv(*line.split("=", 1))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", story.laptop.env["MLFLOW_TRACKING_URI"])
    manifests = yaml.safe_load_all((ROOT / "infra/k8s/base/model-server.yaml").read_text())
    [fetch] = next(each for each in manifests if each["kind"] == "Deployment")["spec"]["template"]["spec"][
        "initContainers"
    ]
    given = {"$(MODEL_URI)": f"models:/{NAME}@champion", "/model": str(tmp_path / "model")}
    command = [sys.executable, "-m", *(given.get(word, word) for word in fetch["command"])]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "model/MLmodel").exists()


def test_the_registry_goes_on(story, monkeypatch, tmp_path):
    """New rows find their numbers, and the backup of what was restored can be made."""
    enter(monkeypatch, story.laptop)
    registered(tmp_path / "loop", noise=0.1)
    assert MlflowClient().get_model_version_by_alias(NAME, "challenger").version == "3"
    done = run("backup", tmp_path / "backups")
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("files", [1, 3, 12])
def test_a_backup_that_was_killed_is_none(story, files):
    assert story.said[f"listed after a kill at {files}"].stdout.strip().endswith("holds no backup")
    refused = story.said[f"restored after a kill at {files}"]
    assert (refused.returncode, "holds no backup" in refused.stderr) == (2, True)


def test_what_is_there_is_not_copied_again_and_nothing_is_left_over(story):
    copied = [int(story.said[name].stdout.split(" new files")[0].split()[-1]) for name in ("first", "second")]
    assert copied[1] <= len(postgres.DATABASES), "the dumps alone are new"
    records = [json.loads(path.read_text()) for path in (story.backups / "backups").iterdir()]
    wanted = {file["sha256"] for each in records for file in (each["databases"] | each["objects"]).values()}
    assert {path.name for path in (story.backups / "files").iterdir()} == wanted, "those of killed backups are gone"


def test_a_bucket_takes_backups_too(story):
    assert story.said["to S3"].returncode == 0, story.said["to S3"].stderr
    assert "every digest holds" in story.said["from S3"].stdout


def test_a_registry_in_use_is_left_alone(story):
    refused = story.said["into what is in use"]
    assert refused.returncode == 2
    assert "the registry is in use (" in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_damaged_backup_is_refused_by_name_before_anything_is_restored(story):
    refused = story.said["damaged"]
    assert refused.returncode == 2
    assert "model.onnx, is damaged (its digest is" in refused.stderr
    assert (story.said["objects then"], story.said["users then"]) == (0, ["admin"])


def test_a_place_without_a_backup_is_not_verified(tmp_path):
    assert run("backups", tmp_path).returncode == 0
    done = run("backups", tmp_path, "--verify")
    assert (done.returncode, f"{tmp_path} holds no backup" in done.stderr) == (2, True)


def test_a_changed_record_and_a_missing_file_are_refused(story, monkeypatch, tmp_path):
    enter(monkeypatch, story.laptop)
    shutil.copytree(story.backups, tmp_path / "changed")
    record = max((tmp_path / "changed/backups").iterdir())
    record.write_text(record.read_text().replace('"size": ', '"size": 1', 1))
    assert f"{record.name} was changed or damaged" in run("restore", tmp_path / "changed").stderr
    shutil.copytree(story.backups, tmp_path / "missing")
    next((tmp_path / "missing/files").iterdir()).unlink()
    assert "cannot be read: No such file" in run("backups", tmp_path / "missing", "--verify").stderr
    assert "has no backup never" in run("restore", story.backups, "--backup", "never").stderr


def test_a_backup_is_called_by_a_later_second_than_the_last(monkeypatch):
    seconds = iter(["20261128T013156Z"] * 3 + ["20261128T013157Z"] * 2)
    monkeypatch.setattr(making.time, "strftime", lambda *_: next(seconds))
    assert making._made(["20261128T013156Z-742bef991393e728"]) == "20261128T013157Z"


def test_old_backups_are_forgotten(story, monkeypatch, tmp_path):
    enter(monkeypatch, story.laptop)
    names = [run("backup", tmp_path / "few", "--keep", 2).stdout.split(":")[0] for _ in range(3)]
    assert listed(tmp_path / "few") == names[1:]
    assert "every digest holds" in run("backups", tmp_path / "few", "--verify").stdout


def test_a_backup_is_private_and_holds_no_secret_in_clear(story, tmp_path):
    for path in story.backups.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path
    contents = [path.read_bytes() for path in story.backups.rglob("*") if path.is_file()]
    for dump in (each for each in contents if each.startswith(b"PGDMP")):
        (tmp_path / "dump").write_bytes(dump)
        command = [postgres.binaries() / "pg_restore", "--file=-", tmp_path / "dump"]
        contents.append(subprocess.run(command, capture_output=True, check=True).stdout)
    assert any(b"anna" in content for content in contents), "the users are inside"
    passwords = [*story.secrets, story.said["anna"].split("MLFLOW_TRACKING_PASSWORD=")[1].split()[0]]
    assert [secret for secret in passwords if any(secret.encode() in content for content in contents)] == []


@pytest.mark.parametrize(
    ("place", "env", "code", "message"),
    [
        ("s3://mlflow/backups", {}, 2, "is the registry's own bucket"),
        ("s3://nowhere/backups", {}, 2, "has no bucket nowhere: make it, or name another"),
        ("s3://", {}, 2, "is no address in S3: wanted s3://BUCKET/PREFIX"),
        ("ftp://example.org/b", {}, 2, "backups lie in a folder or below s3://BUCKET/PREFIX"),
        (
            "s3://dvc/b",
            {"MEDLOOP_BACKUP_AWS_SECRET_ACCESS_KEY": "wrong"},
            2,
            "(SignatureDoesNotMatch): check the access",
        ),
        ("s3://dvc/b", {"MEDLOOP_BACKUP_AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"}, 4, "127.0.0.1:9 does not answer"),
        ("{tmp}/photos", {}, 2, "holds 1 other files: name an empty folder"),
        ("{tmp}/photos/one.png", {}, 2, "is a file: name a folder"),
        ("{stack}/backups", {}, 2, "inside a stack's own folder"),
        ("{tmp}/b", {"PGPORT": "9"}, 4, "PostgreSQL at 127.0.0.1:9"),
        ("{tmp}/b", {"PGPASSWORD": "wrong"}, 2, "password authentication failed"),
        ("{tmp}/b", {"MEDLOOP_BUCKET_MLFLOW": ""}, 2, "MEDLOOP_BUCKET_MLFLOW is not set"),
    ],
)
def test_an_impossible_place_or_server_is_refused_in_one_line(story, monkeypatch, tmp_path, place, env, code, message):
    enter(monkeypatch, story.laptop)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.png").touch()
    done = run("backup", place.format(tmp=tmp_path, stack=story.laptop.folder), **env)
    assert (done.returncode, message in done.stderr) == (code, True), done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.glob("b/backups/*"))


def test_a_backup_of_another_schema_is_refused(story, monkeypatch):
    from medloop.backup import places, records, restoring

    enter(monkeypatch, story.laptop)
    place = places.opened(str(story.backups), records.CONTENT)
    backup = records.read(place, records.latest(place))
    backup.revisions["mlflow"] = "another"
    with pytest.raises(Refused, match=r"was made by MLflow \S+ \(schema another of mlflow\)"):
        restoring._fits(backup, "it", places.Bucket("mlflow"))
