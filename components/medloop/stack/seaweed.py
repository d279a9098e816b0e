"""SeaweedFS: the S3 server that keeps MLflow's artifacts, DVC's data and the leases."""

import shutil
import sys
from pathlib import Path
from typing import Any

import requests

from medloop.errors import Refused
from medloop.stack.part import Part
from medloop.stack.settings import BUCKETS, HOST, Settings

SIGNING = ("JWT_SIGNING", "JWT_SIGNING_READ", "JWT_FILER_SIGNING", "JWT_FILER_SIGNING_READ")
VOLUME_MB, VOLUMES = 256, 4000  # a bucket takes seven volumes at its first object: there must be room for many
ANSWER_SECONDS = 10.0
INTERNAL = ("s3_grpc", "master", "master_grpc", "volume", "volume_grpc", "filer", "filer_grpc", "admin", "admin_grpc")


def part(settings: Settings) -> Part:
    """Return SeaweedFS as a part of the stack."""
    folder = settings.folder / "s3"
    ports = ("s3", *INTERNAL)
    options = {
        "dir": "data",
        "ip": HOST,
        "ip.bind": HOST,
        "webdav": "false",
        "admin.ui": "false",
        "s3.port.iceberg": "0",
        "s3.port.lance": "0",
        "s3.autoCreateBucket": "false",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": VOLUME_MB,
        "volume.max": VOLUMES,
        "s3.localSocket": "s3.sock",
        "filer.localSocket": "filer.sock",
        **{_option(name): settings.port(name) for name in ports},
    }
    return Part(
        name="s3",
        address=settings.url("s3"),
        ports=ports,
        folder=folder,
        prepare=lambda: (folder / "data").mkdir(exist_ok=True),
        command=[_binary(), "-logtostderr", "mini", *(f"-{name}={value}" for name, value in options.items())],
        env={
            "AWS_ACCESS_KEY_ID": settings["AWS_ACCESS_KEY_ID"],
            "AWS_SECRET_ACCESS_KEY": settings["AWS_SECRET_ACCESS_KEY"],
            **{f"WEED_{name}_KEY": settings["MEDLOOP_STACK_S3_KEY"] for name in SIGNING},
        },
        answers=lambda: _answers(settings),
        finish=lambda: _buckets(settings),
    )


def _option(port: str) -> str:
    """Return the option of `weed mini` that sets a port: `filer_grpc` gives `filer.port.grpc`."""
    component, _, kind = port.partition("_")
    return f"{component}.port.{kind}" if kind else f"{component}.port"


def _binary() -> str:
    beside = Path(sys.executable).parent / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if found is None:
        raise Refused("SeaweedFS is not installed: install medloop with the extra `stack` (`make` does)")
    return found


def _answers(settings: Settings) -> str | None:
    """Tell why objects cannot be read yet: names are known seconds before the volumes that hold what they name."""
    from botocore.exceptions import BotoCoreError, ClientError

    try:
        _client(settings).list_buckets()
        status = requests.get(f"{settings.url('master')}/dir/status", timeout=ANSWER_SECONDS).json()
    except (BotoCoreError, ClientError, requests.RequestException) as error:
        return str(error)
    return None if status.get("Topology", {}).get("DataCenters") else "its volumes have not been announced"


def _buckets(settings: Settings) -> None:
    """Make the buckets that are missing; raise Refused where SeaweedFS cannot."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = _client(settings)
    try:
        existing = {each["Name"] for each in client.list_buckets()["Buckets"]}
        for name in BUCKETS:
            if name not in existing:
                client.create_bucket(Bucket=name)
    except (BotoCoreError, ClientError) as error:
        log = settings.folder / "log/s3.log"
        raise Refused(f"no bucket could be made in {settings.folder}/s3: {error} See {log}, and run it again") from None


def _client(settings: Settings) -> Any:
    import boto3
    from botocore.config import Config

    return boto3.client(
        "s3",
        endpoint_url=settings["AWS_ENDPOINT_URL_S3"],
        region_name=settings["AWS_DEFAULT_REGION"],
        aws_access_key_id=settings["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=settings["AWS_SECRET_ACCESS_KEY"],
        config=Config(connect_timeout=2, read_timeout=10, retries={"total_max_attempts": 1}),
    )
