from pathlib import Path

import pytest
import yaml

from medloop import params
from medloop.errors import Refused

ROOT = Path(__file__).resolve().parents[1]


def refusal(**changes) -> str:
    content = params.merge(params.mapping(ROOT / "params.yaml"), changes)
    with pytest.raises(Refused) as caught:
        params.check(content, where="params.yaml")
    return str(caught.value)


def test_params_yaml_says_every_parameter():
    content = params.mapping(ROOT / "params.yaml")
    assert params.read(ROOT / "params.yaml").model_dump(mode="json").keys() == content.keys()
    for name, section in params.read(ROOT / "params.yaml").model_dump(mode="json").items():
        if isinstance(section, dict):
            assert section.keys() == content[name].keys(), name


@pytest.mark.parametrize("profile", sorted((ROOT / "profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_fits_the_schema(profile):
    params.overlaid(ROOT / "params.yaml", profile)


def test_a_misspelt_key_is_refused_with_its_neighbour():
    assert refusal(train={"epocs": 3}) == "params.yaml: unknown parameter train.epocs; did you mean 'epochs'?"


def test_an_unknown_section_is_refused_with_those_that_exist():
    assert "unknown parameter nonsense; known: base, " in refusal(nonsense={})


def test_a_value_out_of_range_is_refused_with_what_came():
    assert (
        refusal(train={"epochs": 0}) == "params.yaml: train.epochs: Input should be greater than or equal to 1, got 0"
    )


def test_shares_that_leave_nothing_to_train_on_are_refused():
    assert "val + test must stay below 1" in refusal(ingest={"split": {"val": 0.5, "test": 0.5}})


def test_another_schema_version_is_refused():
    assert "schema_version" in refusal(schema_version=2)


def test_parameters_cannot_be_changed_after_reading():
    with pytest.raises(ValueError, match="frozen"):
        params.read(ROOT / "params.yaml").train.epochs = 3


def test_a_section_survives_the_journey_through_json():
    read = params.read(ROOT / "params.yaml")
    assert params.parse(params.dump(read.base, read.preprocess), params.Preprocess) == (read.base, read.preprocess)


def test_hyper_parameters_of_no_architecture_are_refused():
    wanted = "params.yaml: unknown architecture train.hyper.mlpp; did you mean 'mlp'?"
    assert refusal(train={"hyper": {"mlpp": {"units": [3]}}}) == wanted
    wanted = "params.yaml: unknown hyper-parameter train.hyper.mlp.unitz; did you mean 'units'?"
    assert refusal(train={"hyper": {"mlp": {"unitz": [3]}}}) == wanted


def test_a_misspelt_task_is_named_before_its_architectures():
    assert refusal(base={"task": "clasification", "kind": "table"}).startswith("unknown task 'clasification'; known: ")


def test_one_architecture_does_not_see_the_hyper_parameters_of_another():
    train = params.Train(architectures=("cnn", "lstm"), hyper={"cnn": {"dropout": 0.1}, "lstm": {"units": 3}})
    assert train.only("lstm").architectures == ("lstm",)
    assert train.only("lstm").hyper == {"lstm": {"units": 3}}


def test_a_profile_replaces_single_keys(tmp_path):
    profile = tmp_path / "small.yaml"
    profile.write_text(yaml.safe_dump({"train": {"epochs": 2}}))
    merged = params.overlaid(ROOT / "params.yaml", profile)
    assert merged["train"]["epochs"] == 2
    assert merged["train"]["batch_size"] == params.mapping(ROOT / "params.yaml")["train"]["batch_size"]


def test_a_file_that_is_no_yaml_is_refused(tmp_path):
    (tmp_path / "params.yaml").write_text("base: [")
    with pytest.raises(Refused, match="not valid YAML"):
        params.read(tmp_path / "params.yaml")


def test_two_equal_keys_are_refused_by_name_and_line(tmp_path):
    (tmp_path / "params.yaml").write_text("base: &b {a: 1}\ntrain:\n  epochs: 1\n  more: {<<: *b, a: 2}\n  epochs: 3\n")
    with pytest.raises(Refused, match=r"the key 'epochs' stands there twice, again in .*, line 5, column 3"):
        params.mapping(tmp_path / "params.yaml")


def test_what_cannot_be_read_as_text_is_refused(tmp_path):
    with pytest.raises(Refused, match="cannot be read: Is a directory"):
        params.read(tmp_path)
    (tmp_path / "params.yaml").write_bytes("base: {model_name: Lücke}".encode("latin-1"))
    with pytest.raises(Refused, match=r"params.yaml is not text in UTF-8 \(byte 20\)"):
        params.read(tmp_path / "params.yaml")


@pytest.mark.parametrize("train", [{"folds": 1}, {"folds": 3, "members": 2}])
def test_members_are_seeds_or_folds(train):
    with pytest.raises(Refused, match="folds must be 0 or at least 2, and members 1 with them"):
        params.check({"schema_version": 1, "train": train}, where="params.yaml")


@pytest.mark.parametrize(
    ("train", "message"),
    [
        ({"nodes": 2}, "train: nodes 2 and gpus_per_node 0 need backend jax or auto, got tensorflow"),
        ({"gpus_per_node": 4, "backend": "torch"}, "train: nodes 1 and gpus_per_node 4 need .* got torch"),
        ({"nodes": 3, "backend": "jax"}, r"batch_size must be a multiple of the 3 devices .*nodes 3.*got 32"),
    ],
)
def test_what_several_devices_cannot_share_is_refused(train, message):
    with pytest.raises(Refused, match=message):
        params.check({"schema_version": 1, "train": train}, where="params.yaml")
    fits = params.Train(nodes=2, gpus_per_node=4, backend="auto")
    assert (fits.devices, params.Train().devices, params.Train(gpus_per_node=1).devices) == (8, 1, 1)


@pytest.mark.parametrize(
    "given",
    [
        {"pipeline": {"environment": {"DB_PWD": "hunter2"}}},
        {"pipeline": {"environment": {"X": "see https://me:hunter2@example.org"}}},
        {"ingest": {"root": "s3://AKIA:hunter2@bucket/x"}},
    ],
)
def test_what_looks_like_a_secret_is_refused_and_not_shown(given):
    with pytest.raises(Refused) as refused:
        params.check({"schema_version": 1, **given}, where="params.yaml")
    assert "hunter2" not in str(refused.value)
