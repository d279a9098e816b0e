"""Samples in, arrays out: order, shapes, labels, and what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medloop import imaging, kinds, manifest, params, provenance
from medloop.errors import Refused
from medloop.kinds.image import notes
from medloop.stages.preprocess import preprocess, preprocess_part

BASE = params.Base()
SECTION = params.Preprocess(size_px=(16, 20))
INGEST = params.Ingest(source="folder")
FACTS = manifest.Facts(classes=("well", "sick"), source="folder", simulated=True)
SPLIT = ("train", "test", "val", "train")  # in turn, so that the order of the manifest matters


def picture(i: int) -> tuple[np.ndarray, int]:
    """Return pixels of sizes and depths that differ, and their bits."""
    pixels = np.random.default_rng(i).integers(0, 2**12, (30 + i, 40))
    return (pixels.astype(np.uint16), 12) if i % 2 else ((pixels >> 4).astype(np.uint8), 8)


def make(folder: Path, draw: Callable[[int], tuple[np.ndarray, int]] = picture, facts=FACTS, split=SPLIT) -> Path:
    """Write 24 samples of 12 patients to `folder/samples` and a validation that passed to `folder/validation`."""
    with provenance.writing("ingest", BASE, INGEST, folder / "samples") as [partial]:
        writer, rows = manifest.ShardWriter(partial), []
        for i in range(24):
            pixels, bits = draw(i)
            row = {"sample_id": f"s{i:02}", "patient_id": f"p{i // 2}", "source": "folder", "label": "sick"}
            row |= {"split": split[i % 4], "content_sha256": f"{i}", "perceptual_hash": i, "bit_depth": bits}
            row |= {"shape": list(pixels.shape), "dtype": pixels.dtype.name, "site": "north" if i % 3 else None}
            row |= {"age_years": 50.0 + i}
            rows.append(row | writer.add(pixels))
        rows[0]["label"] = rows[1]["label"] = "well"
        writer.close()
        manifest.write(rows, facts, partial)
        rejected = [{"pseudonym": "aa", "reason": "damaged"}]
        provenance.write_json(partial / "ingest.json", {"rejected": rejected, "notes": ["A note."]})
    judge(folder, success=True)
    return folder


def judge(folder: Path, *, success: bool) -> None:
    inputs = {"samples": folder / "samples"}
    with provenance.writing("validate", BASE, params.Validate(), folder / "validation", inputs=inputs) as [partial]:
        provenance.write_json(partial / "result.json", {"success": success, "checks": []})


def run(folder: Path, section: params.Preprocess = SECTION) -> dict:
    inputs = {name: folder / name for name in ("samples", "validation")}
    return preprocess(BASE, section, **inputs, arrays=folder / "arrays", holdout=folder / "holdout")


def test_each_image_stands_at_its_row(tmp_path):
    make(tmp_path)
    run(tmp_path)
    table, _ = manifest.read(tmp_path / "samples")
    for split, folder in (("train", "arrays"), ("val", "arrays"), ("test", "holdout")):
        rows = table[table["split"] == split].reset_index(drop=True)
        images = np.load(tmp_path / folder / split / "inputs.npy", mmap_mode="r")
        labels = np.load(tmp_path / folder / split / "labels.npy")
        index = pd.read_parquet(tmp_path / folder / split / "index.parquet")
        assert (images.shape, images.dtype) == ((len(rows), 16, 20, 1), np.uint8)
        assert (labels.dtype, labels.tolist()) == (np.int32, [("well", "sick").index(label) for label in rows["label"]])
        columns = ["sample_id", "patient_id", "site", "sex", "age_years", "label", "content_sha256"]
        assert index.columns.tolist() == [*columns, "synthetic"]
        pd.testing.assert_frame_equal(index[columns], rows[columns])
        assert not index["synthetic"].any()
        for image, name in zip(images, rows["sample_id"], strict=True):
            pixels, bits = picture(int(name[1:]))
            np.testing.assert_array_equal(image, imaging.fit(pixels, bits, size_px=(16, 20), channels=1))


def test_the_test_set_stands_apart(tmp_path):
    run(make(tmp_path))
    assert {path.name for path in (tmp_path / "arrays").iterdir()} == {"train", "val", "about.json", "lineage.json"}
    assert {path.name for path in (tmp_path / "holdout").iterdir()} == {"test", "about.json", "lineage.json"}
    seen = {
        row
        for split in ("train", "val")
        for row in pd.read_parquet(tmp_path / f"arrays/{split}/index.parquet").sample_id
    }
    assert seen.isdisjoint(pd.read_parquet(tmp_path / "holdout/test/index.parquet").sample_id)


def test_about_says_what_the_report_needs(tmp_path):
    about = run(make(tmp_path))
    assert about == json.loads((tmp_path / "arrays/about.json").read_text())
    assert about == json.loads((tmp_path / "holdout/about.json").read_text())
    assert about["input_shape"] == [16, 20, 1]
    assert about["classes"] == ["well", "sick"]
    assert about["facts"] == asdict(FACTS) | {"classes": ["well", "sick"], "variables": []}
    assert about["counts"] == {
        "train": {"well": 1, "sick": 11},
        "val": {"well": 0, "sick": 6},
        "test": {"well": 1, "sick": 5},
    }
    assert about["groups"]["site"] == {"train": {"north": 8}, "val": {"north": 4}, "test": {"north": 4}}
    assert about["patients"] == {"train": 12, "val": 6, "test": 6}
    assert (about["rejected"], about["notes"]) == (1, ["A note."])
    assert about["preprocessing"] == {"size_px": [16, 20], "channels": 1, "clip_percentiles": [0.0, 100.0]}


def test_the_same_samples_give_the_same_bytes(tmp_path):
    run(make(tmp_path))
    first = [provenance.digest(tmp_path / name) for name in ("arrays", "holdout")]
    run(tmp_path)
    assert [provenance.digest(tmp_path / name) for name in ("arrays", "holdout")] == first
    chain = provenance.verify(tmp_path / "arrays")
    assert chain["inputs"] == {name: provenance.digest(tmp_path / name) for name in ("samples", "validation")}


def test_gray_becomes_colour_for_a_model_of_three_channels(tmp_path):
    run(make(tmp_path), SECTION.model_copy(update={"channels": 3}))
    images = np.load(tmp_path / "arrays/train/inputs.npy")
    assert images.shape == (12, 16, 20, 3)
    assert (images == images[..., :1]).all()


def refusal(folder: Path, **changes) -> str:
    """Return the message, after checking that the last good outputs stay."""
    before = [provenance.digest(folder / name) for name in ("arrays", "holdout")]
    with pytest.raises(Refused) as caught:
        run(folder, SECTION.model_copy(update=changes))
    assert [provenance.digest(folder / name) for name in ("arrays", "holdout")] == before
    assert not list(folder.glob(".*"))
    return str(caught.value)


def test_samples_that_did_not_pass_are_refused(tmp_path):
    run(make(tmp_path))
    judge(tmp_path, success=False)
    assert "did not pass" in refusal(tmp_path)


def test_a_validation_of_other_samples_is_refused(tmp_path):
    run(make(tmp_path))
    judged = tmp_path / "validation" / "lineage.json"
    before = judged.read_bytes()
    make(tmp_path, lambda i: picture(i + 1))
    judged.write_bytes(before)
    assert "other samples" in refusal(tmp_path)


def test_an_empty_split_is_refused(tmp_path):
    run(make(tmp_path))
    make(tmp_path, split=("train", "test", "train", "train"))
    assert "split val is empty" in refusal(tmp_path)


def test_colour_in_a_gray_model_is_refused_by_sample(tmp_path):
    run(make(tmp_path))

    def one_in_colour(i: int) -> tuple[np.ndarray, int]:
        return (np.random.default_rng(i).integers(0, 255, (30, 30, 3)).astype(np.uint8), 8) if i == 7 else picture(i)

    make(tmp_path, one_in_colour)
    message = refusal(tmp_path)
    assert "s07" in message
    assert "1 channel" in message
    assert "one of 3" in message
    assert "preprocess.channels" in message


def test_several_labels_an_image_are_refused(tmp_path):
    run(make(tmp_path))
    make(tmp_path, facts=manifest.Facts(**(asdict(FACTS) | {"multi_label": True})))
    assert "one label" in refusal(tmp_path)


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from stages.test_preprocess import SECTION, run
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    run(Path({folder!r}), SECTION.model_copy(update={{"size_px": (128, 128)}}))
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_full_disk_is_refused_and_the_last_arrays_stay(tmp_path):
    run(make(tmp_path))
    before = provenance.digest(tmp_path / "arrays")
    code = FULL.format(tests=str(Path(__file__).parents[1]), folder=str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.startswith("Refused no room on disk"), done
    assert provenance.digest(tmp_path / "arrays") == before
    assert not list(tmp_path.glob(".*"))


def shard_by_shard(folder: Path, shards: int, section: params.Preprocess = SECTION) -> dict:
    inputs = {name: folder / name for name in ("samples", "validation")}
    made: dict[str, list[Path]] = {"arrays_parts": [], "holdout_parts": []}
    for shard in range(shards):
        outputs = {name: folder / f"{name}-{shard}-of-{shards}" for name in ("arrays", "holdout")}
        preprocess_part(BASE, section, **inputs, **outputs, shard=shard, shards=shards)
        for name, path in outputs.items():
            made[f"{name}_parts"].append(path)
    return {**inputs, **made, "arrays": folder / "arrays", "holdout": folder / "holdout"}


def bytes_of(folder: Path) -> dict[str, bytes]:
    paths = (path for name in ("arrays", "holdout") for path in (folder / name).rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_the_number_of_shards_changes_no_byte(tmp_path, shards):
    """With 6 test images, one of seven shards is empty."""
    run(make(tmp_path))
    wanted = bytes_of(tmp_path)
    preprocess(BASE, SECTION, **shard_by_shard(tmp_path, shards))
    assert bytes_of(tmp_path) == wanted


def test_a_part_keeps_the_test_set_apart(tmp_path):
    made = shard_by_shard(make(tmp_path), 2)
    for arrays, holdout in zip(made["arrays_parts"], made["holdout_parts"], strict=True):
        assert {path.name for path in arrays.iterdir()} == {"train", "val", "lineage.json"}
        assert {path.name for path in holdout.iterdir()} == {"test", "lineage.json"}


def test_a_part_of_samples_that_did_not_pass_is_refused(tmp_path):
    make(tmp_path)
    judge(tmp_path, success=False)
    with pytest.raises(Refused, match="did not pass"):
        shard_by_shard(tmp_path, 2)
    assert not list(tmp_path.glob("arrays*"))


def test_parts_of_other_samples_or_parameters_are_refused(tmp_path):
    made = shard_by_shard(make(tmp_path), 2)
    with pytest.raises(Refused, match="shard 0 of 2 was made with other parameters than"):
        preprocess(BASE, SECTION.model_copy(update={"channels": 3}), **made)
    with pytest.raises(Refused, match="shard 1 of 2 is missing"):
        preprocess(BASE, SECTION, **{**made, "holdout_parts": made["holdout_parts"][:1]})
    make(tmp_path, lambda i: picture(i + 1))
    with pytest.raises(Refused, match="shard 0 of 2 was made with other inputs than"):
        preprocess(BASE, SECTION, **made)
    judge(tmp_path, success=False)
    with pytest.raises(Refused, match="did not pass"):
        preprocess(BASE, SECTION, **made)
    assert not (tmp_path / "arrays").exists()


@pytest.mark.parametrize(("larger", "told"), [("slide", 0), ("resize", 1)])
def test_objects_that_vanish_in_small_images_are_told(larger, told, tmp_path):
    numbers = np.zeros((64, 64), np.uint16)
    numbers[3, 3], numbers[20:40, 20:40] = 1, 2
    with closing(manifest.ShardWriter(tmp_path)) as writer:
        places = [writer.add(np.zeros((64, 64), np.uint8), (numbers > 0).astype(np.uint8), numbers) for _ in range(3)]
    rows = pd.DataFrame(places).assign(split="test", shape=[[64, 64]] * 3, spacing_mm=[(1.0, 1.0), None, None])
    found = notes(rows, manifest.Values(tmp_path), kinds.Form((16, 16, 1), "uint8", {"larger": larger}, masks=True))
    lost = "3 of 6 drawn objects have no pixel left in images of 16 x 16"
    assert [note.startswith(lost) for note in found] == [True, False][1 - told :]
    assert found[-1].startswith("2 of 3 test images do not tell how far pixels are")


@pytest.mark.parametrize(("larger", "told"), [("slide", 1), ("resize", 0)])
def test_images_that_are_smaller_than_a_window_are_told(larger, told, tmp_path):
    rows = pd.DataFrame({"shape": [[64, 64], [20, 90], [80, 70]]})
    form = kinds.Form((64, 64, 1), "uint8", {"larger": larger}, boxes=3)
    found = notes(rows, manifest.Values(tmp_path), form)
    assert len(found) == told
    assert all("1 of 3 images are smaller than a window, 64 x 64" in note for note in found)
