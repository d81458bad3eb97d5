import numpy as np
import pytest
import torch
from PIL import Image

from vfn.pictures import grid, save_animation, save_images, save_png, sheet


def _random(*shape):
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)


def _tiles(picture, images, columns, scale):
    """Cut the tiles out, counted from the right and lower edge, and shrink them again."""
    array = np.atleast_3d(np.asarray(picture))
    height, width = (side * scale for side in images.shape[2:])
    rows = -(-len(images) // columns)
    top = array.shape[0] - rows * (height + 2)
    left = array.shape[1] - columns * (width + 2)
    cut = []
    for i in range(len(images)):
        y, x = top + i // columns * (height + 2), left + i % columns * (width + 2)
        cut.append(array[y : y + height : scale, x : x + width : scale])
    return torch.from_numpy(np.stack(cut)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labelled", [False, True])
def test_a_grid_shows_every_picture_unchanged_and_in_order(channels, labelled):
    images = _random(5, channels, 8, 6)
    labels = {"row_labels": ["w = 0", "w = 1"], "column_labels": ["a", "b", "c"]}
    picture = grid(images, 3, **(labels if labelled else {}))
    assert picture.mode == {1: "L", 3: "RGB"}[channels]
    assert torch.equal(_tiles(picture, images, 3, 6), images)


def test_a_pixel_becomes_a_square():
    images = _random(1, 1, 8, 8)
    tile = np.asarray(grid(images, 1, scale=3))[2:-2, 2:-2]
    assert np.array_equal(tile, np.kron(images[0, 0].numpy(), np.ones((3, 3), dtype=np.uint8)))


def test_the_rest_of_the_last_row_is_blank():
    array = np.asarray(grid(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), 3))
    assert (array[52:, 52:] == array[0, 0]).all()
    assert array[0, 0] > 200


@pytest.mark.parametrize(("side", "tile"), [(8, 48), (28, 56), (32, 64), (48, 48), (64, 64)])
def test_small_pictures_are_enlarged(side, tile):
    assert grid(_random(1, 3, side, side), 1).size == (tile + 4, tile + 4)


def test_labels_add_margins_with_text():
    images = _random(4, 1, 8, 8)
    plain, labelled = grid(images, 2), grid(images, 2, None, ["first", "second"], ["0", "1"])
    left, top = labelled.width - plain.width, labelled.height - plain.height
    assert left > 40
    assert top > 10
    margin = np.asarray(labelled)
    assert (margin[top:, :left] < 100).any()
    assert (margin[:top, left:] < 100).any()


def test_a_long_column_label_widens_the_columns():
    name = "a class with a rather long name"
    assert grid(_random(2, 1, 8, 8), 2, column_labels=[name, "b"]).width > 2 * 100


@pytest.mark.parametrize(
    ("images", "options", "words"),
    [
        (torch.zeros(1, 1, 8, 8), {}, "uint8"),
        (_random(1, 2, 8, 8), {}, "C 1 or 3"),
        (_random(8, 8), {}, "N, C, H, W"),
        (_random(0, 1, 8, 8), {}, "one or more"),
        (_random(2, 1, 8, 8), {"columns": 0}, "columns to be at least 1"),
        (_random(2, 1, 8, 8), {"scale": 0}, "scale to be at least 1"),
        (_random(2, 1, 8, 8), {"row_labels": ["a", "b"]}, "expected 1 row_labels, got 2"),
        (_random(2, 1, 8, 8), {"column_labels": ["a"]}, "expected 2 column_labels, got 1"),
    ],
)
def test_a_grid_refuses_what_it_cannot_draw(images, options, words):
    with pytest.raises(ValueError, match=words):
        grid(images, **({"columns": 2} | options))


def test_a_sheet_holds_its_blocks_below_their_titles():
    blocks = [(f"w = {i}", grid(_random(2 + i, 1, 8, 8), 2)) for i in range(3)]
    stacked, beside = sheet(blocks), sheet(blocks, columns=3)
    array = np.asarray(stacked)
    y = array.shape[0] - 8 - blocks[2][1].height
    assert np.array_equal(
        array[y : y + blocks[2][1].height, 8 : 8 + blocks[2][1].width], np.asarray(blocks[2][1])
    )
    assert (array[8 : 8 + 20, 8:60] < 100).any()
    assert stacked.height > sum(block.height for _, block in blocks)
    assert beside.width > sum(block.width for _, block in blocks)
    assert beside.height < stacked.height


def test_a_sheet_is_coloured_if_a_block_is():
    grey, rgb = grid(_random(1, 1, 8, 8), 1), grid(_random(1, 3, 8, 8), 1)
    assert sheet([("a", grey)]).mode == "L"
    assert sheet([("a", grey), ("b", rgb)]).mode == "RGB"


def test_a_sheet_without_blocks_is_refused():
    with pytest.raises(ValueError, match="at least one block"):
        sheet([])


def test_png_bytes_repeat(tmp_path):
    picture = grid(_random(4, 3, 8, 8), 2)
    save_png(tmp_path / "a" / "1.png", picture)
    save_png(tmp_path / "2.png", picture.copy())
    assert (tmp_path / "a" / "1.png").read_bytes() == (tmp_path / "2.png").read_bytes()
    with Image.open(tmp_path / "2.png") as read:
        assert np.array_equal(np.asarray(read), np.asarray(picture))


def test_an_animation_is_lossless_and_holds_its_last_frame(tmp_path):
    frames = [grid(_random(4, 1, 8, 8).roll(i), 2) for i in range(4)]
    save_animation(tmp_path / "a.webp", frames, frame_ms=80, hold_ms=1500)
    durations = []
    with Image.open(tmp_path / "a.webp") as read:
        assert read.n_frames == 4
        assert read.info["loop"] == 0
        for i, frame in enumerate(frames):
            read.seek(i)
            read.load()
            durations.append(read.info["duration"])
            assert np.array_equal(np.asarray(read.convert("L")), np.asarray(frame))
    assert durations == [80, 80, 80, 1500]


@pytest.mark.parametrize(
    ("sizes", "times", "words"),
    [
        ([], (80, 80), "no frames"),
        ([8, 9], (80, 80), "one size"),
        ([8], (0, 80), "frame_ms"),
        ([8], (80, 0), "hold_ms"),
    ],
)
def test_an_animation_refuses_what_it_cannot_show(tmp_path, sizes, times, words):
    frames = [Image.new("L", (side, side)) for side in sizes]
    with pytest.raises(ValueError, match=words):
        save_animation(tmp_path / "a.webp", frames, *times)
    assert not list(tmp_path.iterdir())


def test_images_are_saved_one_by_one(tmp_path):
    images = _random(2, 3, 8, 6)
    save_images(tmp_path / "all", images, ["000", "001"])
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == ["000.png", "001.png"]
    with Image.open(tmp_path / "all" / "001.png") as read:
        assert np.array_equal(np.asarray(read), images[1].permute(1, 2, 0).numpy())


@pytest.mark.parametrize("names", [["a"], ["a", "a"], ["a", "b", "b"], ["a", "top/shirt"]])
def test_names_must_be_plain_and_differ(tmp_path, names):
    with pytest.raises(ValueError, match="name"):
        save_images(tmp_path, _random(2, 1, 8, 8), names)
    assert not list(tmp_path.iterdir())


def test_a_failed_write_leaves_the_old_file_alone(tmp_path, monkeypatch):
    def fail(*_):
        raise OSError("disk is full")

    frames = [grid(_random(1, 1, 8, 8).roll(i), 1) for i in range(2)]
    png, webp = tmp_path / "a.png", tmp_path / "a.webp"
    save_png(png, frames[0])
    save_animation(webp, frames, 80, 80)
    before = [png.read_bytes(), webp.read_bytes()]
    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(OSError, match="disk is full"):
        save_png(png, frames[1])
    with pytest.raises(OSError, match="disk is full"):
        save_animation(webp, frames[::-1], 80, 80)
    assert [png.read_bytes(), webp.read_bytes()] == before
    assert sorted(tmp_path.iterdir()) == [png, webp]
