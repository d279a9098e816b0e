import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from medloop import manifest, packing, params, privacy, provenance, sources
from medloop.decoding import side
from medloop.errors import Refused
from medloop.stages.ingest import ingest

TOY = """
import os, signal, time
from functools import partial
from typing import Any
import numpy as np
from medloop import params
from medloop.sources import Item, Sample

class Options(params.Section):
    count: int = 40
    one_class: bool = False
    patients: int = 20
    split: str | None = None
    fault: str = ""
    at: int = 3

def items(root, options, *, seed):
    for index in range(options.count):
        if options.fault == "listing" and index == options.at:
            raise KeyboardInterrupt
        yield Item(f"Canary/{index}.png", partial(sample, index, options, seed))

def sample(index, options, seed):
    fault = options.fault if index == options.at else ""
    if fault == "crash":
        raise RuntimeError("Canary Jane's file")
    if fault == "lost":
        raise FileNotFoundError("Canary/3.dat")
    if fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if fault == "nothing":
        return []
    if options.fault == "slow":
        time.sleep(0.05)
    rng = np.random.default_rng((seed, index))
    pixels = np.kron(rng.integers(0, 4096, (8, 8)), np.ones((5, 6))).astype(np.uint16)
    if fault == "depth":
        pixels = pixels.astype(np.uint8)
    split = options.split if fault != "split" else None
    label = "a" if options.one_class or index % 2 else "b"
    key = f"Canary-{0 if fault == 'twin' else index}"
    patient = f"Canary {index % options.patients}" if options.patients else None
    return [Sample(key, pixels, 12, label, patient, f"study {index}", "north", "F", 88.0 + index % 4, "DX", (0.1, 0.2),
                   split, (pixels > 4000).astype(np.uint8), ((1, 2, 3, 4),))]
"""


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """A source added as one new file; its functions are where a process that decodes finds them, too."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "toy_source.py").write_text(TOY)
    (folder / "toy.py").write_text("from toy_source import Options, items")
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(folder)])
    yield
    for name in ("medloop.sources.toy", "toy_source"):
        sys.modules.pop(name, None)


def run(folder: Path, section: dict | None = None, **options):
    content = {"source": "toy", "options": {"toy": options}, "workers": 2} | (section or {})
    return ingest(params.Base(dataset="toy"), params.Ingest.model_validate(content), samples=folder)


@pytest.mark.usefixtures("toy")
def test_every_sample_is_described_and_packed(tmp_path):
    report = run(tmp_path / "samples")
    table, facts = manifest.read(tmp_path / "samples")
    assert len(table) == 40
    assert facts.classes == ("a", "b")
    assert facts.has_patients
    assert not facts.official_split
    assert sum(sum(counts.values()) for counts in report["counts"].values()) == 40
    told = {"items": 40, "taken_over": 0}
    assert json.loads((tmp_path / "samples" / "ingest.json").read_text()) | told == report
    row = table.iloc[1]
    assert (row.source, row.site, row.sex, row.modality, row.label) == ("toy", "north", "F", "DX", "a")
    assert (*row["shape"], row["dtype"], row["bit_depth"]) == (40, 48, "uint16", 12)
    assert row["spacing_mm"].tolist() == [0.1, 0.2]
    assert [list(box) for box in row.boxes] == [[1, 2, 3, 4]]
    assert sorted(table["age_years"].unique()) == [88, 89, 90]
    store = manifest.Values(tmp_path / "samples")
    wanted = np.kron(np.random.default_rng((0, 1)).integers(0, 4096, (8, 8)), np.ones((5, 6)))
    packed = next(table.iloc[1:2].itertuples())
    np.testing.assert_array_equal(store[packed], wanted)
    np.testing.assert_array_equal(store.mask(packed), wanted > 4000)


@pytest.mark.usefixtures("toy")
def test_identifiers_leave_as_pseudonyms_under_the_key(tmp_path):
    run(tmp_path / "samples")
    table, facts = manifest.read(tmp_path / "samples")
    pseudonyms = privacy.Pseudonyms.load()
    assert table["patient_id"][4] == pseudonyms.of("patient", "Canary 4")
    assert table["study_id"][4] == pseudonyms.of("study", "study 4")
    assert table["sample_id"][4] == pseudonyms.of("sample", "Canary-4")
    assert facts.key_fingerprint == pseudonyms.fingerprint
    assert provenance.read_lineage(tmp_path / "samples")["key_fingerprint"] == pseudonyms.fingerprint
    for path in (tmp_path / "samples").rglob("*"):
        assert path.is_dir() or b"Canary" not in path.read_bytes()


@pytest.mark.usefixtures("toy")
def test_two_runs_give_the_same_bytes_whatever_the_number_of_workers(tmp_path):
    run(tmp_path / "one", {"workers": 1})
    run(tmp_path / "two", {"workers": 3})
    assert provenance.digest(tmp_path / "one") == provenance.digest(tmp_path / "two")


@pytest.mark.usefixtures("toy")
def test_patients_keep_their_side_as_the_data_grows(tmp_path):
    run(tmp_path / "small", count=40, patients=40)
    run(tmp_path / "large", count=90, patients=90)
    small, large = (manifest.read(tmp_path / name)[0] for name in ("small", "large"))
    pd.testing.assert_series_equal(small["split"], large["split"][:40])
    assert small["split"].tolist() == [side(f"Canary {index}", params.Split()) for index in range(40)]


def test_sides_follow_the_shares_and_the_salt():
    split = params.Split(val=0.2, test=0.3)
    sides = pd.Series([side(f"patient {index}", split) for index in range(20_000)])
    shares = sides.value_counts(normalize=True)
    assert shares["test"] == pytest.approx(0.3, abs=0.01)
    assert shares["val"] == pytest.approx(0.2, abs=0.01)
    salted = params.Split(val=0.2, test=0.3, salt="another")
    assert (sides[:200] != [side(f"patient {index}", salted) for index in range(200)]).any()


@pytest.mark.usefixtures("toy")
def test_without_patients_the_pixels_decide_and_the_report_says_so(tmp_path):
    report = run(tmp_path / "samples", patients=0)
    table, facts = manifest.read(tmp_path / "samples")
    assert not facts.has_patients
    assert table["patient_id"].isna().all()
    assert table["split"].tolist() == [side(digest, params.Split()) for digest in table["content_sha256"]]
    assert any("no patient for 40 of 40 samples" in note for note in report["notes"])


@pytest.mark.usefixtures("toy")
def test_an_unreadable_item_is_listed_by_its_pseudonym_and_its_kind_of_error(tmp_path, capfd):
    report = run(tmp_path / "samples", {"max_rejected": 0.1}, fault="crash")
    pseudonym = privacy.Pseudonyms.load().of("item", "Canary/3.png")
    assert report["rejected"] == [{"pseudonym": pseudonym, "reason": "could not be decoded (RuntimeError)"}]
    assert any("1 of 40 items could not be read" in note for note in report["notes"])
    private = Path(os.environ["MEDLOOP_STATE"]) / "private" / "rejects.csv"
    assert f"{pseudonym},could not be decoded (RuntimeError),Canary/3.png" in private.read_text()
    shown = capfd.readouterr()
    assert "Canary" not in shown.out + shown.err
    for path in (tmp_path / "samples").rglob("*"):
        assert path.is_dir() or b"Canary" not in path.read_bytes()


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("crash", "1 x could not be decoded"),
        ("nothing", "1 x holds no image"),
        ("lost", "1 x a file that it needs is not there"),
        ("depth", r"uint16 for 12 bits, got \(40, 48\) uint8"),
    ],
)
def test_too_many_unreadable_items_stop_the_run(tmp_path, fault, reason):
    run(tmp_path / "samples")
    before = provenance.digest(tmp_path / "samples")
    with pytest.raises(Refused, match=r"1 of 40 items could not be read \(2.5%\)") as refused:
        run(tmp_path / "samples", {"max_rejected": 0.02}, fault=fault)
    assert refused.match(reason)
    assert refused.match("rejects.csv says which")
    assert "Canary" not in str(refused.value)
    provenance.verify(tmp_path / "samples")
    assert provenance.digest(tmp_path / "samples") == before


REFUSED = [
    ({}, {"one_class": True}, "at least two classes, got only a"),
    ({}, {"count": 0}, "found nothing"),
    ({}, {"split": "train"}, "no sample stands in val or test"),
    ({}, {"count": 4, "patients": 1}, "no sample stands in"),
    ({}, {"split": "train", "fault": "split"}, "for every sample or for none, got one for 39 of 40"),
    ({}, {"fault": "twin"}, "came twice"),
    ({}, {"cuont": 1}, r"ingest.options.toy: unknown parameter cuont; did you mean 'count'\?"),
    ({}, {"count": "many"}, "ingest.options.toy: count: .*got 'many'"),
    ({"options": {"tyo": {}}}, {}, "unknown source 'tyo'; known: coco, dicom, .*toy"),
    ({"source": "picture"}, {}, "unknown source 'picture'; known: coco, dicom, dicom_seg, folder, masks, medmnist"),
]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize(("section", "options", "message"), REFUSED)
def test_bad_input_is_refused_by_name(tmp_path, section, options, message):
    with pytest.raises(Refused, match=message) as refused:
        run(tmp_path / "samples", section, **options)
    assert "Canary" not in str(refused.value)
    assert not (tmp_path / "samples").exists()
    assert not list(tmp_path.glob(".samples*"))


@pytest.mark.usefixtures("toy")
def test_a_killed_worker_stops_the_run_with_a_message(tmp_path):
    with pytest.raises(Refused, match="a decoding process died"):
        run(tmp_path / "samples", fault="kill")


@pytest.mark.usefixtures("toy")
def test_an_interrupt_leaves_the_last_good_output(tmp_path):
    run(tmp_path / "samples")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "samples", fault="listing", at=20)
    provenance.verify(tmp_path / "samples")
    assert len(manifest.read(tmp_path / "samples")[0]) == 40


@pytest.mark.usefixtures("toy")
def test_a_full_disk_is_refused_and_leaves_the_last_good_output(tmp_path):
    run(tmp_path / "samples")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(Refused, match="no room on disk"):
            run(tmp_path / "samples", count=80)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    provenance.verify(tmp_path / "samples")


@pytest.mark.usefixtures("toy")
def test_samples_made_under_another_key_are_not_replaced(tmp_path, monkeypatch):
    run(tmp_path / "samples")
    made_under = privacy.Pseudonyms.load().fingerprint
    monkeypatch.setenv("MEDLOOP_KEY_FILE", str(tmp_path / "another"))
    with pytest.raises(Refused, match=f"made under the pseudonym key {made_under}"):
        run(tmp_path / "samples")
    provenance.verify(tmp_path / "samples")


PROGRAM = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # what runs in the background may have it ignored
from pathlib import Path
from medloop import params, sources
from medloop.stages.ingest import ingest
sources.__path__.append(sys.argv[1])
sys.path.append(sys.argv[1])
section = params.Ingest(source="toy", options={"toy": {"count": 4000, "fault": "slow"}}, workers=2)
print("begin", flush=True)
ingest(params.Base(), section, samples=Path(sys.argv[2]))
"""


