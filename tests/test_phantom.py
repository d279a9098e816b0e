"""The phantom's physics and bytes; what takes a whole cohort stands in tests/benchmarks/phantom_acceptance.py."""

import subprocess
import sys
from collections import Counter
from dataclasses import replace
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from scipy import stats

from medloop import decoding, imaging, leaks, manifest, packing, params, privacy, sources
from medloop.phantom import anatomy, cohort, export, matter, radiograph, shapes, sheet, sites
from medloop.phantom.options import Options
from medloop.phantom.shapes import Points, Rays, ellipsoid, rotation, spans, union_length
from medloop.sources import dicom, phantom

ROOT = Path(__file__).resolve().parents[1]
SMALL = Options(patients=24)
SEED = 3


@pytest.fixture(scope="module")
def patients() -> list[anatomy.Patient]:
    return [anatomy.patient(index, SMALL, SEED) for index in range(80)]


@pytest.fixture(scope="module")
def samples() -> list[sources.Sample]:
    return [sample for item in phantom.items(Path(), SMALL, seed=SEED) for sample in item.read()]


def first(patients: list[anatomy.Patient], **wanted: object) -> anatomy.Patient:
    return next(p for p in patients if all(getattr(p.person, key) == value for key, value in wanted.items()))


# Bytes


def test_a_seed_gives_identical_bytes_in_another_process():
    here = cohort.dicom(5, 0, SMALL, SEED)
    code = (
        "import sys; from medloop.phantom import cohort; from medloop.phantom.options import Options; "
        f"sys.stdout.buffer.write(cohort.dicom(5, 0, Options(patients=24), {SEED}))"
    )
    there = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=True, env={"PYTHONPATH": ":".join(sys.path)}
    )
    assert here == there.stdout
    assert here == cohort.radiographs(5, SMALL, SEED)[0].content
    assert here != cohort.dicom(5, 0, SMALL, SEED + 1)


def test_a_patient_is_the_same_in_a_cohort_of_any_size():
    few, many = (list(phantom.items(Path(), Options(patients=n), seed=SEED)) for n in (5, 50))
    assert (len(few), len(many)) == (5, 50)
    for a, b in zip(few[4].read(), many[4].read(), strict=True):
        assert a.key == b.key
        assert a.patient_id == b.patient_id
        np.testing.assert_array_equal(a.values, b.values)


def test_images_of_different_patients_and_studies_differ(samples: list[sources.Sample]):
    assert len({sample.values.tobytes() for sample in samples}) == len(samples)
    assert len({sample.key for sample in samples}) == len(samples)
    assert len({sample.patient_id for sample in samples}) == SMALL.patients


# The header


def test_every_file_says_that_it_is_simulated_and_comes_from_no_clock():
    ds = pydicom.dcmread(BytesIO(cohort.dicom(0, 0, SMALL, SEED)))
    for keyword in ("Manufacturer", "SeriesDescription", "StudyDescription", "ImageComments", "InstitutionName"):
        assert "simulated" in str(ds[keyword].value).lower()
    assert ds.ImageType[0] == "DERIVED"
    assert ds.BurnedInAnnotation == "NO"
    assert ds.StudyDate < "2020"
    assert phantom.SIMULATED


def test_three_sites_differ_in_bits_photometry_collimation_and_response(samples: list[sources.Sample]):
    assert {site.bits for site in sites.SITES} == {8, 12, 16}
    assert {site.photometric for site in sites.SITES} == {"MONOCHROME1", "MONOCHROME2"}
    assert {sample.bit_depth for sample in samples} == {8, 12, 16}
    assert len({sample.site for sample in samples}) == 3
    ramp = np.linspace(0.1, 0.9, 9)
    curves = [site.response(ramp) for site in sites.SITES]
    assert all((np.diff(curve) > 0).all() for curve in curves)
    assert min(np.abs(a - b).max() for a, b in zip(curves, curves[1:] + curves[:1], strict=True)) > 0.03
    rng = np.random.default_rng(0)
    open_share = [np.mean([sites.collimation(site, 160, 384, rng).mean() for _ in range(20)]) for site in sites.SITES]
    assert max(open_share) - min(open_share) > 0.05


