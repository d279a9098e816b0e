"""Shards of data in S3 or in a DVC project: each fetches its own files and the label table, and no other."""

import os
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import support
import weed
from medloop import params, privacy, provenance
from medloop.errors import Refused
from medloop.fetching import project, s3
from medloop.stages.ingest import ingest, ingest_part
from support import CANARY

BASE = params.Base(dataset="wards")
SHARDS = 3
S3 = {"root": "s3://scans/wards"}


def section(place: dict, **options) -> params.Ingest:
    split = {"val": 0.25, "test": 0.35}
    content = {"source": "dicom", "split": split, "workers": 1, "options": {"dicom": options}}
    return params.Ingest.model_validate(content | place)


@pytest.fixture(scope="module")
def tree(tmp_path_factory) -> Path:
    """30 DICOM files and their label table."""
    return support.dicom_tree(tmp_path_factory.mktemp("data") / "wards", 30, name=CANARY)


@pytest.fixture(scope="module")
def server(tmp_path_factory, tree):
    with weed.serving(tmp_path_factory.mktemp("weed")) as env:
        client = weed.client(env)
        client.create_bucket(Bucket="scans")
        for path in tree.rglob("*"):
            if path.is_file():
                client.put_object(Bucket="scans", Key=f"wards/{path.relative_to(tree)}", Body=path.read_bytes())
        yield env


@pytest.fixture
def bucket(server, monkeypatch) -> dict:
    for name, value in server.items():
        monkeypatch.setenv(name, value)
    return S3


@pytest.fixture(scope="module")
def reference(tmp_path_factory, tree) -> dict:
    """The same files in a DVC project."""
    folder = tmp_path_factory.mktemp("origin") / "project"
    shutil.copytree(tree, folder / "wards")
    env = support.Project.__new__(support.Project)
    env.folder, env.output = folder, ""
    env.env = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    identity = ("-c", "user.name=a", "-c", "user.email=a@localhost")
    env.run("git", "init", "-q")
    env.run("dvc", "init", "-q")
    env.run("dvc", "remote", "add", "-d", "beside", str(folder.parent / "remote"))
    env.run("dvc", "add", "-q", "wards")
    env.run("git", "add", ".")
    env.run("git", *identity, "commit", "-qm", "data")
    env.run("dvc", "push", "-q")
    return {"dvc": {"repo": str(folder), "path": "wards", "rev": env.run("git", "rev-parse", "HEAD").strip()}}


@pytest.fixture
def downloads(monkeypatch) -> list[str]:
    """The files that were downloaded."""
    seen: list[str] = []
    for kind in (s3.Prefix, project.Revision):

        def counted(self, each, path, download=kind.download):
            seen.append(each.path)
            return download(self, each, path)

        monkeypatch.setattr(kind, "download", counted)
    return seen


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def own(tree: Path, shard: int) -> set[str]:
    """Return the files of a shard, as the key has it."""
    key = privacy.Pseudonyms.load()
    names = (path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file())
    return {name for name in names if int(key.of("item", name), 16) % SHARDS == shard}


def parts(given: params.Ingest, folder: Path, monkeypatch, downloads, wanted) -> list[Path]:
    """Ingest each shard with a state of its own, as pods have, and compare what it fetched."""
    made = []
    for shard in range(SHARDS):
        downloads.clear()
        monkeypatch.setenv("MEDLOOP_STATE", str(folder / f"state-{shard}"))
        ingest_part(BASE, given, part=folder / f"part-{shard}", shard=shard, shards=SHARDS)
        assert sorted(downloads) == sorted(wanted(shard))
        made.append(folder / f"part-{shard}")
    monkeypatch.setenv("MEDLOOP_STATE", str(folder / "state-of-the-last"))
    downloads.clear()
    return made


@pytest.mark.parametrize("place", ["bucket", "reference"])
def test_a_shard_fetches_its_own_files_and_the_label_table(request, tree, tmp_path, monkeypatch, downloads, place):
    given = section(request.getfixturevalue(place))
    ingest(BASE, given, samples=tmp_path / "wanted")
    made = parts(given, tmp_path, monkeypatch, downloads, lambda shard: own(tree, shard) | {"labels.csv"})
    ingest(BASE, given, samples=tmp_path / "samples", parts=made)
    assert downloads == []
    assert contents(tmp_path / "samples") == contents(tmp_path / "wanted")
    here = section({"root": str(tree)})
    ingest(BASE, here, samples=tmp_path / "here")
    assert provenance.digest(tmp_path / "samples") == provenance.digest(tmp_path / "here")
    hashes = {provenance.read_lineage(tmp_path / name)["data_hash"] for name in ("samples", "here")}
    assert len(hashes) == 1


