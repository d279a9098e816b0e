"""How a picture is made of noise by a network: what stands alone in every registered model."""

import math
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from medloop.answers import generation as answers

CARD = {"classes": ["a", "b"], "input_shape": [8, 8, 1], "steps": 5, "dataset": "toys", "weights_sha256": "0" * 64}


def network(given):
    """Take half of what is seen for the picture, brighter for the second class."""
    share, spread = (f(given[..., 2:3] * math.pi / 2) for f in (np.cos, np.sin))
    seen = share * given[..., :1] + spread * given[..., 1:2]
    return np.concatenate([seen / 2 + 0.3 * given[..., 3:4], seen * 0], axis=-1).astype(np.float32)


def by_hand(seed, label):
    """Lu et al., 2022, algorithm 2, with the last step to no noise at all as in Song et al., 2021, equation 12."""
    seen = np.random.default_rng([seed, label]).standard_normal((8, 8, 1), np.float32).astype(np.float64)
    times = [(1 - i / 5) ** 1.5 for i in range(5)]
    alpha, sigma = ([f(time * math.pi / 2) for time in times] for f in (math.cos, math.sin))
    lamda = [math.log(a / s) for a, s in zip(alpha, sigma, strict=True)]
    found = []
    for i in range(5):
        found.append(np.clip(seen / 2 + 0.3 * label, -1, 1))
        if i == 4:
            break
        h, direction = lamda[i + 1] - lamda[i], found[i]
        if i:
            r = (lamda[i] - lamda[i - 1]) / h
            direction = np.clip((1 + 1 / (2 * r)) * found[i] - found[i - 1] / (2 * r), -1, 1)
        seen = sigma[i + 1] / sigma[i] * seen - alpha[i + 1] * (math.exp(-h) - 1) * direction
    return np.floor((found[-1] + 1) * 127.5 + 0.5)


def test_the_steps_are_those_of_dpm_solver():
    made = answers.pictures(network, [0, 1, 1], [3, 3, 4], CARD)
    assert made.dtype == np.uint8
    for pixels, (seed, label) in zip(made, [(3, 0), (3, 1), (4, 1)], strict=True):
        np.testing.assert_allclose(pixels, by_hand(seed, label), atol=1)


def test_a_picture_begins_with_as_much_noise_as_the_card_says():
    seen = []

    def run(given):
        seen.append(given[..., 1])
        return network(given)

    for card in (CARD, CARD | {"noise": 1.5}):
        answers.pictures(run, [0], [7], card | {"steps": 1})
    np.testing.assert_allclose(seen[1], 1.5 * seen[0], rtol=1e-6)


def test_a_picture_follows_from_its_class_and_seed_alone(monkeypatch):
    many = answers.pictures(network, [0, 1] * 5, range(10), CARD)
    monkeypatch.setattr(answers, "BATCH", 3)
    np.testing.assert_array_equal(answers.pictures(network, [0, 1] * 5, range(10), CARD), many)
    np.testing.assert_array_equal(answers.pictures(network, [1], [7], CARD)[0], many[7])


def test_each_row_gives_one_marked_file_and_no_row_none():
    found = answers.generate(pd.DataFrame({"label": ["b", "a"], "seed": [0, 1]}), network, CARD)["image"]
    np.testing.assert_array_equal(answers.unmarked(found[1], [8, 8, 1]), answers.pictures(network, [0], [1], CARD)[0])
    assert b'"label": "b"' in found[0]
    assert all(answers.KEY.encode() in each for each in found)
    assert answers.generate(pd.DataFrame({"label": [], "seed": []}), network, CARD) == {"image": []}


@pytest.mark.parametrize(
    ("label", "seed", "message"),
    [
        ("c", 0, "row 1: label must be one of a, b, got 'c'"),
        (None, 0, "row 1: label must be one of a, b, got nan"),
        ("a", -1, "row 1: seed must be a whole number from 0 to 2147483647, got -1"),
        ("a", 2**31, "row 1: seed must be a whole number"),
        ("a", 0.5, "row 1: seed must be a whole number"),
    ],
)
def test_a_row_that_asks_for_what_is_not_there_is_refused_by_its_place(label, seed, message):
    table = pd.DataFrame({"label": ["a", label], "seed": pd.Series([0, seed], dtype=object)})
    with pytest.raises(ValueError, match=message):
        answers.generate(table, network, CARD)


def test_it_stands_alone():
    code = (
        "import sys, importlib.util as u; s = u.spec_from_file_location('answer', sys.argv[1])\n"
        "m = u.module_from_spec(s); s.loader.exec_module(m)\n"
        "print(any(name.split('.')[0] in ('medloop', 'keras') for name in sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code, answers.__file__], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
