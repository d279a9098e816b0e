"""Profiles and settings, on a project whose only stage copies a parameter; the whole loop is in test_loop.py."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from medloop import params, workspace
from medloop.errors import Refused

ROOT = Path(__file__).resolve().parents[1]
STAGE = {"cmd": "cp params.yaml seen.yaml", "params": ["train.epochs"], "outs": [{"seen.yaml": {"cache": False}}]}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MEDLOOP_STATE", ".medloop")
    (tmp_path / "params.yaml").write_text("# mine\n" + (ROOT / "params.yaml").read_text())
    (tmp_path / "data/none").mkdir(parents=True)
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles/short.yaml").write_text("train: {epochs: 2}\n")
    (tmp_path / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": STAGE}}))
    (tmp_path / ".dvc").mkdir()
    (tmp_path / ".dvc/config").write_text("[core]\n    no_scm = true\n    analytics = false\n")
    return tmp_path


def test_a_profile_holds_while_dvc_runs_and_no_longer(project):
    before = (project / "params.yaml").read_bytes()
    workspace.repro("short", ["train.batch_size=7"])
    seen = params.read(project / "seen.yaml")
    assert (seen.train.epochs, seen.train.batch_size) == (2, 7)
    assert (project / "params.yaml").read_bytes() == before
    workspace.repro(None, [])
    assert (project / "seen.yaml").read_bytes() == before


def test_a_failing_stage_gives_params_yaml_back(project):
    before = (project / "params.yaml").read_bytes()
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": STAGE | {"cmd": "false"}}}))
    with pytest.raises(Refused, match="a stage failed"):
        workspace.repro("short", [])
    assert (project / "params.yaml").read_bytes() == before


def test_a_run_that_was_killed_under_a_profile_is_mended_by_the_next(project, capsys):
    before = (project / "params.yaml").read_bytes()
    under_a_profile(project)
    workspace.repro(None, [])
    assert (project / "params.yaml").read_bytes() == before
    assert "put back" in capsys.readouterr().err


def under_a_profile(project) -> None:
    """Leave the folder as a run that was killed under a profile leaves it."""
    (project / ".medloop").mkdir()
    (project / ".medloop/params.yaml.before-profile").write_bytes((project / "params.yaml").read_bytes())
    (project / "params.yaml").write_text("a profile: {}\n")
    (project / ".medloop/params.yaml.with-profile").write_text("a profile: {}\n")


def test_an_edit_after_a_kill_is_not_lost(project):
    under_a_profile(project)
    (project / "params.yaml").write_text("my edit")
    with pytest.raises(Refused, match="bring the two together"):
        workspace.repro(None, [])
    assert (project / "params.yaml").read_text() == "my edit"


def test_a_second_run_in_the_same_folder_is_refused(project):
    with workspace._alone(), pytest.raises(Refused, match="another `medloop repro` runs"):
        workspace.repro("short", [])
    workspace.repro("short", [])


def test_a_full_disk_leaves_params_yaml_whole(project):
    before = (project / "params.yaml").read_bytes()
    code = "from medloop.cli import main; import sys; sys.argv = ['medloop', 'repro', '-p', 'short']; main()"
    command = f'ulimit -f 1; {sys.executable} -c "{code}"'
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "could not be written" in done.stderr
    assert (project / "params.yaml").read_bytes() == before


def test_what_the_user_edits_meanwhile_is_not_lost(project):
    edit = STAGE | {"cmd": "cp params.yaml seen.yaml && echo '# edited' >> params.yaml"}
    (project / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": edit}}))
    with pytest.raises(Refused, match="was edited while a profile was laid over it"):
        workspace.repro("short", [])
    assert (project / "params.yaml").read_text().endswith("# edited\n")


@pytest.mark.parametrize(
    ("profile", "settings", "message"),
    [
        ("nix", [], "unknown profile 'nix'; known: short"),
        ("", [], "unknown profile ''; known: short"),
        ("../params", [], "unknown profile '../params'; known: short"),
        (None, ["train.epochs"], "must read KEY=VALUE"),
        (None, ["train.epochs=[3"], "is no YAML"),
        (None, ["preprocess.clip_percentiles=[90,10]"], "the lower one first"),
        (None, ["preprocess.size_px=[0,8]"], "greater than or equal to 1"),
        (None, ["train.architectures=[cnn,cnn]"], "must differ"),
        (None, ["train.epocs=3"], "did you mean 'epochs'"),
    ],
)
def test_what_does_not_fit_is_refused_before_dvc_starts(project, profile, settings, message):
    with pytest.raises(Refused, match=message):
        workspace.repro(profile, settings)
    assert not (project / "seen.yaml").exists()


@pytest.mark.parametrize("profile", [[], ["-p", "dicom"]], ids=str)
def test_a_wrong_folder_is_refused_and_left_as_it_is(tmp_path, profile):
    for command in (["repro"], ["params"], ["models"]):
        done = medloop(tmp_path, *command, *profile)
        assert (done.returncode, list(tmp_path.iterdir())) == (2, [])
        assert "run this from the project's folder" in done.stderr


@pytest.mark.parametrize("command", ["repro", "params", "models"])
def test_an_empty_profile_is_not_the_default(project, command):
    done = medloop(project, command, "-p", "")
    assert (done.returncode, done.stderr) == (2, "medloop: unknown profile ''; known: short\n")


def medloop(folder, *words):
    code = "from medloop.cli import main; main()"
    command = [sys.executable, "-c", code, *words]
    env = {name: value for name, value in os.environ.items() if name != "MEDLOOP_STATE"}
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False)
