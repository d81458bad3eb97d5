"""Pictures are brought to one size as torch-fidelity does it."""

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.formats import noise, save_pictures
from vfn.data import read_pictures
from vfn.data.resize import resize_and_crop, resized

SIZES = [(9, 9), (17, 10), (10, 17), (31, 12), (7, 40), (8, 8), (8, 30), (64, 48)]


@pytest.mark.parametrize("height_width", SIZES)
@pytest.mark.parametrize("channels", [1, 3])
def test_a_square_is_that_of_torch_fidelity(height_width, channels):
    """Its transforms are torchvision's, for ``samples_resize_and_crop``."""
    from torchvision import transforms

    array = noise(*height_width, *([3] if channels == 3 else []))
    theirs = transforms.Compose([transforms.Resize(8), transforms.CenterCrop(8)])
    expected = np.asarray(theirs(Image.fromarray(array))).reshape(8, 8, channels)
    tensor = torch.from_numpy(array.reshape(1, *height_width, channels)).movedim(-1, 1)
    assert np.array_equal(resized(tensor, (8, 8))[0].movedim(0, -1).numpy(), expected)


def test_a_folder_is_that_of_torch_fidelity(tmp_path):
    """Its own reading of a folder of several sizes."""
    utils = pytest.importorskip("torch_fidelity.utils")
    save_pictures(tmp_path, {f"{i}.png": noise(*size, 3) for i, size in enumerate(SIZES)})
    theirs = utils.prepare_input_from_descriptor(
        {"input": str(tmp_path)}, samples_resize_and_crop=8, verbose=False
    )
    expected = torch.stack([theirs[i] for i in range(len(SIZES))])
    assert torch.equal(read_pictures(str(tmp_path), size=(8, 8)).images, expected)
    with pytest.raises(ValueError, match="cannot be used"):
        read_pictures(str(tmp_path))


@pytest.mark.parametrize("height_width", SIZES)
@pytest.mark.parametrize("size", [(4, 9), (9, 4), (12, 12)])
def test_any_size_is_covered(height_width, size):
    picture = resize_and_crop(Image.fromarray(np.full(height_width, 7, np.uint8)), size)
    assert picture.size == size[::-1]
    assert set(np.asarray(picture).ravel()) == {7}  # no edge that the picture does not reach


def test_pictures_of_that_size_stay_as_they_are():
    images = torch.zeros(2, 1, 8, 8, dtype=torch.uint8)
    assert resized(images, (8, 8)) is images
    assert resized(images, None) is images


def test_labels_do_not_matter_where_nobody_asks(tmp_path):
    save_pictures(tmp_path, {f"{i}.png": noise(4, 4) for i in range(3)})
    (tmp_path / "labels.csv").write_text("somebody,else's,table\n")
    with pytest.raises(ValueError, match=r"to have the columns file,label"):
        read_pictures(str(tmp_path))
    found = read_pictures(str(tmp_path), labelled=False)
    assert len(found.images) == 3
    assert found.labels is None
    np.savez(tmp_path / "a.npz", arr_0=noise(3, 4, 4), arr_1=np.array(["a", "b", "c"]))
    assert read_pictures(str(tmp_path / "a.npz"), labelled=False).labels is None
    with pytest.raises(ValueError, match="arr_1"):
        read_pictures(str(tmp_path / "a.npz"))
