"""A handful of NIfTI files goes through every stage, becomes champion, and predicts, as images do."""

import csv
import json
import re
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

import scans
from medloop import manifest, params, privacy, volumes
from medloop.errors import Refused
from medloop.kinds import volume
from medloop.stages.evaluate import evaluate
from medloop.stages.ingest import ingest
from medloop.stages.preprocess import preprocess
from medloop.stages.register import register
from medloop.stages.train import train
from medloop.stages.validate import validate

BASE = params.Base(task="classification", kind="volume", dataset="scans")
SIZE = (10, 10, 10)
PREPROCESS = params.Preprocess(volume=params.Volumes(size=SIZE, spacing_mm=(1, 1, 1), window=(-200, 1200)))
TRAIN = params.Train(
    architectures=("cnn3d",),
    epochs=15,
    batch_size=8,
    learning_rate=0.01,
    patience=15,
    normalisation="train",
    augment=params.Augment(flip_horizontal=True, shift=0.1),
    tta=params.Views(flip_horizontal=True),
    hyper={"cnn3d": {"filters": [4, 8], "units": 8}},
)
RULE = params.Promote(floor=0.5, min_samples=5, min_per_class=2, resamples=200)


def ingested(folder, samples="samples", **changes):
    section = params.Ingest(
        source="nifti",
        root=str(folder / "scans"),
        options={"nifti": {"labels": "labels.csv", "modality": "CT"}},
        workers=2,
        **changes,
    )
    return ingest(BASE, section, samples=folder / samples)


def validated(folder):
    section = params.Validate(suite="volume", min_samples_per_class=2)
    return validate(BASE, section, samples=folder / "samples", validation=folder / "validation")


def prepared(folder, section=PREPROCESS):
    paths = {name: folder / name for name in ("samples", "validation", "arrays", "holdout")}
    return preprocess(BASE, section, **paths)


@pytest.fixture(scope="module")
def loop(store):
    """The folder of a whole loop, up to the evaluation."""
    scans.folder(store / "scans")
    report = ingested(store)
    checks = validated(store)
    about = prepared(store)
    train(BASE, TRAIN, arrays=store / "arrays", model=store / "models/cnn3d")
    metrics = evaluate(
        BASE,
        params.Evaluate(resamples=200),
        models={"cnn3d": store / "models/cnn3d"},
        holdout=store / "holdout",
        validation=store / "validation",
        evaluation=store / "evaluation",
    )
    return SimpleNamespace(folder=store, report=report, checks=checks, about=about, metrics=metrics)


@pytest.fixture
def champion(loop, at_store):
    """The loop's version, registered and promoted in the store of the loop."""
    from medloop.operations.promote import promote

    found = register(
        BASE,
        params.Register(),
        models={"cnn3d": loop.folder / "models/cnn3d"},
        validation=loop.folder / "validation",
        evaluation=loop.folder / "evaluation",
    )
    decision = promote(BASE, RULE, version=found["version"], samples=loop.folder / "samples")
    assert decision.ok, decision.reason
    return found


def test_volumes_are_packed_with_their_spacing_and_pass_their_checks(loop):
    table, facts = manifest.read(loop.folder / "samples")
    assert facts.classes == ("ball", "rod")
    assert facts.official_split
    assert facts.has_patients
    assert {tuple(shape) for shape in table["shape"]} == {SIZE}
    assert {tuple(spacing) for spacing in table["spacing_mm"]} == {(1.0, 1.0, 1.0)}
    assert set(table["dtype"]) == {"int16"}
    assert loop.checks["success"]
    assert {"voxels with equal sides", "no constant volume"} <= {check["name"] for check in loop.checks["checks"]}
    assert loop.about["input_shape"] == [*SIZE, 1]
    assert np.load(loop.folder / "arrays/train/inputs.npy", mmap_mode="r").dtype == np.uint8


def test_the_report_shows_slices_and_says_what_goes_in(loop):
    page = (loop.folder / "evaluation/report.html").read_text()
    assert "10 × 10 × 10 voxels of 1 × 1 × 1 mm (depth, height, width), gray" in page
    table = pd.read_parquet(loop.folder / "evaluation/predictions.parquet")
    wrong = (table["decision"] != table["label"]).sum()
    assert page.count("data:image/png") == min(12, wrong)
    assert ("three middle slices: axial, coronal, sagittal" in page) == (wrong > 0)
    assert "volumes" in page
    assert "image" not in page.lower().replace("data:image", "").replace("image-rendering", "").replace("as images", "")


def test_the_champion_predicts_files_folders_and_samples_alike(loop, champion, tmp_path):
    from medloop.operations.predict import predict

    table = pd.read_parquet(loop.folder / "evaluation/predictions.parquet").set_index("sample_id")
    predict(BASE, source=loop.folder / "samples", output=tmp_path / "packed.parquet")
    packed = pd.read_parquet(tmp_path / "packed.parquet").set_index("sample_id")
    np.testing.assert_allclose(packed.loc[table.index, "p_rod"], table["p_1"], atol=1e-6)
    predict(BASE, source=loop.folder / "scans", output=tmp_path / "files.parquet")
    files = pd.read_parquet(tmp_path / "files.parquet").set_index("sample_id")
    assert set(files.index) == set(packed.index)
    np.testing.assert_allclose(files.loc[packed.index, "p_rod"], packed["p_rod"], atol=1e-6)
    one = loop.folder / "scans/rod/p1.nii"
    assert "1 volumes predicted" in predict(BASE, source=one, output=tmp_path / "one.csv")


