"""The stack's S3 server alone, on ports of its own, for as long as a test file needs it."""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import boto3
from botocore.config import Config

from medloop.stack import seaweed, settings
from medloop.stack.process import Process

READY_SECONDS = 60


@contextmanager
def started(folder: Path) -> Iterator[settings.Settings]:
    """Yield the settings of a stack in `folder` of which the S3 server runs."""
    settings.open_folder(folder)
    made = settings.settle(folder, {})
    part = seaweed.part(made)
    process = Process(made.folder, part.name)
    part.folder.mkdir()
    part.prepare()
    process.start(part.command, part.env, part.folder)
    try:
        deadline = time.monotonic() + READY_SECONDS
        while (silence := part.answers()) is not None:
            waiting = process.alive() and time.monotonic() < deadline
            assert waiting, f"{silence}\n{process.last_lines(40)}"
            time.sleep(0.1)
        part.finish()
        yield made
    finally:
        process.stop(signal.SIGKILL)


@contextmanager
def serving(folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which boto3, DVC and medloop reach a server, by the variable of all of AWS."""
    with started(folder) as made:
        shared = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_DEFAULT_REGION")
        yield {name: made[name] for name in shared} | {"AWS_ENDPOINT_URL": made["AWS_ENDPOINT_URL_S3"]}


def client(env: Mapping[str, str]):
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
