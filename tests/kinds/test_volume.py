"""Volumes are oriented, resampled and cut as asked, their copies are found, and what is none is refused by name."""

import gzip
import struct
from pathlib import Path

import cv2
import nibabel
import numpy as np
import pandas as pd
import pytest
from scipy.ndimage import gaussian_filter

import scans
from medloop import manifest, params, volumes
from medloop.errors import Refused
from medloop.kinds import Part, volume
from medloop.sources import Sample


def what(**changes):
    return params.Volumes(**{"size": (8, 8, 8)} | changes).model_dump(mode="json")


def content(tmp_path, voxels, **written):
    path = tmp_path / "a.nii"
    scans.write(path, voxels, **written)
    return path.read_bytes()


def field(plain, offset, *values, form="f"):
    """Overwrite a field of a NIfTI-1 header."""
    changed = bytearray(plain)
    struct.pack_into(f"<{len(values)}{form}", changed, offset, *values)
    return bytes(changed)


@pytest.mark.parametrize("axes", ["RAS", "LPS", "PIR", "SAL", "IRP"])
@pytest.mark.parametrize("packed", [False, True])
def test_a_file_reads_the_same_whatever_the_order_of_its_axes(tmp_path, axes, packed):
    voxels = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)  # (X, Y, Z)
    plain = content(tmp_path, voxels, spacing=(0.5, 1.25, 3), axes=axes)
    found = volumes.decode(gzip.compress(plain) if packed else plain)
    np.testing.assert_array_equal(found.voxels, voxels.T)  # (D, H, W)
    assert found.voxels.dtype == np.int16
    assert found.spacing_mm == (3, 1.25, 0.5)


@pytest.mark.parametrize(
    ("stored", "kept"),
    [("uint8", "uint8"), ("int16", "int16"), ("uint16", "uint16"), ("int32", "float32"), ("float64", "float32")],
)
def test_types_are_kept_or_become_float32_in_either_byte_order(stored, kept):
    voxels = np.arange(27).reshape(3, 3, 3).astype(stored)
    for order in "<>":
        header = nibabel.Nifti1Header(endianness=order)
        header.set_data_dtype(stored)
        found = volumes.decode(nibabel.Nifti1Image(voxels, np.eye(4), header).to_bytes()).voxels
        assert found.dtype == np.dtype(kept)
        np.testing.assert_array_equal(found, voxels.T)
    second = volumes.decode(nibabel.Nifti2Image(voxels, np.eye(4)).to_bytes()).voxels
    np.testing.assert_array_equal(second, voxels.T)


@pytest.mark.parametrize("name", ["anatomical.nii", "reoriented_anat_moved.nii"])
def test_real_volumes_read_as_nibabel_reads_them(name):
    path = Path(nibabel.__file__).parent / "tests/data" / name
    found, wanted = volumes.decode(path.read_bytes()), nibabel.as_closest_canonical(nibabel.load(path))
    np.testing.assert_allclose(found.voxels, wanted.get_fdata().T, rtol=1e-6)
    assert found.spacing_mm == pytest.approx(wanted.header.get_zooms()[::-1])


def test_slope_and_intercept_are_applied(tmp_path):
    plain = content(tmp_path, np.arange(27, dtype=np.int16).reshape(3, 3, 3))
    found = volumes.decode(field(plain, 112, 2.0, -1000.0))
    np.testing.assert_array_equal(found.voxels, np.arange(27).reshape(3, 3, 3).T * 2.0 - 1000)
    assert found.voxels.dtype == np.float32


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", "float32"])
@pytest.mark.parametrize("spacing", [None, (2.0, 0.7, 0.9)])
def test_what_is_encoded_decodes_to_the_same(dtype, spacing):
    voxels = np.random.default_rng(0).integers(0, 200, (3, 4, 5)).astype(dtype)
    found = volumes.decode(volumes.encode(voxels, spacing))
    np.testing.assert_array_equal(found.voxels, voxels)
    assert found.voxels.dtype == voxels.dtype
    assert found.spacing_mm == (spacing and tuple(float(np.float32(side)) for side in spacing))


