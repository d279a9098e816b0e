"""What `medloop images` refuses; the images themselves are looked at in test_containers.py."""

import re
import shutil

import pytest

import support
from medloop import cli
from medloop.errors import Refused
from medloop_pipelines import building, images


def test_an_unknown_or_missing_engine_is_refused(monkeypatch):
    with pytest.raises(Refused, match="unknown container engine 'lxc'; known: docker, podman, buildah"):
        building.engine("lxc")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(Refused, match="needs docker or podman or buildah, which is not installed here"):
        building.engine()


def test_an_unknown_target_lock_or_folder_is_refused(monkeypatch, tmp_path):
    with pytest.raises(Refused, match="unknown image 'heavy'; known: light, train, serve, stack"):
        building.build("heavy", engine="docker")
    with pytest.raises(Refused, match=r"no lock requirements/none.lock; known: .*train-cpu"):
        building.build("train", engine="docker", train_lock="none")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(Refused, match="run this from the project's folder"):
        building.build("light", engine="docker")


@pytest.mark.parametrize("words", [("build", "light", "bogus"), ("push", "127.0.0.1:9/team", "light", "bogus")])
def test_all_names_are_looked_at_before_the_first_image(monkeypatch, capsys, words):
    monkeypatch.setenv("PATH", "/nowhere")  # nor is an engine asked
    assert (ended("images", *words), "unknown image 'bogus'" in capsys.readouterr().err) == (2, True)


@pytest.mark.skipif(not shutil.which("docker"), reason="no docker here")
@pytest.mark.parametrize("words", [("list",), ("push", "127.0.0.1:9/team"), ("build", "light")])
def test_an_engine_that_does_not_answer_is_named(monkeypatch, capsys, tmp_path, words):
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/nobody.sock")
    assert ended("images", *words, "--engine", "docker") == 4
    said = capsys.readouterr()
    assert f"no container engine answers docker at unix://{tmp_path}/nobody.sock (" in said.err
    assert said.out == ""


def ended(*words: str) -> int:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["medloop", *words])
        with pytest.raises(SystemExit) as code:
            cli.main()
    return int(code.value.code or 0)


def test_the_default_images_are_those_that_are_built():
    assert set(images.DEFAULT.values()) == {building.reference(target) for target in ("light", "train")}


def test_every_target_of_the_file_is_built():
    text = (support.ROOT / building.DOCKERFILE).read_text()
    assert set(building.TARGETS) <= set(re.findall(r"^FROM .* AS (\w+)$", text, re.MULTILINE))
    assert text.count("USER 65532:65532") == text.count("HEALTHCHECK") == len(building.TARGETS)