def test_dense_is_bright_after_decoding_whatever_the_site_stores():
    for site in range(3):
        index = next(i for i in range(50) if anatomy.person(i, SMALL, SEED).site == site)
        ds = pydicom.dcmread(BytesIO(cohort.dicom(index, 0, SMALL, SEED)))
        pixels, bits = next(imaging.decode_dataset(ds))
        assert (ds.PhotometricInterpretation, ds.BitsStored) == (sites.SITES[site].photometric, sites.SITES[site].bits)
        share = pixels / (2.0**bits - 1)
        heart, lung = share[95:110, 80:95].mean(), np.quantile(share[50:100, 35:60], 0.3)
        assert heart > lung + 0.2


def test_samples_hold_what_the_header_allows_and_equal_the_dicom_source(tmp_path: Path, samples: list[sources.Sample]):
    options = SMALL.model_copy(update={"patients": 4})
    count = export.export(tmp_path, options, SEED)
    read = dicom.Options(site="InstitutionName")
    found = {s.key.removesuffix("#0"): s for item in dicom.items(tmp_path, read, seed=0) for s in item.read()}
    wanted = {s.key: s for item in phantom.items(Path(), options, seed=SEED) for s in item.read()}
    assert len(found) == count
    assert found.keys() == wanted.keys()
    for key, sample in wanted.items():
        np.testing.assert_array_equal(found[key].values, sample.values)
        for field in ("label", "patient_id", "study_id", "site", "sex", "age_years", "modality", "spacing_mm"):
            assert getattr(found[key], field) == getattr(sample, field), field
    assert (tmp_path / "Phantom^0001" / "study1.dcm").exists()
    assert {sample.sex for sample in samples} == {"F", "M"}
    assert max(sample.age_years or 0 for sample in samples) <= privacy.MAX_AGE_YEARS


# The cohort


def test_the_default_cohort_has_400_test_patients():
    from medloop.decoding import side
    from medloop.phantom.header import patient_id

    patients = Options(**params.read(ROOT / "params.yaml").ingest.options["phantom"]).patients
    for seed in range(3):
        sides = Counter(side(patient_id(index, seed), params.Split()) for index in range(patients))
        assert sides["test"] >= 400


def test_the_label_is_independent_of_site_sex_and_age():
    people = pd.DataFrame([anatomy.person(index, Options(), 0).__dict__ for index in range(6000)])
    assert people["has_nodule"].mean() == pytest.approx(0.5, abs=0.03)
    for column in ("site", "sex"):
        assert stats.chi2_contingency(pd.crosstab(people[column], people["has_nodule"])).pvalue > 0.01
    ages = [people.loc[people["has_nodule"] == label, "age_years"] for label in (True, False)]
    assert stats.mannwhitneyu(*ages).pvalue > 0.01
    assert people["studies"].value_counts().index.tolist() == [1, 2, 3]


@pytest.mark.parametrize(("shortcut", "low", "high"), [(0.0, 0.28, 0.39), (0.5, 0.58, 0.76), (1.0, 1.0, 1.0)])
def test_a_planted_shortcut_ties_the_site_to_the_label(shortcut: float, low: float, high: float):
    options = Options(shortcut=shortcut)
    people = [anatomy.person(index, options, 0) for index in range(1500)]
    with_nodule = [who for who in people if who.has_nodule]
    assert low <= np.mean([who.site == 0 for who in with_nodule]) <= high
    assert [who.has_nodule for who in people] == [anatomy.person(i, Options(), 0).has_nodule for i in range(1500)]
    assert bool(phantom.notes(options)) == (shortcut > 0)


