"""A U-Net: what is seen of the whole on the way down, and what is seen where on the way up.

Source: Ronneberger et al., U-Net: Convolutional networks for biomedical image segmentation, 2015; padded convolutions,
so that the map has the size of the image, and batch normalisation.
"""

import keras

from medloop.networks import blocks

KIND = "convolution"
GIVES = "map"


def build(
    input_shape: tuple[int, int, int],
    outputs: int,
    *,
    filters: tuple[int, ...] = (16, 32, 64, 128),
    batch_norm: bool = True,
    dropout: float = 0.0,
) -> keras.Model:
    """Map images (B, H, W, C) to the logits of every pixel (B, H, W, outputs); the arguments are `blocks.u_net`'s."""
    return blocks.u_net(input_shape, outputs, filters=filters, batch_norm=batch_norm, dropout=dropout, name="unet")
