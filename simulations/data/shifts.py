"""Ways in which what a client's sensor sees differs from what others see; labels stay as they are.

Pure functions of arrays; whoever calls them draws the turns, orders, gains and offsets.
"""

from __future__ import annotations

import numpy as np

__all__ = ["invert", "permute_tiles", "quarter_turns", "scale_channels"]

TILE = 2


def quarter_turns(images: np.ndarray, turns: int) -> np.ndarray:
    """Turn square images counterclockwise by a number of right angles.

    Args:
        images: Shape ``(examples, channels, side, side)``.
        turns: Any whole number.

    Returns:
        The shape and dtype of ``images``, contiguous.
    """
    return np.ascontiguousarray(np.rot90(images, turns, (2, 3)))


def permute_tiles(images: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Put the four pixels of every 2x2 tile in another order, the same in every tile.

    A first layer of 2x2 patches can undo it, if it is a client's own.

    Args:
        images: Shape ``(examples, 1, height, width)``, even height and width.
        order: Which pixel comes first, second, third and last, row by row; a permutation of 0 to 3.

    Returns:
        The shape and dtype of ``images``.

    Example:
        >>> permute_tiles(np.arange(4).reshape(1, 1, 2, 2), np.array([3, 1, 2, 0])).ravel()
        array([3, 1, 2, 0])
    """
    examples, channels, height, width = images.shape
    rows, columns = height // TILE, width // TILE
    tiles = images.reshape(examples * channels, rows, TILE, columns, TILE).transpose(0, 1, 3, 2, 4)
    shuffled = tiles.reshape(-1, rows, columns, TILE * TILE)[..., order]
    back = shuffled.reshape(-1, rows, columns, TILE, TILE).transpose(0, 1, 3, 2, 4)
    return back.reshape(images.shape)


def invert(images: np.ndarray) -> np.ndarray:
    """Make white black: ``1 - images``, for images in ``[0, 1]``."""
    inverted: np.ndarray = 1 - images
    return inverted


def scale_channels(inputs: np.ndarray, gain: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Give every channel a gain and an offset: a sensor that was never calibrated.

    Args:
        inputs: Shape ``(examples, pixels * channels)``, pixel by pixel, float32.
        gain: Shape ``(channels,)``.
        offset: Shape ``(channels,)``, in the units of ``inputs``.

    Returns:
        The shape and dtype of ``inputs``.
    """
    pixels = inputs.reshape(len(inputs), -1, len(gain))
    scaled: np.ndarray = (pixels * gain + offset).astype(inputs.dtype)
    return scaled.reshape(inputs.shape)