def test_nodules_are_as_wanted_and_negatives_hold_mimics(patients: list[anatomy.Patient]):
    nodules = [nodule for patient in patients for nodule in patient.nodules]
    diameters = np.array([nodule.diameter_mm for nodule in nodules])
    assert 4 <= diameters.min() < 12
    assert 27 < diameters.max() <= 30
    assert 0.2 < np.mean([nodule.spiculated for nodule in nodules]) < 0.5
    negatives = [patient for patient in patients if not patient.person.has_nodule]
    assert all(patient.mimics and not patient.nodules for patient in negatives)
    kinds = {mimic.kind for patient in negatives for mimic in patient.mimics}
    assert kinds == {"vessel end-on", "nipple", "granuloma", "callus"}


def test_mimics_are_as_common_with_a_nodule_as_without(patients: list[anatomy.Patient]):
    counts = {True: [], False: []}
    for patient in patients:
        counts[patient.person.has_nodule].append(len(patient.mimics))
    assert stats.mannwhitneyu(counts[True], counts[False]).pvalue > 0.01


def test_some_nodules_lie_behind_heart_and_ribs(patients: list[anatomy.Patient]):
    behind_heart = behind_ribs = 0
    for patient in patients[:50]:
        study = radiograph.study(patient, 0, SEED)
        for mask, nodule in zip(radiograph.masks(study, 160), study.nodules, strict=True):
            heights, xs = radiograph._pixel_centres(160)
            near, far = spans(radiograph._rays(study, heights, xs), patient.organs[:1])
            heart = (far > near).reshape(160, 160) & (mask > 0)
            behind_heart += bool(heart.any()) and nodule.centre[1] < patient.organs[0].centre[1]
            bones = radiograph._splat(patient.bones, study, 160)
            behind_ribs += bool((bones[mask > 0] > 0.02).any())
    assert behind_heart >= 3
    assert behind_ribs >= 10


def test_anatomy_persists_while_stand_and_breath_vary(patients: list[anatomy.Patient]):
    patient = first(patients, studies=3)
    one, two = (radiograph.study(patient, index, SEED) for index in (0, 1))
    angle = np.degrees(np.arccos(np.clip((np.trace(one.to_room.T @ two.to_room) - 1) / 2, -1, 1)))
    assert 0.1 < angle < 30
    assert abs(one.diaphragm_mm - two.diaphragm_mm) > 0.1
    assert [s.diameter_mm for s in two.nodules] >= [s.diameter_mm for s in one.nodules]


def test_studies_of_one_patient_look_more_alike_than_patients_do(patients: list[anatomy.Patient]):
    several = [patient for patient in patients if patient.person.studies > 1][:5]
    pairs = [[vessels_seen(patient, index) for index in (0, 1)] for patient in several]
    same = [alike(one, two) for one, two in pairs]
    different = [alike(pairs[i][0], pairs[i - 1][1]) for i in range(len(pairs))]
    assert min(same) > max(different)
    assert max(same) < 0.999


def vessels_seen(patient: anatomy.Patient, study: int) -> np.ndarray:
    image = radiograph.line_integrals(patient, radiograph.study(patient, study, SEED), 160)
    fine, coarse = (cv2.GaussianBlur(image, (0, 0), sigma) for sigma in (1.5, 5))
    return np.clip(fine - coarse, -0.1, 0.1).astype(np.float32)


def alike(one: np.ndarray, two: np.ndarray) -> float:
    """Return the best correlation of the middle of `two` with a place in `one`."""
    return float(cv2.matchTemplate(one, two[45:100, 30:130], cv2.TM_CCOEFF_NORMED).max())


# Geometry and attenuation


def test_rays_cross_ellipsoids_as_far_as_geometry_says():
    ball = ellipsoid((1.0, 2.0, 3.0), (5.0, 5.0, 5.0))
    aside = np.array([0.0, 3.0, 4.0, 5.5])  # 3-4-5 triangles
    rays = Rays(np.stack([1 + aside, np.full(4, -50.0), np.full(4, 3.0)]), np.tile([[0.0], [1.0], [0.0]], 4))
    near, far = spans(rays, [ball])
    np.testing.assert_allclose((far - near)[0], [10, 8, 6, 0], atol=1e-9)
    np.testing.assert_allclose(near[0, 0], 47)


