"""Where files lie under keys: a folder of this machine, or a bucket on any server that speaks S3."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from medloop.errors import Refused, Unreachable
from medloop.stack import settings

APART = "MEDLOOP_BACKUP_"  # MEDLOOP_BACKUP_AWS_X is AWS_X where the backups lie
AT_ONCE = 8
REGION = "us-east-1"  # where nothing else says


@dataclass(frozen=True)
class Listed:
    """What a place says of a file without reading it."""

    size: int  # bytes
    etag: str = ""


class Place(Protocol):
    """A place that takes a file as a whole or not at all."""

    name: str

    def listed(self, below: str = "") -> dict[str, Listed]: ...
    def put(self, key: str, path: Path) -> None: ...
    def get(self, key: str, path: Path) -> None: ...
    def remove(self, key: str) -> None: ...


class Folder:
    """A folder that its owner alone can read."""

    def __init__(self, path: Path, content: tuple[str, ...]) -> None:
        self.name, self.path = str(path), path.resolve()
        if any((each / settings.FILE).exists() for each in (self.path, *self.path.parents)):
            raise Refused(f"{path} lies inside a stack's own folder, and would be lost with it: name another place")
        if path.exists() and not path.is_dir():
            raise Refused(f"{path} is a file: name a folder, or s3://BUCKET/PREFIX")
        foreign = {each.name for each in path.iterdir()} - set(content) if path.exists() else set()
        if foreign:
            raise Refused(f"{path} holds {len(foreign)} other files: name an empty folder, or one with backups")

    def listed(self, below: str = "") -> dict[str, Listed]:
        """Return every file below a key, those included that were broken off."""
        found = (each for each in (self.path / below).rglob("*") if each.is_file())
        return {str(each.relative_to(self.path)): Listed(each.stat().st_size) for each in found}

    def put(self, key: str, path: Path) -> None:
        """Copy `path` here."""
        partial = self.path / f"{key}.partial"
        try:
            for folder in (self.path, partial.parent):
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            with (
                path.open("rb") as source,
                os.fdopen(os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file,
            ):
                shutil.copyfileobj(source, file)
                file.flush()
                os.fsync(file.fileno())
            partial.rename(self.path / key)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise Refused(
                f"{self.name} cannot be written: {error.strerror}; free some space, or name another place"
            ) from None

    def get(self, key: str, path: Path) -> None:
        """Copy a file from here to `path`; raise Refused where there is none."""
        try:
            shutil.copyfile(self.path / key, path)
        except OSError as error:
            raise Refused(f"{self.name}: {key} cannot be read: {error.strerror}") from None

    def remove(self, key: str) -> None:
        """Delete a file."""
        (self.path / key).unlink(missing_ok=True)


class Bucket:
    """The objects below a prefix of a bucket."""

    def __init__(self, bucket: str, prefix: str = "", *, apart: bool = False) -> None:
        import boto3
        from botocore.config import Config

        self._bucket, self._prefix = bucket, f"{prefix.strip('/')}/" if prefix.strip("/") else ""
        self.name = f"s3://{bucket}/{self._prefix}".rstrip("/")
        asked = _variables(os.environ, apart)
        self.endpoint = asked.get("AWS_ENDPOINT_URL_S3") or asked.get("AWS_ENDPOINT_URL") or "AWS"
        config = Config(connect_timeout=5, read_timeout=60, retries={"mode": "standard"}, max_pool_connections=AT_ONCE)
        with self._understood():
            self._client: Any = boto3.Session().client(
                "s3",
                endpoint_url=None if self.endpoint == "AWS" else self.endpoint,
                region_name=asked.get("AWS_DEFAULT_REGION") or REGION,
                aws_access_key_id=asked.get("AWS_ACCESS_KEY_ID"),
                aws_secret_access_key=asked.get("AWS_SECRET_ACCESS_KEY"),
                aws_session_token=asked.get("AWS_SESSION_TOKEN"),
                config=config,
            )

    def overlaps(self, other: "Bucket") -> bool:
        """Tell whether both are one bucket."""
        return (self.endpoint, self._bucket) == (other.endpoint, other._bucket)

    def listed(self, below: str = "") -> dict[str, Listed]:
        """Return every object below a key."""
        with self._understood():
            pages = self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self._bucket, Prefix=self._prefix + below
            )
            found = [each for page in pages for each in page.get("Contents", ())]
        return {
            each["Key"].removeprefix(self._prefix): Listed(each["Size"], each["ETag"].strip('"'))
            for each in found
            if not each["Key"].endswith("/")
        }

    def put(self, key: str, path: Path) -> None:
        """Upload `path`."""
        with self._understood(key), path.open("rb") as file:
            self._client.upload_fileobj(file, self._bucket, self._prefix + key)

    def get(self, key: str, path: Path) -> None:
        """Download an object to `path`; raise Refused where there is none."""
        with self._understood(key), path.open("wb") as file:
            self._client.download_fileobj(self._bucket, self._prefix + key, file)

    def remove(self, key: str) -> None:
        """Delete an object."""
        with self._understood(key):
            self._client.delete_object(Bucket=self._bucket, Key=self._prefix + key)

    @contextmanager
    def _understood(self, key: str = "") -> Iterator[None]:
        """Raise what a user can mend in place of botocore's errors."""
        from botocore import exceptions

        from medloop.fetching.s3 import SKEWED

        what = f"{self.name}/{key}" if key else self.name
        keys = "check the access key in AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        keys += f" ({APART}AWS_... where the backups lie elsewhere)"
        try:
            yield
        except exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "NoSuchBucket":
                raise Refused(f"{self.endpoint} has no bucket {self._bucket}: make it, or name another") from None
            if code in ("404", "NoSuchKey"):
                raise Refused(f"{what} is not there (any more): it was deleted") from None
            if code == SKEWED:
                raise Refused(
                    f"{self.endpoint} refuses {what} since its clock and this machine's differ ({code}): set the "
                    "clock, as an NTP service does"
                ) from None
            if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
                raise Unreachable(f"{self.endpoint} fails for {what} ({code}): its log says why; try again") from None
            raise Refused(f"{self.endpoint} refuses {what} ({code}): {keys}") from None
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError):
            raise Refused(f"{what} needs an access key: {keys}") from None
        except (exceptions.ConnectionError, exceptions.HTTPClientError) as error:
            raise Unreachable(
                f"{self.endpoint} does not answer for {what} ({type(error).__name__}): start it"
            ) from None
        except (exceptions.ParamValidationError, ValueError):
            raise Refused(f"{self.name} is no address in S3: wanted s3://BUCKET/PREFIX") from None


def opened(address: str, content: tuple[str, ...]) -> Place:
    """Return the place at `address`, a path or s3://BUCKET/PREFIX, where nothing but `content` may lie."""
    if not address.startswith("s3://"):
        if "://" in address:
            raise Refused(f"backups lie in a folder or below s3://BUCKET/PREFIX, got {address!r}")
        return Folder(Path(address), content)
    bucket, _, prefix = address.removeprefix("s3://").partition("/")
    return Bucket(bucket, prefix, apart=True)


def _variables(env: Mapping[str, str], apart: bool) -> dict[str, str]:
    """Return the variables AWS_..., replaced by those of the place of the backups where it is `apart`."""
    given = {name: value for name, value in env.items() if name.startswith("AWS_")}
    if apart:
        given |= {name.removeprefix(APART): value for name, value in env.items() if name.startswith(f"{APART}AWS_")}
    return given
