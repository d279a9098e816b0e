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


@pytest.fixture
def ramps():
    """20 images (96, 128, 3) whose first two channels say x and y, and masks (96, 128) of a point in each."""
    rows, columns = np.mgrid[:96, :128]
    images = np.repeat(np.stack([columns, rows, 0 * rows], -1)[None], 20, axis=0).astype(np.uint8)
    masks = np.zeros((20, 96, 128), np.uint8)
    for i, mask in enumerate(masks):
        mask[40 + i - 1 : 40 + i + 2, 50 + i - 1 : 50 + i + 2] = 1  # about the point (50 + i, 40 + i)
    return images, masks


ALL = Augment(
    flip_horizontal=True, flip_vertical=True, rotate_deg=15, shift=0.05, zoom=0.1, crop=0.3, elastic=0.05, contrast=0.0
)


@pytest.mark.parametrize(
    "section",
    [Augment(elastic=0.08), Augment(crop=0.4), Augment(rotate_deg=30), Augment(flip_horizontal=True), ALL],
    ids=["elastic", "crop", "rotation", "flip", "all"],
)
def test_a_point_is_moved_and_found_again(ramps, section):
    images, masks = ramps
    moved, moved_masks = augment(images, section, random(), masks=masks)
    assert moved_masks.dtype == np.uint8
    found, far = 0, []
    for i, (image, mask) in enumerate(zip(moved, moved_masks, strict=True)):
        rows, columns = np.nonzero(mask)
        if not len(rows) or {0, 95} & set(rows) or {0, 127} & set(columns):
            continue  # moved out of the picture
        found += 1
        row, column = rows.mean(), columns.mean()
        came_from = image[round(row), round(column), :2].astype(float)  # the image says where this was
        np.testing.assert_allclose(came_from, (50 + i, 40 + i), atol=1.5)
        far.append(np.hypot(row - 40 - i, column - 50 - i))
    assert found >= 10
    assert np.max(far) > 3


@pytest.mark.parametrize("section", [Augment(elastic=0.08), Augment(crop=0.4), ALL], ids=["elastic", "crop", "all"])
def test_a_mask_moves_pixel_for_pixel_as_its_image_does(ramps, section):
    images, _ = ramps
    moved, x = augment(images, section, random(), masks=np.ascontiguousarray(images[..., 0]))
    _, y = augment(images, section, random(), masks=np.ascontiguousarray(images[..., 1]))
    assert np.abs(moved[..., 0].astype(int) - x).max() <= 1  # the nearest, and the mean of the two nearest
    assert np.abs(moved[..., 1].astype(int) - y).max() <= 1
    assert set(np.unique(x)) <= set(range(128))


def test_masks_change_nothing_about_the_images_and_one_seed_gives_one_result(ramps):
    images, masks = ramps
    section = ALL.model_copy(update={"contrast": 0.2, "noise": 0.1})
    alone = augment(images, section, random())
    first, second = (augment(images, section, random(), masks=masks) for _ in range(2))
    np.testing.assert_array_equal(first[0], alone)
    np.testing.assert_array_equal(first[0], second[0])
    np.testing.assert_array_equal(first[1], second[1])
    part = augment(images[5:9], section, random(), Part(20, slice(5, 9)), masks[5:9])
    np.testing.assert_array_equal(part[0], first[0][5:9])
    np.testing.assert_array_equal(part[1], first[1][5:9])


def test_gray_levels_alone_leave_masks_as_they_are(ramps):
    images, masks = ramps
    assert augment(images, Augment(contrast=0.2, noise=0.1), random(), masks=masks)[1] is masks
    assert augment(images, Augment(), random(), masks=masks) == (images, masks)


def test_a_crop_shows_a_part_of_at_least_the_asked_size_enlarged(ramps):
    cropped = augment(ramps[0], Augment(crop=0.4), random()).astype(int)
    seen = np.stack([np.ptp(cropped[..., channel], axis=(1, 2)) for channel in (0, 1)], 1) / [127, 95]
    assert 0.58 <= seen.min() < 0.68
    assert 0.9 < seen.max() <= 1
    np.testing.assert_allclose(seen[:, 0], seen[:, 1], atol=0.02)


def test_an_elastic_deformation_bends_without_folding_and_stays_within_its_share(ramps):
    images = np.repeat(ramps[0][:1], 200, axis=0)
    bent = augment(images, Augment(elastic=0.099), random()).astype(int)
    shift = np.abs(bent[..., :2] - images[..., :2].astype(int)).max(axis=(0, 1, 2))
    assert (shift <= np.ceil(np.array([128, 96]) * 0.099 * 1.4)).all()  # bicubic between the places overshoots
    assert (shift >= np.array([128, 96]) * 0.09).all()
    assert (np.diff(bent[..., 0], axis=2) >= 0).all()
    assert (np.diff(bent[..., 1], axis=1) >= 0).all()
    line = bent[0, :, 64, 0]
    assert np.ptp(line) > 2  # a straight line is none any more


def shown_in(images):
    """Return the box (N, 4) around what is brighter than half in images (N, H, W, 1)."""
    found = []
    for image in images[..., 0]:
        rows, columns = (np.flatnonzero((image > 127).any(axis=axis)) for axis in (1, 0))
        found.append((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1))
    return np.array(found, float)


@pytest.mark.parametrize(
    ("section", "within"),
    [
        (Augment(flip_horizontal=True, flip_vertical=True), 0.0),
        (Augment(shift=0.1), 0.6),
        (Augment(zoom=0.2), 0.6),
        (Augment(crop=0.2), 0.8),
        (Augment(rotate_deg=10, flip_vertical=True), 2.5),  # around the corners of what is turned
        (Augment(elastic=0.03), 1.1),
        (Augment(elastic=0.02, zoom=0.1, shift=0.05, flip_horizontal=True, contrast=0.2), 1.3),
    ],
)
def test_a_box_is_moved_and_found_again(section, within):
    images, boxes = np.zeros((20, 60, 80, 1), np.uint8), np.zeros((20, 3, 5), np.float32)
    images[:, 20:35, 30:52] = 255
    boxes[:, 1] = 30, 20, 52, 35, 2
    copies, moved = augment(images, section, random(), boxes=boxes)
    np.testing.assert_array_equal(copies, augment(images, section, random()))
    own = moved[moved[..., 4] > 0]
    assert (len(own), moved.dtype) == (20, np.float32)
    assert (own[:, 4] == 2).all()
    assert np.abs(own[:, :4] - shown_in(copies)).max() <= within
    assert np.abs(own[:, :4] - boxes[:, 1, :4]).max() > 1


def test_a_box_that_leaves_the_image_is_cut_and_one_of_which_little_stays_is_left_out():
    images = np.zeros((200, 40, 40, 1), np.uint8)
    boxes = np.tile(np.array([[[30, 10, 38, 20, 1], [0, 0, 0, 0, 0]]], np.float32), (200, 1, 1))
    _, moved = augment(images, Augment(shift=0.4), random(), boxes=boxes)
    own = moved[moved[..., 4] > 0]
    assert 60 < len(own) < 200
    assert own[:, :4].min() >= 0
    assert own[:, :4].max() <= 40
    areas = (own[:, 2] - own[:, 0]) * (own[:, 3] - own[:, 1])
    assert 0.3 * 80 - 1e-3 <= areas.min() < 60
    assert (moved[:, 1:] == 0).all()
