"""A project of its own to run commands in, and DICOM files that carry a patient's name wherever one can stand."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, SecondaryCaptureImageStorage, generate_uid

ROOT = Path(__file__).resolve().parents[1]
CANARY = "Canarybird"
PLAIN_CODE = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}  # small networks compile for longer than they train

GUARD = """
import os, socket
_connect = socket.socket.connect
def connect(self, address):
    host = str(address[0]) if isinstance(address, tuple) else "localhost"
    if host not in ("localhost", "::1") and not host.startswith("127."):
        with open(os.environ["SOCKET_LOG"], "a") as log:
            log.write(f"{address} from {os.getpid()}\\n")
        raise OSError(101, "network is unreachable")
    return _connect(self, address)
socket.socket.connect = connect
_getaddrinfo = socket.getaddrinfo
def getaddrinfo(host, *args, **kwargs):
    name = host.decode() if isinstance(host, bytes) else str(host)
    if host is not None and name not in ("localhost", "::1", "0.0.0.0", "") and not name.startswith("127."):
        with open(os.environ["SOCKET_LOG"], "a") as log:
            log.write(f"{name} looked up from {os.getpid()}\\n")
        raise socket.gaierror(-2, "name or service not known")
    return _getaddrinfo(host, *args, **kwargs)
socket.getaddrinfo = getaddrinfo
"""


class Project:
    """A copy of this repository with a home, a key and a tracking store of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.home = folder / "medloop", folder / "home"
        self.home.mkdir(parents=True)
        self.socket_log = folder / "sockets.log"
        listed = ["git", "-C", str(ROOT), "ls-files", "-co", "--exclude-standard"]
        for name in subprocess.run(listed, capture_output=True, text=True, check=True).stdout.splitlines():
            if (ROOT / name).is_file() and not name.startswith("tests/"):
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, self.folder / name)
        (folder / "guard").mkdir()
        (folder / "guard/sitecustomize.py").write_text(GUARD)
        kept = {"LANG", "TERM", "SSL_CERT_FILE", "TMPDIR"}
        self.env = {name: value for name, value in os.environ.items() if name in kept} | {
            "HOME": str(self.home),
            "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
            "PYTHONPATH": f"{folder / 'guard'}:{self.folder / 'components'}:{self.folder / 'pipelines'}",
            "PYTHONDONTWRITEBYTECODE": "1",
            "SOCKET_LOG": str(self.socket_log),
        }
        subprocess.run(["git", "init", "-q", str(self.folder)], check=True)
        self.output = ""

    def run(self, *command: str, fails: bool = False, timeout: float = 400, **env: str) -> str:
        """Run a command here and return what it printed; its exit code must be 0, or with `fails` anything else."""
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.env | env,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
            check=False,
        )
        self.output += done.stdout
        assert (done.returncode != 0) == fails, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}"
        self.returncode = done.returncode
        return done.stdout

    def contents(self) -> dict[str, bytes]:
        """Return the last good outputs: every file below artifacts, bytes by name."""
        files = (path for path in (self.folder / "artifacts").rglob("*") if path.is_file())
        return {str(path.relative_to(self.folder)): path.read_bytes() for path in files if not unfinished(path)}


def unfinished(path: Path) -> bool:
    """Tell whether a file is a record of a run, or lies in the hidden folder of a stage that was killed."""
    return "runs" in path.parts or any(part.endswith(".partial") for part in path.parts)


def dicom(patient: int, finding: bool, seed: int = 0, size: int = 40, name: str = "Doe") -> FileDataset:
    """Return a 12-bit image, bright in the middle where there is a finding, with `name` all over its header."""
    rng = np.random.default_rng((seed, patient))
    pixels = rng.normal(1500, 300, (size, size))
    if finding:
        pixels[size // 3 : size // 2, size // 3 : size // 2] += 200
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = SecondaryCaptureImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[f"image {seed} {patient}"])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds = FileDataset(None, {}, file_meta=meta, preamble=b"\0" * 128)
    ds.SOPClassUID, ds.SOPInstanceUID = meta.MediaStorageSOPClassUID, meta.MediaStorageSOPInstanceUID
    ds.PatientName, ds.PatientID = f"{name}^{patient:04}", f"{name}-{patient:04}"
    ds.PatientSex, ds.PatientAge = "FM"[patient % 2], f"{20 + patient % 75:03}Y"
    ds.StudyInstanceUID = generate_uid(entropy_srcs=[f"study {seed} {patient}"])
    ds.StudyDescription, ds.InstitutionName = f"for {name}", f"Hospital of {name}"
    ds.Modality, ds.PixelSpacing = "DX", [0.5, 0.5]
    block = ds.private_block(0x0011, "ACME", create=True)
    block.add_new(1, "LO", f"private {name}")
    ds.Rows = ds.Columns = size
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.HighBit, ds.PixelRepresentation = 16, 12, 11, 0
    ds.PixelData = pixels.clip(0, 4095).astype("<u2").tobytes()
    return ds


def enhance(ds: Dataset, count: int) -> None:
    """Make an image one of `count` frames, an enhanced CT, but for its pixels."""
    ds.SOPClassUID = "1.2.840.10008.5.1.4.1.1.2.1"
    ds.FrameOfReferenceUID, ds.NumberOfFrames, ds.PositionReferenceIndicator = "1.2.9", count, ""
    shared, frames = Dataset(), []
    measures, orientation = Dataset(), Dataset()
    measures.PixelSpacing, measures.SliceThickness = [0.5, 0.5], 2.0
    orientation.ImageOrientationPatient = [1, 0, 0, 0, 1, 0]
    shared.PixelMeasuresSequence, shared.PlaneOrientationSequence = [measures], [orientation]
    for number in range(count):
        position, frame = Dataset(), Dataset()
        position.ImagePositionPatient = [0, 0, 2.0 * number]
        frame.PlanePositionSequence = [position]
        frame.add_new(0x00209111, "SQ", [Dataset()])
        frame.FrameContentSequence[0].FrameComments = CANARY
        frames.append(frame)
    ds.SharedFunctionalGroupsSequence, ds.PerFrameFunctionalGroupsSequence = [shared], frames


def dicom_tree(folder: Path, patients: int, name: str = "Doe") -> Path:
    """Write one file a patient below `folder`, named after the patient, with labels.csv."""
    with_label = []
    for patient in range(patients):
        finding = bool(np.random.default_rng((7, patient)).integers(2))
        path = folder / f"{name}_{patient:04}" / f"{name}-{patient}.dcm"
        path.parent.mkdir(parents=True)
        dicom(patient, finding, name=name).save_as(path, enforce_file_format=True)
        with_label.append((str(path.relative_to(folder)), "finding" if finding else "normal"))
    with (folder / "labels.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label"), *with_label])
    return folder


def truncated(ds: Dataset, path: Path) -> None:
    """Write the first half of `ds` to `path`."""
    pydicom.dcmwrite(path, ds, enforce_file_format=True)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