def test_a_bad_file_among_good_ones_costs_the_others_nothing(loop, champion, tmp_path):
    from medloop.operations.predict import predict

    scans.write(tmp_path / "new/good.nii.gz", scans.volume("rod", 99), spacing=(1, 1, 2))
    scans.write(tmp_path / "new/open.nii.gz", scans.volume("rod", 98), unit=None)
    whole = (tmp_path / "new/good.nii.gz").read_bytes()
    (tmp_path / "new/short.nii.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Refused, match="2 of 3 volumes could not be predicted"):
        predict(BASE, source=tmp_path / "new", output=tmp_path / "out.parquet", paths=True)
    rows = pd.read_parquet(tmp_path / "out.parquet").set_index("path")
    assert pd.isna(rows.loc["good.nii.gz", "error"])
    assert 0 <= rows.loc["good.nii.gz", "p_rod"] <= 1
    assert "no known spacing" in rows.loc["open.nii.gz", "error"]
    assert "truncated gzip file" in rows.loc["short.nii.gz", "error"]


def test_the_model_is_served_by_one_column_of_encoded_volumes(loop, champion):
    from medloop.tracking import registry

    address = f"models:/{champion['model']}/{champion['version']}"
    model = registry.load(address)
    assert model.metadata.signature.inputs.input_names() == ["volume"]
    assert list(model.predict(model.input_example)) == ["p_ball", "p_rod", "decision"]
    with open(registry.download_artifacts(artifact_uri=f"{address}/requirements.txt")) as file:  # noqa: PTH123
        names = {line.partition("==")[0] for line in file.read().split()}
    assert "nibabel" in names
    assert not {"opencv-python-headless", "pydicom", "scipy", "tensorflow"} & names


def test_a_served_volume_becomes_the_array_that_was_trained_on(loop):
    table, _ = manifest.read(loop.folder / "samples")
    values = manifest.Values(loop.folder / "samples")
    rows = table[table["split"] == "train"].reset_index(drop=True)
    what = json.loads((loop.folder / "models/cnn3d/card.json").read_text())["preprocessing"]
    cells = [cell for row in rows.itertuples() for _, cell in volume.encoded(row, values[row], what)]
    served = np.stack([volumes.as_input(cell, what) for cell in cells])
    np.testing.assert_array_equal(served, np.load(loop.folder / "arrays/train/inputs.npy"))


@pytest.mark.parametrize(
    ("written", "section", "said"),
    [
        ({"unit": None}, params.Volumes(size=SIZE), r"no known spacing \(pixdim 0, or no unit\)"),
        ({"spacing": (1, 1, 3)}, params.Volumes(size=SIZE), "anisotropic, 3 x 1 x 1 mm, and are not resampled"),
    ],
)
def test_a_spacing_that_does_not_do_is_refused_with_what_to_do(written, section, said, tmp_path):
    scans.folder(tmp_path / "scans")
    scans.write(tmp_path / "scans/rod/p1.nii", scans.volume("rod", 1), **written)
    scans.write(tmp_path / "scans/rod/p3.nii.gz", scans.volume("rod", 3), **written)
    ingested(tmp_path)
    assert validated(tmp_path)["success"]
    wanted = rf"2 of \d+ volumes cannot be taken, samples (\w+), (\w+): its voxels .*{said}.*see preprocess\.volume"
    with pytest.raises(Refused, match=wanted) as refused:
        prepared(tmp_path, params.Preprocess(volume=section))
    with (privacy.folder() / manifest.KEYS).open() as file:
        known = {row["sample_id"]: row["key"] for row in csv.DictReader(file)}
    assert f"{manifest.KEYS}, where `ingest` ran, says which" in str(refused.value)
    named = re.search(r"samples (\w+), (\w+):", str(refused.value)).groups()
    assert {known[name] for name in named} == {"rod/p1.nii", "rod/p3.nii.gz"}
    assert len(known) == len(manifest.read(tmp_path / "samples")[0])
    assert (privacy.folder() / manifest.KEYS).stat().st_mode & 0o777 == 0o600
    assert not (tmp_path / "arrays").exists()
    kept = section.model_copy(update={"missing": "keep", "anisotropic": "keep"})
    assert prepared(tmp_path, params.Preprocess(volume=kept))["input_shape"] == [*SIZE, 1]


def test_a_residual_network_of_folds_trains_to_the_same_bytes_twice(loop, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDLOOP_STATE", str(tmp_path / "state"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    augment = params.Augment(rotate_deg=20, zoom=0.1, flip_vertical=True)
    changes = {"architectures": ("resnet3d",), "epochs": 2, "folds": 2, "mixup": 0.2, "ema": 0.5, "augment": augment}
    section = TRAIN.model_copy(update=changes | {"hyper": {"resnet3d": {"filters": [4, 8], "dropout": 0.2}}})
    for name in "ab":
        train(BASE, section, arrays=loop.folder / "arrays", model=tmp_path / name)
    for file in ("model.keras", "model.onnx", "card.json", "validation.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


def test_views_by_more_than_a_side_and_architectures_for_images_are_refused(loop, tmp_path):
    wide = TRAIN.model_copy(update={"tta": params.Views(shift_px=10)})
    with pytest.raises(Refused, match="shift_px must be less than the sides of the volumes, 10x10x10, got 10"):
        train(BASE, wide, arrays=loop.folder / "arrays", model=tmp_path / "model")
    flat = TRAIN.model_copy(update={"architectures": ("cnn",)})
    with pytest.raises(Refused, match=r"cnn does not take samples of kind volume.*that do: cnn3d, resnet3d"):
        train(BASE, flat, arrays=loop.folder / "arrays", model=tmp_path / "model")
