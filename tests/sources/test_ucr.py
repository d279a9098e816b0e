import gzip

import numpy as np
import pytest

from medloop.errors import Refused
from medloop.sources import ucr


def read(root, **options):
    found = ucr.Options(name="Toy", **options)
    return [sample for item in ucr.items(root, found, seed=0) for sample in item.read()]


def lines(count, seed=0):
    random = np.random.default_rng(seed)
    return "\n".join(f"{1 + i % 3:.7e}  " + "  ".join(f"{v:.7e}" for v in random.normal(size=6)) for i in range(count))


def test_train_alone_leaves_the_sides_to_their_content(tmp_path):
    (tmp_path / "Toy_TRAIN.txt").write_text("\ufeff" + lines(9))
    found = read(tmp_path, classes={"1": "normal", "2": "other", "3": "other"})
    assert [each.label for each in found] == ["normal", "other", "other"] * 3
    assert {(each.split, each.patient_id, each.values.shape, each.values.dtype.name) for each in found} == {
        (None, None, (6, 1), "float32")
    }


def test_the_archive_s_test_set_stays_one_and_some_of_train_becomes_val(tmp_path):
    (tmp_path / "Toy_TRAIN.txt.gz").write_bytes(gzip.compress(lines(200).encode()))
    (tmp_path / "Toy_TEST.tsv").write_text(lines(7, seed=1).replace("  ", "\t"))
    found = read(tmp_path, leave=["3"])
    sides = [each.split for each in found]
    assert (sides.count("test"), sides.count("train") + sides.count("val")) == (5, 134)
    assert 10 < sides.count("val") < 45
    (tmp_path / "Toy_TRAIN.txt.gz").write_bytes(gzip.compress(lines(200).replace("\n", "\r\n").encode()))
    assert [each.split for each in read(tmp_path, leave=["3"])] == sides, "how lines end decides nothing"
    assert {each.label for each in found} == {"1", "2"}


def test_what_is_no_table_and_what_has_no_name_are_refused(tmp_path):
    with pytest.raises(Refused, match=r"no Toy_TRAIN\.txt in"):
        read(tmp_path)
    (tmp_path / "Toy_TRAIN.txt").write_text("1 2 3\n\n1 two 3\n")
    with pytest.raises(Refused, match="line 3 is no row of numbers"):
        read(tmp_path)
    (tmp_path / "Toy_TRAIN.txt").write_text("4 2 3\n")
    with pytest.raises(Refused, match=r"class 4, ingest\.options\.ucr\.classes names 1"):
        read(tmp_path, classes={"1": "normal"})


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("Toy_TRAIN.txt", b"1 2 3\n\xff\xfe", "is no text: wanted a line a sequence"),
        ("Toy_TRAIN.txt.gz", gzip.compress(lines(200).encode())[:-900], r"cannot be read \(EOFError\)"),
        ("Toy_TRAIN.txt.gz", b"1 2 3\n", r"cannot be read \(BadGzipFile\)"),
    ],
)
def test_a_damaged_file_is_refused(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(Refused, match=f"{name} {said}"):
        read(tmp_path)


def test_values_that_the_archive_fills_up_with_are_none_and_others_that_are_missing_are_refused(tmp_path):
    (tmp_path / "Toy_TRAIN.txt").write_text("1 0.5 0.25 NaN NaN\n2 1 2 3 4\n")
    assert [each.values[:, 0].tolist() for each in read(tmp_path)] == [[0.5, 0.25], [1, 2, 3, 4]]
    for line, said in (
        ("NaN 1 2 3", "line 2 has a class or a value that is no number"),
        ("1 1 NaN 3", "line 2 has a class or a value that is no number"),
        ("1,1,,3", "line 2 is no row of numbers"),
    ):
        (tmp_path / "Toy_TRAIN.txt").write_text(f"2 1 2 3\n{line}\n")
        with pytest.raises(Refused, match=said):
            read(tmp_path)


def test_ecg5000_has_the_classes_that_are_published(shared_data, monkeypatch, tmp_path):
    monkeypatch.setenv("MEDLOOP_DATA", str(shared_data))
    samples = [s for item in ucr.items(tmp_path, ucr.Options(name="ECG5000"), seed=0) for s in item.read()]
    counts = [sum(each.label == name for each in samples) for name in "12345"]
    assert counts == [292, 177, 10, 19, 2]
    assert {each.values.shape for each in samples} == {(140, 1)}
