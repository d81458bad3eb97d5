"""What shows pictures: which of them stand where, under which words."""

from dataclasses import replace

import pytest
import torch

from tests.helpers.small import SHAPE, small_config
from vfn.configs import SampleConfig
from vfn.data import Labels
from vfn.model import DataShape
from vfn.sampling import ask, of_each, untrained, variants
from vfn.sampling.sheets import (
    ANIMATED,
    FRAMES,
    animated_panel,
    comparison,
    denoising_frames,
    folder_name,
    folder_names,
    panel,
    title,
    varied,
)

TAGS = Labels(("Bald", "Male", "Wavy"), tags=True)


@pytest.fixture(scope="module")
def plain():
    """An unconditional network."""
    return untrained(small_config(), SHAPE._replace(legend=Labels()))


@pytest.fixture(scope="module")
def tagged():
    return untrained(small_config(), SHAPE._replace(legend=TAGS))


def test_a_column_for_each_label(trained):
    shown = panel(trained.draws(200))
    assert shown.columns == 10
    assert list(shown.column_labels) == list("0123456789")
    assert shown.indices.tolist() == list(range(100))
    shown = panel(trained.draws(7, "3,7"), rows=2)
    assert (shown.columns, shown.column_labels) == (2, ["3", "7"])
    assert shown.indices.tolist() == [0, 1, 2, 3]
    assert panel(trained.draws(4)).column_labels == list("0123")


def test_few_classes_have_a_row_each():
    two = untrained(small_config(), SHAPE._replace(legend=Labels(("cats", "dogs"))))
    shown = panel(two.draws(20))
    assert (shown.columns, shown.row_labels, shown.column_labels) == (10, ["cats", "dogs"], ())
    assert shown.indices.tolist() == [*range(0, 20, 2), *range(1, 20, 2)]
    shown = panel(two.draws(60), rows=30)
    assert (shown.columns, len(shown.indices)) == (20, 40)
    assert panel(two.draws(20), rows=1).column_labels == ["cats", "dogs"]


def test_no_more_than_twenty_columns():
    many = SHAPE._replace(legend=Labels(tuple(f"class {k}" for k in range(30))))
    shown = panel(untrained(small_config(), many).draws(60))
    assert shown.columns == 20
    assert shown.indices.tolist() == [*range(20), *range(30, 50)]


def test_ten_columns_without_labels(plain):
    shown = panel(plain.draws(25, guidance=0.0))
    assert (shown.columns, shown.column_labels) == (10, [])
    assert shown.indices.tolist() == list(range(25))


def test_a_table_of_combinations(tagged):
    asked = ask(TAGS, tags=["Bald,Male+Bald", "Wavy,Male,Bald"])
    shown = panel(tagged.draws(60, asked))
    assert shown.indices.tolist() == list(range(6))
    assert (shown.columns, shown.row_labels) == (3, ["Bald", "Bald+Male"])
    shown = panel(tagged.draws(4, asked))
    assert (shown.indices.tolist(), shown.columns) == ([0, 1, 2, 3], 3)
    assert list(shown.row_labels) == ["Bald", "Bald+Male"]
    shown = panel(tagged.draws(2, asked))
    assert (shown.columns, shown.row_labels, shown.column_labels) == (2, ["Bald"], ["Wavy", "Male"])


def reader(value):
    """Gives grey pictures of one value, and notes which were asked for."""
    asked = []

    def read(indices):
        asked.append(indices.tolist())
        return torch.full((len(indices), 1, 8, 8), value, dtype=torch.uint8)

    return read, asked


def last_tile(picture, above=0):
    """The grey of the last tile of a grid, or of one that stands some rows above it."""
    return picture.getpixel((picture.width - 10, picture.height - 10 - 50 * above))


def test_a_block_for_each_strength(trained):
    several = variants(trained, {"guidance": [0.0, 1.5]}, num=60)
    readers = [reader(10), reader(20)]
    blocks = comparison(several, [read for read, _ in readers])
    assert [text for text, _ in blocks] == ["w = 0", "w = 1.5"]
    assert [asked for _, asked in readers] == [[list(range(40))]] * 2
    assert [last_tile(picture) for _, picture in blocks] == [10, 20]


def test_a_row_for_each_number_of_steps(trained):
    several = variants(trained, {"sampler": ["ddim", "ab2"], "steps": [2, 4, 8]}, num=60)
    readers = [reader(10 * k) for k in range(6)]
    blocks = comparison(several, [read for read, _ in readers])
    assert [text for text, _ in blocks] == ["ddim", "ab2"]
    assert all(asked == [list(range(10))] for _, asked in readers)
    rows = [[last_tile(picture, above) for above in (2, 1, 0)] for _, picture in blocks]
    assert rows == [[0, 10, 20], [30, 40, 50]]


