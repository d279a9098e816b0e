import numpy as np
import pytest

import waves
from medloop import privacy
from medloop.errors import Refused
from medloop.sources import wfdb

NAME = "Canarybird_1"


def read(root, **options):
    found = wfdb.Options(**options)
    return [sample for item in wfdb.items(root, found, seed=0) for sample in item.read()]


def test_a_single_record_is_cut_in_time_with_gaps(tmp_path):
    waves.record(tmp_path, "a", moments=1000)
    train, val, test = read(tmp_path, records=["a"], leads=["II"], gap=40, val=0.25, test=0.25)
    assert [each.split for each in (train, val, test)] == ["train", "val", "test"]
    assert [each.start for each in (train, val, test)] == [0, 500, 770]
    assert [len(each.values) for each in (train, val, test)] == [460, 230, 230]
    assert (train.rate_hz, train.unit, train.age_years, train.sex) == (50.0, "mV", 63.0, "F")
    both = read(tmp_path, records=["a"], in_time=False)[0].values
    np.testing.assert_array_equal(val.values[:, 0], both[500:730, 1])


def test_several_records_are_left_to_the_split_by_patient(tmp_path):
    for seed, name in enumerate("abc"):
        waves.record(tmp_path, name, moments=300, seed=seed)
    found = read(tmp_path)
    assert [(each.patient_id, each.split, each.values.shape) for each in found] == [
        (name, None, (300, 2)) for name in "abc"
    ]


def test_beats_lie_around_their_annotations_and_within_their_side(tmp_path):
    waves.record(tmp_path, "a")
    found = read(tmp_path, records=["a"], leads=["I"], use="beats", before=10, after=15, gap=30)
    assert {each.label for each in found} == {"normal", "ventricular ectopic"}
    assert {each.values.shape for each in found} == {(25, 1)}
    whole = read(tmp_path, records=["a"], leads=["I"], in_time=False)[0].values
    for each in found:
        np.testing.assert_array_equal(each.values, whole[each.start : each.start + 25])
        assert (each.start + 10) % waves.RATE == 0
    ends = {side: [e.start for e in found if e.split == side] for side in ("train", "val", "test")}
    assert max(ends["train"]) + 25 + 30 <= min(ends["val"]) + waves.RATE
    assert max(ends["val"]) + 25 <= min(ends["test"])


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"records": [NAME], "use": "beats"}, r"1 of 1 records have no annotations \(\*\.atr\) in .*use: signal"),
        ({"records": [NAME, "Canarybird_2"]}, r"1 of 2 records have no header \(\*\.hea\) in"),
        ({"records": [NAME], "leads": ["V9"]}, "the record has no lead V9"),
        ({"records": [NAME], "gap": 150}, "the record has 300 moments: too few to cut with gaps of 150"),
        ({}, "the folder has one record, which can only be cut in time: .*in_time: true"),
    ],
)
def test_what_cannot_be_read_is_refused_with_what_to_do_and_names_no_record(tmp_path, options, said):
    waves.record(tmp_path, NAME, moments=300, beats=False)
    with pytest.raises(Refused, match=said) as refused:
        read(tmp_path, **options)
    assert "Canarybird" not in str(refused.value)
    if "records have no" in said:
        assert "Canarybird" in (privacy.folder() / "rejects.csv").read_text()


def test_records_of_one_patient_count_as_one(tmp_path):
    for seed, name in enumerate(("201", "202", "203")):
        waves.record(tmp_path, name, moments=300, seed=seed)
    assert [each.patient_id for each in read(tmp_path)] == ["201", "202", "203"]
    (tmp_path / "who.csv").write_text("path,patient_id\n203,p\n202,\n201,p\nanother,q\n")
    assert [each.patient_id for each in read(tmp_path, patients="who.csv")] == ["p", "202", "p"]
    (tmp_path / "who.csv").write_text("path,patient_id\n203,p\n201,p\n")
    with pytest.raises(Refused, match="1 of 3"):
        read(tmp_path, patients="who.csv")
    assert [each.patient_id for each in read(tmp_path, name="mitbih")] == ["201", "201", "203"]
    (tmp_path / "who.csv").write_text("path,sex\n201,M\n202,M\n203,F\n")
    assert [each.patient_id for each in read(tmp_path, patients="who.csv", name="mitbih")] == ["201", "201", "203"]
    around = tmp_path / "around"
    waves.record(around / "mitbih", "202", moments=300)
    waves.record(around / "other", "777", moments=300)
    assert [each.patient_id for each in read(around, name="mitbih", in_time=False)] == ["201"]
    assert "Each record counts as a patient of its own" in wfdb.notes(wfdb.Options())[0]
    assert "the table does not name counts as" in wfdb.notes(wfdb.Options(labels="labels.csv"))[0]
    assert "counts as a patient of its own" not in wfdb.notes(wfdb.Options(name="mitbih"))[0]