def test_lengths_of_overlapping_shapes_count_once():
    random = np.random.default_rng(0)
    near = random.uniform(0, 10, (6, 300))
    far = near + random.uniform(0, 4, (6, 300))
    steps = np.linspace(0, 15, 30_001)
    covered = ((steps >= near[..., None]) & (steps <= far[..., None])).any(axis=0).mean(axis=1) * 15
    np.testing.assert_allclose(union_length(near, far), covered, atol=5e-3)


def test_a_slab_of_tissue_attenuates_as_beer_and_lambert_say(patients: list[anatomy.Patient]):
    patient = patients[0]
    none = Points(np.zeros((1, 3), np.float32), np.zeros(1, np.float32))
    block = ellipsoid((0, 0, 0), (100, 60, 100))
    nowhere = ellipsoid((0, 0, 9000), (1, 1, 1))
    plain = replace(
        patient, soft=(block,), fat=(block,), breasts=(), lungs=(nowhere, nowhere), organs=(nowhere,),
        domes=(nowhere, nowhere), trachea=(nowhere,), bones=none, vessels=(none, none), nodules=(), mimics=(),
    )  # fmt: skip
    study = radiograph.Study(0, np.eye(3), np.zeros(3), 0.0, ())
    integrals = radiograph.line_integrals(plain, study, 161)
    middle = integrals[80 + round(radiograph.CENTRE_MM / (384 / 161) * 1.0975), 80]
    assert middle == pytest.approx(matter.SOFT * 120, rel=1e-3)
    assert 0.200 < matter.SOFT * 10 < 0.209  # 1/cm: 0.217 at 60 keV, 0.193 at 80
    assert 0.428 < matter.CORTICAL * 10 < 0.604


def test_points_keep_their_mass_whatever_the_pixel():
    path = np.stack([np.linspace(-40, 40, 60), np.zeros(60), np.zeros(60)], axis=1)
    bone = shapes.tube(path, (6.0, 4.0), np.array([0.0, 0.0, 1.0]), shell_mm=0.8)
    study = radiograph.Study(0, rotation(z_deg=20), np.zeros(3), 0.0, ())
    enlarged = (radiograph.DETECTOR_MM - radiograph.SOURCE_MM) / -radiograph.SOURCE_MM
    for size in (80, 160, 320):
        seen = radiograph._splat(bone, study, size).sum() * (384 / size) ** 2
        assert seen == pytest.approx(bone.attenuation.sum() * enlarged**2, rel=2e-3)


def test_masks_equal_the_projected_nodule_to_a_pixel(patients: list[anatomy.Patient]):
    size = 160
    for patient in [p for p in patients if p.nodules][:3]:
        study = radiograph.study(patient, 0, SEED)
        for nodule, mask in zip(study.nodules, radiograph.masks(study, size), strict=True):
            marched = march(nodule, study, size)
            assert (mask != marched).sum() <= max(2, 0.03 * mask.sum())  # grazing rays that the march steps over
            near_it = cv2.dilate(mask, np.ones((3, 3), np.uint8))
            assert not (marched & ~near_it).any()
            assert marched.sum() > 0


def march(nodule: radiograph.Lump, study: radiograph.Study, size: int) -> np.ndarray:
    """Project a nodule by brute force: walk from the source to each pixel and ask whether a place is inside."""
    mask = np.zeros((size, size), np.uint8)
    back = np.linalg.inv(study.to_room)
    source = np.array([0.0, radiograph.SOURCE_MM, radiograph.CENTRE_MM])
    middle = study.to_room @ nodule.centre + study.shift
    share = np.linspace(-45, 45, 361)[:, None] / (radiograph.DETECTOR_MM - radiograph.SOURCE_MM)
    depth = (middle[1] - radiograph.SOURCE_MM) / (radiograph.DETECTOR_MM - radiograph.SOURCE_MM)
    shadow = source + (middle - source) / depth
    step = 384 / size
    for row in range(size):
        for column in range(size):
            pixel = np.array(
                [(column + 0.5) * step - 192, radiograph.DETECTOR_MM, radiograph.CENTRE_MM + 192 - (row + 0.5) * step]
            )
            if np.abs(pixel - shadow).max() > 45:
                continue
            places = (source + (pixel - source) * (depth + share) - study.shift) @ back.T
            mask[row, column] = any(part.holds(places).any() for part in nodule.parts)
    return mask


