"""Shard by shard or at once: the same samples, byte for byte, and nothing raw in a part."""

import csv
import json
import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pyarrow.parquet as pq
import pytest

import support
from medloop import manifest, params, privacy, provenance
from medloop.errors import Refused
from medloop.fetching.data import data_hash
from medloop.stages.ingest import ingest, ingest_part
from stages.test_ingest import toy  # noqa: F401  a fixture
from support import CANARY

BASE = params.Base(dataset="wards")
SPLIT = {"val": 0.25, "test": 0.35}


def dicom_section(root: Path, **changes) -> params.Ingest:
    content = {"source": "dicom", "root": root, "split": SPLIT, "workers": 1}
    return params.Ingest.model_validate(content | changes)


def images(folder: Path, count: int = 40) -> Path:
    """Write `count` PNG files below `folder`, their names and their patients' on a table, one of them damaged."""
    rows = []
    for index in range(count):
        pixels = np.kron(np.random.default_rng(index).integers(0, 256, (8, 8)), np.ones((5, 6))).astype(np.uint8)
        path = folder / f"{CANARY} {index % 7}" / f"{index}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), pixels)
        rows.append((path.relative_to(folder).as_posix(), "ab"[index % 2], f"{CANARY}-{index // 2}"))
    path.write_bytes(b"no image")
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "patient_id"), *rows])
    return folder


def folder_section(root: Path) -> params.Ingest:
    options = {"folder": {"labels": "labels.csv"}}
    return dicom_section(root, source="folder", options=options, max_rejected=0.1)


def parts(section: params.Ingest, folder: Path, shards: int, **settings) -> list[Path]:
    """Ingest each shard, and return their folders."""
    made = [folder / f"part-{shard}" for shard in range(shards)]
    for shard, part in enumerate(made):
        ingest_part(BASE, section, part=part, shard=shard, shards=shards, **settings)
    return made


def joined(section: params.Ingest, folder: Path, shards: int, **settings) -> dict:
    return ingest(BASE, section, samples=folder / "samples", parts=parts(section, folder, shards, **settings))


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module", params=["dicom", "folder"])
def section(request, tmp_path_factory) -> params.Ingest:
    root = tmp_path_factory.mktemp("data") / "wards"
    if request.param == "folder":
        return folder_section(images(root))
    return dicom_section(support.dicom_tree(root, 40, name=CANARY))


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_the_number_of_shards_changes_no_byte(section, tmp_path, shards):
    privacy.key_file().write_text("a" * privacy.KEY_BYTES)  # under one key in seventy one of seven shards is empty
    at_once = ingest(BASE, section, samples=tmp_path / "wanted")
    assert joined(section, tmp_path, shards) == at_once
    assert contents(tmp_path / "samples") == contents(tmp_path / "wanted")
    lineage = provenance.verify(tmp_path / "samples")
    assert lineage["data_hash"] == data_hash(Path(section.root))
    found = [pq.read_table(tmp_path / f"part-{shard}/items.parquet").num_rows for shard in range(shards)]
    assert sum(found) == at_once["items"]
    assert shards == 1 or all(0 < count < at_once["items"] for count in found)


def test_a_part_names_no_patient_and_no_file(section, tmp_path, capfd):
    joined(section, tmp_path, 3)
    for path in tmp_path.rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes(), path
    shown = capfd.readouterr()
    assert CANARY not in shown.out + shown.err


def test_an_item_stays_in_its_shard_as_the_data_grows(tmp_path):
    found = []
    for count in (20, 60):
        root = support.dicom_tree(tmp_path / str(count) / "wards", count, name=CANARY)
        made = parts(dicom_section(root), tmp_path / str(count), 3)
        found.append([set(pq.read_table(part / "items.parquet")["item"].to_pylist()) for part in made])
    assert all(few < many for few, many in zip(*found, strict=True))


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("options", [{}, {"split": "train"}, {"patients": 0}])
def test_masks_boxes_and_official_splits_survive(tmp_path, options):
    """The items of this source have no file of their own."""
    section = params.Ingest.model_validate({"source": "toy", "options": {"toy": options}, "workers": 1})
    outcomes = []
    for folder, run in ((tmp_path / "one", _at_once), (tmp_path / "three", joined)):
        try:
            run(section, folder, 3)
            outcomes.append(contents(folder / "samples"))
        except Refused as refused:
            outcomes.append(str(refused))
    assert outcomes[0] == outcomes[1]


def _at_once(section, folder, _):
    return ingest(BASE, section, samples=folder / "samples")


@pytest.mark.usefixtures("toy")
def test_a_split_for_some_samples_is_counted_over_all_shards(tmp_path):
    section = params.Ingest.model_validate({"source": "toy", "options": {"toy": {"split": "train", "fault": "split"}}})
    with pytest.raises(Refused, match="for every sample or for none, got one for 39 of 40"):
        joined(section, tmp_path, 3)


def private() -> str:
    return (Path(os.environ["MEDLOOP_STATE"]) / "private/rejects.csv").read_text()


def test_what_cannot_be_read_is_judged_over_all_shards_and_named_in_private(tmp_path):
    section = folder_section(images(tmp_path / "data"))
    made = parts(section, tmp_path, 3)  # in its shard it is more than the tenth that is allowed
    report = ingest(BASE, section, samples=tmp_path / "samples", parts=made)
    [rejected] = report["rejected"]
    assert [rejected["pseudonym"], rejected["reason"], f"{CANARY} 4/39.png"] in csv.reader(private().splitlines())
    strict = section.model_copy(update={"max_rejected": 0.01})
    with pytest.raises(Refused, match=r"1 of 40 items could not be read \(2.5%\)"):
        joined(strict, tmp_path / "strict", 3)


