"""Run lengths and polygons, against what pycocotools 2.0 made of the same."""

import hashlib

import numpy as np
import pytest

from medloop import regions
from medloop.imaging import Unreadable

RUNS = [  # size, compressed counts, area, digest: pycocotools.mask.encode of random images and of a square
    (
        (13, 17),
        "032OO0002ON10O023ON0O01OO0010O20N010O1000011O60H10O01120N0OO00022ON0100OO00210000O21MN01032MN012OM1004OM0O10O03"
        "0M51K0000",
        122,
        "7e699c2aebeec642",
    ),
    (
        (13, 17),
        "5122ON0200012MN000161KN00210ON1O51KOO243ML10NO022NN30N011O11NN060J210OO1O02O10M24OM101O03MN1O80",
        122,
        "36ef5b3be7f6703b",
    ),
    ((200, 300), "\\da0T3T3" + "0" * 297 + "Te;", 15000, "83c44782919e0ae0"),
]
POLYGONS = [  # corners, what pycocotools covers of 60 x 64 pixels
    (
        [10.2, 10.7, 40.5, 12.1, 35.0, 44.4, 12.3, 38.8],
        "Sc04h1<D<D00001O0000001O0000001O01O0001O0000001O000000M3K5J6J6J6KmZ1",
    ),
    ([5, 5, 25, 5, 25, 25, 5, 25], "a9d0X10000000000000000000000000000000000000oX2"),
    (
        [30.5, 3.25, 58.75, 20.5, 44.0, 57.3, 20.1, 50.2, 33.3, 30.3],
        "lX13h11N2O1N3N1N2O2M2O1QOF:=EM041k01O010O00100O0010O01O1N1N3L4M2M4M2M4M3L3N3L4M2M4M2Mk8",
    ),
]


@pytest.mark.parametrize(("size", "text", "area", "digest"), RUNS)
def test_run_lengths_are_read_as_pycocotools_wrote_them(size, text, area, digest):
    found = regions.region({"size": list(size), "counts": text}, size)
    assert (found.shape, found.dtype, found.sum()) == (size, bool, area)
    assert hashlib.sha256(found.astype(np.uint8).tobytes()).hexdigest()[:16] == digest
    listed = regions.region({"size": list(size), "counts": regions.uncompressed(text)}, size)
    np.testing.assert_array_equal(listed, found)


@pytest.mark.parametrize(("polygon", "text"), POLYGONS)
def test_polygons_cover_what_pycocotools_covers_but_for_a_few_pixels_at_the_edge(polygon, text):
    wanted = regions.region({"size": [60, 64], "counts": text}, (60, 64))
    found = regions.of_polygon(polygon, (60, 64))
    assert (found & wanted).sum() / (found | wanted).sum() > 0.99
    assert abs(int(found.sum()) - int(wanted.sum())) <= 3


def test_the_union_of_polygons_counts_and_what_lies_outside_is_cut():
    squares = [[0, 0, 4, 0, 4, 4, 0, 4], [2, 2, 9, 2, 9, 9, 2, 9]]
    found = regions.region(squares, (6, 6))
    wanted = np.zeros((6, 6), bool)
    wanted[:4, :4] = wanted[2:, 2:] = True
    np.testing.assert_array_equal(found, wanted)


def test_even_and_odd_tell_inside_from_outside():
    star = [5, 0, 8, 10, 0, 4, 10, 4, 2, 10]  # its middle is crossed twice
    found = regions.of_polygon([10 * corner for corner in star], (100, 100))
    assert not found[55, 50]
    assert found[20, 50]


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"size": [4, 5], "counts": [20]}, "another size"),
        ({"size": [4, 4], "counts": [3, 4]}, "add up to the pixels"),
        ({"size": [4, 4], "counts": [20, -4]}, "add up to the pixels"),
        ({"size": [4, 4], "counts": None}, "add up to the pixels"),
        ({"size": [4, 4], "counts": "a\x7f"}, "none of theirs"),
        ({"size": [4, 4], "counts": "o"}, "end within a number"),
        ([[1, 2, 3, 4]], "at least three corners"),
        ([[1, 2, 3, "Canary", 4, 5]], "at least three corners"),
        ("Canary", "polygons or run lengths"),
    ],
)
def test_what_is_no_region_is_refused_without_quoting_it(stored, message):
    with pytest.raises(Unreadable, match=message) as caught:
        regions.region(stored, (4, 4))
    assert "Canary" not in str(caught.value)
