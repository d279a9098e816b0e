"""What each architecture computes. Keras runs on TensorFlow here, as everywhere in the tests' own processes."""

import numpy as np
import pytest

from medloop.training import backend


@pytest.fixture(scope="module", autouse=True)
def keras():
    return backend.start("tensorflow", seed=0)


def layers(model):
    return [type(layer).__name__ for layer in model.layers]


def test_cnn_at_its_defaults_is_the_network_of_the_tutorials():
    from medloop.models import cnn

    model = cnn.build((28, 28, 1), 10)
    assert model.count_params() == 225_034
    assert layers(model) == [
        "InputLayer",
        *["Conv2D", "MaxPooling2D"] * 2,
        *["Flatten", "Dense", "Dense"],
    ]
    first, second = (layer for layer in model.layers if type(layer).__name__ == "Conv2D")
    assert [first.filters, second.filters, first.kernel_size, second.kernel_size] == [32, 64, (3, 3), (3, 3)]
    assert [layer.activation.__name__ for layer in model.layers[-2:]] == ["relu", "linear"]
    assert model.layers[-2].units == 128


def test_cnn_takes_blocks_and_dropout():
    from medloop.models import cnn

    model = cnn.build((32, 32, 3), 4, filters=(8, 8, 16), units=7, dropout=0.5)
    assert layers(model).count("Conv2D") == 3
    assert layers(model).count("Dropout") == 2
    assert model(np.zeros((2, 32, 32, 3), "float32")).shape == (2, 4)


@pytest.mark.parametrize("name", ["lstm", "attention"])
@pytest.mark.parametrize("shape", [(28, 28, 1), (16, 24, 3)])
def test_sequence_networks_read_rows_with_their_channels(name, shape):
    from medloop import models, plugins

    model = plugins.load(models, name).build(shape, 3)
    recurrent = next(layer for layer in model.layers if type(layer).__name__ == "LSTM")
    assert recurrent.units == 50
    assert recurrent.input.shape == (None, shape[0], shape[1] * shape[2])
    assert model(np.zeros((2, *shape), "float32")).shape == (2, 3)


def test_attention_mixes_states_by_the_softmax_of_their_likeness(keras):
    from medloop.models import attention

    model = attention.build((6, 5, 1), 2, units=4)
    images = np.random.default_rng(0).normal(size=(3, 6, 5, 1)).astype("float32")
    recurrent = next(layer for layer in model.layers if type(layer).__name__ == "LSTM")
    h = keras.ops.convert_to_numpy(recurrent(images[..., 0]))  # (B, H, units)
    kernel, bias = (keras.ops.convert_to_numpy(weight) for weight in model.layers[-1].weights)
    wanted = np.zeros((3, 2))
    for b in range(3):
        r = np.zeros((6, 4))
        for i in range(6):
            likeness = np.exp([h[b, i] @ h[b, j] / 2 for j in range(6)])
            r[i] = sum(share * h[b, j] for j, share in enumerate(likeness / likeness.sum()))
        wanted[b] = r.mean(axis=0) @ kernel + bias
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(images)), wanted, atol=1e-5)


IMAGE_NETWORKS = ["convnext", "densenet", "resnet", "vit"]


@pytest.mark.parametrize("name", IMAGE_NETWORKS)
@pytest.mark.parametrize("shape", [(28, 28, 1), (64, 64, 1), (20, 36, 3)])
def test_image_networks_take_images_of_many_sizes(name, shape):
    from medloop import models, plugins

    model = plugins.load(models, name).build(shape, 3, dropout=0.1)
    assert model(np.zeros((2, *shape), "float32")).shape == (2, 3)
    assert model.count_params() < 1_000_000


@pytest.mark.parametrize("name", ["convnext", "vit"])
def test_without_batch_normalisation_a_sample_does_not_hang_on_its_batch(name, keras):
    from medloop import models, plugins

    model = plugins.load(models, name).build((12, 12, 1), 3)
    images = np.random.default_rng(0).normal(size=(4, 12, 12, 1)).astype("float32")
    whole, one = model(images, training=True), model(images[2:3], training=True)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(one)[0], keras.ops.convert_to_numpy(whole)[2], atol=1e-5)


@pytest.mark.parametrize(
    ("name", "hyper"), [("densenet", {"growth": 2, "blocks": (1,)}), ("resnet", {"filters": (4,)})]
)
def test_batch_statistics_are_learnt_and_then_used(name, hyper, keras):
    from medloop import models, plugins

    model = plugins.load(models, name).build((12, 12, 1), 3, **hyper)
    images = np.random.default_rng(0).normal(3, 2, size=(16, 12, 12, 1)).astype("float32")
    trained = keras.ops.convert_to_numpy(model(images, training=True))
    assert np.abs(keras.ops.convert_to_numpy(model(images)) - trained).max() > 0.1
    for _ in range(70):
        model(images, training=True)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(images)), trained, atol=0.02)


