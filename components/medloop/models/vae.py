"""A variational autoencoder: a picture is made of a few numbers drawn at random, and the class.

Like every architecture that makes images it is given (B, H, W, 2 C + 2), see answers/generation.py: a picture, noise, a
time and the class. Below time 1 the few numbers are read off the picture, and the noise shakes them; at time 1, when
there is nothing but noise, they are the first of the noise itself. So a picture is made in one step. Its errors are the
squared ones, and what the numbers tell of the picture beyond noise.

Source: Kingma and Welling, Auto-encoding variational Bayes, 2014; Sohn et al., Learning structured output
representation using deep conditional generative models, 2015, for the class.
"""

import math

import keras
from keras import layers, ops

KIND = "convolution"
GIVES = "image"
STEPS = 1  # of making a picture
NOISE = (1.0,)  # standard deviation to begin it with
WIDEST = 4.0  # of the logarithm of a standard deviation, either way: beyond it training breaks down


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (32, 64),
    latent: int = 32,
    scatter: float = 0.1,
) -> keras.Model:
    """Map pictures, noise, time and class (B, H, W, 2 C + 2) to pictures and errors (B, H, W, C + 1).

    Args:
        input_shape: (H, W, 2 C + 2), H and W divisible by 2 for each of `filters`.
        outputs: number of classes.
        filters: of the convolutions; each halves height and width, and the decoder doubles them again.
        latent: how many numbers a picture is made of.
        scatter: standard deviation of pixels about the picture, which goes from -1 to 1; with more of it the numbers
            tell less of the picture, and are nearer to the noise that pictures are made of.

    Raises:
        ValueError: height or width cannot be halved as often, or a picture has fewer pixels than numbers.
    """
    height, width, channels = *input_shape[:2], input_shape[2] // 2 - 1
    halved = 2 ** len(filters)
    if height % halved or width % halved:
        raise ValueError(f"height and width must be divisible by {halved}, got {height}x{width}")
    if latent > height * width * channels:
        raise ValueError(f"latent must be at most {height * width * channels}, the values of a picture, got {latent}")
    given = layers.Input(input_shape)
    picture, noise = given[..., :channels], layers.Flatten()(given[..., channels : 2 * channels])[:, :latent]
    time, place = given[:, 0, 0, -2:-1], ops.cast(given[:, 0, 0, -1], "int32")
    label = ops.one_hot(place, outputs)
    x = picture
    for wide in filters:
        x = layers.Conv2D(wide, 3, strides=2, padding="same", activation="silu")(x)
    x = layers.Concatenate()([layers.Flatten()(x), label])
    mean, spread = layers.Dense(latent)(x), WIDEST * ops.tanh(layers.Dense(latent)(x) / WIDEST)  # (B, latent) each
    told = ops.sum(ops.square(mean) + ops.exp(2 * spread) - 2 * spread - 1, axis=-1) / 2  # nats
    drawn = ops.where(time < 1, mean + ops.exp(spread) * noise, noise)
    small = (height // halved, width // halved, filters[-1])
    x = layers.Dense(math.prod(small), activation="silu")(layers.Concatenate()([drawn, label]))
    x = layers.Reshape(small)(x)
    for wide in reversed(filters):
        x = layers.Conv2D(wide, 3, padding="same", activation="silu")(layers.UpSampling2D()(x))  # twice as large
    made = layers.Conv2D(channels, 3, padding="same", dtype="float32")(x)
    missed = ops.mean(ops.square(made - picture), axis=-1, keepdims=True)
    per_value = ops.reshape(told, (-1, 1, 1, 1)) * (2 * scatter**2 / (height * width * channels))
    return keras.Model(given, ops.concatenate([made, missed + per_value], axis=-1), name="vae")