def damaged():
    plain = nibabel.Nifti1Image(np.arange(27, dtype=np.int16).reshape(3, 3, 3), np.eye(4))
    plain.header.set_xyzt_units("mm")
    plain = plain.to_bytes()
    packed = gzip.compress(plain)
    ones = np.ones((3, 3, 3), np.float32)
    holes = np.arange(27, dtype=np.float32).reshape(3, 3, 3)
    holes[0, 0, :2] = np.nan, np.inf
    colour = np.zeros((3, 3, 3), [("R", "u1"), ("G", "u1"), ("B", "u1")])

    def file(voxels):
        return nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes()

    return {
        "text": (b"no volume at all", "no NIfTI file"),
        "empty": (b"", "no NIfTI file"),
        "pair": (plain[:344] + b"ni1\0" + plain[348:], "header and voxels in one"),
        "short": (plain[:-5], "truncated: it has fewer voxels than its header promises"),
        "short gz": (packed[:-12], "truncated gzip file"),
        "damaged gz": (packed[:20] + b"\xff\xff" + packed[22:], "damaged gzip file"),
        "huge": (field(plain, 42, 9000, 9000, 9000, form="h"), "may have 268435456 voxels, its header promises 72900"),
        "series": (file(np.zeros((3, 3, 3, 2), np.int16)), "has 3 dimensions, this has 4 dimensions"),
        "slice": (file(np.zeros((3, 3, 1), np.int16)), "each side of a volume must have at least 2 voxels"),
        "complex": (file(np.zeros((3, 3, 3), np.complex64)), "real numbers, these are complex numbers"),
        "colours": (file(colour), "real numbers, these are colours"),
        "holes": (file(holes), "finite numbers, 2 of 27 are not"),
        "too large": (file(np.linspace(0, 1e300, 27).reshape(3, 3, 3)), "finite numbers, 26 of 27 are not"),
        "constant": (file(ones), "all voxels have the same value"),
        "two spacings": (field(plain, 80, 2.0), "the header says two spacings"),
        "no space": (field(plain, 280, *[0.0] * 12), "its axes do not span a space"),
    }


@pytest.mark.parametrize("name", damaged())
def test_what_is_no_volume_is_refused_in_our_own_words(name):
    file, said = damaged()[name]
    with pytest.raises(volumes.Unreadable, match=said):
        volumes.decode(file)


def test_a_gzip_file_of_several_members_is_one_file():
    voxels = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
    plain = nibabel.Nifti1Image(voxels, np.eye(4)).to_bytes()
    found = volumes.decode(gzip.compress(plain[:360]) + gzip.compress(plain[360:]))
    np.testing.assert_array_equal(found.voxels, voxels.T)


def test_trailing_axes_of_one_are_no_series():
    voxels = np.arange(27, dtype=np.int16).reshape(3, 3, 3)
    found = volumes.decode(nibabel.Nifti1Image(voxels[..., None], np.eye(4)).to_bytes())
    np.testing.assert_array_equal(found.voxels, voxels.T)


def test_spacing_is_missing_without_a_unit_or_with_a_zero_and_known_in_any_unit(tmp_path):
    voxels = scans.volume("ball", 0)
    assert volumes.decode(content(tmp_path, voxels, unit=None)).spacing_mm is None
    assert volumes.decode(field(content(tmp_path, voxels), 80, 1.0, 0.0, 1.0)).spacing_mm is None
    micron = volumes.decode(content(tmp_path, voxels, spacing=(500, 500, 2000), unit="micron")).spacing_mm
    assert micron == pytest.approx((2, 0.5, 0.5))


def test_spacing_that_is_missing_or_unequal_is_refused_or_kept(tmp_path):
    voxels = scans.volume("ball", 0)
    missing, unequal = content(tmp_path, voxels, unit=None), content(tmp_path, voxels, spacing=(1, 1, 2.5))
    with pytest.raises(volumes.Unreadable, match="no known spacing"):
        volumes.as_input(missing, what(spacing_mm=(1, 1, 1)))
    with pytest.raises(volumes.Unreadable, match=r"anisotropic, 2\.5 x 1 x 1 mm"):
        volumes.as_input(unequal, what())
    kept = volumes.as_input(missing, what(missing="keep"))
    np.testing.assert_array_equal(volumes.as_input(unequal, what(anisotropic="keep")), kept)
    assert volumes.as_input(unequal, what(spacing_mm=(1, 1, 1))).shape == (8, 8, 8, 1)


def test_voxels_of_the_wanted_form_stay_as_they_are():
    voxels = np.random.default_rng(0).integers(0, 256, (8, 9, 7), np.uint8)
    for spacing in (None, (1, 1, 1)):
        wanted = what(size=(8, 9, 7), spacing_mm=spacing, window=(0, 255))
        np.testing.assert_array_equal(volumes.fit(voxels, (1, 1, 1), wanted)[..., 0], voxels)
    cut = volumes.fit(voxels, (1, 1, 1), what(size=(6, 12, 6), spacing_mm=(1, 1, 1), window=(0, 255)))[..., 0]
    np.testing.assert_array_equal(cut[:, 1:10], voxels[1:7, :, 0:6])  # an odd rest is cut at the end
    assert (cut[:, 10:] == voxels.min()).all()


