"""Networks that make images: what they are given and give, and that they learn to."""

import math

import numpy as np
import pytest

from medloop import models, pairing, plugins
from medloop.answers import generation as answers
from medloop.training import backend

SMALL = {"vae": {"filters": (4, 8), "latent": 6}, "diffusion": {"filters": (8, 8)}}
RANDOM = np.random.default_rng(0)


@pytest.fixture(scope="module", autouse=True)
def keras():
    return backend.start("tensorflow", seed=0)


def build(name, shape=(12, 16, 1), classes=3, **changed):
    given = (*shape[:2], 2 * shape[2] + 2)
    return plugins.load(models, name).build(given, classes, **{**SMALL[name], **changed})


def some(shape=(12, 16, 1), count=4, time=0.5):
    picture, noise = RANDOM.uniform(-1, 1, (count, *shape)), RANDOM.standard_normal((count, *shape))
    return (
        picture.astype(np.float32),
        noise.astype(np.float32),
        answers.given(picture, noise, time, [0, 1, 2, 0][:count]),
    )


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("shape", [(12, 16, 1), (16, 12, 3)])
def test_a_picture_and_how_wrong_it_is_has_the_size_of_what_is_given(name, shape):
    model = build(name, shape)
    found = np.asarray(model(some(shape)[2]))
    assert found.shape == (4, *shape[:2], shape[2] + 1)
    assert model.output_shape == (None, *shape[:2], shape[2] + 1)
    assert pairing.given(models, name) == "image"
    assert (found[..., -1] >= 0).all()


def test_the_error_of_diffusion_is_that_of_the_velocity_and_its_picture_follows_from_that():
    picture, noise, given = some(time=0.3)
    found = np.asarray(build("diffusion")(given))
    share, spread = math.cos(0.3 * math.pi / 2), math.sin(0.3 * math.pi / 2)
    np.testing.assert_allclose(found[..., :1], share * (share * picture + spread * noise), atol=1e-5)  # it begins at 0
    wanted = np.square(share * noise - spread * picture)
    np.testing.assert_allclose(found[..., 1:], wanted, atol=1e-4)


def test_a_perfect_network_is_not_wrong_and_makes_its_picture_in_any_number_of_steps():
    truth = RANDOM.uniform(-0.9, 0.9, (12, 16, 1)).astype(np.float32)

    def run(given):
        return np.concatenate([np.broadcast_to(truth, (len(given), 12, 16, 1)), np.zeros((len(given), 12, 16, 1))], -1)

    for steps in (1, 7):
        made = answers.pictures(run, [0, 1], [5, 6], {"input_shape": [12, 16, 1], "steps": steps})
        wanted = np.floor((truth + 1) * 127.5 + 0.5)
        np.testing.assert_array_equal(made, np.stack([wanted, wanted]))


def test_a_vae_looks_at_its_picture_below_time_one_and_at_noise_alone_at_it():
    model = build("vae")
    picture, noise, _ = some()
    other = RANDOM.uniform(-1, 1, picture.shape)

    def made(picture, time):
        return np.asarray(model(answers.given(picture, noise, time, [0, 1, 2, 0])))[..., :1]

    assert np.abs(made(picture, 0.5) - made(other, 0.5)).max() > 1e-4
    np.testing.assert_array_equal(made(picture, 1.0), made(other, 1.0))
    same = np.asarray(model(answers.given(picture, noise, 1.0, [1, 1, 2, 0])))[..., :1]
    assert np.abs(same[0] - made(picture, 1.0)[0]).max() > 1e-6  # the class counts
    np.testing.assert_array_equal(same[1:], made(picture, 1.0)[1:])


@pytest.mark.parametrize(
    ("name", "shape", "changed", "message"),
    [
        ("diffusion", (13, 16, 1), {}, "divisible by 2, got 13x16"),
        ("diffusion", (12, 16, 1), {"filters": (8, 12)}, "filters must be multiples of 8, got 8, 12"),
        ("vae", (12, 18, 1), {}, "divisible by 4, got 12x18"),
        ("vae", (4, 4, 1), {"latent": 17}, "latent must be at most 16"),
    ],
)
def test_what_cannot_be_built_is_refused(name, shape, changed, message):
    with pytest.raises(ValueError, match=message):
        build(name, shape, **changed)


@pytest.mark.parametrize("name", SMALL)
def test_it_learns_two_pictures_by_class(name, keras):
    from medloop.tasks import generation as task
    from medloop.training import engine

    images = np.zeros((2, 8, 8, 1), np.uint8)
    images[0, :4], images[1, :, 4:] = 220, 220
    labels = np.resize([0, 1], 16).astype(np.int32)
    model = build(name, (8, 8, 1), 2, filters=(8, 16))
    optimizer = keras.optimizers.AdamW(0.01)
    advance = engine.trainer(model, optimizer, task.loss(), loop=False)
    random, weights = np.random.default_rng(1), np.ones((60, 16), np.float32)
    steps = np.stack([task.fed(images[labels], labels, random) for _ in range(60)])
    losses = np.concatenate([advance((steps, np.stack([labels] * 60), weights)) for _ in range(3)])
    assert losses[-20:].mean() < 0.5 * losses[:5].mean()
    card = {"input_shape": [8, 8, 1], "steps": plugins.load(models, name).STEPS}
    made = answers.pictures(engine.Predictor(model), [0, 0, 1, 1], [0, 1, 2, 3], card)
    away = [np.abs(made[:2].astype(float) - images[0]).mean(), np.abs(made[2:].astype(float) - images[1]).mean()]
    across = [np.abs(made[:2].astype(float) - images[1]).mean(), np.abs(made[2:].astype(float) - images[0]).mean()]
    assert max(away) < 45 < min(across)
