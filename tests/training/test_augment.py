import numpy as np
import pytest

from medloop.kinds import Part
from medloop.kinds.image import augment
from medloop.params import Augment


def random():
    return np.random.default_rng(3)


@pytest.fixture
def images():
    """40 images (24, 32, C) of a smooth bump, gray levels 60 to 180."""
    rows, columns = np.mgrid[:24, :32]
    bump = np.exp(-((rows - 8) ** 2 + (columns - 10) ** 2) / 40)
    return np.repeat((60 + 120 * bump)[None, ..., None], 40, axis=0).astype(np.uint8)


def centres(images):
    """Return the centres of mass (N, 2) above the background."""
    mass = np.clip(images[..., 0].astype(float) - 70, 0, None)
    rows, columns = np.mgrid[: images.shape[1], : images.shape[2]]
    return np.stack([(mass * axis).sum((1, 2)) / mass.sum((1, 2)) for axis in (rows, columns)], axis=1)


def test_nothing_asked_is_nothing_done(images):
    assert augment(images, Augment(), random()) is images


@pytest.mark.parametrize("channels", [1, 3])
def test_same_generator_same_images_of_the_same_shape_and_type(images, channels):
    section = Augment(
        flip_horizontal=True, flip_vertical=True, rotate_deg=10, shift=0.1, zoom=0.1, contrast=0.2, noise=0.1
    )
    images = np.repeat(images, channels, axis=3)
    first, second = augment(images, section, random()), augment(images, section, random())
    np.testing.assert_array_equal(first, second)
    assert (first.shape, first.dtype) == (images.shape, np.uint8)
    assert len(np.unique(first, axis=0)) == 40
    assert (images == images[0]).all()


def test_flips_mirror_about_half_of_the_images(images):
    for axis, section in ((2, Augment(flip_horizontal=True)), (1, Augment(flip_vertical=True))):
        flipped = augment(images, section, random())
        mirrored = [np.array_equal(each, np.flip(images[0], axis - 1)) for each in flipped]
        kept = [np.array_equal(each, images[0]) for each in flipped]
        assert all(a or b for a, b in zip(mirrored, kept, strict=True))
        assert 8 < sum(mirrored) < 32


def test_shifts_stay_within_their_share_of_height_and_width(images):
    moved = centres(augment(images, Augment(shift=0.1), random())) - centres(images)
    assert (np.abs(moved).max(axis=0) <= [2.4 + 0.3, 3.2 + 0.3]).all()
    assert (np.abs(moved).max(axis=0) >= [1.5, 2]).all()


def test_rotation_keeps_the_distance_from_the_centre(images):
    middle = np.array([11.5, 15.5])
    turned = centres(augment(images, Augment(rotate_deg=20), random())) - middle
    start = centres(images)[0] - middle
    angle = np.degrees(np.arctan2(*turned.T) - np.arctan2(*start))
    np.testing.assert_allclose(np.linalg.norm(turned, axis=1), np.linalg.norm(start), atol=0.3)
    assert 12 < np.abs(angle).max() <= 21


def test_contrast_scales_about_the_mean_and_noise_is_in_units_of_the_images_deviation(images):
    graded = augment(images, Augment(contrast=0.2), random()).astype(float)
    ratio = graded.std(axis=(1, 2, 3)) / images[0].std()
    assert 0.79 < ratio.min() < 0.9
    assert 1.1 < ratio.max() < 1.21
    np.testing.assert_allclose(graded.mean(axis=(1, 2, 3)), images[0].mean(), atol=0.5)
    noisy = augment(images, Augment(noise=0.3), random()).astype(float) - images
    assert noisy.std() == pytest.approx(0.3 * images[0].std(), rel=0.05)


def test_a_part_of_a_batch_changes_as_it_does_in_the_whole():
    images = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 1), dtype=np.uint8)
    section = Augment(
        flip_horizontal=True, flip_vertical=True, rotate_deg=20, shift=0.1, zoom=0.1, contrast=0.2, noise=0.1
    )
    whole = augment(images, section, np.random.default_rng(1))
    rows = slice(4, 8)
    part = augment(images[rows], section, np.random.default_rng(1), Part(12, rows))
    np.testing.assert_array_equal(part, whole[rows])