def test_resampling_keeps_places_and_means():
    depth, height, width = np.mgrid[:20, :16, :16].astype(np.float32)
    ramp = 2 * depth + height - width
    half = volumes.resampled(ramp, (10, 8, 8), (2, 2, 2))
    np.testing.assert_allclose(
        half[1:-1, 1:-1, 1:-1], ramp.reshape(10, 2, 8, 2, 8, 2).mean((1, 3, 5))[1:-1, 1:-1, 1:-1]
    )
    double = volumes.resampled(ramp, (39, 31, 31), (0.5, 0.5, 0.5))
    np.testing.assert_allclose(double[::2, ::2, ::2], ramp, atol=1e-4)
    noise = np.random.default_rng(0).normal(size=(32, 32, 32)).astype(np.float32)
    assert volumes.resampled(noise, (8, 8, 8), (4, 4, 4)).std() < 0.2  # no voxel is passed over


def test_without_a_target_spacing_proportions_are_kept_by_padding():
    fitted = volumes.fit(np.full((8, 4, 4), 7, np.uint8) + np.eye(4, dtype=np.uint8), (1, 1, 1), what(window=(0, 8)))
    assert not (fitted[:, 2:6, 2:6, 0] == fitted[0, 0, 0, 0]).all()
    assert (fitted[:, :2] == fitted.min()).all()
    assert (fitted[:, :, 6:] == fitted.min()).all()


def test_a_window_or_percentiles_say_what_becomes_black_and_white():
    voxels = np.linspace(-1000, 1000, 512).reshape(8, 8, 8).astype(np.int16)
    windowed = volumes.fit(voxels, (1, 1, 1), what(window=(-500, 500)))[..., 0]
    np.testing.assert_array_equal(windowed, np.clip(np.floor((voxels + 500) * 0.255 + 0.5), 0, 255))
    clipped = volumes.fit(voxels, (1, 1, 1), what(clip_percentiles=(10, 90)))
    assert 0.19 < np.mean((clipped == 0) | (clipped == 255)) < 0.22


def test_a_sample_of_another_form_is_refused():
    volume.check(Sample("a", np.zeros((2, 3, 4), np.int16), spacing_mm=(1, 1, 1)))
    for values, spacing, said in (
        (np.zeros((3, 4), np.uint8), None, "must be"),
        (np.zeros((3, 4, 5), np.float64), None, "must be"),
        (np.full((3, 4, 5), np.nan, np.float32), None, "finite"),
        (np.zeros((3, 4, 5), np.uint8), (1, 0, 1), "3 positive numbers"),
    ):
        with pytest.raises(volume.Unreadable, match=said):
            volume.check(Sample("a", values, spacing_mm=spacing))


def pairs(folder, first, second):
    """Return (place in first, place in second) of each pair that is found."""
    writer, rows = manifest.ShardWriter(folder), []
    for each in (*first, *second):
        rows.append(writer.add(each) | {"shape": each.shape, "dtype": each.dtype.name})
    writer.close()
    sides = [(np.arange(len(first)), np.arange(len(first), len(rows)))]
    found = volume.near_copies(pd.DataFrame(rows), manifest.Values(folder), sides, params.LeakThresholds())
    return {(int(a), int(b) - len(first)) for a, b in zip(found["a"], found["b"], strict=True)}


CHANGES = {
    "same": lambda each: each,
    "moved": lambda each: np.roll(each, (1, 1, -1), (0, 1, 2)),
    "mirrored": lambda each: each[:, :, ::-1],
    "darker": lambda each: each // 2 + 10,
    "noisy": lambda each: each + np.random.default_rng(1).normal(0, 2, each.shape).astype(np.int16),
    "larger": lambda each: np.repeat(np.repeat(np.repeat(each, 2, 0), 2, 1), 2, 2),
}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_are_found_and_neighbours_are_not(change, tmp_path):
    """Ten bodies share their smooth anatomy, as those of patients do, and differ in detail."""

    def smooth(seed, sigma, weight):
        noise = gaussian_filter(np.random.default_rng(seed).normal(size=(24, 32, 32)), sigma)
        return weight * noise / noise.std()

    shared = smooth(99, 4, 40)
    bodies = [(shared + smooth(seed, 1.5, 20) + 120).astype(np.int16) for seed in range(10)]
    changed = [CHANGES[change](each) for each in bodies]
    assert pairs(tmp_path, bodies[:5], changed) == {(i, i) for i in range(5)}


