"""Where records come from: text either way round, Parquet, h5ad of both ages, one file or several cohorts."""

import gzip

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csc_matrix, csr_matrix

import sheets
from medloop import params
from medloop.errors import Refused
from medloop.sources import table
from support import ROOT

GENES = ("tp53", "kras", "egfr")
VALUES = np.array([[1, 0, 2.5], [0, 0, 4], [0, 7, 0], [3, 0, 0]], np.float32)
TYPES = ("B", "T", "T", "B")


def read(folder, **options):
    chosen = params.checked(table.Options, options, where="table")
    found = [sample for item in table.items(folder, chosen, seed=0) for sample in item.read()]
    return found, table.facts(folder, chosen)


def matrix(found):
    return np.stack([sample.values for sample in found])


def h5ad_now(path, how):
    with h5py.File(path, "w") as file:
        sparse = {"csr": csr_matrix, "csc": csc_matrix}.get(how)
        if sparse:
            made = sparse(VALUES)
            group = file.create_group("X")
            group.attrs["encoding-type"], group.attrs["shape"] = f"{how}_matrix", VALUES.shape
            for name in ("data", "indices", "indptr"):
                group[name] = getattr(made, name)
        else:
            file["X"] = VALUES
        file["var/_index"] = [name.encode() for name in GENES]
        file["var"].attrs["_index"] = "_index"
        file["obs/type/codes"] = np.array([0, 1, 1, 0], np.int8)
        file["obs/type/categories"] = [b"B", b"T"]


def h5ad_then(path):
    with h5py.File(path, "w") as file:
        made = csr_matrix(VALUES)
        for name in ("data", "indices", "indptr"):
            file[f"raw.X/{name}"] = getattr(made, name)
        file["raw.X"].attrs["h5sparse_format"] = "csr"
        file["raw.var"] = np.array([(name.encode(),) for name in GENES], [("index", "S8")])
        file["obs"] = np.array([(b"c", code) for code in (0, 1, 1, 0)], [("index", "S8"), ("type", "i1")])
        file["uns/type_categories"] = [b"B", b"T"]


@pytest.mark.parametrize("how", ["dense", "csr", "csc", "then"])
def test_h5ad_is_read_however_it_is_stored(how, tmp_path):
    if how == "then":
        h5ad_then(tmp_path / "cells.h5ad")
    else:
        h5ad_now(tmp_path / "cells.h5ad", how)
    place = "raw.X" if how == "then" else "X"
    found, facts = read(tmp_path, files=[{"path": "cells.h5ad"}], label="type", matrix=place)
    assert facts["variables"] == GENES
    np.testing.assert_array_equal(matrix(found), VALUES)
    assert tuple(sample.label for sample in found) == TYPES
    assert {sample.patient_id for sample in found} == {None}


def test_what_a_variable_of_h5ad_says_of_the_patient_counts(tmp_path):
    h5ad_now(tmp_path / "cells.h5ad", "dense")
    options = {"sex": "tp53", "sexes": {"1": "F", "0": "M"}, "age": "kras"}
    found, _ = read(tmp_path, files=[{"path": "cells.h5ad"}], label="type", **options)
    assert [(each.sex, each.age_years) for each in found] == [("F", 0), ("M", 0), ("M", 7), (None, 0)]


def test_parquet_and_text_say_the_same(tmp_path):
    frame = pd.DataFrame(VALUES, columns=list(GENES)).assign(who=["a", "b", "c", "d"], kind=TYPES)
    frame.to_parquet(tmp_path / "cells.parquet")
    frame.to_csv(tmp_path / "cells.csv", index=False)
    frame.to_csv(tmp_path / "cells.tsv.gz", index=False, sep="\t")
    wanted = {"id": "who", "label": "kind"}
    one, *others = (read(tmp_path, files=[{"path": name}], **wanted) for name in
                    ("cells.parquet", "cells.csv", "cells.tsv.gz"))  # fmt: skip
    np.testing.assert_array_equal(matrix(one[0]), VALUES)
    for other in others:
        np.testing.assert_array_equal(matrix(other[0]), matrix(one[0]))
        assert [sample.label for sample in other[0]] == [sample.label for sample in one[0]]
        assert other[1] == one[1]


