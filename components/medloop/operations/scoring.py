"""What a registered version says of today's test set, through its own pyfunc."""

from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
from pydicom.dataset import FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

from medloop import manifest, provenance
from medloop.errors import Refused
from medloop.evaluation import ledger
from medloop.tracking import registry

BATCH = 256


@dataclass(frozen=True)
class TestSet:
    """The test rows of a samples folder."""

    __test__ = False  # not for pytest, for all its name

    folder: Path
    table: pd.DataFrame
    classes: tuple[str, ...]
    key_fingerprint: str | None

    @cached_property
    def sha256(self) -> str:
        """The digest by which `evaluate` names a test set."""
        return ledger.name(self.table["content_sha256"])

    @cached_property
    def labels(self) -> np.ndarray:
        """Class indices (N,)."""
        return self.table["label"].map(self.classes.index).to_numpy(np.int64)

    def without(self, known: pd.DataFrame) -> "TestSet":
        """Return the test set less the images and the patients in `known`, which a changed split may bring here."""
        table = self.table
        theirs = table["content_sha256"].isin(known["content_sha256"])
        theirs |= table["patient_id"].isin(known["patient_id"].dropna())
        return replace(self, table=table[~theirs].reset_index(drop=True))


def today(samples: Path, dataset: str) -> TestSet:
    """Return the test set in `samples`; raise Refused where there is none."""
    if not (samples / "manifest.parquet").exists():
        raise Refused(f"no samples in {samples}, on which the champion must be scored: run `dvc repro` first")
    lineage = provenance.verify(samples)
    made = lineage["parameters"]["base"]["dataset"]
    if made != dataset:
        raise Refused(f"{samples} holds {made}, the model is for {dataset}: run `make repro` for {dataset} first")
    table, facts = manifest.read(samples)
    return TestSet(
        samples, table[table["split"] == "test"].reset_index(drop=True), facts.classes, lineage.get("key_fingerprint")
    )


def logged(version: registry.Version, test: TestSet) -> np.ndarray | None:
    """Return the probabilities (N, classes) that were logged with a version that was evaluated on this test set.

    None: it was evaluated on another one.
    """
    if version.tags.get("medloop.test_sha256") != test.sha256:
        return None
    table = registry.predictions(version).set_index("sample_id")
    if set(table.index) != set(test.table["sample_id"]):
        return None
    columns = [f"p_{index}" for index in range(len(test.classes))]
    return table.loc[test.table["sample_id"], columns].to_numpy(np.float64)


def score(version: registry.Version, test: TestSet) -> np.ndarray:
    """Return the probabilities (N, classes) that the version's own pyfunc gives to the images as they were ingested.

    That the version sees this test set is entered into the ledger.
    """
    ledger.opened(test.table["content_sha256"], version.tags[registry.DIGEST])
    model = registry.load(f"models:/{version.name}/{version.number}")
    columns = [f"p_{name}" for name in test.classes]
    pixels = manifest.Pixels(test.folder)
    parts = [pd.DataFrame(columns=columns)]
    for begin in range(0, len(test.table), BATCH):
        rows = test.table.iloc[begin : begin + BATCH]
        images = [encoded(pixels[row], int(row.bit_depth)) for row in rows.itertuples()]  # type: ignore[arg-type]
        try:
            parts.append(pd.DataFrame(model.predict(pd.DataFrame({"image": images})))[columns])
        except ValueError as error:
            raise Refused(f"{version} of {version.name} cannot read today's test set: {error}") from None
    return pd.concat(parts).to_numpy(np.float64)


def encoded(pixels: np.ndarray, bit_depth: int) -> bytes:
    """Return pixels as a file that decodes to the same pixels and bits: PNG, or DICOM for 9 to 15 bits."""
    if bit_depth in (8, 16):
        stored = pixels if pixels.ndim == 2 else pixels[..., ::-1]
        return cv2.imencode(".png", stored, [cv2.IMWRITE_PNG_COMPRESSION, 1])[1].tobytes()
    if pixels.ndim != 2:
        raise Refused(f"colour images must have 8 or 16 bits, got {bit_depth}")
    ds = pydicom.Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SOPClassUID, ds.SOPInstanceUID = SecondaryCaptureImageStorage, generate_uid()
    ds.set_pixel_data(np.ascontiguousarray(pixels), "MONOCHROME2", bit_depth)
    file = BytesIO()
    ds.save_as(file, enforce_file_format=True)
    return file.getvalue()
