"""What is taken over from earlier samples, what is read again, and that nobody can tell from the bytes."""

import csv
import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest

import support
from medloop import decoding, manifest, params, provenance
from medloop.kinds import image
from medloop.stages.ingest import ingest, ingest_part
from stages.test_ingest_shards import BASE, contents, dicom_section, folder_section, images
from support import CANARY

COUNT = 30


def grown(root: Path) -> None:
    """Add two files, change one, change one label, move one, delete one: four have to be read."""
    before = [root / f"{CANARY}_{index:04}/{CANARY}-{index}.dcm" for index in range(COUNT)]
    with (root / "labels.csv").open(newline="") as file:
        rows = dict(csv.reader(file))
    for index in (COUNT, COUNT + 1):
        path = root / f"new {index}.dcm"
        support.dicom(index, finding=True, name=CANARY).save_as(path, enforce_file_format=True)
        rows[path.name] = "finding"
    support.dicom(3, finding=True, seed=9, name=CANARY).save_as(before[3], enforce_file_format=True)
    relabelled = before[4].relative_to(root).as_posix()
    rows[relabelled] = {"finding": "normal", "normal": "finding"}[rows[relabelled]]
    before[5].unlink()
    del rows[before[5].relative_to(root).as_posix()]
    with (root / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows.items())


@pytest.fixture
def root(tmp_path) -> Path:
    return support.dicom_tree(tmp_path / "wards", COUNT, name=CANARY)


def fresh(section: params.Ingest, folder: Path) -> dict[str, bytes]:
    """Return the bytes of a full ingest."""
    report = ingest(BASE, section, samples=folder / "fresh")
    assert report["taken_over"] == 0
    return contents(folder / "fresh")


def again(section: params.Ingest, folder: Path, base: params.Base = BASE) -> tuple[int, int]:
    """Ingest in place, as the command does, and return how many items were read and taken over."""
    report = ingest(base, section, samples=folder / "samples", previous=folder / "samples")
    return report["items"] - report["taken_over"], report["taken_over"]


def test_only_what_is_new_or_changed_is_read(root, tmp_path):
    section = dicom_section(root)
    assert again(section, tmp_path) == (COUNT, 0)
    before = manifest.read(tmp_path / "samples")[0].set_index("patient_id")["split"]
    assert again(section, tmp_path) == (0, COUNT)
    grown(root)
    assert again(section, tmp_path) == (4, COUNT - 3)
    assert contents(tmp_path / "samples") == fresh(section, tmp_path)
    after = manifest.read(tmp_path / "samples")[0].set_index("patient_id")["split"]
    assert len(set(after.index) & set(before.index)) == COUNT - 1
    assert all(after[patient] == before[patient] for patient in set(after.index) & set(before.index))


def test_what_was_rejected_or_dropped_is_read_again(tmp_path):
    section = folder_section(images(tmp_path / "data")).model_copy(update={"leaks": "drop"})
    again(section, tmp_path)
    assert again(section, tmp_path) == (1, 39)
    sides = {index: decoding.side(f"{CANARY}-{index // 2}", section.split) for index in range(39)}
    test, train = (next(index for index in sides if sides[index] == side) for side in ("test", "train"))
    path = {index: tmp_path / f"data/{CANARY} {index % 7}/{index}.png" for index in sides}
    shutil.copy(path[test], path[train])
    table = tmp_path / "data/labels.csv"
    wrong = next(index for index in sides if index not in (test, train))
    lines = [
        line.replace(",a,", ",c,").replace(",b,", ",c,") if f"/{wrong}.png" in line else line
        for line in table.read_text().splitlines()
    ]
    table.write_text("\n".join(lines))
    assert again(section, tmp_path) == (3, 37)
    assert contents(tmp_path / "samples") == fresh(section, tmp_path)
    assert again(section, tmp_path) == (2, 38)
    assert contents(tmp_path / "samples") == contents(tmp_path / "fresh")


@pytest.mark.parametrize(
    ("section", "base", "taken"),
    [
        ({"workers": 2, "leaks": "drop", "max_rejected": 0.5}, {}, COUNT),
        ({"options": {"dicom": {"site": "InstitutionName"}}}, {}, 0),
        ({"split": {"val": 0.3, "test": 0.35}}, {}, 0),
        ({}, {"seed": 1}, 0),
    ],
)
def test_parameters_that_decide_what_comes_of_a_file(root, tmp_path, section, base, taken):
    again(dicom_section(root), tmp_path)
    changed, other = dicom_section(root, **section), BASE.model_copy(update=base)
    assert again(changed, tmp_path, other) == (COUNT - taken, taken)
    ingest(other, changed, samples=tmp_path / "fresh")
    assert contents(tmp_path / "samples") == contents(tmp_path / "fresh")


def test_other_code_or_decoders_read_everything_again(root, tmp_path, monkeypatch):
    section = dicom_section(root)
    again(section, tmp_path)
    monkeypatch.setattr(decoding, "DECODERS", ("numpy",))
    assert again(section, tmp_path) == (COUNT, 0)
    behind = provenance.code_behind(decoding, image)
    assert {"decoding.py", "imaging.py", "manifest.py", "packing.py", "privacy.py", "reading.py"} <= behind.keys()
    before = provenance.digest(tmp_path / "samples")
    monkeypatch.setattr(provenance, "code_behind", lambda *_: behind | {"imaging.py": "another"})
    assert again(section, tmp_path) == (COUNT, 0)
    assert provenance.digest(tmp_path / "samples") == before, (
        "the samples say what they hold, their lineage how it came"
    )