def expression(folder, *, genes=("g1", "g2", "g3"), names=("1", "2"), file="train.csv"):
    lines = ["gene,text," + ",".join(f"{name},call" for name in names)]
    lines += [f"{gene},x," + ",".join(f"{10 * row + int(name)},A" for name in names) for row, gene in enumerate(genes)]
    (folder / file).write_text("\n".join(lines))


def cohorts(folder, **changes):
    expression(folder)
    expression(folder, names=("3", "4"), file="independent.csv", **changes)
    (folder / "actual.csv").write_text("patient,cancer\n1,ALL\n2,AML\n3,ALL\n4,AML\n")
    files = [{"path": "train.csv", "split": "train"}, {"path": "independent.csv", "split": "test", "site": "B"}]
    labels = {"path": "actual.csv", "id": "patient", "label": "cancer"}
    return {"files": files, "labels": labels, "variable": "gene", "leave": ["text", "call*"], "val": 0.5}


def test_lines_may_be_variables_and_labels_another_file(tmp_path):
    found, facts = read(tmp_path, **cohorts(tmp_path))
    assert facts["variables"] == ("g1", "g2", "g3")
    assert matrix(found).tolist() == [[1, 11, 21], [2, 12, 22], [3, 13, 23], [4, 14, 24]]
    assert [sample.label for sample in found] == ["ALL", "AML", "ALL", "AML"]
    assert [sample.patient_id for sample in found] == ["1", "2", "3", "4"]
    assert {sample.split for sample in found[:2]} <= {"train", "val"}
    assert [(sample.split, sample.site) for sample in found[2:]] == [("test", "B")] * 2


def test_a_gene_that_one_cohort_lacks_is_refused_or_left_out_of_all(tmp_path):
    options = cohorts(tmp_path, genes=("g3", "g1"))
    said = r"variable g2 of train\.csv is not in independent\.csv: set ingest\.options\.table\.unequal: common"
    with pytest.raises(Refused, match=said):
        read(tmp_path, **options)
    found, facts = read(tmp_path, unequal="common", **options)
    assert facts["variables"] == ("g1", "g3")
    assert matrix(found).tolist() == [[1, 21], [2, 22], [13, 3], [14, 4]]


def test_cohorts_in_folders_may_call_their_files_the_same(tmp_path):
    for folder, names in (("A", "label,g1,g2"), ("B", "label,g1")):
        (tmp_path / folder).mkdir()
        values = ",".join("1" * names.count(","))
        (tmp_path / folder / "d.csv").write_text(f"{names}\nwell,{values}\nill,{values}\n")
    files = [{"path": "A/d.csv"}, {"path": "B/d.csv"}]
    with pytest.raises(Refused, match=r"variable g2 of A/d\.csv is not in B/d\.csv"):
        read(tmp_path, files=files, label="label")
    found, facts = read(tmp_path, files=files, label="label", unequal="common", one_each=True)
    assert facts["variables"] == ("g1",)
    assert len({sample.key for sample in found}) == len({sample.patient_id for sample in found}) == 4
    with pytest.raises(Refused, match="one file may stand in files once"):
        read(tmp_path, files=[files[0]] * 2, label="label")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (",g1,label\n0,1,well\n", "has a column without a name, as pandas writes its index"),
        ("label,g1,label\nill,1,well\n", "two columns are called label"),
        ("label;g1\nill;1\n", "has one column: cells must stand apart by commas, or in a .tsv by tabs"),
        ("label\tg1\nill\t1\n", "has one column: cells must stand apart by commas"),
    ],
)
def test_columns_that_cannot_be_told_apart_are_refused(tmp_path, text, said):
    (tmp_path / "d.csv").write_text(text)
    with pytest.raises(Refused, match=said):
        read(tmp_path, files=[{"path": "d.csv"}], label="label")


