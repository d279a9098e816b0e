"""`medloop stack` for real: three servers in a folder, what they keep through blows, and who is let in."""

import json
import os
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from urllib.parse import urlsplit

import boto3
import pytest
import requests
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError
from mlflow import MlflowClient

from laptop import Laptop, folder
from medloop import lease, params
from medloop.errors import Refused
from medloop.operations.promote import promote
from medloop.operations.rollback import rollback
from medloop.stack import postgres, process, seaweed, settings
from medloop.tracking import registry
from medloop.tracking.connection import server
from toy_registry import Toy, registered

NAME = "medloop-classification-toy"
CROWD = Path(__file__).parents[1] / "crowd.py"
MIB = 2**20


@pytest.fixture(scope="module")
def started() -> Iterator[tuple[Laptop, str, subprocess.CompletedProcess]]:
    """A stack, what its start said, and how a start went before it for which there was no space."""
    with folder() as path:
        laptop = Laptop(path / "stack")
        full = laptop.run("up", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (8 * MIB, 8 * MIB)))
        said = laptop.up()
        try:
            yield laptop, said, full
        finally:
            laptop.run("down")


@pytest.fixture
def laptop(started, monkeypatch) -> Laptop:
    laptop = started[0]
    for name, value in laptop.env.items():
        monkeypatch.setenv(name, value)
    return laptop


def s3(**changes):
    return boto3.client("s3", config=Config(retries={"total_max_attempts": 1}), **changes)


def test_a_full_disk_is_named_and_leaves_nothing_half_made(started):
    laptop, _, full = started
    assert full.returncode == 2
    assert f"no database could be made in {laptop.folder}/postgres" in full.stderr
    assert "File too large; free some space there" in full.stderr
    assert "Traceback" not in full.stderr
    assert not (laptop.folder / "postgres/data.partial").exists()
    assert (laptop.folder / "postgres/data").exists(), "the next start had the space"


def test_a_folder_that_cannot_be_written_is_refused(tmp_path):
    full = Laptop(tmp_path / "stack").run("up", preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)))
    assert full.returncode == 2
    assert f"the stack's folder {tmp_path}/stack cannot be written: File too large" in full.stderr
    assert [path.name for path in (tmp_path / "stack").iterdir()] == [".lock"]


def test_up_tells_how_it_goes_and_where_all_is(started):
    laptop, said, _ = started
    lines = said.splitlines()
    assert [line.split()[0] for line in lines if " ready after " in line] == ["postgres", "s3", "mlflow"]
    assert f"set -a; source {laptop.folder}/stack.env; set +a" in lines[-1]
    assert laptop.env["MLFLOW_TRACKING_URI"] in said
    assert laptop.env["AWS_ENDPOINT_URL_S3"] in said


def test_secrets_are_in_one_private_file_and_on_no_command_line(laptop):
    secrets = [laptop.env[name] for name in settings.SECRETS if name != "AWS_ACCESS_KEY_ID"]  # that one is a name
    assert len(set(secrets)) == len(secrets)
    private = {laptop.folder / "stack.env", laptop.folder / "mlflow/basic_auth.ini"}
    for path in (*private, *(laptop.folder / "log").iterdir()):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    told = [path.read_text() for path in (laptop.folder / "log").iterdir()]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            told.append(path.read_text())
        except OSError:
            continue
    assert [secret for secret in secrets if any(secret in text for text in told)] == []


def test_a_shell_can_source_the_file(laptop):
    command = f"set -a; source {laptop.folder}/stack.env; set +a; env"
    told = subprocess.run(["bash", "-c", command], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True)
    assert f"MLFLOW_TRACKING_PASSWORD={laptop.env['MLFLOW_TRACKING_PASSWORD']}" in told.stdout.splitlines()


