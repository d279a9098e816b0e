"""Data below a prefix of a real S3 server: fetched once, compared with its hashes, refused in one message."""

import os
import resource
from datetime import UTC, datetime, timedelta
from pathlib import Path

import botocore.auth
import pytest

import weed
from medloop import params
from medloop.errors import Refused, Unreachable
from medloop.fetching import watermark
from medloop.fetching.data import combined, data_hash, fetched, look

ROOT = "s3://scans/wards"
FILES = {"labels.csv": b"path,label\n", "Doe^Jane/1.dcm": b"\x00" * 3000, "ward 7/ä.dcm": b"one" * 1000}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with weed.serving(tmp_path_factory.mktemp("weed")) as env:
        weed.client(env).create_bucket(Bucket="scans")
        yield env


@pytest.fixture
def bucket(server, monkeypatch):
    """A bucket with `FILES` below wards/, and beside it what is none of the data."""
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    s3 = weed.client(server)
    for name, content in FILES.items():
        s3.put_object(Bucket="scans", Key=f"wards/{name}", Body=content)
    s3.put_object(Bucket="scans", Key="wards-of-others/1.dcm", Body=b"no")
    yield s3
    for each in s3.list_objects_v2(Bucket="scans")["Contents"]:
        s3.delete_object(Bucket="scans", Key=each["Key"])


def section(root: str = ROOT) -> params.Ingest:
    return params.Ingest(source="folder", root=root)


def got(root: str = ROOT) -> tuple[dict[str, bytes], str | None]:
    """Return the files that were fetched, and their hash."""
    with fetched(section(root)) as (folder, digests):
        assert folder.stat().st_mode & 0o777 == 0o700
        files = [path for path in folder.rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}, combined(digests)


def cache() -> Path:
    return Path(os.environ["MEDLOOP_STATE"]) / "private/data"


@pytest.fixture
def downloads(monkeypatch) -> list[str]:
    """The keys that were downloaded."""
    from medloop.fetching.s3 import Prefix

    seen, download = [], Prefix.download

    def counted(self, each, path):
        seen.append(each.path)
        return download(self, each, path)

    monkeypatch.setattr(Prefix, "download", counted)
    return seen


def test_every_file_below_the_prefix_comes_with_the_hash_of_the_same_files_here(bucket, tmp_path):
    files, digest = got()
    assert files == FILES
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    assert digest == data_hash(tmp_path)
    assert not list(cache().glob("view-*")), "the folder outlives its use"
    assert cache().stat().st_mode & 0o777 == 0o700


def test_what_is_there_is_not_fetched_again(bucket, downloads):
    first = got()
    assert sorted(downloads) == sorted(FILES)
    downloads.clear()
    assert got() == first
    assert downloads == []
    bucket.put_object(Bucket="scans", Key="wards/ward 7/2.dcm", Body=b"two")
    files, digest = got()
    assert downloads == ["ward 7/2.dcm"]
    assert files == {**FILES, "ward 7/2.dcm": b"two"}
    assert digest != first[1]


def test_a_damaged_file_of_the_cache_is_fetched_again(bucket, downloads):
    first = got()
    [path] = [path for path in cache().rglob("*") if path.is_file() and path.stat().st_size == 11]
    path.write_bytes(b"xxxx,label\n")
    downloads.clear()
    assert got() == first
    assert downloads == ["labels.csv"]


def test_an_object_of_several_parts_is_compared_with_its_etag(bucket, monkeypatch):
    parts = [os.urandom(5 * 2**20), os.urandom(5 * 2**20), b"end"]
    upload = bucket.create_multipart_upload(Bucket="scans", Key="wards/big.dcm")["UploadId"]
    ask = {"Bucket": "scans", "Key": "wards/big.dcm", "UploadId": upload}
    tags = [
        {"PartNumber": number, "ETag": bucket.upload_part(**ask, PartNumber=number, Body=part)["ETag"]}
        for number, part in enumerate(parts, 1)
    ]
    bucket.complete_multipart_upload(**ask, MultipartUpload={"Parts": tags})
    files, _ = got()
    assert files["big.dcm"] == b"".join(parts)
    from medloop.fetching import s3

    [each] = [each for each in s3.Prefix(ROOT).objects() if each.path == "big.dcm"]
    assert each.tag.endswith("-3")
    whole = cache() / "whole"
    whole.write_bytes(files["big.dcm"])
    assert s3.Prefix(ROOT)._etag("wards/big.dcm", each, whole) == each.tag


def test_content_that_does_not_match_its_etag_is_refused_and_not_kept(bucket, monkeypatch):
    from medloop.fetching import s3

    copy = s3.shutil.copyfileobj

    def torn(body, file, length):
        content = body.read()
        file.write(content[:-1] + bytes([content[-1] ^ 1]))

    monkeypatch.setattr(s3.shutil, "copyfileobj", torn)
    with pytest.raises(Refused, match=r"^file [0-9a-f]{16} of s3://scans/wards is not what was stored: its ETag is "):
        got()
    assert not [path for path in cache().rglob("*") if path.is_file()]
    monkeypatch.setattr(s3.shutil, "copyfileobj", copy)
    assert got()[0] == FILES