def test_a_nodule_changes_the_image_where_its_mask_is(patients: list[anatomy.Patient]):
    patient = first(patients, has_nodule=True)
    study = radiograph.study(patient, 0, SEED)
    clear = replace(study, nodules=())
    difference = radiograph.line_integrals(patient, study, 160) - radiograph.line_integrals(patient, clear, 160)
    mask = np.maximum.reduce(radiograph.masks(study, 160))
    assert (difference >= -1e-9).all()
    assert (difference[mask > 0] > 0).all()
    assert not (difference[cv2.dilate(mask, np.ones((3, 3), np.uint8)) == 0] > 1e-9).any()


def test_labels_masks_and_boxes_agree(samples: list[sources.Sample]):
    assert {sample.label for sample in samples} == set(phantom.classes(SMALL)) == {"no finding", "nodule"}
    for sample in samples:
        assert (sample.label == "nodule") == (sample.mask is not None) == bool(sample.boxes)
        if sample.mask is None:
            continue
        assert sample.mask.shape == sample.values.shape
        assert set(np.unique(sample.mask)) == {0, 1}
        inside = np.zeros_like(sample.mask)
        for x0, y0, x1, y1 in sample.boxes or ():
            inside[y0:y1, x0:x1] = 1
            found = sample.mask[y0:y1, x0:x1]
            assert all(edge.any() for edge in (found[0], found[-1], found[:, 0], found[:, -1]))
        assert not (sample.mask & ~inside).any()


def test_the_shadow_of_a_lung_is_where_a_ray_passes_enough_of_it(patients: list[anatomy.Patient]):
    """Walk along a few hundred rays and ask of each place whether it lies in the lung, and in nothing else there."""
    size, rng = 96, np.random.default_rng(0)
    for patient in patients[:2]:
        study = radiograph.study(patient, 0, SEED)
        shadows = radiograph.lungs(patient, study, size)
        back = np.linalg.inv(study.to_room)
        source = np.array([0.0, radiograph.SOURCE_MM, radiograph.CENTRE_MM])
        for row, column in rng.integers(0, size, (300, 2)):
            across, up = ((np.array([column, size - 1 - row]) + 0.5) * 384 / size - 192).tolist()
            way = np.array([across, radiograph.DETECTOR_MM, radiograph.CENTRE_MM + up]) - source
            steps = np.linspace(0.75, 1, 1000)[:, None]  # half a millimetre
            places = (source + way * steps - study.shift) @ back.T
            domes = [dome.moved((0, 0, study.diaphragm_mm)) for dome in patient.domes]
            for side, shadow in enumerate(shadows):
                inside = patient.lungs[side].holds(places)
                for other in (*patient.organs, domes[side]):
                    inside &= ~other.holds(places)
                length = inside.sum() * np.linalg.norm(way) * 0.25 / 999
                if abs(length - radiograph.LUNG_MM) > 2:
                    assert shadow[row, column] == (length > radiograph.LUNG_MM)


@pytest.mark.parametrize(
    ("masks", "classes"), [("nodules", ("nodule",)), ("lungs", ("lung",)), ("both", ("lung", "nodule"))]
)
def test_masks_take_the_place_of_labels(masks, classes, samples):
    options = SMALL.model_copy(update={"masks": masks})
    assert phantom.facts(Path(), options) == {"masks": True, "boxes": True, "classes": classes}
    drawn = [sample for item in phantom.items(Path(), options, seed=SEED) for sample in item.read()]
    for sample, labelled in zip(drawn, samples, strict=True):
        np.testing.assert_array_equal(sample.values, labelled.values)
        assert sample.label is None
        assert set(np.unique(sample.mask)) <= set(range(1 + len(classes)))
        assert set(sample.box_labels) <= set(classes)
        np.testing.assert_array_equal(sample.mask > 0, sample.instances > 0)
        assert len(sample.boxes) == len(np.unique(sample.instances)) - 1
        if "nodule" in classes:
            nodule = sample.mask == classes.index("nodule") + 1
            np.testing.assert_array_equal(nodule, np.zeros_like(nodule) if labelled.mask is None else labelled.mask > 0)
        if "lung" in classes:
            assert sample.box_labels[:2] == ("lung", "lung")
            assert 0.1 < (sample.mask > 0).mean() < 0.6
    assert any(not sample.mask.any() for sample in drawn) == (masks == "nodules")