def test_every_port_is_on_loopback_alone(laptop):
    ports = {int(value): name for name, value in laptop.env.items() if name.startswith(settings.PORT)}
    heard = {}
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            host, port = local.split(":")
            if state == "0A" and int(port, 16) in ports:
                heard.setdefault(ports[int(port, 16)], set()).add(host)
    assert set(heard) == set(ports.values())
    assert set.union(*heard.values()) == {"0100007F"}


def test_a_second_up_says_so_and_starts_nothing(laptop):
    before = [laptop.pid(part) for part in ("postgres", "s3", "mlflow")]
    assert "the stack is up already" in laptop.up()
    assert [laptop.pid(part) for part in ("postgres", "s3", "mlflow")] == before


def test_what_one_part_kept_survives_its_being_killed(laptop):
    s3().put_object(Bucket="dvc", Key="kept", Body=b"through it all")
    before = laptop.pid("postgres"), laptop.pid("mlflow")
    laptop.kill("s3")
    told = laptop.run("status")
    assert told.returncode == 4
    assert [line.split()[-1] for line in told.stdout.splitlines()] == ["up", "down", "up"]
    assert "the stack is up already" not in laptop.up()
    assert (laptop.pid("postgres"), laptop.pid("mlflow")) == before
    assert s3().get_object(Bucket="dvc", Key="kept")["Body"].read() == b"through it all"
    told = laptop.run("status")
    assert (told.returncode, [line.split()[-1] for line in told.stdout.splitlines()]) == (0, ["up"] * 3)


def test_s3_is_ready_once_its_volumes_are_announced(laptop, tmp_path):
    own = settings.read(laptop.folder)
    assert seaweed.part(own).answers() is None
    http, grpc = settings.free_port(), settings.free_port()
    options = [f"-mdir={tmp_path}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-port={http}", f"-port.grpc={grpc}"]
    master = subprocess.Popen([seaweed.part(own).command[0], "master", *options], stderr=subprocess.DEVNULL)
    try:
        empty = seaweed.part(settings.Settings(own.folder, own.values | {f"{settings.PORT}MASTER": str(http)}))
        deadline = time.monotonic() + 60
        while "refused" in (silence := empty.answers()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert silence == "its volumes have not been announced"
    finally:
        master.kill()
        master.wait()


def test_what_was_logged_survives_the_database_being_killed(laptop):
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    client.log_metric(run_id, "auc", 0.8)
    laptop.kill("postgres")
    laptop.up()
    assert laptop.run("status").returncode == 0
    client.log_metric(run_id, "ece", 0.1)
    assert client.get_run(run_id).data.metrics == {"auc": 0.8, "ece": 0.1}


def test_down_and_up_lose_nothing(laptop):
    client = MlflowClient()
    run = client.create_run("0")
    client.log_metric(run.info.run_id, "auc", 0.9)
    client.log_text(run.info.run_id, "kept", "note.txt")
    s3().put_object(Bucket="dvc", Key="night", Body=b"x" * MIB)
    said = laptop.run("down").stdout
    assert [line.split()[0] for line in said.splitlines() if line.endswith("stopped")] == ["mlflow", "s3", "postgres"]
    for name, value in laptop.env.items():
        assert not (name.startswith(settings.PORT) and settings.taken(int(value))), name
    assert "the stack is down already" in laptop.run("down").stdout
    laptop.up()
    assert client.get_run(run.info.run_id).data.metrics == {"auc": 0.9}
    assert s3().get_object(Bucket="dvc", Key="night")["Body"].read() == b"x" * MIB
    [artifact] = s3().list_objects_v2(Bucket="mlflow", Prefix=f"artifacts/0/{run.info.run_id}")["Contents"]
    assert s3().get_object(Bucket="mlflow", Key=artifact["Key"])["Body"].read() == b"kept"


def test_nothing_is_stopped_that_the_stack_did_not_start(tmp_path):
    stranger = subprocess.Popen(["sleep", "60"])
    try:
        settings.open_folder(tmp_path / "stack")
        settings.settle(tmp_path / "stack", {})
        (tmp_path / "stack/run").mkdir()
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        record = {"pid": stranger.pid, "started": 1, "boot": boot}
        (tmp_path / "stack/run/s3.json").write_text(json.dumps(record))
        assert "down already" in Laptop(tmp_path / "stack").run("down").stdout
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"pid": "x", "started": 1, "boot": "b"}', "\xff"])
def test_a_damaged_record_is_none(tmp_path, content):
    settings.open_folder(tmp_path / "stack")
    settings.settle(tmp_path / "stack", {})
    (tmp_path / "stack/run").mkdir()
    (tmp_path / "stack/run/s3.json").write_text(content, encoding="latin-1")
    part = process.Process(tmp_path / "stack", "s3")
    assert (part.alive(), part.stop(signal.SIGTERM)) == (False, None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (b"MEDLOOP_STACK_PORT_S3=abc", "MEDLOOP_STACK_PORT_S3 must be a port, 1 to 65535, got 'abc'"),
        (b"MEDLOOP_STACK_PORT_S3=70000", "MEDLOOP_STACK_PORT_S3 must be a port"),
        (b"NOTE=\xff\xfe", "stack.env is not text: put the file back as it was"),
    ],
)
def test_a_damaged_file_of_settings_is_named(tmp_path, changed, message):
    settings.open_folder(tmp_path / "stack")
    settings.settle(tmp_path / "stack", {})
    path = tmp_path / "stack/stack.env"
    path.write_bytes(path.read_bytes() + changed + b"\n")
    with pytest.raises(Refused, match=message):
        settings.read(tmp_path / "stack")