def test_an_index_of_pandas_is_no_variable_and_truth_is_a_number(tmp_path):
    frame = pd.DataFrame({"label": ["ill", "well"], "g1": [1.0, 2.0], "smoker": [True, False]}, index=[7, 9])
    frame.to_parquet(tmp_path / "d.parquet")
    found, facts = read(tmp_path, files=[{"path": "d.parquet"}], label="label")
    assert facts["variables"] == ("g1", "smoker")
    np.testing.assert_array_equal(matrix(found), [[1, 1], [2, 0]])


@pytest.mark.parametrize("cell", ["1_0", "ten", "inf"])
def test_text_that_is_no_number_is_refused_as_python_would_not(tmp_path, cell):
    (tmp_path / "d.csv").write_text(f"label,g1\nwell,{cell}\n")
    with pytest.raises(ValueError, match=r"variable g1 is no (finite )?number"):
        read(tmp_path, files=[{"path": "d.csv"}], label="label")


def test_records_without_names_may_say_whose_they_are(tmp_path):
    (tmp_path / "d.csv").write_text("who,label,g1\np,ill,1\np,well,2\n,ill,3\n")
    found, _ = read(tmp_path, files=[{"path": "d.csv"}], patient="who", label="label")
    assert [(each.patient_id, each.key) for each in found] == [
        ("p", "d.csv/line 2"),
        ("p", "d.csv/line 3"),
        (None, "d.csv/line 4"),
    ]


def broken(rows, what):
    if what == "twice":
        return [*rows, rows[3]]
    if what == "no label":
        return [{name: value for name, value in row.items() if name != "ill"} for row in rows]
    if what == "empty label":
        return [*rows[:3], rows[3] | {"ill": ""}]
    return [*rows[:3], rows[3] | {"record": ""}]


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("twice", r"ward\.csv, line 12: a second record with the same name: .*patient whose they are"),
        ("no label", r"ward\.csv has no column 'ill', which ingest\.options\.table\.label names"),
        ("empty label", r"ward\.csv, line 5: the cell of the label is empty"),
        ("no name", r"ward\.csv, line 5: the record has no name"),
    ],
)
def test_a_bad_table_is_refused_in_one_line_that_names_nobody(what, said, tmp_path):
    sheets.write(tmp_path / "ward.csv", broken(sheets.rows(10), what))
    with pytest.raises(Refused, match=said) as raised:
        read(tmp_path, **sheets.options())
    assert "Canarybird" not in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_patient_is_the_same_as_a_whole_number_and_with_a_point(tmp_path):
    (tmp_path / "a.csv").write_text("who,x,ill\n7,1,yes\n1234567,2,no\n1234568,3,no\n")
    pd.DataFrame({"who": [7.0, 8.0], "x": [3.0, 4.0], "ill": ["no", "yes"]}).to_parquet(tmp_path / "b.parquet")
    files = [{"path": "a.csv"}, {"path": "b.parquet"}]
    found, _ = read(tmp_path, files=files[:1], id="who", label="ill")
    assert [each.patient_id for each in found] == ["7", "1234567", "1234568"]
    found, _ = read(tmp_path, files=files[1:], id="who", label="ill")
    assert [each.patient_id for each in found] == ["7", "8"]
    (tmp_path / "c.csv").write_text("visit,who,x,ill\n1,7.0,1,yes\n2,7,2,no\n")
    found, _ = read(tmp_path, files=[{"path": "c.csv"}], id="visit", patient="who", label="ill")
    assert [each.patient_id for each in found] == ["7", "7"]