def test_leads_go_by_their_names(tmp_path):
    for name, leads in (("a", ("I", "V5")), ("b", ("V5", "I")), ("c", ("V5", "aVF"))):
        waves.record(tmp_path, name, moments=300, leads=leads, beats=False)
    by_name = {name: read(tmp_path, records=[name], leads=["I", "V5"], in_time=False)[0].values for name in "ab"}
    for found, name in zip(read(tmp_path, records=["a", "b"]), "ab", strict=True):
        np.testing.assert_array_equal(found.values, by_name[name])
    assert not np.array_equal(by_name["a"], by_name["b"])  # the second lead is written twice as high
    with pytest.raises(Refused, match="other leads than the first: name those of all"):
        read(tmp_path)
    assert [each.values.shape for each in read(tmp_path, leads=["V5"])] == [(300, 1)] * 3


def test_segments_and_what_is_hidden_are_no_records(tmp_path):
    for name in ("m_0001", "m_0002", "n"):
        waves.record(tmp_path / "db", name, moments=300, beats=False)
    (tmp_path / "db" / "m.hea").write_text("m/2 2 50 600\nm_0001 300\nm_0002 300\n")
    (tmp_path / ".snapshot").mkdir()
    (tmp_path / ".snapshot/n.hea").write_text((tmp_path / "db/n.hea").read_text())
    (tmp_path / "db/._n.hea").write_bytes(b"\x00\x05")
    assert [(each.patient_id, len(each.values)) for each in read(tmp_path)] == [("db/m", 600), ("db/n", 300)]


def test_a_label_without_its_record_is_refused(tmp_path):
    for name in "ab":
        waves.record(tmp_path, name, moments=300, beats=False)
    (tmp_path / "labels.csv").write_text("path,label\na,x\nb,y\nCanarybird_3,x\n")
    with pytest.raises(Refused, match="1 of 3 rows have no file") as refused:
        read(tmp_path, labels="labels.csv")
    assert "Canarybird" not in str(refused.value)
    assert len(read(tmp_path, labels="labels.csv", records=["a", "b"])) == 2


def test_a_table_says_of_records_what_their_headers_do_not(tmp_path):
    for name in ("a", "b"):
        waves.record(tmp_path, name, moments=300, beats=False)
    (tmp_path / "who.csv").write_text("path,patient_id,site,sex,age_years,split\na,p,East,M,40,train\nb,p,,,,test\n")
    first, second = read(tmp_path, patients="who.csv")
    assert (first.patient_id, first.site, first.sex, first.age_years, first.split) == ("p", "East", "M", 40, "train")
    assert (second.patient_id, second.site, second.sex, second.age_years, second.split) == ("p", None, "F", 63, "test")
    with pytest.raises(Refused, match=r"who\.csv has a split, and the records are cut in time: .*in_time: false"):
        read(tmp_path, patients="who.csv", in_time=True)


def test_a_table_labels_whole_records_of_nested_folders(tmp_path):
    for seed, name in enumerate("abc"):
        waves.record(tmp_path / "records" / name, f"{name}_lr", moments=300, beats=False, seed=seed)
    rows = ("records/a/a_lr,x,", "records/b/b_lr,y,", "records/c/c_lr,x,p")
    (tmp_path / "labels.csv").write_text("\n".join(["path,label,patient_id", *rows]))
    found = read(tmp_path, labels="labels.csv", leads=["II"])
    assert [(each.label, each.values.shape, each.split) for each in found] == [(name, (300, 1), None) for name in "xyx"]
    assert [each.patient_id for each in found] == ["records/a/a_lr", "records/b/b_lr", "p"]
    assert len({each.key for each in found}) == 3
    (tmp_path / "labels.csv").write_text("path,label\nrecords/a/a_lr,x|y\nrecords/b/b_lr,\nrecords/c/c_lr,y\n")
    assert [each.label for each in read(tmp_path, labels="labels.csv", several=True)] == ["x|y", "", "y"]
    with pytest.raises(Refused, match="line 3: the label is empty"):
        read(tmp_path, labels="labels.csv")


@pytest.mark.parametrize("options", [{"patients": "a.csv"}, {"use": "beats"}, {"in_time": True}, {"records": ["a"]}])
def test_labels_are_of_whole_records(options):
    with pytest.raises(ValueError, match="labels are of whole records"):
        wfdb.Options(labels="labels.csv", **options)
    with pytest.raises(ValueError, match="several labels stand in a table"):
        wfdb.Options(several=True)


def test_no_records_are_refused_with_where_they_were_looked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_DATA", str(tmp_path / "data"))
    with pytest.raises(Refused, match=r"no record \(\*\.hea\) in .*none or .*data/mitbih: set ingest\.root"):
        read(tmp_path / "none", name="mitbih")


def test_record_100_has_the_beats_that_are_published(shared_data, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDLOOP_DATA", str(shared_data))
    found = read(tmp_path, name="mitbih", records=["100"], leads=["MLII"], use="beats", in_time=False)
    labels = [each.label for each in found]
    assert (labels.count("normal"), labels.count("supraventricular ectopic"), labels.count("ventricular ectopic")) == (
        2237,
        33,
        1,
    )