def test_a_block_of_resnet_adds_to_what_it_is_given(keras):
    from medloop.models import resnet

    image = keras.Input((6, 6, 4))
    block = keras.Model(image, resnet._block(image, 4, 1))
    last = [layer for layer in block.layers if isinstance(layer, keras.layers.BatchNormalization)][-1]
    images = np.random.default_rng(0).uniform(0, 1, (2, 6, 6, 4)).astype("float32")
    assert np.abs(keras.ops.convert_to_numpy(block(images)) - images).max() > 0.01
    last.gamma.assign(np.zeros(4))
    np.testing.assert_allclose(keras.ops.convert_to_numpy(block(images)), images, atol=1e-6)


def test_the_layers_of_densenet_each_add_their_growth():
    from medloop.models import densenet

    model = densenet.build((28, 28, 1), 2, growth=6, blocks=(2, 3))
    pooled = next(layer for layer in model.layers if type(layer).__name__ == "GlobalAveragePooling2D")
    assert pooled.input.shape == (None, 7, 7, (12 + 2 * 6) // 2 + 3 * 6)


def test_convnext_halves_the_image_stage_by_stage():
    from medloop.models import convnext

    model = convnext.build((28, 28, 1), 2, filters=(8, 16), blocks=(1, 2))
    wide = [layer for layer in model.layers if type(layer).__name__ == "DepthwiseConv2D"]
    assert [layer.output.shape[1:] for layer in wide] == [(14, 14, 8), (7, 7, 16), (7, 7, 16)]
    with pytest.raises(ValueError, match="blocks must be as many numbers as filters"):
        convnext.build((28, 28, 1), 2, filters=(8, 16), blocks=(1,))


def test_vit_tells_patches_apart_by_where_they_are_alone(keras):
    from medloop.models import vit

    model = vit.build((8, 8, 1), 3, patch_px=4, width=8, heads=2)
    images = np.random.default_rng(0).normal(size=(2, 8, 8, 1)).astype("float32")
    moved = np.concatenate([images[:, 4:], images[:, :4]], axis=1)  # patches change places
    embedding = next(layer for layer in model.layers if type(layer).__name__ == "EinsumDense")

    def difference():
        return np.abs(keras.ops.convert_to_numpy(model(images)) - keras.ops.convert_to_numpy(model(moved))).max()

    embedding.bias.assign(np.random.default_rng(1).normal(size=embedding.bias.shape))
    assert difference() > 1e-3
    embedding.bias.assign(np.zeros(embedding.bias.shape))
    assert difference() < 1e-5


def test_vit_attends_as_keras_s_own_layer(keras):
    from medloop.models import vit

    tokens = keras.Input((5, 8))
    attention = keras.Model(tokens, vit._attention(tokens, heads=2))
    x = np.random.default_rng(0).normal(size=(3, 5, 8)).astype("float32")
    reference = keras.layers.MultiHeadAttention(2, 4)
    reference(x, x)
    shapes = [weight.shape for weight in reference.get_weights()]
    dense = [layer for layer in attention.layers if isinstance(layer, keras.layers.Dense)]
    dense.sort(key=lambda layer: (len(layer.name), layer.name))  # as they were made
    own = [weight for layer in dense for weight in layer.get_weights()]
    given = [weight.reshape(shape) for weight, shape in zip(own, shapes, strict=True)]
    reference.set_weights(given)  # query, key, value, output
    np.testing.assert_allclose(attention(x), reference(x, x), atol=1e-5)


def test_vit_normalises_as_keras_s_own_layer(keras):
    from medloop.models import vit

    tokens = keras.Input((7, 24))
    ours = keras.Model(tokens, vit._normed(tokens))
    theirs = keras.layers.LayerNormalization(epsilon=vit.EPSILON)
    theirs.build((None, 7, 24))
    values = 3 + 5 * np.random.default_rng(0).normal(size=(2, 7, 24)).astype(np.float32)
    for weights in (ours.get_weights(), [np.linspace(1, 2, 24), np.linspace(-1, 1, 24)]):
        ours.set_weights(weights)
        theirs.set_weights(weights)
        outputs = [keras.ops.convert_to_numpy(each(values)) for each in (ours, theirs)]
        np.testing.assert_allclose(*outputs, atol=2e-5)


def test_vit_refuses_sides_that_its_patches_do_not_divide():
    from medloop.models import vit

    with pytest.raises(ValueError, match="patch_px 5 must divide the image's sides"):
        vit.build((28, 28, 1), 2, patch_px=5)


def test_lstm_and_attention_of_sequences_are_the_networks_of_the_source_text():
    from medloop.models import attention, lstm

    plain = lstm.build((10, 1), 1)
    assert plain.count_params() == 10_451
    assert layers(plain) == ["InputLayer", "LSTM", "Dense"]
    assert plain.layers[1].activation.__name__ == "relu"
    twice = attention.build((10, 1), 1)
    assert twice.count_params() == 10_402
    assert sorted(layers(twice)) == ["Dense", "Dot", "InputLayer", "InputLayer", "LSTM"]
    assert [tuple(each.shape) for each in twice.inputs] == [(None, 10, 1)] * 2


def test_attention_is_given_the_same_window_twice_and_multiplies_what_it_read(keras):
    from medloop.training import network

    windows = np.random.default_rng(0).normal(size=(4, 10, 1)).astype("float32")
    spec = network.Spec("attention", (10, 1), 1, {}, {"kind": "none"}, "sequence", "float32")
    model = network.build(spec)
    assert [tuple(each.shape) for each in model.inputs] == [(None, 10, 1)]
    core = model.get_layer("attention")
    read = next(layer for layer in core.layers if type(layer).__name__ == "LSTM")
    h = keras.ops.convert_to_numpy(read(windows))  # (B, units)
    kernel, bias = (keras.ops.convert_to_numpy(weight) for weight in core.layers[-1].weights)
    wanted = (h**2).sum(axis=1, keepdims=True) @ kernel + bias
    np.testing.assert_allclose(keras.ops.convert_to_numpy(model(windows)), wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "hyper"),
    [
        ("lstm", {}),
        ("attention", {"states": "all", "units": 6}),
        ("resnet1d", {"filters": (8, 8)}),
        ("transformer1d", {"patch": 4, "width": 8, "heads": 2}),
    ],
)
def test_networks_of_sequences_take_any_length_and_number_of_leads(name, hyper):
    from medloop import models, plugins

    model = plugins.load(models, name).build((21, 3), 5, **hyper)
    window = np.zeros((2, 21, 3), "float32")
    assert model([window] * len(model.inputs)).shape == (2, 5)


