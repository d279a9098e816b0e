"""Attention over the features of a record: each is a token, and a few learnt questions look for those that matter.

Sources: Gorishniy et al., Revisiting deep learning models for tabular data, 2021 (a token for each number); Lee et al.,
Set transformer, 2019 (pooling by attention). It costs F, not F^2, for F features, so that it takes thousands of genes.
"""

import keras
from keras import layers, ops

KIND = "transformer"
TAKES = ("table",)


def build(
    input_shape: tuple[int],
    outputs: int,
    *,
    width: int = 8,
    heads: int = 4,
    dropout: float = 0.0,
    input_dropout: float = 0.0,
) -> keras.Model:
    """Map records (B, F) to outputs (B, outputs).

    A feature's token is its number times a vector of its own, plus another. The score of a token under a head is linear
    in it; their softmax over the features weighs the tokens' mean.

    Args:
        input_shape: (F,).
        outputs: of the network.
        width: of a token.
        heads: questions, each with a mean of its own.
        dropout: share of the means left out while training.
        input_dropout: share of the record's numbers left out while training.
    """
    [count] = input_shape
    record = layers.Input(input_shape)
    x = layers.Dropout(input_dropout)(record) if input_dropout else record
    tokens = layers.EinsumDense("bf,fw->bfw", (count, width), bias_axes="fw")(x)  # (B, F, width)
    weights = ops.softmax(layers.Dense(heads, use_bias=False)(tokens), axis=1)  # (B, F, heads)
    means = ops.matmul(ops.transpose(weights, (0, 2, 1)), tokens)  # (B, heads, width)
    x = layers.Flatten()(layers.LayerNormalization()(means))
    x = layers.Dropout(dropout)(x) if dropout else x
    return keras.Model(record, layers.Dense(outputs, dtype="float32")(x), name="feature_attention")
