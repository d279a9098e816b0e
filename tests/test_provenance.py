import json
import resource
import subprocess
import sys

import pytest

from medloop import params, provenance
from medloop.errors import Refused

BASE = params.Base()


def write(path, text: str, **inputs) -> None:
    with provenance.writing("ingest", BASE, params.Ingest(), path, inputs=inputs) as (folder,):
        (folder / "data.txt").write_text(text)


def test_an_output_appears_with_its_lineage(tmp_path):
    write(tmp_path / "samples", "one")
    lineage = provenance.verify(tmp_path / "samples")
    assert lineage["outputs"] == {"data.txt": provenance.sha256(tmp_path / "samples/data.txt")}
    assert lineage["parameters"]["section"]["source"] == "phantom"
    assert "medloop.provenance" in lineage["code"]


def test_lineage_leads_back_through_every_stage(tmp_path):
    write(tmp_path / "a", "one")
    write(tmp_path / "b", "two", a=tmp_path / "a")
    write(tmp_path / "c", "three", b=tmp_path / "b")
    lineage = provenance.read_lineage(tmp_path / "c")
    above = lineage["upstream"][lineage["inputs"]["b"]]
    assert lineage["upstream"][above["inputs"]["a"]]["outputs"]["data.txt"] == provenance.sha256(
        tmp_path / "a/data.txt"
    )


def test_the_same_work_gives_the_same_bytes(tmp_path):
    write(tmp_path / "a", "one")
    first = (tmp_path / "a" / provenance.LINEAGE).read_bytes()
    write(tmp_path / "a", "one")
    assert (tmp_path / "a" / provenance.LINEAGE).read_bytes() == first


def fail_halfway(path) -> None:
    with provenance.writing("ingest", BASE, params.Ingest(), path) as (folder,):
        (folder / "data.txt").write_text("bad")
        raise RuntimeError("halfway")


def test_a_failure_leaves_the_last_good_output(tmp_path):
    write(tmp_path / "a", "good")
    with pytest.raises(RuntimeError, match="halfway"):
        fail_halfway(tmp_path / "a")
    assert (tmp_path / "a/data.txt").read_text() == "good"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_changed_byte_is_named(tmp_path):
    write(tmp_path / "a", "good")
    (tmp_path / "a/data.txt").write_text("goof")
    with pytest.raises(Refused, match=r"data\.txt does not match its digest"):
        provenance.verify(tmp_path / "a")


def test_a_full_disk_is_refused_and_the_last_good_output_stays(tmp_path):
    write(tmp_path / "a", "good")
    code = f"""
import resource, signal
from pathlib import Path
from medloop import params, provenance
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
with provenance.writing("ingest", params.Base(), params.Ingest(), Path({str(tmp_path / "a")!r})) as (folder,):
    (folder / "data.txt").write_bytes(bytes(10_000))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 4096
    assert "Refused: no room on disk for the output of ingest" in done.stderr
    assert (tmp_path / "a/data.txt").read_text() == "good"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_another_lineage_version_is_refused(tmp_path):
    write(tmp_path / "a", "good")
    path = tmp_path / "a" / provenance.LINEAGE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"schema_version": 99}))
    with pytest.raises(Refused, match="schema version 99"):
        provenance.read_lineage(tmp_path / "a")


def test_a_run_is_recorded_beside_the_outputs(tmp_path):
    with provenance.recorded(tmp_path / "runs/x") as record:
        record["version"] = "3"
    run = json.loads((tmp_path / "runs/x/run.json").read_text())
    assert run["version"] == "3"
    assert 0 <= run["seconds"] < run["since_process_start_seconds"]
    assert run["peak_memory_mib"] > 1