def test_the_code_behind_a_source_is_followed_into_functions_and_out_of_medloop(tmp_path):
    (tmp_path / "own.py").write_text("def read():\n    from medloop.phantom import cohort\n")
    from importlib import util

    spec = util.spec_from_file_location("own", tmp_path / "own.py")
    before = provenance.code_behind(util.module_from_spec(spec))
    assert "phantom/cohort.py" in before
    (tmp_path / "own.py").write_text("def read():\n    from medloop.phantom import cohort\n    return 1\n")
    after = provenance.code_behind(util.module_from_spec(spec))
    assert {name for name in before if before[name] != after[name]} == {next(n for n in before if n.endswith("own.py"))}


def flip(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


@pytest.mark.parametrize("name", ["shards/00000.bin", "items.parquet", "manifest.parquet", "lineage.json"])
def test_damaged_samples_are_left_alone_with_a_word(root, tmp_path, caplog, name):
    section = dicom_section(root)
    again(section, tmp_path)
    wanted = contents(tmp_path / "samples")
    shutil.copytree(tmp_path / "samples", tmp_path / "earlier")
    flip(tmp_path / "earlier" / name) if name != "lineage.json" else (tmp_path / "earlier" / name).write_text("{")
    with caplog.at_level(logging.WARNING):
        report = ingest(BASE, section, samples=tmp_path / "samples", previous=tmp_path / "earlier")
    assert report["taken_over"] == 0
    assert contents(tmp_path / "samples") == wanted
    assert "Nothing is taken over from earlier samples: " in caplog.text
    assert CANARY not in caplog.text


def test_samples_that_cannot_be_read_are_left_alone_with_a_word(root, tmp_path, caplog):
    section = dicom_section(root)
    again(section, tmp_path)
    earlier = tmp_path / "earlier"
    shutil.copytree(tmp_path / "samples", earlier)
    (earlier / "shards/00000.bin").unlink()
    (earlier / "shards/00000.bin").mkdir()  # root may read any file
    with caplog.at_level(logging.WARNING):
        report = ingest(BASE, section, samples=tmp_path / "samples", previous=earlier)
    assert report["taken_over"] == 0
    assert "Nothing is taken over from earlier samples: they cannot be read (Is a directory)" in caplog.text


def test_samples_under_another_key_are_not_taken_over(root, tmp_path, monkeypatch):
    section = dicom_section(root)
    again(section, tmp_path)
    monkeypatch.setenv("MEDLOOP_KEY_FILE", str(tmp_path / "another"))
    report = ingest(BASE, section, samples=tmp_path / "other", previous=tmp_path / "samples")
    assert report["taken_over"] == 0


def test_without_earlier_samples_everything_is_read(root, tmp_path):
    report = ingest(BASE, dicom_section(root), samples=tmp_path / "samples", previous=tmp_path / "none")
    assert (report["items"], report["taken_over"]) == (COUNT, 0)


def test_shards_take_over_too_and_what_they_write_can_be_taken_over(root, tmp_path):
    section = dicom_section(root)
    again(section, tmp_path)
    grown(root)
    earlier = tmp_path / "samples"
    for shards in (3, 2):
        made, read = [], []
        for shard in range(shards):
            made.append(tmp_path / f"part-{shard}-of-{shards}")
            done = ingest_part(BASE, section, part=made[-1], shard=shard, shards=shards, previous=earlier)
            read.append(done["items"] - done["taken_over"])
        assert sum(read) == (4 if shards == 3 else 0)
        earlier = tmp_path / f"samples-of-{shards}"
        ingest(BASE, section, samples=earlier, parts=made)
    assert contents(earlier) == fresh(section, tmp_path)


def test_what_is_remembered_names_nobody(root, tmp_path):
    again(dicom_section(root), tmp_path)
    for path in (tmp_path / "samples").rglob("*"):
        assert path.is_dir() or CANARY.encode() not in path.read_bytes(), path
    report = json.loads((tmp_path / "samples/ingest.json").read_text())
    assert "taken_over" not in report


def test_a_file_that_is_renamed_is_read_again(root, tmp_path):
    section = dicom_section(root)
    again(section, tmp_path)
    path = root / f"{CANARY}_0007/{CANARY}-7.dcm"
    path.rename(path.with_name("other.dcm"))
    table = root / "labels.csv"
    table.write_text(table.read_text().replace(f"{CANARY}-7.dcm", "other.dcm"))
    assert again(section, tmp_path) == (1, COUNT - 1)
    assert contents(tmp_path / "samples") == fresh(section, tmp_path)


def test_pixels_are_those_of_the_files(root, tmp_path):
    section = dicom_section(root)
    again(section, tmp_path)
    grown(root)
    again(section, tmp_path)
    table, _ = manifest.read(tmp_path / "samples")
    pixels = manifest.Values(tmp_path / "samples")
    found = {row.patient_id: pixels[row] for row in table.itertuples()}
    from medloop import privacy

    of = privacy.Pseudonyms.load().of
    for patient, seed in ((2, 0), (3, 9)):
        finding = True if seed else bool(np.random.default_rng((7, patient)).integers(2))
        wanted = support.dicom(patient, finding, seed=seed, name=CANARY).pixel_array
        np.testing.assert_array_equal(found[of("patient", f"{CANARY}-{patient:04}")], wanted)