@pytest.mark.parametrize("name", ["cnn3d", "resnet3d"])
@pytest.mark.parametrize("shape", [(8, 8, 8, 1), (28, 28, 28, 1), (9, 12, 15, 2)])
def test_volume_networks_take_volumes_of_many_sizes(name, shape):
    from medloop import models, plugins

    model = plugins.load(models, name).build(shape, 3, dropout=0.1, filters=(4, 8, 8))
    assert model(np.zeros((2, *shape), "float32")).shape == (2, 3)
    assert not any(type(layer).__name__ == "Conv3D" and layer.strides != (1, 1, 1) for layer in model.layers)  # slow


def test_resnet3d_loses_no_voxel_by_folding(keras):
    from medloop.models import resnet3d

    volume = np.random.default_rng(0).normal(size=(2, 5, 4, 6, 2)).astype("float32")
    folded = keras.ops.convert_to_numpy(resnet3d._folded(volume))
    assert folded.shape == (2, 3, 2, 3, 16)
    padded = np.pad(volume, ((0, 0), (0, 1), (0, 0), (0, 0), (0, 0)))
    for place, (d, h, w) in enumerate(np.ndindex(2, 2, 2)):
        np.testing.assert_array_equal(folded[..., 2 * place : 2 * place + 2], padded[:, d::2, h::2, w::2])


def test_the_convolution_of_three_axes_of_cnn3d_is_one_of_numpy(keras):
    from medloop.models import cnn3d

    model = cnn3d.build((4, 4, 4, 1), 2, filters=(3,), units=5)
    volume = np.random.default_rng(0).normal(size=(1, 4, 4, 4, 1)).astype("float32")
    [layer] = [layer for layer in model.layers if type(layer).__name__ == "Conv3D"]
    kernel, bias = (keras.ops.convert_to_numpy(weight) for weight in layer.weights)
    padded = np.pad(volume[0, ..., 0], 1)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3, 3))
    wanted = np.maximum(np.einsum("dhwijk,ijkf->dhwf", windows, kernel[:, :, :, 0]) + bias, 0)
    np.testing.assert_allclose(keras.ops.convert_to_numpy(layer(volume))[0], wanted, atol=1e-5)