def test_masks_and_findings_exclude_each_other():
    with pytest.raises(ValueError, match="masks take the place of labels, got masks lungs and labels size"):
        Options(masks="lungs", labels="size")


# The detector


def test_noise_variance_is_linear_in_dose(patients: list[anatomy.Patient]):
    patient = patients[0]
    integrals = radiograph.line_integrals(patient, radiograph.study(patient, 0, SEED), 80)
    rng, field = np.random.default_rng(0), np.ones((80, 80))
    doses, variance = np.array([0.5, 1.0, 2.0, 4.0, 8.0]), []
    for dose in doses:
        options = Options(dose_ugy=dose)
        pair = [radiograph.counts(integrals, field, options, rng) for _ in range(2)]
        variance.append((pair[0] - pair[1]).var() / 2)
    fit = stats.linregress(doses, variance)
    assert fit.rvalue**2 > 0.99
    assert abs(fit.intercept) < 0.05 * fit.slope


def test_scatter_reaches_behind_lead_and_blur_softens_its_edge():
    field = np.ones((160, 160))
    field[:, 80:] = 0
    behind = radiograph.expected_counts(np.zeros((160, 160)), field, Options())
    open_field = behind[80, 20]
    assert 0.5 < behind[80, 79] / open_field < 1
    assert 0.02 < behind[80, 84] / open_field < 0.25  # scatter alone, 10 mm from the edge
    assert behind[80, 84] > behind[80, 110] > behind[80, 150]
    assert behind[80, 80] > 1.2 * behind[80, 84]  # blur


def test_electronic_noise_comes_after_the_logarithm():
    flat, field = np.full((200, 200), 1e12), np.ones((200, 200))
    stored = sites.stored(flat, field, sites.SITES[1], np.random.default_rng(0)).astype(float)
    expected = sites.READ_NOISE * 65535 / sites.RANGE
    assert stored.std() == pytest.approx(expected, rel=0.15)  # no quanta to speak of, and yet noise


# Around it


def test_no_leak_is_found_across_patients(tmp_path: Path, samples: list[sources.Sample]):
    section = params.Ingest(workers=1)
    items = [sources.Item(sample.key, partial(list, [sample])) for sample in samples]
    decode = decoding.Decoding(section, pseudonyms := privacy.Pseudonyms(b"k" * 32))
    packed = packing.pack(decode.entries(items, decoding.Listing(pseudonyms)), tmp_path, len(items))
    table = packed.samples.table().to_pandas()
    numbers = pd.factorize(table["patient_id"])[0]
    table["split"] = np.array(["train", "val", "test"])[numbers % 3]
    assert leaks.find(table, manifest.Values(tmp_path), section.leak_thresholds).empty


def test_options_out_of_range_are_refused():
    for wrong in (
        {"diameter_mm": [30, 4]},
        {"diameter_mm": [4, 80]},
        {"diameter_beta": [0, 1]},
        {"shortcut": 2},
        {"dose": 1},
    ):
        with pytest.raises(ValueError, match=r"diameter|shortcut|dose"):
            Options(**wrong)


def test_the_contact_sheet_outlines_nodules():
    made = sheet.sheet(Options(), 0, columns=3)
    below = made[made.shape[0] // 2 :]
    assert made.shape[2] == 3
    assert (below != below[..., :1]).any()  # the only colour is the outline
    above = made[: sheet.TITLE + sheet.SIDE]
    assert (above == above[..., :1]).all()
