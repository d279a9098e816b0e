"""Great Expectations on small samples folders, each broken in one way."""

import hashlib
import json
import re
from pathlib import Path

import great_expectations.expectations as gxe
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medloop import checks, data_docs, manifest, params, provenance
from medloop.errors import Refused
from medloop.expectations import image
from medloop.stages.validate import validate

BASE = params.Base()
SECTION = params.Validate(min_samples_per_class=2)
REMEDIES = {**checks.REMEDIES, **image.REMEDIES}
INGEST = params.Ingest(source="folder")


def samples(folder: Path, change=None, *, facts: dict | None = None, images=None) -> Path:
    """Write 24 samples of 12 patients; `change` edits the rows before they are written."""
    rng = np.random.default_rng(0)
    with provenance.writing("ingest", BASE, INGEST, folder) as [partial]:
        writer = manifest.ShardWriter(partial)
        rows = []
        for i in range(24):
            pixels = rng.integers(0, 255, (32, 32)).astype(np.uint8)
            pixels = images(i, pixels) if images else pixels
            row = dict.fromkeys(manifest.SCHEMA.names)
            row |= {"sample_id": f"s{i:02}", "patient_id": f"p{i // 2}", "source": "folder"}
            row |= {"label": "ab"[i % 2], "split": ("train", "val", "test")[i // 2 % 3]}
            row |= {
                "content_sha256": hashlib.sha256(pixels.tobytes()).hexdigest(),
                "perceptual_hash": i,
                "shape": [32, 32],
                "dtype": "uint8",
            }
            row |= {"bit_depth": 8, "site": "north", "sex": "F", "age_years": 50.0}
            rows.append(row | {"spacing_mm": [0.5, 0.5]} | writer.add(pixels))
        writer.close()
        about = {"classes": ("a", "b"), "source": "folder"} | (facts or {})
        manifest.write(change(rows) if change else rows, manifest.Facts(**about), partial)
    return folder


def edited(index: int, **columns):
    """Return a change of one row."""

    def change(rows):
        rows[index] |= columns
        return rows

    return change


def test_good_samples_pass_and_leave_docs(tmp_path):
    result = validate(BASE, SECTION, samples=samples(tmp_path / "samples"), validation=tmp_path / "validation")
    assert result["success"]
    assert all(check["success"] for check in result["checks"])
    assert json.loads((tmp_path / "validation/result.json").read_text()) == result
    assert (tmp_path / "validation/data_docs/index.html").exists()


def test_the_same_samples_give_the_same_bytes(tmp_path):
    folder = samples(tmp_path / "samples")
    for name in ("one", "two"):
        validate(BASE, SECTION, samples=folder, validation=tmp_path / name)
    assert provenance.digest(tmp_path / "one") == provenance.digest(tmp_path / "two")


def test_the_docs_tell_a_warning_from_a_failure(tmp_path):
    folder = samples(tmp_path / "samples", edited(0, site=None, sex=None, age_years=None))
    section = SECTION.model_copy(update={"max_missing": 0.0})
    assert validate(BASE, section, samples=folder, validation=tmp_path / "validation")["success"]
    site = tmp_path / "validation/data_docs"
    index = (site / "index.html").read_text()
    assert "Result: passed; warnings: 3." in index
    assert '<td data-head="result">warning</td>' in index
    assert '<td data-head="result">failed</td>' not in index
    [page] = site.glob("validations/samples/**/*.html")
    text = page.read_text()
    assert "Status of all checks:</span> passed; warnings: 3" in text
    assert "<title>Results of samples</title>" in text
    assert (page.parent / re.search(r'<a href="([^"]*)">Validation of the samples', text)[1]).resolve() == (
        site / "index.html"
    )
    assert not re.search(r"Data asset: None|Run Time|</span>[^<]*</i> *Failed", text)


def test_the_docs_fetch_nothing(tmp_path):
    validate(BASE, SECTION, samples=samples(tmp_path / "samples"), validation=tmp_path / "validation")
    for page in (tmp_path / "validation/data_docs").rglob("*.html"):
        text = page.read_text()
        assert 'src="http' not in text
        assert "url('http" not in text
        assert not [line for line in text.splitlines() if "<link" in line and "http" in line]


BROKEN = {
    "synthetic images in train alone": {"change": edited(2, synthetic=True)},
    "sample ids unique": {"change": edited(3, sample_id="s02")},
    "labels known": {"change": edited(0, label="c")},
    "splits known": {"change": edited(0, split="holdout")},
    "patients on one side": {"change": edited(0, split="test")},
    "pixels within their bits": {"change": lambda rows: [row | {"bit_depth": 7} for row in rows]},
    "bit depth": {"change": lambda rows: [row | {"bit_depth": 5} for row in rows]},
    "no constant image": {"images": lambda i, pixels: np.full_like(pixels, 9) if i == 5 else pixels},
    "no empty image": {"images": lambda i, pixels: np.zeros_like(pixels) if i == 5 else pixels},
    "every class in every split": {
        "change": lambda rows: [row | {"label": "a"} if row["split"] == "val" else row for row in rows]
    },
}


@pytest.mark.parametrize("check", BROKEN)
def test_a_critical_failure_stops_with_a_table(tmp_path, check):
    with pytest.raises(Refused) as caught:
        validate(
            BASE, SECTION, samples=samples(tmp_path / "samples", **BROKEN[check]), validation=tmp_path / "validation"
        )
    [row] = [line for line in str(caught.value).splitlines() if line.startswith(f"  {check}  ")]
    assert row.endswith(REMEDIES.get(check, checks.AGAIN))
    assert not (tmp_path / "validation").exists()
    kept = Path(str(caught.value).rpartition("all checks: ")[2])
    assert kept.exists()
    failed = json.loads((kept.parents[1] / "result.json").read_text())
    assert check in {found["name"] for found in failed["checks"] if not found["success"]}


def test_a_remedy_names_a_check_and_parameters_that_exist(tmp_path):
    checked = set()
    for name, facts in (("labels", {}), ("drawn", {"masks": True, "boxes": True}), ("boxes", {"boxes": True})):
        folder = samples(tmp_path / name, facts=facts)
        suites = image.suites(SECTION.model_copy(update={"size_px": (32, 32)}), folder)
        checked |= {each.meta["check"] for suite in suites.values() for each in suite}
    assert set(REMEDIES) <= checked
    named = re.findall(r"(ingest|validate)\.(\w+)", " ".join(REMEDIES.values()))
    sections = {"ingest": params.Ingest, "validate": params.Validate}
    assert {key for section, key in named if key not in sections[section].model_fields} == set()
    assert ("validate", "min_samples_per_class") in named


def test_another_size_than_asked_for_is_critical(tmp_path):
    folder = samples(tmp_path / "samples")
    with pytest.raises(Refused, match="height_px"):
        validate(
            BASE, SECTION.model_copy(update={"size_px": (64, 64)}), samples=folder, validation=tmp_path / "validation"
        )


def copied(i: int, pixels: np.ndarray) -> np.ndarray:
    """Return the same picture for a train sample and a test sample."""
    return np.random.default_rng(99).integers(0, 255, (32, 32)).astype(np.uint8) if i in (0, 4) else pixels


def test_a_leak_is_critical(tmp_path):
    with pytest.raises(Refused, match="no copy on another side"):
        validate(
            BASE, SECTION, samples=samples(tmp_path / "samples", images=copied), validation=tmp_path / "validation"
        )


def test_a_leak_under_report_is_a_warning(tmp_path):
    folder = samples(tmp_path / "samples", images=copied, facts={"leaks": "report", "leak_pairs": 1})
    result = validate(BASE, SECTION, samples=folder, validation=tmp_path / "validation")
    [check] = [check for check in result["checks"] if check["name"] == "no copy on another side"]
    assert (check["level"], check["success"]) == ("warn", False)
    assert result["success"]


def test_a_leak_that_ingest_did_not_record_is_critical(tmp_path):
    folder = samples(tmp_path / "samples", images=copied, facts={"leaks": "report", "leak_pairs": 0})
    with pytest.raises(Refused, match="leaks as recorded"):
        validate(BASE, SECTION, samples=folder, validation=tmp_path / "validation")


def test_several_labels_an_image_are_checked_one_by_one(tmp_path):
    facts = {"multi_label": True}
    labels = ("a|b", "a", "b", "")
    several = lambda rows: [row | {"label": labels[i % 4]} for i, row in enumerate(rows)]  # noqa: E731
    folder = samples(tmp_path / "good", several, facts=facts)
    assert validate(BASE, SECTION, samples=folder, validation=tmp_path / "validation")["success"]
    for label in ("a|c", "ab", "a|"):
        wrong = lambda rows, label=label: edited(7, label=label)(several(rows))  # noqa: E731
        folder = samples(tmp_path / "bad", wrong, facts=facts)
        with pytest.raises(Refused, match="labels known"):
            validate(BASE, SECTION, samples=folder, validation=tmp_path / "validation")


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_rare_class_is_a_warning_in_train_alone(tmp_path, split):
    def rare(rows):
        return [
            row | {"label": "a"} if row["split"] == split and int(row["sample_id"][1:]) > 5 else row for row in rows
        ]

    section = SECTION.model_copy(update={"min_samples_per_class": 1, "min_class_share": 0.3})
    result = validate(BASE, section, samples=samples(tmp_path / "s", rare), validation=tmp_path / "validation")
    failed = [check["name"] for check in result["checks"] if not check["success"]]
    assert failed == (["class balance"] if split == "train" else [])


@pytest.mark.parametrize("has_patients", [True, False])
def test_a_patient_may_be_unknown_only_where_the_source_says_so(tmp_path, has_patients):
    folder = samples(tmp_path / "samples", edited(3, patient_id=None), facts={"has_patients": has_patients})
    if has_patients:
        with pytest.raises(Refused, match="patients known"):
            validate(BASE, SECTION, samples=folder, validation=tmp_path / "validation")
    else:
        result = validate(BASE, SECTION, samples=folder, validation=tmp_path / "validation")
        assert [check["name"] for check in result["checks"] if not check["success"]] == ["patients known"]


def test_a_column_of_another_type_is_critical(tmp_path):
    folder = samples(tmp_path / "samples")
    path = folder / "manifest.parquet"
    table = pq.read_table(path)
    place = table.schema.get_field_index("age_years")
    ages = pa.array([str(age) for age in table["age_years"].to_pylist()])
    pq.write_table(table.set_column(place, "age_years", ages), path)
    with pytest.raises(Refused, match=r"age_years is a number\s+float64"):
        validate(BASE, SECTION, samples=folder, validation=tmp_path / "validation")


def test_missing_values_are_a_warning(tmp_path):
    folder = samples(tmp_path / "samples", lambda rows: [row | {"sex": None} for row in rows])
    result = validate(BASE, SECTION, samples=folder, validation=tmp_path / "validation")
    assert {check["name"] for check in result["checks"] if not check["success"]} == {"sex known"}
    assert result["success"]


def test_no_rows_at_all_fail(tmp_path):
    with pytest.raises(Refused, match="rows"):
        validate(
            BASE, SECTION, samples=samples(tmp_path / "samples", lambda rows: []), validation=tmp_path / "validation"
        )


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": gxe.ExpectColumnValuesToNotBeNull, "column": "no_such_column"},
        {"kind": gxe.ExpectColumnMaxToBeBetween, "column": "label", "max_value": 3},
    ],
    ids=["a column that is not there", "an exception inside"],
)
def test_a_check_that_cannot_answer_has_failed(tmp_path, monkeypatch, fault):
    kind, wanted = fault["kind"], {key: value for key, value in fault.items() if key != "kind"}
    broken = kind(**wanted, meta={"check": "broken", "level": "critical"})
    suites = image.suites

    def with_a_broken_one(*args):
        found = suites(*args)
        return found | {"samples": [*found["samples"], broken]}

    monkeypatch.setattr(image, "suites", with_a_broken_one)
    with pytest.raises(Refused, match="broken"):
        validate(BASE, SECTION, samples=samples(tmp_path / "samples"), validation=tmp_path / "validation")


def test_a_warning_that_cannot_be_judged_is_critical(tmp_path, monkeypatch):
    broken = gxe.ExpectColumnValuesToNotBeNull(column="no_such_column", meta={"check": "broken", "level": "warn"})
    monkeypatch.setattr(checks, "_patients", lambda suite, facts: [broken])
    with pytest.raises(Refused, match=r"broken .* the check raised an exception"):
        validate(BASE, SECTION, samples=samples(tmp_path / "samples"), validation=tmp_path / "validation")


def test_a_result_that_never_came_has_failed(tmp_path, monkeypatch):
    run = data_docs.run

    def without_the_first(*args):
        (first, _), *others = run(*args)
        return [(first, None), *others]

    monkeypatch.setattr(data_docs, "run", without_the_first)
    with pytest.raises(Refused, match=r"columns[^\n]* no result"):
        validate(BASE, SECTION, samples=samples(tmp_path / "samples"), validation=tmp_path / "validation")


def test_an_empty_table_of_classes_fails(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "classes", lambda table, facts: pd.DataFrame({"samples": [], "share_of_split": []}))
    with pytest.raises(Refused, match="every class in every split"):
        validate(BASE, SECTION, samples=samples(tmp_path / "samples"), validation=tmp_path / "validation")
