"""Data below a prefix of a bucket, on any server that speaks S3; address and credentials as boto3 finds them."""

import hashlib
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, closing, contextmanager
from pathlib import Path

import boto3
from botocore import exceptions
from botocore.config import Config

from medloop.errors import Refused, Unreachable
from medloop.fetching.cache import AT_ONCE, Object, pseudonym

CONFIG = Config(
    connect_timeout=5, read_timeout=60, retries={"mode": "standard", "max_attempts": 3}, max_pool_connections=AT_ONCE
)
CHUNK = 2**20  # bytes
SKEWED = "RequestTimeTooSkewed"
CHANGED = ("PreconditionFailed", "NoSuchKey", "404", "412")


class Prefix:
    """The objects below s3://BUCKET/PREFIX."""

    def __init__(self, root: str) -> None:
        self.name = root
        self.listing: str | None = None  # S3 knows no hash of a folder
        self.bucket, _, prefix = root.removeprefix("s3://").partition("/")
        self.prefix = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        with self._understood():
            self.client = boto3.Session().client("s3", config=CONFIG)

    def opened(self) -> AbstractContextManager[object]:
        """Close the client's connections at the end."""
        return closing(self.client)

    def objects(self) -> list[Object]:
        """Return every object; raise Refused where there is none."""
        with self._understood():
            pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=self.prefix)
            listed = [each for page in pages for each in page.get("Contents", ())]
        found = [
            Object(
                each["Key"].removeprefix(self.prefix),
                each["Size"],
                each["ETag"].strip('"'),
                modified=each["LastModified"].timestamp(),
            )
            for each in listed
            if not each["Key"].endswith("/")
        ]
        return found or self._empty()

    def look(self) -> None:
        """Raise Refused where nothing is there, Unreachable where nothing answers."""
        with self._understood(), self.opened():
            page = self.client.list_objects_v2(Bucket=self.bucket, Prefix=self.prefix, MaxKeys=1)
        if not page.get("KeyCount"):
            self._empty()

    def download(self, each: Object, path: Path) -> None:
        """Write an object to `path`, and compare it with its checksum, size and ETag."""
        key = self.prefix + each.path
        with self._understood(each):
            answer = self.client.get_object(Bucket=self.bucket, Key=key, IfMatch=each.tag, ChecksumMode="ENABLED")
            with path.open("wb") as file:
                shutil.copyfileobj(answer["Body"], file, CHUNK)
            wanted, came = each.tag, self._etag(key, each, path)
        if answer.get("ServerSideEncryption", "AES256") == "AES256" and came not in (None, wanted):
            raise Refused(
                f"{pseudonym(each)} of {self.name} is not what was stored: its ETag is {wanted}, its content gives "
                f"{came}; put the file there again"
            )

    def _etag(self, key: str, each: Object, path: Path) -> str | None:
        """Return the ETag that the content should have; None where its parts are not known."""
        parts = int(each.tag.partition("-")[2] or 0)
        ask = {"Bucket": self.bucket, "Key": key}
        numbers = range(1, parts + 1)
        sizes = [self.client.head_object(**ask, PartNumber=number)["ContentLength"] for number in numbers]
        if sum(sizes) != (each.size if parts else 0):
            return None
        with path.open("rb") as file:
            if not parts:
                return hashlib.file_digest(file, _md5).hexdigest()
            digests = [_md5(file.read(size)).digest() for size in sizes]
        return f"{_md5(b''.join(digests)).hexdigest()}-{parts}"

    def _empty(self) -> list[Object]:
        raise Refused(f"{self.name}: no object lies below {self.prefix or '/'} in the bucket; check ingest.root")

    @contextmanager
    def _understood(self, each: Object | None = None) -> Iterator[None]:
        """Raise what a user can mend in place of botocore's errors."""
        where = self.client.meta.endpoint_url if hasattr(self, "client") else "S3"
        what = f"{pseudonym(each)} of {self.name}" if each else self.name
        try:
            yield
        except exceptions.ClientError as error:
            code = error.response["Error"]["Code"]
            if code == "NoSuchBucket":
                raise Refused(f"{self.name}: {where} has no bucket {self.bucket}; check ingest.root") from None
            if code == SKEWED:
                raise Refused(
                    f"{self.name}: {where} refused the request since its clock and this machine's differ ({code}): "
                    "set the clock, as an NTP service does"
                ) from None
            if each and code in CHANGED:
                raise Refused(f"{what} was changed or deleted while it was fetched ({code}): run again") from None
            raise self._refusal(error, where) from None
        except (exceptions.NoCredentialsError, exceptions.PartialCredentialsError, exceptions.ProfileNotFound):
            raise Refused(f"{self.name}: there are no credentials for S3: {CREDENTIALS}") from None
        except exceptions.FlexibleChecksumError:
            raise Refused(f"{what} does not match the checksum that was stored with it: put it there again") from None
        except (exceptions.ConnectionError, exceptions.HTTPClientError, exceptions.IncompleteReadError) as error:
            raise Unreachable(
                f"{self.name}: {where} does not answer or broke off ({type(error).__name__}); run again when it does "
                "(AWS_ENDPOINT_URL names another server): what has been fetched is kept"
            ) from None
        except (exceptions.ParamValidationError, ValueError):
            raise Refused(f"{self.name} is no address in S3: wanted s3://BUCKET/PREFIX") from None

    def _refusal(self, error: exceptions.ClientError, where: str) -> Refused:
        code = error.response["Error"]["Code"]
        if error.response["ResponseMetadata"]["HTTPStatusCode"] >= 500:
            return Unreachable(f"{self.name}: {where} fails ({code}): its log says why; run again")
        if code == "404":
            return Refused(f"{self.name}: {where} is no S3 server, it answers 404: check AWS_ENDPOINT_URL")
        return Refused(f"{self.name}: {where} refused access ({code}): {CREDENTIALS}")


CREDENTIALS = "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE, and what they may read"


def _md5(content: bytes = b"") -> "hashlib._Hash":
    return hashlib.md5(content, usedforsecurity=False)