def test_what_does_not_end_when_it_is_asked_to_is_killed_in_the_end(tmp_path, monkeypatch):
    monkeypatch.setattr(process, "STOP_SECONDS", 1)
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    part = process.Process(tmp_path, "deaf")
    part.start([sys.executable, "-c", deaf], {}, tmp_path)
    while "up" not in part.log.read_text():
        assert part.alive()
    assert part.stop(signal.SIGTERM) == "killed: it did not stop within 1 s"
    assert not part.alive()
    assert part.stop(signal.SIGTERM) is None


def test_a_port_that_is_taken_is_named_with_the_remedy(tmp_path):
    laptop = Laptop(tmp_path / "my stack")
    with socket.create_server((settings.HOST, 0)) as other:
        port = other.getsockname()[1]
        done = laptop.run("up", "--port", f"mlflow={port}")
    assert done.returncode == 2
    assert f"port {port} of mlflow is taken by another program: stop that, or" in done.stderr
    assert f"`medloop stack up --folder '{laptop.folder}' --port mlflow=" in done.stderr
    assert done.stdout == "", "nothing was started"
    assert sorted(path.name for path in laptop.folder.iterdir()) == [".lock", "stack.env"]
    assert f"source '{laptop.folder}/stack.env';" in (laptop.folder / "stack.env").read_text().partition("\n")[0]


