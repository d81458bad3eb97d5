"""Pictures become rows as torchvision's transforms would make them; bad ones are named."""

import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms
from torchvision.transforms import v2

from tests.helpers.formats import noise
from vfn.configs import DataConfig
from vfn.data import read_pictures
from vfn.data.folder import folder_source
from vfn.data.source import Source, read_rows, to_row


def picture(height, width, channels=3):
    array = noise(height, width, channels)
    return Image.fromarray(array[..., 0] if channels == 1 else array)


def expected(image, *transforms):
    """uint8 [C, H, W] of torchvision."""
    return v2.Compose([*transforms, v2.PILToTensor()])(image).numpy()


def test_a_picture_of_the_right_size_is_not_touched():
    for channels in (1, 3):
        image = picture(6, 9, channels)
        for size in (None, (6, 9)):
            assert np.array_equal(to_row(image, DataConfig(image_size=size)), expected(image))


def test_celeba_is_cropped_and_resized_as_published():
    """148 x 148 from top 40 and left 15, then 64 x 64 bilinear."""
    image = picture(218, 178)
    row = to_row(image, DataConfig(crop=(40, 15, 148, 148), image_size=(64, 64)))
    box = v2.Lambda(lambda i: v2.functional.crop(i, top=40, left=15, height=148, width=148))
    resize = v2.Resize((64, 64), v2.InterpolationMode.BILINEAR)
    assert np.array_equal(row, expected(image, box, resize))


def test_mnist_is_resized_as_published():
    image = picture(28, 28, 1)
    assert np.array_equal(
        to_row(image, DataConfig(image_size=(32,))), expected(image, v2.Resize((32, 32)))
    )


@pytest.mark.parametrize(("height", "width"), [(40, 60), (60, 40)])
def test_the_middle_of_a_longer_picture_is_kept(height, width):
    """An even scale leaves whole pixels on both sides, so that two ways are one."""
    image = picture(height, width)
    row = to_row(image, DataConfig(image_size=(20, 20)))
    assert np.array_equal(row, expected(image, v2.Resize(20), v2.CenterCrop(20)))


@given(
    st.tuples(st.integers(1, 70), st.integers(1, 70)),
    st.tuples(st.integers(1, 40), st.integers(1, 40)),
)
def test_every_size_becomes_every_size(size, wanted):
    row = to_row(picture(*size), DataConfig(image_size=wanted))
    assert row.shape == (3, *wanted)
    assert row.dtype == np.uint8


