"""Whether a scheduled run has anything to do."""

import pytest

import toy_registry
from medloop import evidence, params
from medloop.errors import Refused
from medloop.fetching import watermark
from medloop.fetching.watermark import Watermark
from medloop.operations.look import judged, look
from medloop.operations.promote import promote
from medloop.stages.register import register
from medloop.tracking.connection import server
from toy_registry import Toy

BASE = Toy().base
MARK = Watermark("f00d", 3, "2026-01-02 03:04:05 UTC")
MADE = {evidence.WATERMARK: "f00d", evidence.SETTINGS: "a"}
DONE = MADE | {evidence.VERDICT: "version 1 may become champion"}


@pytest.fixture(autouse=True)
def _store(own_state) -> None:
    toy_registry.empty_store(own_state)


@pytest.mark.parametrize(
    ("versions", "settings", "new", "words"),
    [
        ({}, "a", True, "there is no version yet (3 files, the newest of 2026-01-02 03:04:05 UTC)"),
        ({"1": DONE}, "a", False, "nothing new: version 1 came of the same data (3 files"),
        ({"1": DONE, "2": {}}, "a", False, "nothing new: version 1"),
        ({"1": DONE}, "b", True, "the data is that of version 1 (3 files, the newest of"),
        ({"1": MADE}, "a", True, "the data is that of version 1"),  # nothing was compared: the run broke off
        ({"1": MADE | {evidence.VERDICT: evidence.PENDING}}, "a", True, "the data is that of version 1"),
        ({"1": DONE | {evidence.WATERMARK: "beef"}}, "a", True, "no version came of this data yet"),
    ],
)
def test_what_a_look_finds(versions, settings, new, words):
    finding = judged(MARK, settings, versions)
    assert finding.new == new
    assert finding.reason.startswith(words)
    assert finding.watermark == "f00d"


def reasons() -> list[str]:
    """Return what was recorded on the tracking server."""
    with server() as client:
        ids = [each.experiment_id for each in client.search_experiments()]
        runs = client.search_runs(ids, "tags.`medloop.stage` = 'look'")
        assert all(run.info.status == "FINISHED" for run in runs)
        return [run.data.tags["medloop.reason"] for run in runs]


def test_a_run_that_went_to_its_end_leaves_nothing_to_do_until_the_data_or_the_settings_change(tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    (data / "1.png").write_bytes(b"one")
    section = params.Ingest(source="folder", root=data)
    first = look(BASE, section, settings="a")
    assert first.new
    origin = evidence.given("", "run-1", first.watermark, "a")
    loop = toy_registry.make(tmp_path)
    register(BASE, params.Register(), **loop, origin=origin)
    assert look(BASE, section, settings="a").new, "it was not compared with the champion yet"
    promote(BASE, params.Promote(resamples=100), move=False)
    assert reasons() == []
    assert not look(BASE, section, settings="a").new
    assert not look(BASE, section, settings="a").new
    assert len(reasons()) == 2
    assert all(reason.startswith("nothing new: version 1 came of the same data (1 files, ") for reason in reasons())
    assert look(BASE, section, settings="b").new
    (data / "2.png").write_bytes(b"two")
    assert look(BASE, section, settings="a").new
    register(BASE, params.Register(), **loop, origin=origin)  # the same result once more
    (data / "2.png").unlink()
    assert look(BASE, section, settings="a").new, "what came of it again was not compared yet"
    promote(BASE, params.Promote(resamples=100), move=False)
    (data / "1.png").write_bytes(b"one")  # written again, the same content
    assert not look(BASE, section, settings="a").new


def test_the_same_data_under_another_key_is_new(tmp_path, monkeypatch):
    (tmp_path / "1.png").write_bytes(b"one")
    section = params.Ingest(source="folder", root=tmp_path)
    before = watermark.read(section)
    monkeypatch.setenv("MEDLOOP_KEY_FILE", str(tmp_path / "other.key"))
    assert watermark.read(section).digest != before.digest


def test_data_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(Refused, match=r"ingest.root must be a folder or file that exists, got .*nowhere"):
        look(BASE, params.Ingest(source="folder", root=tmp_path / "nowhere"), settings="a")
