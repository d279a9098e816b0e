"""The DICOM dataset around a simulated radiograph: nothing in it comes from a clock, a random source or a person."""

import hashlib
from datetime import date, timedelta
from io import BytesIO

import numpy as np
from pydicom import dcmwrite
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import UID, DigitalXRayImageStorageForPresentation, ExplicitVRLittleEndian

from medloop.phantom.anatomy import Person
from medloop.phantom.sites import Site

ROOT = "2.25."  # UIDs made of a UUID's 128 bits, PS3.5 B.2
FIRST_DAY = date(2000, 1, 1)
WRITER = "medloop phantom"


def dataset(stored: np.ndarray, person: Person, study: int, site: Site, spacing_mm: float, seed: int) -> FileDataset:
    """Return a Digital X-Ray image of `stored` values (H, W) for one study of a person."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = DigitalXRayImageStorageForPresentation
    meta.MediaStorageSOPInstanceUID = _uid("image", seed, person.index, study)
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.ImplementationClassUID = _uid(WRITER)
    ds = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SpecificCharacterSet = "ISO_IR 192"
    ds.ImageType = ["DERIVED", "PRIMARY", "", "SIMULATED"]
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.Manufacturer, ds.ManufacturerModelName = "medloop (simulated)", "digital phantom"
    ds.InstitutionName = site.name
    ds.StudyDescription, ds.SeriesDescription = "Chest PA, simulated", "Simulated chest radiograph"
    ds.ImageComments = "Simulated: no patient was imaged. Not for diagnosis."
    _of_person(ds, person, study, seed)
    _of_series(ds, person, study, seed)
    _of_pixels(ds, stored, site, spacing_mm)
    return ds


def encoded(ds: FileDataset) -> bytes:
    """Return the bytes of the DICOM file."""
    buffer = BytesIO()
    dcmwrite(buffer, ds, enforce_file_format=True)
    return buffer.getvalue()


def patient_id(patient: int, seed: int) -> str:
    """Return the PatientID: another seed means other people."""
    return f"PHANTOM-{seed}-{patient:05}"


def _of_person(ds: Dataset, person: Person, study: int, seed: int) -> None:
    day = FIRST_DAY + timedelta(days=person.index * 37 % 5000 + study * 190)
    ds.PatientName, ds.PatientID = f"Phantom^{person.index:04}", patient_id(person.index, seed)
    ds.PatientSex, ds.PatientAge, ds.PatientBirthDate = person.sex, f"{person.age_years:03}Y", ""
    ds.StudyDate = ds.SeriesDate = ds.ContentDate = day.strftime("%Y%m%d")
    ds.StudyTime = ds.SeriesTime = ds.ContentTime = "120000"
    ds.StudyID, ds.AccessionNumber, ds.ReferringPhysicianName = str(study + 1), "", ""


def _of_series(ds: Dataset, person: Person, study: int, seed: int) -> None:
    ds.StudyInstanceUID = _uid("study", seed, person.index, study)
    ds.SeriesInstanceUID = _uid("series", seed, person.index, study)
    ds.Modality, ds.PresentationIntentType = "DX", "FOR PRESENTATION"
    ds.SeriesNumber, ds.InstanceNumber = 1, 1
    ds.BodyPartExamined, ds.ViewPosition, ds.PatientOrientation = "CHEST", "PA", ["L", "F"]
    ds.ImageLaterality, ds.BurnedInAnnotation, ds.LossyImageCompression = "U", "NO", "00"
    ds.DetectorType, ds.AcquisitionContextSequence = "DIRECT", []
    ds.KVP, ds.DistanceSourceToDetector = "125", "1800"


def _of_pixels(ds: Dataset, stored: np.ndarray, site: Site, spacing_mm: float) -> None:
    ds.Rows, ds.Columns = stored.shape
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, site.photometric
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * stored.itemsize, site.bits, site.bits - 1
    ds.PixelRepresentation = 0
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = (
        "LOG",
        (1 if site.photometric == "MONOCHROME1" else -1),
    )
    ds.PresentationLUTShape = "INVERSE" if site.photometric == "MONOCHROME1" else "IDENTITY"
    ds.RescaleSlope, ds.RescaleIntercept, ds.RescaleType = "1", "0", "US"
    ds.ImagerPixelSpacing = [f"{spacing_mm:.6g}"] * 2
    if site.window:
        top = 2**site.bits - 1
        ds.WindowCenter, ds.WindowWidth = (f"{share * top:.0f}" for share in site.window)
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OB" if stored.itemsize == 1 else "OW"


def _uid(*parts: object) -> UID:
    digest = hashlib.sha256("/".join(map(str, (WRITER, *parts))).encode()).digest()
    return UID(ROOT + str(int.from_bytes(digest[:16], "big")))