@pytest.mark.parametrize(
    ("mode", "channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("RGB", 3), ("RGBA", 3), ("P", 3), ("CMYK", 3), ("YCbCr", 3)],
)
def test_channels_follow_the_picture_or_the_settings(mode, channels):
    image = picture(4, 4).convert(mode)
    assert to_row(image, DataConfig()).shape == (channels, 4, 4)
    for asked in (1, 3):
        assert to_row(image, DataConfig(channels=asked)).shape == (asked, 4, 4)


def test_a_palette_with_transparency_gives_its_colours(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putdata([0, 1])
    image.save(tmp_path / "p.png", transparency=bytes([0, 128]))
    with Image.open(tmp_path / "p.png") as read:
        assert to_row(read, DataConfig())[:, 0].T.tolist() == [[255, 0, 0], [0, 0, 255]]


def test_what_rows_do_not_have_of_pictures_is_told(tmp_path, capfd):
    """Transparency where there is some, and colours that are not those of sRGB."""
    opaque, clear = (Image.new("RGBA", (4, 4), (9, 9, 9, alpha)) for alpha in (255, 128))
    opaque.save(tmp_path / "a.png")
    clear.save(tmp_path / "b.png")
    palette = Image.new("P", (4, 4))
    palette.save(tmp_path / "c.png", transparency=0)
    for name, profile in (("d", "sRGB"), ("e", "LAB")):
        told = ImageCms.ImageCmsProfile(ImageCms.createProfile(profile)).tobytes()
        Image.new("RGB", (4, 4)).save(tmp_path / f"{name}.png", icc_profile=told)
    Image.new("RGB", (4, 4)).save(tmp_path / "f.png", icc_profile=b"damaged")
    read_rows(folder_source(tmp_path, 0.0), DataConfig(), lambda row: None)
    told = capfd.readouterr().err
    assert f"2 of 6 pictures in {tmp_path}: transparent in places" in told
    assert f"2 of 6 pictures in {tmp_path}: in other colours than sRGB" in told


def test_what_moves_is_told_and_its_first_frame_taken(tmp_path, capfd):
    frames = [picture(6, 9).point(lambda level, by=by: level ^ by) for by in (0, 64, 128)]
    for name in ("a.png", "b.webp"):
        frames[0].save(tmp_path / name, save_all=True, append_images=frames[1:], lossless=True)
    frames[1].save(tmp_path / "c.png")
    frames[2].save(tmp_path / "d.jpg", "MPO", save_all=True, append_images=frames[:1])
    found = read_pictures(str(tmp_path))
    assert f"2 of 4 pictures in {tmp_path}: of several frames, of which" in capfd.readouterr().err
    for row in found.images[:2]:
        assert np.array_equal(row.numpy(), expected(frames[0]))


def test_a_profile_counts_where_pillow_cannot_read_it(tmp_path, capfd, monkeypatch):
    """As one that is built without the library of colours."""

    def missing(_profile):
        raise ImportError("no module _imagingcms")

    monkeypatch.setattr(ImageCms, "getProfileDescription", missing)
    Image.new("RGB", (4, 4)).save(tmp_path / "a.png", icc_profile=b"not read before")
    read_rows(folder_source(tmp_path, 0.0), DataConfig(), lambda row: None)
    assert "1 of 1 pictures" in capfd.readouterr().err


def test_a_picture_too_large_to_be_read_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2_000_000)
    Image.new("1", (3000, 1500)).save(tmp_path / "a.png")
    message = r"a\.png \(has more than 4 million pixels; scale it down\)"
    with pytest.raises(ValueError, match=message):
        read_rows(folder_source(tmp_path, 0.0), DataConfig(), lambda row: None)


def test_a_turned_photograph_is_set_upright(tmp_path):
    image, exif = picture(8, 16), Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees
    image.save(tmp_path / "turned.png", exif=exif)
    with Image.open(tmp_path / "turned.png") as read:
        assert np.array_equal(to_row(read, DataConfig()), expected(image.rotate(-90, expand=True)))


@pytest.mark.parametrize("mode", ["I;16", "I", "F"])
def test_more_than_8_bits_are_refused(mode):
    with pytest.raises(ValueError, match=f"mode {mode}, expected 8 bits a channel"):
        to_row(Image.new(mode, (2, 2)), DataConfig())


def png16(array, colour):
    """A PNG with 16 bits a channel, written by hand: Pillow cannot write all kinds."""

    def chunk(kind, body):
        return (
            struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))
        )

    raw = b"".join(b"\0" + row.astype(">u2").tobytes() for row in array)
    head = struct.pack(">IIBBBBB", array.shape[1], array.shape[0], 16, colour, 0, 0, 0)
    parts = (chunk(b"IHDR", head), chunk(b"IDAT", zlib.compress(raw)), chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_files_with_16_bits_of_every_kind_are_refused(tmp_path, colour, channels):
    """Pillow opens colour ones as if they had 8."""
    array = np.random.default_rng(0).integers(0, 65536, (4, 4, channels))
    (tmp_path / "a.png").write_bytes(png16(array, colour))
    with pytest.raises(ValueError, match=r"a.png \(mode \S*;16B?, expected 8 bits a channel\)"):
        read_pictures(str(tmp_path))


@pytest.mark.parametrize("mode", ["1", "L", "LA", "RGB", "RGBA", "P"])
@pytest.mark.parametrize("kind", ["png", "webp", "bmp", "jpg"])
def test_files_with_8_bits_of_every_kind_are_read(tmp_path, mode, kind):
    image = picture(4, 4).convert(mode)
    try:
        image.save(tmp_path / f"a.{kind}")
    except OSError:
        pytest.skip(f"{kind} has no {mode}")
    assert len(read_pictures(str(tmp_path)).images) == 1


@pytest.mark.parametrize("crop", [(2, 0, 2, 4), (0, 2, 3, 3)])
def test_a_picture_smaller_than_the_crop_is_refused(crop):
    assert to_row(Image.new("L", (4, 3)), DataConfig(crop=(1, 2, 2, 2))).shape == (1, 2, 2)
    with pytest.raises(ValueError, match="3 x 4 does not hold the crop"):
        to_row(Image.new("L", (4, 3)), DataConfig(crop=crop))


def some(count, bad=()):
    """``count`` pictures 2 x 2 whose only level is their number; reading the bad ones raises."""

    def read(number):
        if number in bad:
            raise OSError(f"broken\nin {number}")
        return Image.new("L", (2, 2), number)

    splits = {"train": range(1, count), "test": [0]}
    names = [f"p{i}" for i in range(count)]
    return Source("here", names, read, np.arange(count) + 1, ("a",) * count, splits)


@pytest.mark.parametrize("workers", [1, 3])
def test_rows_come_in_the_order_of_the_splits(workers):
    rows, advanced = [], []
    settings = DataConfig(num_workers=workers)
    found = read_rows(some(200), settings, rows.append, lambda: advanced.append(1))
    assert [int(row[0, 0, 0]) for row in rows] == [*range(1, 200), 0]
    assert found.labels.tolist() == [*range(2, 201), 1]
    assert found.splits == {"train": 199, "test": 1}
    assert len(advanced) == 200


def test_bad_pictures_are_refused_with_names_and_number():
    with pytest.raises(ValueError, match="^4 of 9 pictures in here cannot be used: ") as error:
        read_rows(some(9, bad=(0, 2, 3, 5)), DataConfig(), lambda row: None)
    message = str(error.value)
    assert "p2 (broken in 2), p3 (broken in 3), p5 (broken in 5) and 1 more;" in message
    assert message.endswith("leave them out with --on-bad skip")


def test_bad_pictures_are_left_out_with_their_labels():
    rows = []
    found = read_rows(some(9, bad=(0, 2, 3, 5)), DataConfig(on_bad="skip"), rows.append)
    assert [int(row[0, 0, 0]) for row in rows] == [1, 4, 6, 7, 8]
    assert found.labels.tolist() == [2, 5, 7, 8, 9]
    assert found.splits == {"train": 5, "test": 0}
    assert [name for name, _ in found.bad] == ["p2", "p3", "p5", "p0"]


@pytest.mark.parametrize("tags", [False, True])
def test_classes_without_a_picture_to_train_on_are_named(tags, capsys):
    """Of those of the bad pictures 3 and 5, and of 0, which is held out."""
    source = some(9, bad=(3, 5))
    names = tuple(f"class {k}" for k in range(1, 10))
    labels = np.eye(9, dtype=np.uint8) if tags else source.labels
    source = source._replace(class_names=names, labels=labels)
    read_rows(source, DataConfig(on_bad="skip"), lambda row: None)
    line = "none to train on is left in here of: class 1, class 4, class 6; mend or add some"
    assert line in capsys.readouterr().err
    read_rows(some(9), DataConfig(on_bad="skip"), lambda row: None)
    assert not capsys.readouterr().err


def test_numbers_are_not_advised_to_be_resized():
    sizes = (4, 4, 5)
    source = Source(
        "here", "abc", lambda i: np.zeros((2, 4, sizes[i]), np.float32), None, (),
        {"train": range(3)}, numbers="float32",
    )  # fmt: skip
    message = "c .4 x 5 of 2 channels, not .*; mend or remove them; vfn train and vfn data also l"
    with pytest.raises(ValueError, match=message):
        read_rows(source, DataConfig(), lambda row: None)


def test_more_bad_pictures_than_good_are_never_skipped():
    with pytest.raises(ValueError, match="^5 of 9 .*; mend or remove them$"):
        read_rows(some(9, bad=(0, 2, 3, 5, 6)), DataConfig(on_bad="skip"), lambda row: None)


def test_pictures_unlike_the_first_are_bad():
    images = [Image.new("L", (4, 4)), Image.new("L", (5, 4)), Image.new("RGB", (4, 4))]
    source = Source("here", "abc", images.__getitem__, None, (), {"train": range(3)})
    message = (
        r"b \(4 x 5 grey, not 4 x 4 grey like a\), c \(4 x 4 RGB.* --image-size and --channels$"
    )
    with pytest.raises(ValueError, match=message):
        read_rows(source, DataConfig(), lambda row: None)
    rows = []
    read_rows(source, DataConfig(image_size=(4, 4), channels=3), rows.append)
    assert [row.shape for row in rows] == [(3, 4, 4)] * 3
