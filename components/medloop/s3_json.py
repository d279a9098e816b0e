"""JSON objects in S3 that are replaced only by whoever has seen them last; boto3 is imported at the first request."""

import json
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

from medloop.errors import Refused, Unreachable

REGION = "us-east-1"  # where nothing else says
MISSING, OVERTAKEN = ("NoSuchKey", "404"), ("PreconditionFailed", "ConditionalRequestConflict", "412", "409")
DENIED = ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "403")
SETTINGS = ("AWS_ENDPOINT_URL_S3", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE")
ATTEMPTS, CONNECT_SECONDS, READ_SECONDS = 3, 5, 10


@dataclass(frozen=True)
class Address:
    """An object of a bucket."""

    bucket: str
    key: str

    def __str__(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True)
class Found:
    """What an object held when it was read."""

    content: dict[str, Any]
    etag: str
    age: float  # whole seconds since it was written, both moments told by the server's clock


def below(address: str, name: str, *, variable: str) -> Address:
    """Return the object `name` below the address `s3://bucket/prefix` that an environment variable gives."""
    parts = urlsplit(address)
    if parts.scheme != "s3" or not parts.netloc:
        raise Refused(f"{variable} must read s3://bucket/prefix, got {address!r}")
    return Address(parts.netloc, "/".join(part for part in (parts.path.strip("/"), name) if part))


def read(address: Address) -> Found | None:
    """Return an object, or None where there is none.

    Raises:
        Unreachable: the server does not answer.
        Refused: it does not let us in, or has no such bucket.
    """
    answer = _asked(lambda client: client.get_object(Bucket=address.bucket, Key=address.key), address, MISSING)
    if answer is None:
        return None
    now = parsedate_to_datetime(answer["ResponseMetadata"]["HTTPHeaders"]["date"])
    age = (now - answer["LastModified"]).total_seconds()
    return Found(json.loads(answer["Body"].read()), answer["ETag"], age)


def write(address: Address, content: dict[str, Any], *, seen: str | None) -> str | None:
    """Replace the object that had the ETag `seen` (None: there was none) and return the new ETag; None: it has changed.

    Raises:
        Unreachable: the server does not answer.
        Refused: it does not let us in, or has no such bucket.
    """
    condition = {"IfMatch": seen} if seen else {"IfNoneMatch": "*"}
    content = {**content, "nonce": secrets.token_hex(8)}
    place = {"Bucket": address.bucket, "Key": address.key}
    body = json.dumps(content).encode()
    answer = _asked(lambda client: client.put_object(**place, Body=body, **condition), address, OVERTAKEN + MISSING)
    if answer is not None:
        return str(answer["ETag"])
    now = read(address)  # a request whose answer got lost is sent again, and then meets its own work
    return now.etag if now and now.content == content else None


@lru_cache(maxsize=1)
def _client(process: int, *settings: str | None) -> Any:  # noqa: ARG001  made anew where either is another
    import boto3
    from botocore.config import Config

    session = boto3.session.Session()
    retries = {"mode": "standard", "total_max_attempts": ATTEMPTS}
    config = Config(connect_timeout=CONNECT_SECONDS, read_timeout=READ_SECONDS, retries=retries)
    return session.client("s3", region_name=session.region_name or REGION, config=config)


def _asked(ask: Callable[[Any], dict[str, Any]], address: Address, expected: tuple[str, ...]) -> dict[str, Any] | None:
    """Return the server's answer, or None for an error that is `expected`."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    keys = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
    try:
        client = _client(os.getpid(), *map(os.environ.get, SETTINGS))
        return dict(ask(client))
    except NoCredentialsError:
        raise Refused(f"{address} needs an access key: {keys}") from None
    except ClientError as error:
        code = error.response["Error"]["Code"]
        if code in expected:
            return None
        server = client.meta.endpoint_url
        if code == "NoSuchBucket":
            raise Refused(f"S3 server {server} has no bucket {address.bucket}: make it, or name another") from None
        if code in DENIED:
            raise Refused(f"S3 server {server} refuses this access key for {address} ({code}): {keys}") from None
        if code == "RequestTimeTooSkewed":
            raise Refused(f"S3 server {server}: the clock of this machine is wrong ({code}): set it by NTP") from None
        raise Unreachable(f"S3 server {server} fails for {address} ({code}): try again later") from None
    except BotoCoreError as error:
        raise Unreachable(
            f"S3 server {os.environ.get('AWS_ENDPOINT_URL_S3') or 'of AWS'} does not answer for {address} "
            f"({type(error).__name__}): start it, or set AWS_ENDPOINT_URL_S3 to another"
        ) from None