def test_steps_alone_are_titled_with_solver_and_strength(trained):
    several = variants(trained, {"steps": [2, 4]}, num=4, guidance=0.5)
    blocks = comparison(several, [reader(0)[0], reader(0)[0]])
    assert [text for text, _ in blocks] == ["abm2, w = 0.5"]


def test_one_step_is_one(trained, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "vfn.sampling.sheets.grid", lambda images, columns, **labels: drawn.append(labels)
    )
    comparison(variants(trained, {"steps": [1, 2]}, num=4), [reader(0)[0], reader(0)[0]])
    assert [labels["row_labels"] for labels in drawn] == [["1 step", "2 steps"]]


@pytest.mark.parametrize(
    ("side", "names", "steps", "tiles", "columns"),
    [
        (64, "0123456789", 32, 10, 10),  # a row of the ten classes
        (64, "ab", 32, 12, 6),  # both of two classes, which have a row each
        (64, "0123456789", 4, 50, 10),  # few frames
        (128, "0123456789", 32, 3, 3),
        (32, "0123456789", 32, 40, 10),
    ],
)
def test_an_animation_of_larger_pictures_has_fewer(side, names, steps, tiles, columns):
    """Noise cannot be compressed: 50 pictures of 64x64 in 33 frames are 20 MB."""
    shape = DataShape(3, side, side, Labels(tuple(names)))
    shown = animated_panel(untrained(small_config(), shape).draws(200, steps=steps))
    assert (len(shown.indices), shown.columns) == (tiles, columns)
    assert (len(shown.indices) * 3 * side**2) * (steps + 1) <= 5_000_000