def test_a_command_names_no_folder_where_it_is_the_usual_one(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert settings.command("up", Path(".medloop/stack")) == "medloop stack up"
    assert settings.command("down", tmp_path / "it's") == f"medloop stack down --folder '{tmp_path}/it'\"'\"'s'"


@pytest.mark.parametrize("port", ["mlflow", "mlflow=0x", "nothing=5000", "mlflow=70000"])
def test_an_impossible_port_is_refused(tmp_path, port):
    done = Laptop(tmp_path / "stack").run("up", "--port", port)
    assert done.returncode == 2
    assert port.partition("=")[0] in done.stderr


def test_one_port_for_two_parts_is_refused_before_anything_is_written(tmp_path):
    laptop = Laptop(tmp_path / "stack")
    done = laptop.run("up", "--port", "mlflow=24001", "--port", "s3=24001")
    assert (done.returncode, "port 24001 cannot be both mlflow and s3" in done.stderr) == (2, True)
    assert not laptop.folder.exists()
    settings.open_folder(laptop.folder)
    settings.settle(laptop.folder, {"s3": 24001})
    before = (laptop.folder / "stack.env").read_text()
    with pytest.raises(Refused, match="cannot be both s3 and mlflow"):
        settings.settle(laptop.folder, {"mlflow": 24001})
    assert (laptop.folder / "stack.env").read_text() == before


def test_the_port_of_a_part_that_runs_is_not_changed(laptop):
    done = laptop.run("up", "--port", "s3=21000")
    assert done.returncode == 2
    assert f"`medloop stack down --folder {laptop.folder}` before --port" in done.stderr


def test_a_folder_that_is_no_stack_is_refused_and_left_alone(tmp_path):
    for word in ("status", "down"):
        done = Laptop(tmp_path / "none").run(word)
        assert (done.returncode, f"no stack in {tmp_path}/none: `medloop stack up" in done.stderr) == (2, True)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/one.png").touch()
    done = Laptop(tmp_path / "photos").run("up")
    assert (done.returncode, "holds files but no stack.env" in done.stderr) == (2, True)
    assert [path.name for path in (tmp_path / "photos").iterdir()] == ["one.png"]
    done = Laptop(tmp_path / "photos/one.png").run("up")
    assert (done.returncode, "cannot be written" in done.stderr) == (2, True)


def test_a_part_that_dies_while_it_starts_is_shown_by_its_last_words(started):
    with folder() as path:
        settings.open_folder(path / "stack")
        database = postgres.part(settings.settle(path / "stack", {}))
        database.folder.mkdir()
        database.prepare()
        with (database.folder / "data/postgresql.conf").open("a") as file:
            file.write("sharks = 1\n")
        done = Laptop(path / "stack").run("up")
        assert done.returncode == 2
        assert f"postgres ended while it started; the last lines of {path}/stack/log/postgres.log" in done.stderr
        assert 'unrecognized configuration parameter "sharks"' in done.stderr


def test_two_at_once_do_not_start_it_twice(laptop):
    both = [Laptop(laptop.folder), Laptop(laptop.folder)]
    laptop.kill("s3")
    command = [sys.executable, "-c", "from medloop.cli import main; main()", "stack", "up", "--folder", laptop.folder]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in both]
    ends = [(each.communicate(timeout=100), each.returncode) for each in running]
    codes = sorted(code for _, code in ends)
    assert codes in ([0, 0], [0, 2])
    assert all("wait for it" in said[1] for said, code in ends if code == 2)
    assert sum("s3" in line and "starting" in line for said, _ in ends for line in said[0].splitlines()) == 1


def test_s3_takes_large_files_in_parts_and_signs_addresses(laptop, tmp_path):
    content = os.urandom(12 * MIB)
    (tmp_path / "large").write_bytes(content)
    parts = TransferConfig(multipart_threshold=5 * MIB, multipart_chunksize=5 * MIB)
    s3().upload_file(str(tmp_path / "large"), "dvc", "large", Config=parts)
    assert s3().head_object(Bucket="dvc", Key="large")["ETag"].strip('"').endswith("-3")
    address = s3().generate_presigned_url("get_object", {"Bucket": "dvc", "Key": "large"}, ExpiresIn=60)
    assert requests.get(address, timeout=10).content == content
    assert requests.get(address.replace("Signature=", "Signature=0"), timeout=10).status_code == 403
    address = s3().generate_presigned_url("put_object", {"Bucket": "dvc", "Key": "small"}, ExpiresIn=60)
    assert requests.put(address, data=b"small", timeout=10).status_code == 200
    assert s3().get_object(Bucket="dvc", Key="small")["Body"].read() == b"small"


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"aws_secret_access_key": "wrong"}, "SignatureDoesNotMatch"),
        ({"aws_access_key_id": "nobody", "aws_secret_access_key": "wrong"}, "InvalidAccessKeyId"),
    ],
)
def test_s3_refuses_wrong_keys(laptop, changes, code):
    with pytest.raises(ClientError) as found:
        s3(**({"aws_access_key_id": laptop.env["AWS_ACCESS_KEY_ID"]} | changes)).list_buckets()
    assert found.value.response["Error"]["Code"] == code