def test_twins_in_two_shards_are_refused_and_both_named_in_private(tmp_path):
    root = support.dicom_tree(tmp_path / "wards", 20, name=CANARY)
    files = sorted(path.relative_to(root).as_posix() for path in root.rglob("*.dcm"))
    key = privacy.Pseudonyms.load()
    shard = {file: int(key.of("item", file), 16) % 3 for file in files}
    other = next(file for file in files if shard[file] != shard[files[0]])
    shutil.copy(root / files[0], root / other)
    with pytest.raises(Refused, match="came twice: two files carry the same identifier") as refused:
        joined(dicom_section(root), tmp_path, 3)
    assert CANARY not in str(refused.value)
    assert files[0] in private()
    assert other in private()
    assert not (tmp_path / "samples").exists()


def test_leaks_across_shards_are_refused_and_named_in_private(tmp_path):
    root = images(tmp_path / "data")
    first = cv2.imread(str(root / f"{CANARY} 0/0.png"), cv2.IMREAD_UNCHANGED)
    for index in range(1, 40):
        cv2.imwrite(str(root / f"{CANARY} {index % 7}/{index}.png"), first)
    with pytest.raises(Refused, match="no image may stand on two sides"):
        joined(folder_section(root), tmp_path, 3)
    assert "stands on two sides" in private()
    assert f"{CANARY} 0/0.png" in private()


def rewritten(part: Path, **changes) -> None:
    path = part / "lineage.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def damaged(part: Path) -> None:
    path = part / "shards/00000.bin"
    path.write_bytes(bytes(1) + path.read_bytes()[1:])


REFUSED = [
    (lambda made: made.pop(1), "shard 1 of 3 is missing"),
    (lambda made: made.append(made[2]), "shard 2 of 3 came twice"),
    (lambda made: made.__setitem__(2, made[1]), "shard 1 of 3 came twice"),
    (lambda made: rewritten(made[1], recipe="0"), "shard 1 of 3 was made with other recipe than"),
    (lambda made: rewritten(made[1], parameters={}), "shard 1 of 3 was made with other parameters than"),
    (lambda made: rewritten(made[0], key_fingerprint="0"), "shard 0 of 3 was made with other key_fingerprint than"),
    (lambda made: rewritten(made[0], shard=[0, 4]), "shards of 3 and of 4 do not fit together"),
    (lambda made: damaged(made[1]), "does not match its digest"),
]


@pytest.fixture(scope="module")
def three(tmp_path_factory) -> tuple[params.Ingest, Path]:
    """The parts of 20 files in three shards, and the key that they were made under."""
    folder = tmp_path_factory.mktemp("three")
    section = dicom_section(support.dicom_tree(folder / "wards", 20, name=CANARY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MEDLOOP_KEY_FILE", str(folder / "key"))
        parts(section, folder, 3)
    return section, folder


@pytest.mark.parametrize(("change", "message"), REFUSED)
def test_parts_that_do_not_fit_are_refused_by_name(three, tmp_path, monkeypatch, change, message):
    section, folder = three
    monkeypatch.setenv("MEDLOOP_KEY_FILE", str(folder / "key"))
    made = [shutil.copytree(folder / f"part-{shard}", tmp_path / f"part-{shard}") for shard in range(3)]
    change(made)
    with pytest.raises(Refused, match=message):
        ingest(BASE, section, samples=tmp_path / "samples", parts=made)
    assert not (tmp_path / "samples").exists()


def test_another_shard_of_none_is_refused(tmp_path):
    with pytest.raises(Refused, match="a shard must be one of 0 to 2, got 3 of 3"):
        ingest_part(BASE, dicom_section(tmp_path), part=tmp_path / "part", shard=3, shards=3)


@pytest.mark.parametrize("late", ["a label", "a file", "a file after the shards"])
def test_data_that_changes_between_the_shards_is_refused(tmp_path, late):
    section = dicom_section(root := support.dicom_tree(tmp_path / "wards", 30, name=CANARY))
    made = [tmp_path / f"part-{shard}" for shard in range(3)]
    for shard, part in enumerate(made):
        ingest_part(BASE, section, part=part, shard=shard, shards=3)
        if shard == 1 and late == "a label":
            table = (root / "labels.csv").read_text()
            (root / "labels.csv").write_text(table.replace("normal", "finding", 1))
        if shard == (2 if late.endswith("shards") else 0) and late.startswith("a file"):
            (root / "more.txt").write_text("no DICOM")
    with pytest.raises(Refused, match="the data changed while the shards were read"):
        ingest(BASE, section, samples=tmp_path / "samples", parts=made)


def test_an_unlabelled_file_is_refused_by_its_shard(tmp_path):
    root = support.dicom_tree(tmp_path / "wards", 20, name=CANARY)
    lines = (root / "labels.csv").read_text().splitlines()
    (root / "labels.csv").write_text("\n".join(lines[:-1]))
    with pytest.raises(Refused, match="1 of 20 files have no label"):
        parts(dicom_section(root), tmp_path, 3)


def test_a_shard_may_be_empty(tmp_path):
    section = dicom_section(support.dicom_tree(tmp_path / "wards", 10, name=CANARY), split={"val": 0.3, "test": 0.3})
    joined(section, tmp_path, 40)
    assert len(manifest.read(tmp_path / "samples")[0]) == 10