def test_bodies_of_nearly_one_outline_are_no_copies(tmp_path):
    places = np.stack(np.mgrid[:28, :28, :28], axis=-1) - 13.5

    def body(seed):
        random = np.random.default_rng(seed)
        outline = (
            ((places - random.uniform(-1, 1, 3)) / (np.array([15, 9, 11]) * random.uniform(0.9, 1.1, 3))) ** 2
        ).sum(-1)
        spine = (places[..., 1] + 6) ** 2 + places[..., 2] ** 2 < 6
        return (900.0 * (outline < 1) + 500 * spine + random.normal(0, 40, outline.shape)).astype(np.int16)

    bodies = [body(seed) for seed in range(16)]
    assert pairs(tmp_path, bodies[:8], [*bodies[8:], bodies[3] + 1]) == {(3, 8)}


@pytest.fixture
def arrays():
    depth, height, width = np.mgrid[:12, :14, :16]
    bump = np.exp(-((depth - 5) ** 2 + (height - 8) ** 2 + (width - 6) ** 2) / 8)
    return np.repeat((20 + 200 * bump)[None, ..., None], 30, axis=0).astype(np.uint8)


FULL = params.Augment(
    flip_horizontal=True, flip_vertical=True, rotate_deg=20, shift=0.1, zoom=0.1, contrast=0.2, noise=0.1
)


def test_augmentation_is_decided_by_the_generator_and_draws_for_the_whole(arrays):
    whole = volume.augment(arrays, FULL, np.random.default_rng(1))
    assert (whole.shape, whole.dtype) == (arrays.shape, np.uint8)
    assert len(np.unique(whole, axis=0)) == 30
    np.testing.assert_array_equal(whole, volume.augment(arrays, FULL, np.random.default_rng(1)))
    part = volume.augment(arrays[3:9], FULL, np.random.default_rng(1), Part(30, slice(3, 9)))
    np.testing.assert_array_equal(part, whole[3:9])
    assert volume.augment(arrays, params.Augment(), np.random.default_rng(1)) is arrays


def centres(arrays):
    mass = np.clip(arrays[..., 0].astype(float) - 60, 0, None)
    axes = np.mgrid[tuple(slice(side) for side in arrays.shape[1:4])]
    return np.stack([(mass * axis).sum((1, 2, 3)) / mass.sum((1, 2, 3)) for axis in axes], axis=1)


def test_shifts_go_along_all_axes_within_their_share(arrays):
    moved = centres(volume.augment(arrays, params.Augment(shift=0.1), np.random.default_rng(1))) - centres(arrays)
    assert (np.abs(moved).max(axis=0) <= np.array([1.2, 1.4, 1.6]) + 0.2).all()
    assert (np.abs(moved).max(axis=0) >= [0.8, 0.9, 1.0]).all()


def test_rotation_is_about_the_middle_in_every_direction(arrays):
    middle = (np.array(arrays.shape[1:4]) - 1) / 2
    turned = centres(volume.augment(arrays, params.Augment(rotate_deg=40), np.random.default_rng(1))) - middle
    before = centres(arrays) - middle
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(before, axis=1), atol=0.4)
    assert (turned.std(axis=0) > 0.1).all()


def test_flips_mirror_height_and_width_of_about_half(arrays):
    for axis, section in ((3, params.Augment(flip_horizontal=True)), (2, params.Augment(flip_vertical=True))):
        flipped = volume.augment(arrays, section, np.random.default_rng(1))
        mirrored = [np.array_equal(each, np.flip(arrays[0], axis - 1)) for each in flipped]
        assert all(np.array_equal(each, arrays[0]) or same for each, same in zip(flipped, mirrored, strict=True))
        assert 6 < sum(mirrored) < 24


def test_the_picture_shows_three_slices_as_a_reader_of_scans_expects_them():
    array = np.zeros((6, 8, 10, 1), np.uint8)
    array[2, 7, 9] = 50  # anterior, at the right
    array[5, 3, 9] = 100  # superior, at the right
    array[5, 7, 4] = 150  # superior, anterior
    kind, file = volume.picture(array, {}, {})
    seen = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_GRAYSCALE)
    assert kind == "image/png"
    assert seen.shape == (8, 10 + 1 + 10 + 1 + 8)
    views = {50: seen[:, :10], 100: seen[1:7, 11:21], 150: seen[1:7, 22:]}  # axial, coronal, sagittal
    for value, view in views.items():
        assert np.argwhere(view).tolist() == [[0, 0]]  # the upper left corner
        assert view[0, 0] == value


@pytest.mark.parametrize("name", ["crop", "elastic"])
def test_what_only_images_know_is_refused(arrays, name):
    with pytest.raises(Refused, match=f"volumes know no {name}"):
        volume.augment(arrays, params.Augment(**{name: 0.05}), np.random.default_rng(1))