def test_neither_s3_nor_the_files_behind_it_answer_a_stranger(laptop):
    s3().put_object(Bucket="dvc", Key="private", Body=b"x")
    for name, path in {"S3": "dvc/private", "FILER": "buckets/dvc/private"}.items():
        address = f"http://127.0.0.1:{laptop.env[settings.PORT + name]}/{path}"
        assert requests.get(address, timeout=10).status_code in (401, 403)
        assert requests.put(address, data=b"y", timeout=10).status_code in (401, 403)


@pytest.mark.parametrize("changes", [{"PASSWORD": "wrong"}, {"USERNAME": "nobody"}, {"USERNAME": "", "PASSWORD": ""}])
def test_mlflow_refuses_strangers_in_one_message(laptop, monkeypatch, changes):
    for name, value in changes.items():
        monkeypatch.setenv(f"MLFLOW_TRACKING_{name}", value)
    with pytest.raises(Refused, match=r"not know the user name and password \(401\): set MLFLOW"), server() as client:
        client.search_experiments()
    assert (
        requests.get(f"{laptop.env['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/experiments/get", timeout=9).status_code
        == 401
    )


def become(laptop: Laptop, monkeypatch, name: str, role: str) -> None:
    done = laptop.run("user", name, "--role", role)
    path = laptop.folder / f"users/{name}.env"
    assert (done.returncode, done.stdout) == (0, f"{name} is a {role}; what {name} sources is {path}\n"), done.stderr
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for variable in laptop.env:
        monkeypatch.delenv(variable)
    for line in path.read_text().splitlines():
        monkeypatch.setenv(*line.split("=", 1))


def test_a_reader_reads_and_cannot_promote(laptop, monkeypatch, tmp_path):
    registered(tmp_path)
    become(laptop, monkeypatch, "anna", "reader")
    with pytest.raises(Refused) as found:
        promote(Toy().base, params.Promote(resamples=100), samples=tmp_path / "samples")
    assert "does not allow this user what was asked (403): set MLFLOW_TRACKING_USERNAME" in str(found.value)
    assert "\n" not in str(found.value)
    with server() as client:
        assert registry.get(client, NAME, "1").aliases == ("challenger",)


def test_a_writer_registers_and_promotes_and_makes_no_users(laptop, monkeypatch, tmp_path):
    become(laptop, monkeypatch, "ben", "writer")
    toy = Toy(name="bens")
    registered(tmp_path, toy)
    assert promote(toy.base, params.Promote(resamples=100), samples=tmp_path / "samples").ok
    with server() as client:
        assert registry.get(client, toy.base.model_name, "1").aliases == ("challenger", "champion")
    user = os.environ["MLFLOW_TRACKING_USERNAME"], os.environ["MLFLOW_TRACKING_PASSWORD"]
    address = f"{laptop.env['MLFLOW_TRACKING_URI']}/api/2.0/mlflow/users/create"
    assert (
        requests.post(address, json={"username": "eve", "password": "x" * 12}, auth=user, timeout=9).status_code == 403
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("../eve",), "a user's name is up to 63 letters"),
        (("eve", "--role", "queen"), "unknown role 'queen'; known: reader, writer"),
        (("admin",), "already exists"),
    ],
)
def test_an_impossible_user_is_refused(laptop, words, message):
    done = laptop.run("user", *words)
    assert (done.returncode, message in done.stderr) == (2, True), done.stderr
    assert not [path for path in laptop.folder.glob("users/*") if path.stem not in ("anna", "ben")]


