import csv
import multiprocessing
import os
import stat

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from medloop import errors, privacy
from medloop.errors import Refused

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.*")
KEY = bytes(range(32))


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_the_key_is_made_once_for_the_owner_alone(tmp_path, monkeypatch):
    path = tmp_path / "new" / "key"
    monkeypatch.setenv("MEDLOOP_KEY_FILE", str(path))
    first, second = privacy.Pseudonyms.load(), privacy.Pseudonyms.load()
    assert mode(path) == 0o600
    assert first.fingerprint == second.fingerprint
    assert [file.name for file in path.parent.iterdir()] == ["key"]


def test_the_key_is_in_the_configuration_folder_unless_named(tmp_path, monkeypatch):
    monkeypatch.delenv("MEDLOOP_KEY_FILE")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert privacy.key_file() == tmp_path / "medloop" / "pseudonym.key"
    monkeypatch.delenv("XDG_CONFIG_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert privacy.key_file() == tmp_path / ".config" / "medloop" / "pseudonym.key"


def _fingerprint(_):
    return privacy.Pseudonyms.load().fingerprint


def test_processes_that_race_for_a_new_key_agree(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_KEY_FILE", str(tmp_path / "raced"))
    with multiprocessing.get_context("fork").Pool(8) as pool:
        assert len(set(pool.map(_fingerprint, range(32), chunksize=1))) == 1


@pytest.mark.parametrize(("content", "message"), [(b"", "at least 32 bytes, got 0"), (b"short\n", "got 5")])
def test_a_key_that_is_none_is_refused(tmp_path, monkeypatch, content, message):
    path = tmp_path / "key"
    path.write_bytes(content)
    monkeypatch.setenv("MEDLOOP_KEY_FILE", str(path))
    with pytest.raises(Refused, match=message):
        privacy.Pseudonyms.load()


def test_a_key_that_cannot_be_made_is_refused(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("MEDLOOP_KEY_FILE", str(tmp_path / "file" / "key"))
    with pytest.raises(Refused, match="no pseudonym key at"):
        privacy.Pseudonyms.load()


def test_pseudonyms_depend_on_key_kind_and_identifier_alone():
    pseudonyms = privacy.Pseudonyms(KEY)
    name = pseudonyms.of("patient", "Jane")
    assert name == privacy.Pseudonyms(KEY).of("patient", "Jane")
    assert len(name) == 16
    assert int(name, 16)
    others = {
        pseudonyms.of("study", "Jane"),
        pseudonyms.of("patient", "Jane "),
        privacy.Pseudonyms(KEY[::-1]).of("patient", "Jane"),
        pseudonyms.fingerprint,
    }
    assert len(others | {name}) == 5
    assert pseudonyms.of("item", os.fsdecode(b"\xff.dcm"))  # a file name that is no UTF-8


@pytest.mark.parametrize(
    ("age", "wanted"),
    [(None, None), (-1, None), (float("nan"), None), (0, 0), (89, 89), (89.5, 90), (90, 90), (104, 90)],
)
def test_ages_over_89_become_90(age, wanted):
    assert privacy.capped_age(age) == wanted


@pytest.mark.parametrize(
    ("text", "years"),
    [
        ("045Y", 45),
        ("006M", 0.5),
        ("026W", 26 / 52.1775),
        ("073D", 73 / 365.2425),
        ("101Y", 90),
        ("Jane", None),
        ("", None),
    ],
)
def test_patient_age_in_years(text, years):
    ds = Dataset()
    ds.PatientAge = text
    assert privacy.allowed_header(ds)["age_years"] == years


def test_only_listed_header_fields_pass():
    ds = Dataset()
    ds.PatientID, ds.StudyInstanceUID, ds.PatientSex, ds.Modality = " 17 ", "1.2", "F", "DX"
    ds.InstitutionName, ds.PatientName, ds.StudyDescription = "North", "Canary^Jane", "Canary"
    ds.PixelSpacing = ["0.2", "0.3"]
    ds.add_new(0x00091010, "LO", "Canary")
    assert privacy.allowed_header(ds, "InstitutionName") == {
        "patient_id": "17",
        "study_id": "1.2",
        "site": "North",
        "sex": "F",
        "age_years": None,
        "modality": "DX",
        "spacing_mm": (0.2, 0.3),
    }
    assert privacy.allowed_header(ds)["site"] is None


def test_fields_that_hold_what_they_should_not_are_dropped():
    ds = Dataset()
    ds.PatientSex, ds.Modality = "Jane", "Canary Jane"
    ds.ImagerPixelSpacing = [0, 1]
    assert set(privacy.allowed_header(ds).values()) == {None}


def test_spacing_of_an_enhanced_image_stands_in_its_shared_group():
    measures, shared, ds = Dataset(), Dataset(), Dataset()
    measures.PixelSpacing = [0.5, 0.6]
    shared.PixelMeasuresSequence = Sequence([measures])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    assert privacy.allowed_header(ds)["spacing_mm"] == (0.5, 0.6)


def test_the_private_list_is_for_the_owner_alone_and_is_made_anew():
    privacy.list_privately([("old", "reason", "old.dcm")])
    path = privacy.list_privately([("ab12", "truncated", "Jane, Müller.dcm"), ("cd34", "x", os.fsdecode(b"\xff.dcm"))])
    assert mode(path) == 0o600
    assert mode(path.parent) == 0o700
    with path.open(newline="", encoding="utf-8", errors="surrogateescape") as file:
        rows = list(csv.reader(file))
    assert rows == [
        ["pseudonym", "reason", "key"],
        ["ab12", "truncated", "Jane, Müller.dcm"],
        ["cd34", "x", "\udcff.dcm"],
    ]


def test_a_traceback_is_kept_for_the_owner_alone():
    try:
        raise ValueError("Jane")
    except ValueError as error:
        path = privacy.keep_traceback(error)
    assert mode(path) == 0o600
    assert "ValueError: Jane" in path.read_text()


def test_some_pseudonyms_stand_for_many():
    assert errors.some(["a", "b"]) == "a, b"
    assert errors.some("abcdefg") == "a, b, c, d, e, ..."