def test_an_object_that_changes_meanwhile_is_refused(bucket, monkeypatch):
    from medloop.fetching.s3 import Prefix

    objects = Prefix.objects

    def late(self):
        found = objects(self)
        bucket.put_object(Bucket="scans", Key="wards/labels.csv", Body=b"other")
        return found

    monkeypatch.setattr(Prefix, "objects", late)
    with pytest.raises(Refused, match=r"of s3://scans/wards was changed or deleted while it was fetched"):
        got()


@pytest.mark.parametrize(
    ("root", "message"),
    [
        ("s3://nowhere/wards", r"^s3://nowhere/wards: http://127.0.0.1:\d+ has no bucket nowhere; check ingest.root$"),
        ("s3://scans/none", "^s3://scans/none: no object lies below none/ in the bucket; check ingest.root$"),
    ],
)
def test_what_is_not_there_is_refused(bucket, root, message):
    for ask in (lambda: got(root), lambda: look(section(root))):
        with pytest.raises(Refused, match=message):
            ask()
    assert not [path for path in cache().rglob("*") if path.is_file()]


@pytest.mark.parametrize(("name", "code"), [("SECRET_ACCESS_KEY", "SignatureDoesNotMatch"), ("ACCESS_KEY_ID", "Inval")])
def test_wrong_credentials_are_refused_without_showing_them(bucket, monkeypatch, name, code):
    monkeypatch.setenv(f"AWS_{name}", "wrong-credential")
    with pytest.raises(Refused, match=rf"refused access \({code}\w*\): check AWS_ACCESS_KEY_ID") as refused:
        got()
    assert "wrong-credential" not in str(refused.value)


def test_without_credentials_nothing_is_asked(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(Refused, match="there are no credentials for S3: check AWS_ACCESS_KEY_ID"):
        got()


def test_a_clock_that_is_off_is_named(bucket, monkeypatch):
    late = datetime.now(UTC).replace(tzinfo=None) - timedelta(hours=1)
    with monkeypatch.context() as clock:
        clock.setattr(botocore.auth, "get_current_datetime", lambda remove_tzinfo=True: late)
        with pytest.raises(Refused, match=r"clock and this machine's differ \(RequestTimeTooSkewed\): set the clock"):
            got()


def test_a_server_that_is_away_is_unreachable(bucket, monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match=r"http://127.0.0.1:9 does not answer or broke off"):
        got()


def test_a_full_disk_is_refused_and_what_was_fetched_is_kept(bucket, downloads):
    bucket.put_object(Bucket="scans", Key="wards/big.dcm", Body=os.urandom(3 * 2**20))
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, limit[1]))
    try:
        with pytest.raises(Refused, match=r"no room on disk below .* for the data of s3://scans/wards: File too large"):
            got()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert not list(cache().glob("partial-*"))
    assert not list(cache().glob("view-*"))
    downloads.clear()
    got()
    assert "big.dcm" in downloads


def test_a_name_that_leads_out_of_the_folder_is_refused(bucket, monkeypatch):
    from medloop.fetching.cache import Object
    from medloop.fetching.s3 import Prefix

    for path in ("../Doe^Jane", "/etc/passwd", "a//b"):
        monkeypatch.setattr(Prefix, "objects", lambda self, path=path: [Object(path, 1, "0")])
        with pytest.raises(Refused, match=r"^file [0-9a-f]{16} of s3://scans/wards has a name that no folder can hold"):
            got()


@pytest.mark.parametrize("root", ["s3:///wards", "gs://scans/wards", "https://scans/wards"])
def test_other_addresses_are_refused(root):
    with pytest.raises(Refused, match="root must be a local path or s3://BUCKET/PREFIX"):
        params.check({"schema_version": 1, "ingest": {"root": root}}, where="params.yaml")


def test_a_watermark_is_told_without_fetching_and_moves_with_the_contents_alone(bucket, downloads):
    before = watermark.read(section())
    assert (before.files, before.newest[:4]) == (len(FILES), str(datetime.now(UTC).year))
    bucket.put_object(Bucket="scans", Key="wards/labels.csv", Body=FILES["labels.csv"])
    assert watermark.read(section()).digest == before.digest, "the same content, written again"
    bucket.put_object(Bucket="scans", Key="wards/3.dcm", Body=b"three")
    assert watermark.read(section()).digest != before.digest
    assert not downloads
    bucket.delete_object(Bucket="scans", Key="wards/3.dcm")
    assert watermark.read(section()).digest == before.digest
