import ast
import io
import sys
import warnings
from pathlib import Path

import cv2
import numpy as np
import pydicom
import pydicom.data
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, pixel_array
from pydicom.sequence import Sequence
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian

from medloop import imaging

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:pydicom.*")
PACKAGED = sorted((Path(pydicom.data.__file__).parent / "test_files").glob("*.dcm"))
NO_PREAMBLE = {"ExplVR_BigEndNoMeta.dcm", "ExplVR_LitEndNoMeta.dcm", "no_meta.dcm", "rtstruct.dcm"}
REFUSED = {
    "JPEG-lossy.dcm": RuntimeError,  # JPEG Extended with 12 bits: no decoder with a free licence
    "JPGExtended.dcm": RuntimeError,
    "JPEG2000-embedded-sequence-delimiter.dcm": RuntimeError,  # damaged on purpose
    "MR_truncated.dcm": ValueError,
    "SC_rgb_rle_32bit.dcm": imaging.Unreadable,
    "SC_rgb_rle_32bit_2frame.dcm": imaging.Unreadable,
    "badVR.dcm": ValueError,  # 1A frames
}


def read(path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return pydicom.dcmread(path)


def has_pixels(path):
    if path.name in NO_PREAMBLE:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        header = pydicom.dcmread(path)
    return "PixelData" in header and "TransferSyntaxUID" in header.file_meta and "BitsAllocated" in header


def as_pydicom_shows(stored, ds, bits):
    """One gray frame through pydicom's own functions, scaled from the range that pydicom documents."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a VOI LUT after a rescale
        wide = stored.astype(np.int32)  # pydicom's tables overflow in unsigned arithmetic
        shown = apply_voi_lut(apply_modality_lut(wide, ds), ds).astype(np.float64)
    if ds.get("VOILUTSequence"):
        low, high = 0, 2 ** ds.VOILUTSequence[0].LUTDescriptor[2] - 1
    elif ds.get("ModalityLUTSequence"):
        low, high = 0, 2 ** ds.ModalityLUTSequence[0].LUTDescriptor[2] - 1
    else:
        low = -(2 ** (ds.BitsStored - 1)) if ds.PixelRepresentation else 0
        slope, intercept = float(ds.get("RescaleSlope", 1)), float(ds.get("RescaleIntercept", 0))
        low, high = low * slope + intercept, (low + 2**ds.BitsStored - 1) * slope + intercept
    share = np.clip((shown - low) / (high - low), 0, 1)
    if ds.PhotometricInterpretation == "MONOCHROME1":
        share = 1 - share
    return np.floor(share * (2**bits - 1) + 0.5)


def gray(stored, bits, *, syntax=ExplicitVRLittleEndian, **header):
    """A dataset around a gray image or a stack of them."""
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.TransferSyntaxUID = syntax
    ds.set_original_encoding(False, syntax.is_little_endian)
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows, ds.Columns = stored.shape[-2:]
    if stored.ndim == 3:
        ds.NumberOfFrames = len(stored)
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = 8 * stored.itemsize, bits, bits - 1
    ds.PixelRepresentation = int(stored.dtype.kind == "i")
    ds.PixelData = stored.tobytes()
    ds["PixelData"].VR = "OW"
    for keyword, value in header.items():
        setattr(ds, keyword, value)
    return ds


def ramp(bits, *, signed=False):
    low = -(2 ** (bits - 1)) if signed else 0
    values = np.linspace(low, low + 2**bits - 1, 60).astype(f"{'i' if signed else 'u'}{1 if bits == 8 else 2}")
    return values.reshape(6, 10)


def table(first, bits, entries):
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(entries) % 2**16, first, bits], [int(entry) for entry in entries]
    item["LUTDescriptor"].VR, item["LUTData"].VR = "SS" if first < 0 else "US", "US"
    return Sequence([item])


@pytest.mark.parametrize("path", [p for p in PACKAGED if p.name not in REFUSED and has_pixels(p)], ids=lambda p: p.name)
def test_packaged_files_look_as_pydicom_shows_them(path):
    ds = read(path)
    shown = list(imaging.decode_dataset(ds))
    stored = pixel_array(ds)
    stored = stored if int(ds.get("NumberOfFrames") or 1) > 1 else stored[None]
    assert len(shown) == len(stored)
    for (pixels, bits), frame in zip(shown, stored, strict=True):
        if ds.PhotometricInterpretation == "PALETTE COLOR":
            wanted = apply_color_lut(frame, ds)
        elif pixels.ndim == 3:
            wanted = frame
        elif ds.BitsStored > 16:
            wanted = np.floor((frame - frame.min()) / np.ptp(frame.astype(float)) * 65535 + 0.5)
        else:
            wanted = as_pydicom_shows(frame, ds, bits)
        assert pixels.dtype == (np.uint8 if bits == 8 else np.uint16)
        np.testing.assert_array_equal(pixels, wanted)


def test_packaged_files_cover_the_transfer_syntaxes_that_hospitals_use():
    seen = {read(path).file_meta.TransferSyntaxUID.name for path in PACKAGED if has_pixels(path)}
    wanted = ("Implicit VR Little", "Big Endian", "Deflated", "RLE", "JPEG Baseline", "JPEG Lossless", "JPEG-LS L")
    assert all(any(name.startswith(part) or part in name for name in seen) for part in (*wanted, "JPEG 2000"))


@pytest.mark.parametrize("name", REFUSED)
def test_damaged_packaged_files_are_refused(name):
    ds = read(next(path for path in PACKAGED if path.name == name))
    with pytest.raises(REFUSED[name]):
        list(imaging.decode_dataset(ds))


@pytest.mark.parametrize("share", [0.5, 0.9])
@pytest.mark.parametrize(
    "name", ["MR_small.dcm", "MR_small_RLE.dcm", "JPEG2000.dcm", "SC_rgb_jpeg.dcm", "image_dfl.dcm"]
)
def test_a_truncated_file_is_refused(name, share):
    content = next(path for path in PACKAGED if path.name == name).read_bytes()
    with pytest.raises(Exception, match=r"."):  # whichever decoder meets the end
        imaging.decode(content[: int(len(content) * share)])


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(8, 17))
def test_without_a_window_the_range_of_the_stored_bits_is_kept(bits, signed):
    stored = ramp(bits, signed=signed)
    [(pixels, depth)] = imaging.decode_dataset(gray(stored, bits, RescaleSlope=2, RescaleIntercept=-1024))
    np.testing.assert_array_equal(pixels, stored.astype(int) - stored.astype(int).min())
    assert depth == bits


WINDOWS = [
    {"WindowCenter": 1000, "WindowWidth": 500},
    {"WindowCenter": [700, 5], "WindowWidth": [1, 9]},
    {"WindowCenter": 40.5, "WindowWidth": 0.5, "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": 900, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"},
    {"WindowCenter": 900, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"},
    {"VOILUTSequence": table(100, 12, np.linspace(0, 4095, 1500) ** 2 // 4095)},
    {"VOILUTSequence": table(-50, 10, np.linspace(1023, 0, 900))},
    {"WindowCenter": 1, "WindowWidth": 9, "VOILUTSequence": table(0, 16, np.arange(4096) * 16)},
    {"ModalityLUTSequence": table(3, 16, np.arange(4096)[::-1] * 16)},
    {"ModalityLUTSequence": table(3, 16, np.arange(4096) * 16), "WindowCenter": 20000, "WindowWidth": 9000},
]


@pytest.mark.parametrize("photometric", imaging.MONOCHROME)
@pytest.mark.parametrize("rescale", [{}, {"RescaleSlope": 1.5, "RescaleIntercept": -200}])
@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("header", WINDOWS)
def test_windows_and_tables_are_applied_as_pydicom_does(header, signed, rescale, photometric):
    if "ModalityLUTSequence" in header and rescale:
        rescale = {}
    stored = ramp(12, signed=signed)
    ds = gray(stored, 12, PhotometricInterpretation=photometric, **header, **rescale)
    [(pixels, bits)] = imaging.decode_dataset(ds)
    np.testing.assert_array_equal(pixels, as_pydicom_shows(stored, ds, bits))
    assert len(np.unique(pixels)) > 1


def test_a_long_table_of_8_bits_is_not_counted_modulo_256():
    entries = np.arange(4096) // 16
    stored = ramp(12)
    [(pixels, bits)] = imaging.decode_dataset(gray(stored, 12, VOILUTSequence=table(0, 8, entries)))
    np.testing.assert_array_equal(pixels, entries[stored])
    assert bits == 8


def test_a_modality_table_of_12_bits():
    entries = np.arange(4096)[::-1]
    stored = ramp(12)
    [(pixels, bits)] = imaging.decode_dataset(gray(stored, 12, ModalityLUTSequence=table(0, 12, entries)))
    np.testing.assert_array_equal(pixels, entries[stored])
    assert bits == 12


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, ExplicitVRBigEndian])
def test_a_table_in_bytes_follows_the_byte_order(syntax):
    entries = (np.arange(4096) * 16).astype("<u2" if syntax.is_little_endian else ">u2")
    lut = table(0, 16, entries)
    lut[0].add_new("LUTData", "OW", entries.tobytes())
    stored = ramp(12)
    ds = gray(stored.astype(stored.dtype.newbyteorder("<" if syntax.is_little_endian else ">")), 12, syntax=syntax)
    ds.VOILUTSequence = lut
    [(pixels, _)] = imaging.decode_dataset(ds)
    np.testing.assert_array_equal(pixels, stored * 16)


def test_each_frame_has_its_own_window():
    stored = np.stack([ramp(12), ramp(12)])
    ds = gray(stored, 12)
    groups = []
    for centre in (500, 3000):
        voi, group = Dataset(), Dataset()
        voi.WindowCenter, voi.WindowWidth = centre, 400
        group.FrameVOILUTSequence = Sequence([voi])
        groups.append(group)
    ds.PerFrameFunctionalGroupsSequence = Sequence(groups)
    shared, rescale = Dataset(), Dataset()
    rescale.RescaleSlope, rescale.RescaleIntercept = 2, -100
    shared.PixelValueTransformationSequence = Sequence([rescale])
    ds.SharedFunctionalGroupsSequence = Sequence([shared])
    shown = [pixels for pixels, _ in imaging.decode_dataset(ds)]
    for pixels, centre in zip(shown, (500, 3000), strict=True):
        flat = gray(ramp(12), 12, WindowCenter=centre, WindowWidth=400, RescaleSlope=2, RescaleIntercept=-100)
        np.testing.assert_array_equal(pixels, next(imaging.decode_dataset(flat))[0])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ({"WindowCenter": 5, "WindowWidth": 0}, "window width must be at least 1"),
        ({"WindowCenter": 5, "WindowWidth": 9, "VOILUTFunction": "CUBIC"}, "VOI LUT function"),
        ({"VOILUTSequence": table(0, 12, [])}, "lookup table"),
        ({"PhotometricInterpretation": "HSV"}, "photometric interpretation"),
    ],
)
def test_what_cannot_be_shown_is_refused_in_words_of_ours(header, message):
    with pytest.raises(imaging.Unreadable, match=message):
        list(imaging.decode_dataset(gray(ramp(12), 12, **header)))


def test_missing_frames_are_refused():
    ds = gray(np.stack([ramp(12)] * 3), 12)
    ds.NumberOfFrames = 4
    with pytest.raises(ValueError, match="less than expected"):
        list(imaging.decode_dataset(ds))


def floats(values):
    ds = gray(np.zeros((2, 2), np.uint16), 16)
    del ds.PixelData, ds.BitsStored, ds.HighBit, ds.PixelRepresentation
    ds.BitsAllocated = 32
    ds.FloatPixelData = np.asarray(values, np.float32).tobytes()
    return ds


def test_floats_take_their_own_range():
    [(pixels, bits)] = imaging.decode_dataset(floats([[-1.5, 0], [1.5, 0.75]]))
    assert pixels.tolist() == [[0, 32768], [65535, 49151]]
    assert bits == 16


def test_floats_that_are_no_numbers_are_refused():
    with pytest.raises(imaging.Unreadable, match="not a number"):
        list(imaging.decode_dataset(floats([[np.nan, 0], [1, 2]])))


def encoded(extension, pixels):
    return cv2.imencode(extension, pixels)[1].tobytes()


@pytest.mark.parametrize("extension", [".png", ".tif"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_images_come_back_as_they_were(extension, dtype, channels):
    pixels = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (9, 7, channels)).astype(dtype).squeeze()
    written = pixels if channels == 1 else pixels[..., ::-1]  # OpenCV writes BGR
    came, bits = imaging.decode(encoded(extension, written))
    np.testing.assert_array_equal(came, pixels)
    assert bits == 8 * pixels.itemsize


def test_jpeg_alpha_and_palette():
    smooth = np.tile(np.linspace(0, 255, 64).astype(np.uint8), (64, 1))
    jpeg, _ = imaging.decode(encoded(".jpg", smooth))
    assert jpeg.shape == (64, 64)
    assert np.abs(jpeg.astype(int) - smooth).max() < 8
    rgba, _ = imaging.decode(encoded(".png", np.dstack([smooth, smooth // 2, smooth // 4, smooth])))
    np.testing.assert_array_equal(rgba, np.dstack([smooth // 4, smooth // 2, smooth]))
    image = pytest.importorskip("PIL.Image")
    buffer = io.BytesIO()
    image.fromarray(np.dstack([smooth] * 3)).quantize(8).save(buffer, "PNG")
    assert imaging.decode(buffer.getvalue())[0].shape == (64, 64, 3)


def test_a_dicom_file_is_known_by_its_magic():
    path = next(path for path in PACKAGED if path.name == "MR_small.dcm")
    pixels, bits = imaging.decode(path.read_bytes())
    np.testing.assert_array_equal(pixels, next(imaging.decode_dataset(read(path)))[0])
    assert bits == 16


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "neither DICOM nor PNG"),
        (b"GIF89a" + bytes(200), "neither DICOM nor PNG"),
        (encoded(".png", np.ones((99, 99), np.uint8))[:-30], "truncated or damaged"),
        (encoded(".tif", np.ones((9, 9), np.float32)), "8 or 16 bits, got float32"),
    ],
)
def test_other_contents_are_refused(content, message):
    with pytest.raises(imaging.Unreadable, match=message):
        imaging.decode(content)


@pytest.mark.parametrize("extension", [".png", ".jpg", ".tif"])
@pytest.mark.parametrize("share", [0.3, 0.7, 0.98])
def test_truncated_images_are_refused(extension, share):
    content = encoded(extension, np.random.default_rng(0).integers(0, 255, (300, 200, 3)).astype(np.uint8))
    with pytest.raises(imaging.Unreadable, match="truncated or damaged"):
        imaging.decode(content[: int(len(content) * share)])


@pytest.mark.parametrize(
    ("shape", "size_px", "channels"),
    [
        ((50, 80), (28, 28), 1),
        ((50, 80), (28, 28), 3),
        ((20, 10, 3), (64, 32), 3),
        ((7, 7), (64, 64), 1),
        ((40, 1), (8, 8), 1),
    ],
)
def test_fit_gives_the_wanted_shape(shape, size_px, channels):
    pixels = np.random.default_rng(0).integers(0, 4096, shape).astype(np.uint16)
    fitted = imaging.fit(pixels, 12, size_px=size_px, channels=channels, clip_percentiles=(0, 100))
    assert fitted.shape == (*size_px, channels)
    assert fitted.dtype == np.uint8


def test_fit_leaves_an_8_bit_image_of_the_right_size_alone():
    pixels = np.random.default_rng(0).integers(0, 256, (28, 28)).astype(np.uint8)
    np.testing.assert_array_equal(imaging.fit(pixels, 8, size_px=(28, 28), channels=1)[..., 0], pixels)


def test_fit_maps_the_bit_depth_not_the_image():
    pixels = np.array([[0, 2048], [1024, 1000]], np.uint16)
    assert imaging.fit(pixels, 12, size_px=(2, 2), channels=1)[..., 0].tolist() == [[0, 128], [64, 62]]
    assert imaging.fit(pixels, 11, size_px=(2, 2), channels=1)[..., 0].tolist() == [[0, 255], [128, 125]]


def test_fit_clips_percentiles_of_the_image():
    pixels = np.arange(100, dtype=np.uint8).reshape(10, 10)
    fitted = imaging.fit(pixels, 8, size_px=(10, 10), channels=1, clip_percentiles=(10, 90))[..., 0].ravel()
    assert (fitted[:10] == 0).all()
    assert (fitted[-10:] == 255).all()
    assert fitted[50] == round((50 - 9.9) / (89.1 - 9.9) * 255)
    constant = np.full((5, 5), 7, np.uint8)
    assert not imaging.fit(constant, 8, size_px=(5, 5), channels=1, clip_percentiles=(1, 99)).any()


def test_fit_keeps_the_aspect_ratio_and_pads_with_the_minimum():
    pixels = np.full((10, 40), 200, np.uint8)
    pixels[0, 0] = 30
    fitted = imaging.fit(pixels, 8, size_px=(40, 40), channels=1)[..., 0]
    assert (fitted[:15] == 30).all()
    assert (fitted[25:] == 30).all()
    np.testing.assert_array_equal(fitted[15:25], pixels)


def test_fit_takes_means_when_it_shrinks():
    pixels = np.kron(np.array([[10, 50], [90, 200]], np.uint8), np.ones((8, 8), np.uint8))
    pixels[::2] += 4
    assert imaging.fit(pixels, 8, size_px=(2, 2), channels=1)[..., 0].tolist() == [[12, 52], [92, 202]]


def test_fit_changes_channels_only_where_nothing_is_lost():
    plane = np.arange(16, dtype=np.uint8).reshape(4, 4)
    np.testing.assert_array_equal(imaging.fit(plane, 8, size_px=(4, 4), channels=3), np.dstack([plane] * 3))
    np.testing.assert_array_equal(imaging.fit(np.dstack([plane] * 3), 8, size_px=(4, 4), channels=1)[..., 0], plane)
    with pytest.raises(ValueError, match=r"takes images of 1 channel\(s\), got one of 3"):
        imaging.fit(np.dstack([plane, plane, plane + 1]), 8, size_px=(4, 4), channels=1)


def picture(seed, size=96):
    noise = np.random.default_rng(seed).normal(size=(size, size)).astype(np.float32)
    smooth = cv2.GaussianBlur(noise, (0, 0), 7)
    return ((smooth - smooth.min()) / np.ptp(smooth) * 200 + 20).astype(np.uint8)


def test_perceptual_hash_ignores_brightness_size_and_noise():
    def distance(a, b):
        return (imaging.perceptual_hash(a) ^ imaging.perceptual_hash(b)).bit_count()

    first = picture(0)
    assert distance(first, first // 2 + 40) <= 4
    assert distance(first, cv2.resize(first, (50, 50), interpolation=cv2.INTER_AREA)) <= 4
    assert distance(first, np.dstack([first] * 3)) == 0
    assert distance(first, first.astype(np.uint16) * 257) == 0
    assert distance(first, picture(1)) > 16
    assert imaging.perceptual_hash(np.full((30, 20), 9, np.uint8)) == 0


def test_a_mirrored_image_flips_the_odd_frequencies():
    first = picture(2)
    assert imaging.perceptual_hash(first) ^ imaging.perceptual_hash(first[:, ::-1]) == int("01010101" * 8, 2)
    assert imaging.perceptual_hash(first) ^ imaging.perceptual_hash(first[::-1]) == int(("0" * 8 + "1" * 8) * 4, 2)


def test_the_module_stands_alone():
    tree = ast.parse(Path(imaging.__file__).read_text())
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in imported} <= {"cv2", "numpy", "pydicom", *sys.stdlib_module_names}


def test_an_image_that_is_all_length_is_refused_before_it_is_padded():
    with pytest.raises(imaging.Unreadable, match="one side is more than 50 times the other"):
        imaging.fit(np.zeros((1, 20_000), np.uint8), 8, size_px=(28, 28), channels=1)


@pytest.mark.parametrize("size", [(20, 30), (40, 30), (97, 13), (256, 256), (7, 5)])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_a_mask_is_fitted_as_its_image_is_larger_or_smaller(size, dtype):
    """Halves of 0 and 200: the border comes to the same place in both, and no value comes that was not there."""
    rows, columns = np.indices(size)
    mask = np.where(rows + columns < sum(size) / 2, 0, 200).astype(dtype)
    fitted = imaging.fit_mask(mask, (64, 48))
    image = imaging.fit(mask.astype(np.uint8), 8, size_px=(64, 48), channels=1)[..., 0]
    assert (fitted.shape, fitted.dtype) == ((64, 48), dtype)
    assert set(np.unique(fitted)) <= {0, 200}
    certain = (image < 20) | (image > 180)
    assert certain.mean() > 0.8
    assert ((fitted > 100) == (image > 100))[certain].mean() > 0.995
    np.testing.assert_array_equal(imaging.fit_mask(fitted, (64, 48)), fitted)
    assert imaging.shrunk(size, (64, 48)) == pytest.approx((max(size[0], size[1] * 64 / 48) / 64,) * 2, abs=0.02)