def test_pictures_come_out_of_the_noise(trained):
    frames = denoising_frames(trained.draws(100, steps=4))
    assert len(frames) == 5
    assert len({frame.size for frame in frames}) == 1
    assert len({frame.tobytes() for frame in frames}) == 5
    draws = trained.draws(100, steps=4)
    shown = panel(draws, ANIMATED // 10)
    assert frames[-1].tobytes() == shown.draw(draws.batch(shown.indices).images).tobytes()
    assert len(denoising_frames(trained.draws(1, "7", steps=64))) == FRAMES + 1


@pytest.mark.parametrize(
    ("given", "folders", "titles"),
    [
        ([{"guidance": 0.5}, {"guidance": 1}], ["w0.5", "w1"], ["w = 0.5", "w = 1"]),
        ([{"sample_timesteps": 8}, {}], ["steps8", "steps16"], ["abm2, w = 0"] * 2),
        ([{"sampler": "ab2"}, {}], ["ab2", "abm2"], ["ab2", "abm2"]),
        (
            [{"sampler": "ab2", "sample_timesteps": 8}, {}],
            ["ab2-steps8", "abm2-steps16"],
            ["ab2", "abm2"],
        ),
        ([{"sampler": "mine.solvers:Best"}, {}], ["mine.solvers.Best", "abm2"],
         ["mine.solvers:Best", "abm2"]),
        (
            [{"guidance_interval": (-3, 5), "guidance": 2}, {"guidance": 2}],
            ["guidance_interval-3,5", "guidance_intervalNone"],
            ["guidance_interval = -3,5", "guidance_interval = None"],
        ),
        ([{"grid": "karras"}, {}], ["gridkarras", "gridtime"], ["grid = karras", "grid = time"]),
        ([{"sample_batch": 1}, {}], ["", ""], ["abm2, w = 0"] * 2),
        ([{"guide_with": "run:/home/me/runs/a"}, {}],
         ["guiderun..home.me.runs.a", "guide-none"], ["away from run:runs/a", "away from none"]),
    ],
)  # fmt: skip
def test_names_tell_what_differs(given, folders, titles):
    settings = [SampleConfig(**one) for one in given]
    names = varied(settings)
    assert [folder_name(one, names) for one in settings] == folders
    assert [title(one, names) for one in settings] == titles


def names_of(**compared):
    """Folders of settings that differ in some fields."""
    fields = list(compared)
    several = [SampleConfig(**dict(zip(fields, values, strict=True)))
               for values in zip(*compared.values(), strict=True)]  # fmt: skip
    return folder_names(several, varied(several))


def test_long_names_of_folders_are_cut_and_differ():
    """A file system takes 255 bytes; what is left out is told by a hash."""
    early, late = (tuple(round(k - k * i / 70, 4) for i in range(64)) for k in (1.0, 0.99))
    late = (*early[:-1], late[-1])  # they differ in the last time alone
    for compared in (
        {"sample_timesteps": (64, 64), "times": (early, late)},
        {"guide_with": ("/data/first/" + "x" * 60 + "/run", "/data/second/" + "x" * 60 + "/run")},
        {"guide_with": ("é" * 300, "é" * 300 + "a"), "guidance": (1.0, 2.0)},
        {"sampler": ("mine:" + "S" * 400, "mine:" + "S" * 401), "grid": ("time", "karras")},
    ):
        names = names_of(**compared)
        assert len({*names}) == 2
        assert all(len(name.encode()) <= 240 for name in names)
    tail = "x" * 60 + ".run"
    first, _ = names_of(guide_with=("/data/first/" + "x" * 60 + "/run", "20"))
    assert first.startswith("guide" + tail[-51:] + "-")
    assert len(first) == len("guide") + 60


def test_names_of_folders_differ_exactly_where_settings_do():
    """Two paths that are written alike once their strokes are dots get a hash each, no others."""
    alike = names_of(guide_with=("/runs/a", "runs/a", "runs.a", "b", "runs/a"))
    assert len({*alike}) == 4
    assert alike[1] == alike[4] != alike[0]
    assert alike[3] == "guideb"
    assert all(name.startswith("guideruns.a-") for name in (*alike[:3], alike[4]))
    exact = "a" * 60
    assert names_of(guide_with=(exact, None)) == [f"guide{exact}", "guide-none"]


def test_a_grid_of_labels_as_the_data_have_them():
    """The classes that have several pictures; with a rare one there would be one of each."""
    labels = torch.tensor([2, 1, 2, 1, 1, 2, 3, 1])
    draws = untrained("digits").draws(8, of_each(labels, untrained("digits").shape.legend))
    shown = panel(draws)
    assert (shown.columns, shown.row_labels) == (3, ["0", "1"])
    assert shown.indices.tolist() == [1, 3, 4, 0, 2, 5]
    assert panel(draws, 1).indices.tolist() == [1, 0, 6]


def test_long_sets_of_tags_make_no_wide_grid():
    legend = Labels(tuple(f"a long tag {k}" for k in range(40)), tags=True)
    asked = ask(legend, ["+".join(legend.names), legend.names[0]])
    draws = untrained(small_config(), SHAPE._replace(legend=legend)).draws(4, asked)
    heads = panel(draws).column_labels
    assert heads[1] == "a long tag 0"
    assert len(heads[0]) < 80


def test_no_sheet_is_as_wide_as_its_words(monkeypatch):
    """Classes, tags and times of any length: of each text the first sixty letters."""
    names = tuple(f"{k} {'long ' * 30}".strip() for k in range(4))
    classes, tags = Labels(names), Labels(names, tags=True)
    network = untrained(small_config(), SHAPE._replace(legend=classes))
    tagged = untrained(small_config(), SHAPE._replace(legend=tags))
    lists = tuple(round(1 - k / 70, 4) for k in range(64))
    heads = []
    monkeypatch.setattr(
        "vfn.sampling.sheets.grid",
        lambda images, columns, row_labels, column_labels: heads.extend(
            [*row_labels, *column_labels]
        ),
    )
    for several in (
        variants(network, {"steps": [1, 2]}, num=4),
        variants(tagged, {"steps": [1, 2]}, num=2, labels=["+".join(names), names[0]]),
        variants(network, {"times": [lists, (*lists[:-1], 0.01)]}, num=4, steps=64),
    ):
        blocks = comparison(several, [reader(0)[0]] * 2)
        assert all(len(text) < 70 for text, _ in blocks)
    labels = torch.arange(8) % 4 + 1
    panel(network.draws(8, of_each(labels, classes))).draw(torch.zeros(8, 1, 8, 8).byte())
    combined = ask(tags, tags=[",".join(names[:2]), ",".join(names[2:])])
    panel(tagged.draws(4, combined)).draw(torch.zeros(4, 1, 8, 8).byte())
    assert len(heads) > 20
    assert max(map(len, heads)) < 70


def test_settings_of_one_title_have_blocks_of_their_own(trained):
    """Two folders that end alike: neither takes the place of the other's rows."""
    several = variants(trained, {"steps": [2, 4]}, num=4)
    weak = ["/home/me/runs/a", "/home/you/runs/a"]
    both = [
        replace(draws, settings=replace(draws.settings, guide_with=each))
        for each in weak
        for draws in several
    ]
    blocks = comparison(both, [reader(10 * k)[0] for k in range(4)])
    assert [text for text, _ in blocks] == ["away from runs/a"] * 2
    assert [[last_tile(p, above) for above in (1, 0)] for _, p in blocks] == [[0, 10], [20, 30]]


def test_a_grid_of_tags_as_the_data_have_them_has_no_heads():
    legend = Labels(("a", "b"), tags=True)
    network = untrained(small_config(), SHAPE._replace(legend=legend))
    draws = network.draws(12, of_each(torch.tensor([[0, 1], [1, 1], [0, 0]] * 4), legend))
    assert panel(draws)[1:4] == (10, (), [])
    assert len(panel(draws).indices) == 12