@pytest.mark.parametrize("cell", ["nan", "NA", "?", "NULL"])
def test_a_label_that_says_there_is_none_is_no_class(cell, tmp_path):
    (tmp_path / "a.csv").write_text(f"x,ill\n1,none\n2,{cell}\n")
    for several in (False, True):
        with pytest.raises(Refused, match=r"a\.csv, line 3: the cell of the label is empty"):
            read(tmp_path, files=[{"path": "a.csv"}], label="ill", several=several)
    found, _ = read(tmp_path, files=[{"path": "a.csv"}], label="ill", classes={cell: "unknown", "none": "none"})
    assert [each.label for each in found] == ["none", "unknown"]


def test_several_labels_of_a_record_are_joined(tmp_path):
    (tmp_path / "a.csv").write_text("x,ill\n1,b | a|b\n2,\n")
    found, _ = read(tmp_path, files=[{"path": "a.csv"}], label="ill", several=True)
    assert [each.label for each in found] == ["b|a", ""]
    with pytest.raises(Refused, match=r"a class may have no \| in its name"):
        read(tmp_path, files=[{"path": "a.csv"}], label="ill", classes={"a": "A|B"})


def test_a_file_that_is_missing_or_no_table_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"no ward\.csv in .*: set ingest\.root to its folder"):
        read(tmp_path, **sheets.options())
    (tmp_path / "ward.csv").write_text("a,b\n1,2,3\n")
    with pytest.raises(Refused, match=r"ward\.csv has no column 'ill'"):
        read(tmp_path, **sheets.options())
    (tmp_path / "cells.h5ad").write_bytes(b"no such thing")
    with pytest.raises(Refused, match=r"cells\.h5ad is no readable table \(OSError\)"):
        read(tmp_path, files=[{"path": "cells.h5ad"}], label="type")
    h5ad_now(tmp_path / "more.h5ad", "dense")
    with pytest.raises(Refused, match=r"more\.h5ad has no matrix layers/counts; it has X$"):
        read(tmp_path, files=[{"path": "more.h5ad"}], label="type", matrix="layers/counts")


def test_a_misspelt_option_is_named():
    with pytest.raises(Refused, match=r"table: unknown parameter lable; did you mean 'label'\?"):
        params.checked(table.Options, {"files": [{"path": "a.csv"}], "lable": "x"}, where="table")


@pytest.mark.parametrize(
    ("profile", "records", "variables"), [("heart", 303, 13), ("golub", 72, 7129), ("pbmc68k", 700, 765)]
)
def test_the_public_tables_have_their_published_counts(profile, records, variables, shared_data, monkeypatch):
    monkeypatch.setenv("MEDLOOP_DATA", str(shared_data))
    options = params.mapping(ROOT / f"profiles/{profile}.yaml")["ingest"]["options"]["table"]
    found, facts = read(shared_data / "none", **options)
    assert (len(found), len(facts["variables"])) == (records, variables)


@pytest.mark.parametrize("keep", [0.5, 0.98])
def test_a_damaged_end_of_a_file_is_one_message(tmp_path, keep):
    rows = "".join(f"{i},{i * 3.7:.4f},{i % 2}\n" for i in range(4000))
    whole = gzip.compress(f"who,x,ill\n{rows}".encode())
    (tmp_path / "a.csv.gz").write_bytes(whole[: int(keep * len(whole))])
    with pytest.raises(Refused, match=r"a\.csv\.gz is no readable table \(EOFError\)"):
        read(tmp_path, files=[{"path": "a.csv.gz"}], id="who", label="ill")
    text = f"who,x,ill\n{rows}".encode() + "9999,1,é\n".encode("latin-1")
    (tmp_path / "b.csv").write_bytes(text)
    with pytest.raises(Refused, match=r"b\.csv is no readable table \(UnicodeDecodeError\)"):
        read(tmp_path, files=[{"path": "b.csv"}], id="who", label="ill")
