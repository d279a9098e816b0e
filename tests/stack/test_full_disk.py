"""A stack on a disk that is really full, at its start and while it runs: a small file system that is mounted for it."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Metric

from laptop import Laptop, folder
from medloop.errors import Refused, Unreachable
from medloop.stack import control, process
from medloop.tracking.connection import server

MIB = 2**20


def mount(path: Path, mib: int, *more: str) -> None:
    options = ",".join([f"size={mib}m", "mode=711", *more])
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", path], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"no file system of its own can be mounted, which takes root: {done.stderr.strip()}")


@pytest.fixture(scope="module")
def disk() -> Iterator[Path]:
    """A disk with 40 MiB: enough for PostgreSQL, not for MLflow's databases."""
    with folder() as path:
        (path / "disk").mkdir()
        mount(path / "disk", 40)
        try:
            yield path / "disk"
        finally:
            Laptop(path / "disk/stack").run("down")
            subprocess.run(["umount", "--lazy", path / "disk"], check=True)


def fill(disk: Path) -> Path:
    """Leave no byte free on the disk, and return the file that takes it up."""
    with (disk / "fill").open("wb", buffering=0) as file:
        for size in (MIB, 4096):
            while os.statvfs(disk).f_bavail * os.statvfs(disk).f_bsize >= size:
                file.write(b"\0" * size)
    return disk / "fill"


def test_up_asks_for_room_before_it_makes_anything(disk):
    laptop = Laptop(disk / "stack")
    done = laptop.run("up")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("medloop: the disk of the stack's folder is full: 39 MiB left, 256 wanted: free some")
    assert done.stderr.endswith(f" at {laptop.folder}, or give another --folder\n")
    assert sorted(path.name for path in laptop.folder.iterdir()) == [".lock", "stack.env"]


def test_a_disk_that_fills_up_during_the_start_is_named_and_the_next_start_goes_on(disk, monkeypatch):
    laptop = Laptop(disk / "stack")
    with monkeypatch.context() as patch:
        patch.setattr(control, "LEAST_MIB", 0)
        with pytest.raises(Refused, match=r"no database could be made in .*/postgres: could not .*: No space left on"):
            control.up(laptop.folder, [], lambda said: None)
    assert [line.split()[-1] for line in laptop.run("status").stdout.splitlines()[:3]] == ["down"] * 3
    assert laptop.env["MEDLOOP_STACK_DATABASE_PASSWORD"] not in (laptop.folder / "log/postgres.log").read_text()
    mount(disk, 700, "remount")
    laptop.up()
    assert laptop.run("status").returncode == 0


@pytest.fixture
def laptop(disk, monkeypatch) -> Laptop:
    laptop = Laptop(disk / "stack")
    for name, value in laptop.env.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return laptop


def test_what_fills_up_while_it_runs_is_told_and_corrupts_nothing(laptop, disk, tmp_path, monkeypatch):
    def dvc(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run([sys.executable, "-m", "dvc", *words], cwd=tmp_path, capture_output=True, text=True)

    def logged(steps: range) -> None:
        with server() as client:
            batch = [Metric("loss", 1.0, 1, step) for step in steps]
            for first in range(0, len(batch), 1000):
                client.log_batch(run_id, batch[first : first + 1000])

    contents = {f"{number}.bin": os.urandom(MIB) for number in range(4)}
    (tmp_path / "data").mkdir()
    for name, content in contents.items():
        (tmp_path / "data" / name).write_bytes(content)
    for words in (
        ("init", "-q", "--no-scm"),
        ("config", "core.analytics", "false"),
        ("remote", "add", "-q", "-d", "laptop", "s3://dvc/full"),
        ("remote", "modify", "laptop", "endpointurl", laptop.env["AWS_ENDPOINT_URL_S3"]),
        ("add", "-q", "data"),
        ("push", "-q"),
    ):
        assert dvc(*words).returncode == 0
    run_id = MlflowClient().create_run("0").info.run_id
    logged(range(100))

    filling = fill(disk)
    told = laptop.run("status")
    assert told.returncode == 4
    assert told.stdout.splitlines()[-1] == f"disk      full: 0 MiB left, 256 wanted: free some space at {laptop.folder}"
    (tmp_path / "data/more.bin").write_bytes(os.urandom(4 * MIB))
    assert dvc("add", "-q", "data").returncode == 0
    pushed = dvc("push")
    assert pushed.returncode != 0
    assert "files failed to upload" in pushed.stderr
    with pytest.raises(Unreachable, match=r"tracking server http\S+ fails \(50\d\): its log says why, .*stack status`"):
        logged(range(100, 20_000))

    said: list[str] = []
    monkeypatch.setattr(process, "STOP_SECONDS", 15)
    control.down(laptop.folder, said.append)
    ended = [line.split()[0] for line in said]
    assert ended in (["mlflow", "s3", "postgres"], ["mlflow", "s3"]), "PostgreSQL may have given up before"
    assert all(line.endswith(("stopped", "killed: it did not stop within 15 s")) for line in said), said
    before = (laptop.folder / "stack.env").read_bytes()
    refused = laptop.run("up")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert re.search("folder is full: 0 MiB left, .*: free|cannot be written: No space left .*; free", refused.stderr)
    assert (laptop.folder / "stack.env").read_bytes() == before
    filling.unlink()
    laptop.up()
    steps = [each.step for each in MlflowClient().get_metric_history(run_id, "loss")]
    assert steps[:100] == list(range(100))
    assert len(steps) % 1000 == 100, "a batch was kept by half"
    assert dvc("push", "-q").returncode == 0
    subprocess.run(["rm", "-rf", tmp_path / "data", tmp_path / ".dvc/cache"], check=True)
    assert dvc("pull", "-q").returncode == 0
    kept = {path.name: path.read_bytes() for path in (tmp_path / "data").iterdir()}
    assert {name: kept[name] for name in contents} == contents
    assert len(kept["more.bin"]) == 4 * MIB
    logged(range(30_000, 30_010))
