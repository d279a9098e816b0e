"""Predictions of files, folder trees and packed samples: who is who, what is bad, and how much memory it takes."""

import importlib
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage

import toy_registry
from medloop import privacy
from medloop.errors import Refused, Unreachable
from medloop.kinds.image import file_of as encoded
from medloop.operations.inputs import Input
from medloop.operations.predict import predict
from toy_registry import Toy, registered

operation = importlib.import_module("medloop.operations.predict")

BASE = Toy().base
NAME = "medloop-classification-toy"

MEMORY = """
import resource, sys
from pathlib import Path
import cv2, numpy as np
from medloop import params
from medloop.operations.predict import predict
folder = Path(sys.argv[1])
def write(count):
    place = folder / str(count)
    place.mkdir()
    content = cv2.imencode(".png", np.random.default_rng(0).integers(0, 255, (256, 256), np.uint8))[1].tobytes()
    for number in range(count):
        (place / f"{number:05}.png").write_bytes(content)
    return place
small, large = write(600), write(3000)
peaks = []
for place in (small, large):
    predict(params.Base(dataset="toy"), model="1", source=place, output=folder / f"{place.name}.csv")
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[1] / peaks[0])
"""


@pytest.fixture(autouse=True)
def _store(own_state: Path) -> None:
    toy_registry.empty_store(own_state)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Register a model, and return a folder with two PNG files in folders that carry a name."""
    registered(tmp_path / "loop")
    folder = tmp_path / "Canarybird"
    (folder / "b").mkdir(parents=True)
    random = np.random.default_rng(0)
    for name in ("Canarybird 1.png", "b/2.PNG"):
        (folder / name).write_bytes(encoded(random.integers(0, 255, (8, 8), np.uint8), 8))
    return folder


def run(source: Path, output: Path, **options) -> pd.DataFrame:
    predict(BASE, model="1", source=source, output=output, **options)
    return pd.read_parquet(output) if output.suffix == ".parquet" else pd.read_csv(output)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_packed_samples_give_what_evaluate_found(tmp_path, suffix):
    registered(tmp_path)
    wanted = pd.read_parquet(tmp_path / "evaluation/predictions.parquet")
    found = run(tmp_path / "samples", tmp_path / f"out{suffix}")
    again = run(tmp_path / "samples/manifest.parquet", tmp_path / f"again{suffix}", batch=7)
    assert found.columns.tolist() == ["sample_id", "p_clear", "p_nodule", "decision", "error"]
    assert found["sample_id"].tolist() == wanted["sample_id"].tolist()
    assert np.allclose(found[["p_clear", "p_nodule"]], wanted[["p_0", "p_1"]], atol=1e-12, rtol=0)
    assert found["decision"].tolist() == [toy_registry.CLASSES[index] for index in wanted["decision"]]
    assert found["error"].isna().all()
    pd.testing.assert_frame_equal(found, again, check_exact=False, atol=1e-12)


def test_files_are_named_by_the_pseudonyms_that_ingest_gives_them(images, tmp_path):
    found = run(images, tmp_path / "out.csv")
    pseudonyms = privacy.Pseudonyms.load()
    assert found["sample_id"].tolist() == [pseudonyms.of("sample", name) for name in ("Canarybird 1.png", "b/2.PNG")]
    assert "Canarybird" not in (tmp_path / "out.csv").read_text()


def test_paths_are_shown_on_request(images, tmp_path):
    assert run(images, tmp_path / "out.csv", paths=True)["path"].tolist() == ["Canarybird 1.png", "b/2.PNG"]


def test_one_file_gives_one_row(images, tmp_path):
    both, one = run(images, tmp_path / "both.csv"), run(images / "b/2.PNG", tmp_path / "one.csv")
    assert one["p_nodule"].tolist() == both["p_nodule"].tolist()[1:]


def test_a_dicom_tree_counts_frames_and_passes_over_what_is_no_image(images, tmp_path):
    ds = dicom([np.full((8, 8), value, np.uint16) for value in (0, 4095)])
    ds.save_as(images / "IM0001", enforce_file_format=True)
    (images / "notes.txt").write_text("Canarybird")
    (images / "DICOMDIR").write_bytes((images / "IM0001").read_bytes())
    found = run(images, tmp_path / "out.parquet", paths=True)
    assert found["path"].tolist() == ["Canarybird 1.png", "IM0001#0", "IM0001#1", "b/2.PNG"]
    of = privacy.Pseudonyms.load().of
    assert found["sample_id"].tolist()[1:3] == [of("sample", f"{ds.SOPInstanceUID}#{index}") for index in (0, 1)]
    black = cv2.imencode(".png", np.zeros((8, 8), np.uint8))[1].tobytes()
    (tmp_path / "black.png").write_bytes(black)
    assert run(tmp_path / "black.png", tmp_path / "black.csv")["p_nodule"].tolist() == found["p_nodule"].tolist()[1:2]


def test_a_second_file_with_one_identifier_gets_an_error_and_no_second_row_of_answers(images, tmp_path):
    for name, value in (("IM0001", 0), ("IM0002", 4095)):
        ds = dicom([np.full((8, 8), value, np.uint16)])
        ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
        ds.save_as(images / name, enforce_file_format=True)
    (images / "IM0000").write_bytes((images / "IM0001").read_bytes()[:-40])  # a transfer that was cut off costs nothing
    with pytest.raises(Refused, match=r"2 of 5 images could not be predicted: .*an earlier one carries the same"):
        predict(BASE, model="1", source=images, output=tmp_path / "out.csv", paths=True)
    found = pd.read_csv(tmp_path / "out.csv").set_index("path")
    assert found["error"].notna().to_dict() == {each: each in ("IM0000", "IM0002") for each in found.index}
    assert found["p_nodule"].isna().to_dict() == found["error"].notna().to_dict()


def test_bad_files_among_good_ones_are_listed_and_fail_at_the_end(images, tmp_path):
    (images / "broken.png").write_bytes((images / "b/2.PNG").read_bytes()[:60])
    (images / "c.dcm").write_bytes(b"Canarybird")
    colour = np.random.default_rng(1).integers(0, 255, (8, 8, 3), np.uint8)
    (images / "colour.png").write_bytes(encoded(colour, 8))
    ds = dicom([np.zeros((8, 8), np.uint16)])
    ds.PhotometricInterpretation = "CANARYBIRD"
    ds.save_as(images / "d.dcm", enforce_file_format=True)
    with pytest.raises(Refused, match=r"4 of 6 images could not be predicted.*column error in") as refused:
        run(images, tmp_path / "out.csv", paths=True)
    found = pd.read_csv(tmp_path / "out.csv").set_index("path")
    assert found["error"].isna().to_dict() == {
        "Canarybird 1.png": True,
        "broken.png": False,
        "c.dcm": False,
        "colour.png": False,
        "d.dcm": False,
        "b/2.PNG": True,
    }
    assert found["decision"].notna().equals(found["error"].isna())
    assert "the model takes images of 1 channel(s), got one of 3" in found["error"]["colour.png"]
    assert "canary" not in (str(refused.value) + "".join(found["error"].dropna())).lower().replace(str(tmp_path), "")


def test_images_of_another_channel_count_alone_leave_the_last_output(images, tmp_path):
    run(images, tmp_path / "out.csv")
    before = (tmp_path / "out.csv").read_bytes()
    (tmp_path / "colour").mkdir()
    colour = np.random.default_rng(1).integers(0, 255, (8, 8, 3), np.uint8)
    for name in ("1.png", "2.png"):
        (tmp_path / "colour" / name).write_bytes(encoded(colour, 8))
    message = r"none of 2 images could be predicted: the model takes images of 1 channel\(s\), got one of 3 \(2\)"
    with pytest.raises(Refused, match=message) as refused:
        run(tmp_path / "colour", tmp_path / "out.csv")
    assert refused.value.exit_code == 2
    assert (tmp_path / "out.csv").read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Canarybird", "colour", "loop", "out.csv"]


@pytest.mark.parametrize(
    ("source", "output", "words"),
    [
        ("nowhere", "out.csv", "neither a file nor a folder"),
        (".", "out.csv", "no images found"),
        ("Canarybird", "out.xlsx", "must end in .csv or .parquet, got '.xlsx'"),
        ("Canarybird", "none/out.csv", "must be a file in a folder that exists"),
        ("Canarybird", "/proc/out.csv", "/proc/out.csv cannot be written: "),
        ("Canarybird", f"{'x' * 250}.csv", "cannot be written: File name too long"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_written(images, tmp_path, source, output, words):
    (tmp_path / "empty").mkdir()
    with pytest.raises(Refused, match=words):
        run(tmp_path / ("empty" if source == "." else source), tmp_path / output)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["Canarybird", "empty", "loop"]


def test_an_alias_a_number_and_an_address_name_the_same_model(images, tmp_path):
    outputs = []
    for model in ("challenger", "1", f"models:/{NAME}@challenger", f"models:/{NAME}/1"):
        predict(BASE, model=model, source=images, output=tmp_path / "out.csv")
        outputs.append((tmp_path / "out.csv").read_bytes())
    assert len(set(outputs)) == 1
    with pytest.raises(Refused, match="no alias 'champion'"):
        predict(BASE, source=images, output=tmp_path / "out.csv")
    with pytest.raises(Refused, match="not found"):
        predict(BASE, model="models:/nobody/1", source=images, output=tmp_path / "out.csv")


def test_a_silent_server_is_named(images, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(Unreachable, match=r"http://127\.0\.0\.1:9"):
        run(images, tmp_path / "out.csv")


def test_memory_stays_flat_as_the_folder_grows(tmp_path):
    registered(tmp_path / "loop")
    done = subprocess.run(
        [sys.executable, "-c", MEMORY, tmp_path], capture_output=True, text=True, check=True, timeout=200
    )
    assert float(done.stdout) < 1.1


def dicom(frames: list[np.ndarray]) -> pydicom.Dataset:
    """Return a 12-bit DICOM file of these frames."""
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, pydicom.uid.generate_uid()
    ds.PatientName = "Canarybird"
    ds.set_pixel_data(np.stack(frames) if len(frames) > 1 else frames[0], "MONOCHROME2", 12)
    return ds


def test_a_batch_ends_where_its_files_are_large(monkeypatch):
    monkeypatch.setattr(operation, "BYTES", 100)
    found = [Input(str(i), str(i), bytes(size)) for i, size in enumerate((60, 60, 10, 10, 10, 10, 300))]
    assert [len(group) for group in operation._batches(found, 3)] == [2, 3, 2]