def test_dvc_pushes_and_pulls(laptop, tmp_path):
    def dvc(*words: str) -> None:
        done = subprocess.run([sys.executable, "-m", "dvc", *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr

    dvc("init", "-q", "--no-scm")
    dvc("config", "core.analytics", "false")
    dvc("remote", "add", "-q", "-d", "laptop", "s3://dvc/project")
    dvc("remote", "modify", "laptop", "endpointurl", laptop.env["AWS_ENDPOINT_URL_S3"])
    contents = {f"{number}.bin": os.urandom(1000) for number in range(20)} | {"large.bin": os.urandom(9 * MIB)}
    (tmp_path / "data").mkdir()
    for name, content in contents.items():
        (tmp_path / "data" / name).write_bytes(content)
    dvc("add", "-q", "data")
    dvc("push", "-q")
    subprocess.run(["rm", "-rf", tmp_path / "data", tmp_path / ".dvc/cache"], check=True)
    dvc("pull", "-q")
    assert {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()} == contents
    assert len(s3().list_objects_v2(Bucket="dvc", Prefix="project/")["Contents"]) == len(contents) + 1


TRAINING = """
import sys
from medloop.training.live import Live
run = Live(sys.argv[1], {"epochs": 20}, {"kind": "training"})
for epoch in range(20):
    run.log({"loss": 1 / (1 + epoch), "auc": float(sys.argv[2])}, epoch)
run.tag({"medloop.weights_sha256": sys.argv[1]})
run.close("FINISHED")
"""


def test_four_trainings_at_once_are_logged_whole(laptop):
    commands = [[sys.executable, "-c", TRAINING, f"net-{number}", f"0.{number}"] for number in range(4)]
    running = [subprocess.Popen(command) for command in commands]
    assert [each.wait(timeout=120) for each in running] == [0] * 4
    client = MlflowClient()
    experiment = client.get_experiment_by_name("medloop").experiment_id
    runs = {run.info.run_name: run for run in client.search_runs([experiment], "tags.kind = 'training'")}
    for number in range(4):
        run = runs[f"net-{number}"]
        assert (run.info.status, run.data.metrics["auc"]) == ("FINISHED", number / 10)
        assert run.data.tags["medloop.weights_sha256"] == f"net-{number}"
        history = client.get_metric_history(run.info.run_id, "loss")
        assert [(each.step, each.value) for each in history] == [(epoch, 1 / (1 + epoch)) for epoch in range(20)]


def test_the_mlflow_server_is_killed_amid_a_run_and_nothing_is_lost(laptop):
    client = MlflowClient()
    run_id = client.create_run("0").info.run_id
    for step in range(5):
        client.log_metric(run_id, "loss", 1.0, step=step)
    client.log_text(run_id, "before", "before.txt")
    laptop.kill("mlflow")
    assert laptop.run("status").returncode == 4
    laptop.up()
    for step in range(5, 10):
        client.log_metric(run_id, "loss", 1.0, step=step)
    client.log_text(run_id, "after", "after.txt")
    assert [each.step for each in client.get_metric_history(run_id, "loss")] == list(range(10))
    kept = {each.path: each.file_size for each in client.list_artifacts(run_id)}
    assert kept == {"before.txt": 6, "after.txt": 5}


def test_an_upload_goes_on_after_s3_was_killed_in_its_midst(laptop):
    first, second = os.urandom(6 * MIB), os.urandom(3 * MIB)
    place = {"Bucket": "dvc", "Key": "broken-off"}
    upload = s3().create_multipart_upload(**place)["UploadId"]
    s3().upload_part(**place, UploadId=upload, PartNumber=1, Body=first)

    address = urlsplit(s3().generate_presigned_url("upload_part", place | {"UploadId": upload, "PartNumber": 2}))
    connection = HTTPConnection(address.netloc, timeout=10)
    connection.putrequest("PUT", f"{address.path}?{address.query}")
    connection.putheader("Content-Length", str(len(second)))
    connection.endheaders(second[:MIB])
    laptop.kill("s3")
    with pytest.raises((OSError, HTTPException)), closing(connection):
        connection.getresponse()
    laptop.up()
    kept = s3().list_parts(**place, UploadId=upload)["Parts"]
    assert [(part["PartNumber"], part["Size"]) for part in kept] == [(1, len(first))]
    s3().upload_part(**place, UploadId=upload, PartNumber=2, Body=second)
    parts = s3().list_parts(**place, UploadId=upload)["Parts"]
    whole = [{name: part[name] for name in ("PartNumber", "ETag")} for part in parts]
    s3().complete_multipart_upload(**place, UploadId=upload, MultipartUpload={"Parts": whole})
    assert s3().get_object(**place)["Body"].read() == first + second


@pytest.fixture
def candidates(laptop, tmp_path) -> Path:
    """The samples of a model whose version 1 is champion, with three better versions that want its place."""
    with server() as client:
        if client.search_registered_models(f"name = '{NAME}'"):
            client.delete_registered_model(NAME)
    for noise in (0.3, 0.0, 0.01, 0.02):
        registered(tmp_path, noise=noise)
    assert promote(Toy().base, params.Promote(resamples=100), version="1", samples=tmp_path / "samples").ok
    return tmp_path / "samples"


def holders() -> dict[str, str]:
    with server() as client:
        return {alias: each.number for each in registry.versions(client, NAME) for alias in each.aliases}


def test_of_twenty_machines_that_promote_at_once_one_wins(candidates, tmp_path):
    (tmp_path / "results").mkdir()
    command = [sys.executable, CROWD, candidates, tmp_path / "results"]
    subprocess.run(command, check=True, timeout=200)
    results = [json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")]
    assert sorted(code for code, *_ in results) == [0] + [3] * 19, results
    assert sorted(address for *_, addresses in results for address in addresses) == sorted(
        f"127.0.1.{number + 1}" for number in range(20)
    )
    [winner] = [text.split()[1] for code, text, *_ in results if code == 0]
    assert (holders()["champion"], holders()["previous"]) == (winner, "1")
    assert all(
        f"became version {winner}" in text or f"is now version {winner}" in text for code, text, *_ in results if code
    )


LATE = """
import os, signal, sys
from pathlib import Path
from medloop import params, turn
from medloop.errors import Refused
from medloop.operations.promote import promote
from medloop.operations.rollback import rollback
confirm = turn.confirm
def asleep(name):
    os.kill(os.getpid(), signal.SIGSTOP)
    confirm(name)
turn.confirm = asleep
try:
    promote(params.Base(dataset="toy"), params.Promote(resamples=100), version="2", samples=Path(sys.argv[1]))
except Refused as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_whoever_sleeps_right_before_the_alias_moves_is_refused_when_others_have_moved_it(
    candidates, tmp_path, monkeypatch
):
    monkeypatch.setenv("MEDLOOP_LEASE_SECONDS", "2")
    late = subprocess.Popen([sys.executable, "-c", LATE, candidates], stdout=subprocess.PIPE, text=True)
    os.waitid(os.P_PID, late.pid, os.WSTOPPED)
    try:
        monkeypatch.setenv("MEDLOOP_STATE", str(tmp_path / "another machine"))
        assert promote(Toy().base, params.Promote(resamples=100), version="3", samples=candidates).ok
    finally:
        os.kill(late.pid, signal.SIGCONT)
    said, _ = late.communicate(timeout=60)
    assert (late.returncode, "has expired; token" in said) == (3, True)
    assert holders() == {"challenger": "4", "champion": "3", "previous": "1"}


def test_rollback_and_registration_take_the_lease_too(candidates):
    before = lease.entry(NAME)
    promote(Toy().base, params.Promote(resamples=100), version="2", samples=candidates)
    rollback(Toy().base)
    assert holders() == {"challenger": "4", "champion": "1", "previous": "2"}
    after = lease.entry(NAME)
    assert (after["champion"], int(after["moves"])) == ("1", int(before["moves"]) + 2)
    assert int(after["token"]) == int(before["token"]) + 2