def below(pid):
    """Return the processes that a process started, and those that they started."""
    children = [int(path.name) for path in Path("/proc").glob("[0-9]*") if parent(path) == pid]
    return [*children, *(each for child in children for each in below(child))]


@pytest.mark.usefixtures("toy")
@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_no_worker_outlives_a_run_that_is_stopped(tmp_path, kill):
    started = [sys.executable, "-c", textwrap.dedent(PROGRAM), str(tmp_path / "plugins"), str(tmp_path / "samples")]
    with subprocess.Popen(started, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout.readline() == b"begin\n"
        wait_for(lambda: len(below(process.pid)) == 4)  # two workers, what forks them, what cleans up after them
        started = below(process.pid)
        process.send_signal(kill)
        process.communicate(timeout=20)
    wait_for(lambda: not any(parent(Path(f"/proc/{pid}")) for pid in started))
    assert not (tmp_path / "samples").exists()


def parent(process):
    """Return the pid of a process's parent; 0 for one that has ended."""
    try:
        state, pid = (process / "stat").read_text().rpartition(")")[2].split()[:2]
    except OSError:
        return 0
    return 0 if state in "ZX" else int(pid)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def breastmnist(shared_data, leaks):
    options = {"medmnist": {"name": "breastmnist"}}
    return params.Ingest(source="medmnist", root=shared_data / "breastmnist", options=options, leaks=leaks)


def test_leaks_are_refused_and_the_private_list_names_them(tmp_path, shared_data):
    with pytest.raises(Refused, match="no image may stand on two sides") as refused:
        ingest(params.Base(), breastmnist(shared_data, "refuse"), samples=tmp_path / "samples")
    assert refused.match("rejects.csv says which")
    private = Path(os.environ["MEDLOOP_STATE"]) / "private" / "rejects.csv"
    assert "stands on two sides,breastmnist.npz/test/" in private.read_text()
    assert not (tmp_path / "samples").exists()


def test_leaks_are_dropped_from_train_and_validation_and_listed(tmp_path, shared_data):
    report = ingest(params.Base(), breastmnist(shared_data, "drop"), samples=tmp_path / "samples")
    table, facts = manifest.read(tmp_path / "samples")
    assert facts.leaks == "drop"
    assert facts.leak_pairs == 0
    assert sum(report["counts"]["test"].values()) == 156
    assert len(table) == 780 - len(report["dropped"])
    assert not set(report["dropped"]) & set(table["sample_id"])
    assert len({pair["sample_a"] for pair in report["leaks"] if pair["split_a"] == "test"}) >= 45
    assert any("are left out: their copy stands on another side" in note for note in report["notes"])


def test_leaks_that_are_only_reported_stay_in_and_are_counted(tmp_path, shared_data):
    report = ingest(params.Base(), breastmnist(shared_data, "report"), samples=tmp_path / "samples")
    table, facts = manifest.read(tmp_path / "samples")
    assert len(table) == 780
    assert facts.leak_pairs >= 45
    assert facts.official_split
    assert facts.leaks == "report"
    assert any(f"{facts.leak_pairs} test samples have a copy" in note for note in report["notes"])


def test_reasons_that_differ_by_a_number_count_together():
    rejected = [(f"{i:016}", f"its mask has {i} pixels too many", f"{i}.png") for i in range(3)] + [("f", "empty", "f")]
    packed = packing.Packed(rejected=rejected, count=4)
    with pytest.raises(Refused) as refused:
        packing.check(packed, params.Ingest())
    assert refused.match(r"\n  3 x its mask has 0 pixels too many \(the first of them\)\n  1 x empty\n")
