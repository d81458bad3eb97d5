"""Pictures of other sizes brought to one, as torch-fidelity does: for comparison, not training."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vfn.data.source import available_cores, to_picture
from vfn.progress import Progress

_BLOCK = 256  # pictures between two moves of the bar
RESIZE = "bilinear (PIL, antialiased) until it covers, then the centre, as torch-fidelity"


def resize_and_crop(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture scaled until it covers a size, and its centre cut out.

    With a square it is what `samples_resize_and_crop` of torch-fidelity does, that is Resize and
    CenterCrop of torchvision: the smaller side gets the size, the other the whole part of
    ``size * long / short``.

    Args:
        picture: 8 bits a channel.
        size: height, width.

    Returns:
        the picture itself where it has the size already.

    >>> resize_and_crop(Image.new("RGB", (30, 20)), (8, 8)).size
    (8, 8)
    """
    height, width = size
    if width * picture.height >= height * picture.width:  # the width needs the larger scale
        whole = width, max(height, int(width * picture.height / picture.width))
    else:
        whole = max(width, int(height * picture.width / picture.height)), height
    if picture.size != whole:
        picture = picture.resize(whole, Image.Resampling.BILINEAR)
    left, top = round((whole[0] - width) / 2), round((whole[1] - height) / 2)
    return picture.crop((left, top, left + width, top + height))


def resized(images: Tensor, size: tuple[int, int] | None) -> Tensor:
    """Pictures of one size brought to another by `resize_and_crop`, with a bar.

    Args:
        images: uint8 [N, C, H, W], C 1 or 3.
        size: height, width; None leaves them as they are.

    Returns:
        uint8 [N, C, height, width]; ``images`` itself where they have the size already.

    Raises:
        ValueError: for other numbers of another size.

    >>> resized(torch.zeros(2, 3, 12, 20, dtype=torch.uint8), (4, 4)).shape
    torch.Size([2, 3, 4, 4])
    """
    if size is None or tuple(images.shape[2:]) == size:
        return images
    if images.dtype != torch.uint8 or images.shape[1] not in (1, 3):
        raise ValueError(
            "expected 8-bit pictures, grey or RGB, to be resized, got "
            f"{str(images.dtype).removeprefix('torch.')} of {images.shape[1]} channels"
        )
    made = torch.empty(len(images), images.shape[1], *size, dtype=torch.uint8)
    with (
        Progress(len(images), "picture", "resizing") as progress,
        ThreadPoolExecutor(available_cores()) as pool,
    ):
        for rows in torch.arange(len(images)).split(_BLOCK):
            arrays = pool.map(partial(_resized, size=size), images[rows])
            made[rows] = torch.stack([*arrays])
            progress.advance(len(rows))
    return made


def _resized(image: Tensor, size: tuple[int, int]) -> Tensor:
    """One picture [C, H, W]."""
    picture = to_picture(np.ascontiguousarray(image.movedim(0, -1).numpy()))
    array = np.array(resize_and_crop(picture, size))
    return torch.from_numpy(array.reshape(*size, -1)).movedim(-1, 0)