def test_a_mask_is_fetched_with_its_image(bucket, tmp_path, monkeypatch, downloads):
    root, client = tmp_path / "cells", weed.client(_env())
    for index in range(24):
        pixels = np.kron(np.random.default_rng(index).integers(0, 255, (8, 8)), np.ones((5, 5))).astype(np.uint8)
        for folder, content in (("images", pixels), ("masks", (pixels > 128).astype(np.uint8))):
            path = root / folder / f"{CANARY} {index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), content)
            client.put_object(Bucket="scans", Key=f"cells/{folder}/{path.name}", Body=path.read_bytes())
    content = {"source": "masks", "workers": 1, "split": {"val": 0.25, "test": 0.35}}
    content |= {"options": {"masks": {"classes": ["cell"]}}}
    given = params.Ingest.model_validate(content | {"root": "s3://scans/cells"})
    key = privacy.Pseudonyms.load()

    def wanted(shard: int) -> set[str]:
        names = [f"{CANARY} {index}.png" for index in range(24)]
        mine = [name for name in names if int(key.of("item", f"images/{name}"), 16) % SHARDS == shard]
        return {f"{folder}/{name}" for name in mine for folder in ("images", "masks")}

    made = parts(given, tmp_path, monkeypatch, downloads, wanted)
    ingest(BASE, given, samples=tmp_path / "samples", parts=made)
    assert downloads == []
    ingest(BASE, params.Ingest.model_validate(content | {"root": str(root)}), samples=tmp_path / "here")
    assert provenance.digest(tmp_path / "samples") == provenance.digest(tmp_path / "here")


def test_where_headers_are_matched_a_shard_fetches_everything(bucket, tree, tmp_path, monkeypatch, downloads):
    rows = (tree / "labels.csv").read_text().splitlines()
    by_patient = [f"{CANARY}-{index:04},{row.rpartition(',')[2]}" for index, row in enumerate(rows[1:])]
    weed.client(_env()).put_object(
        Bucket="scans", Key="wards/patients.csv", Body="\n".join(["patient_id,label", *by_patient]).encode()
    )
    given = section(bucket, labels="patients.csv", match="patient_id").model_copy(update={"max_rejected": 0.1})
    everything = {path.relative_to(tree).as_posix() for path in tree.rglob("*") if path.is_file()} | {"patients.csv"}
    try:
        ingest(BASE, given, samples=tmp_path / "wanted")
        made = parts(given, tmp_path, monkeypatch, downloads, lambda _: everything)
        ingest(BASE, given, samples=tmp_path / "samples", parts=made)
    finally:
        weed.client(_env()).delete_object(Bucket="scans", Key="wards/patients.csv")
    assert contents(tmp_path / "samples") == contents(tmp_path / "wanted")


def _env() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


def test_an_object_that_comes_after_the_shards_is_noticed(bucket, tmp_path, monkeypatch, downloads, tree):
    made = parts(section(bucket), tmp_path, monkeypatch, downloads, lambda shard: own(tree, shard) | {"labels.csv"})
    client = weed.client(_env())
    client.put_object(Bucket="scans", Key="wards/late.txt", Body=b"late")
    try:
        with pytest.raises(Refused, match="the data changed while the shards were read"):
            ingest(BASE, section(bucket), samples=tmp_path / "samples", parts=made)
    finally:
        client.delete_object(Bucket="scans", Key="wards/late.txt")


def test_a_pod_that_does_not_see_the_private_lists_still_names_files_to_its_owner(
    bucket, tmp_path, monkeypatch, downloads, tree
):
    """The names come from the data itself and the key."""
    given = section(bucket)
    client, name = weed.client(_env()), next(iter(sorted(own(tree, 0) - {"labels.csv"})))
    content = (tree / name).read_bytes()
    client.put_object(Bucket="scans", Key=f"wards/{name}", Body=content[: len(content) // 2])
    try:
        made = parts(given, tmp_path, monkeypatch, downloads, lambda shard: own(tree, shard) | {"labels.csv"})
        with pytest.raises(Refused, match="1 of 30 items could not be read") as refused:
            ingest(BASE, given, samples=tmp_path / "samples", parts=made)
    finally:
        client.put_object(Bucket="scans", Key=f"wards/{name}", Body=content)
    assert CANARY not in str(refused.value)
    assert name in (tmp_path / "state-of-the-last/private/rejects.csv").read_text()
