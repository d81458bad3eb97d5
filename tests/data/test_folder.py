"""Folders: classes by subfolder or by labels.csv, tags, or nothing; what is odd is named."""

import os
import unicodedata

import numpy as np
import pytest
from PIL import Image

from tests.helpers.formats import noise, save_pictures
from vfn.configs import DataConfig
from vfn.data import Labels, load_dataset, prepare, read_pictures
from vfn.data.folder import folder_source, picture_files

PICTURES = {f"{name}.png": noise(4, 6, 3, seed=i) for i, name in enumerate("abcde")}


def table(folder, text):
    folder.mkdir(exist_ok=True)
    (folder / "labels.csv").write_text(text)


def test_plain_folder_has_no_labels(tmp_path):
    save_pictures(tmp_path, PICTURES)
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / ".hidden.png").write_bytes(b"no picture")
    found = read_pictures(str(tmp_path))
    assert (found.labels, found.legend.names) == (None, ())
    assert np.array_equal(found.images.movedim(1, -1), np.stack(list(PICTURES.values())))


def test_subfolders_are_classes(tmp_path):
    names = ["dog/a.png", "cat/b.png", "dog/old/c.png", ".trash/d.png", "cat/.e.png"]
    save_pictures(tmp_path, dict(zip(names, PICTURES.values(), strict=True)))
    found = read_pictures(str(tmp_path))
    assert found.legend.names == ("cat", "dog")
    assert found.labels.tolist() == [1, 2, 2]
    b, a, c = (PICTURES[f"{name}.png"] for name in "bac")
    assert np.array_equal(found.images.movedim(1, -1), np.stack([b, a, c]))


def test_linked_folders_are_followed(tmp_path):
    save_pictures(tmp_path / "far", PICTURES)
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "cat").symlink_to(tmp_path / "far")
    assert len(read_pictures(str(tmp_path / "here")).images) == 5


def test_a_link_to_a_parent_multiplies_nothing(tmp_path):
    save_pictures(tmp_path, {f"{c}/{i}.png": noise(4, 4) for c in ("cat", "dog") for i in range(5)})
    (tmp_path / "cat" / "all").symlink_to(tmp_path)
    (tmp_path / "cat" / "again").symlink_to(tmp_path / "cat")
    (tmp_path / "ant").symlink_to(tmp_path / "dog")  # the folder itself counts, not its link
    (tmp_path / "eel").symlink_to(tmp_path / "eel")
    found = read_pictures(str(tmp_path))
    assert (found.legend.names, found.labels.tolist()) == (("cat", "dog"), [1] * 5 + [2] * 5)


def test_of_two_links_to_one_folder_the_first_counts(tmp_path):
    save_pictures(tmp_path / "far", PICTURES)
    (tmp_path / "here").mkdir()
    for name in ("b", "a", "c"):
        (tmp_path / "here" / name).symlink_to(tmp_path / "far")
    (tmp_path / "far" / "loop").symlink_to(tmp_path / "here")
    assert picture_files(tmp_path / "here") == [f"a/{name}" for name in PICTURES]


def test_links_to_nothing_and_pipes_are_bad_pictures(tmp_path):
    folder = tmp_path / "pictures"
    save_pictures(folder, PICTURES)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "zero.png").symlink_to("/dev/zero")
    data = DataConfig(dataset=str(folder), on_bad="skip", data_dir=str(tmp_path / "home"))
    bad = dict(prepare(data).bad)
    assert list(bad) == ["gone.png", "pipe.png", "zero.png"]
    assert "No such file" in bad["gone.png"]
    assert bad["pipe.png"] == bad["zero.png"] == "is no regular file"
    Image.new("RGB", (6, 4)).save(tmp_path / "nowhere.png")
    assert len(prepare(data).bad) == 2  # and the change is seen


def test_a_pipe_in_the_place_of_the_table(tmp_path):
    save_pictures(tmp_path, PICTURES)
    os.mkfifo(tmp_path / "labels.csv")
    with pytest.raises(ValueError, match="labels.csv to be a regular file"):
        read_pictures(str(tmp_path))


def test_a_table_reads_nothing_beside_the_folder_s_pictures(tmp_path):
    folder = tmp_path / "pictures"
    names = ("a.png", "b.png", "c.png", "d.png", "t.tif", ".hidden.png", "../outside.png")
    save_pictures(folder, {name: noise(4, 4) for name in names})
    lines = "".join(f"{name},x\n" for name in ("./a.png", *names[1:]))
    table(folder, "file,label\n" + lines)
    data = DataConfig(dataset=str(folder), on_bad="skip", data_dir=str(tmp_path / "home"))
    found = prepare(data)
    assert len(found.images) == 4
    assert dict(found.bad) == {
        "t.tif": "labels.csv names a file that is none of .bmp, .jpeg, .jpg, .png, .webp",
        ".hidden.png": "labels.csv names a hidden file",
        "../outside.png": "labels.csv names a file outside the folder",
    }
    table(folder, "file,label\na.png,x\n./a.png,y\n")
    with pytest.raises(ValueError, match="names a.png 2 times"):
        prepare(data)


def test_blanks_at_the_ends_of_labels_do_not_count(tmp_path):
    save_pictures(tmp_path, {f"{name}.png": PICTURES[f"{name}.png"] for name in "abc"})
    table(tmp_path, "file,label\na.png, x\nb.png,x\nc.png,x \n")
    assert read_pictures(str(tmp_path)).legend.names == ("x",)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b" cat", r"by the names of the folders, has the class ' cat', with a blank at an end"),
        (b"cat\xff", r"has the class 'cat\\udcff', which is no UTF-8; rename it"),
        (b"\x1b[31mred", r"has the class '\\x1b\[31mred', with control characters"),
        (b"two\nlines", r"has the class 'two\\nlines', with control characters"),
    ],
)
def test_classes_that_nobody_could_name_are_refused(tmp_path, name, message):
    save_pictures(tmp_path, {f"{os.fsdecode(name)}/a.png": noise(2, 2)})
    with pytest.raises(ValueError, match=message) as raised:
        read_pictures(str(tmp_path))
    assert str(raised.value).isprintable()


def test_names_that_need_quotes_are_read(tmp_path):
    names = ("all", 'big "old" dog', "salt, pepper", "zz")
    save_pictures(tmp_path, {f"{name}/a.png": noise(2, 2) for name in names})
    legend = read_pictures(str(tmp_path)).legend
    assert legend.names == names
    assert legend.parse('"salt, pepper", zz').tolist() == [3, 4]


def test_a_tag_with_a_plus_names_table_and_picture(tmp_path):
    save_pictures(tmp_path, {"a.png": noise(2, 2)})
    table(tmp_path, "file,tags\na.png,C++\n")
    with pytest.raises(ValueError, match=r"for a.png in .*labels.csv, got 'C\+\+'; a tag has no"):
        read_pictures(str(tmp_path))


def test_names_of_files_reach_no_terminal(tmp_path):
    folder = tmp_path / "\x1b[2J"
    save_pictures(folder, {"a\x1b[31m\n.png": noise(2, 2), "b.png": noise(3, 3)})
    for change in (lambda: None, lambda: table(folder, "x\x1b\n")):
        change()
        with pytest.raises(ValueError, match=r"x1b") as raised:
            read_pictures(str(folder))
        assert str(raised.value).isprintable()


def test_empty_labels_are_read_and_not_trained_on(tmp_path):
    """What `vfn sample` writes for pictures without one; a picture without a row is a mistake."""
    save_pictures(tmp_path, {name: PICTURES[name] for name in ("a.png", "b.png", "c.png")})
    settings = DataConfig(dataset=str(tmp_path), data_dir=str(tmp_path.parent / "home"))
    table(tmp_path, "file,label\na.png,dog\nb.png, \nc.png,cat\ngone.png,\n")
    found = read_pictures(str(tmp_path))
    assert (found.labels.tolist(), found.legend.names) == ([2, 0, 1], ("cat", "dog"))
    with pytest.raises(ValueError, match=r"1 of 3 .* b.png \(no label in labels.csv\)"):
        prepare(settings)
    table(tmp_path, "file,label\na.png,dog\nc.png,cat\n")
    with pytest.raises(ValueError, match=r"1 of 3 .* b.png \(no label in labels.csv\)"):
        read_pictures(str(tmp_path))


def test_labels_in_a_table_with_subfolders_and_a_byte_order_mark(tmp_path):
    save_pictures(tmp_path, {"x/a.png": PICTURES["a.png"], "b.png": PICTURES["b.png"]})
    table(tmp_path, '\ufefffile,label\nb.png,"fox, red"\nx/a.png,ant\n')
    found = read_pictures(str(tmp_path))
    assert found.legend.names == ("ant", "fox, red")
    assert found.labels.tolist() == [2, 1]


@pytest.mark.parametrize("written", [".\\x\\{}.png", "x\\{}.png", "{folder}/x/{}.png", "x//{}.png"])
def test_a_table_may_have_paths_of_windows_and_whole_ones(tmp_path, written):
    save_pictures(tmp_path, {f"x/{name}.png": PICTURES[f"{name}.png"] for name in "ab"})
    rows = [f"{written.format(name, folder=tmp_path)},{name}\n" for name in "ba"]
    table(tmp_path, "".join(["file,label\n", *rows]))
    found = read_pictures(str(tmp_path))
    assert found.legend.names == ("a", "b")
    assert found.labels.tolist() == [1, 2]


def test_a_backslash_in_a_name_is_one_where_the_file_is_there(tmp_path):
    save_pictures(tmp_path, {"x\\a.png": PICTURES["a.png"], "x/a.png": PICTURES["b.png"]})
    table(tmp_path, "file,label\nx\\a.png,flat\nx/a.png,deep\n")
    found = read_pictures(str(tmp_path))
    assert [found.legend.names[k - 1] for k in found.labels] == ["deep", "flat"]


def test_tags_in_a_table(tmp_path):
    save_pictures(tmp_path, {f"{name}.png": PICTURES[f"{name}.png"] for name in "abc"})
    table(tmp_path, "file,tags\na.png,young + smiling\nc.png,\nb.png,old\n")
    found = read_pictures(str(tmp_path))
    assert found.legend.tags
    assert found.legend.names == ("old", "smiling", "young")
    assert found.labels.tolist() == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("files", "text", "message"),
    [
        ("", None, r"holds no pictures \(.bmp, .jpeg, .jpg, .png, .webp\)"),
        ("ab", "file,label\na.png,1\n", r"1 of 2 .* b.png \(no label in labels.csv\)"),
        ("a", "file,label\na.png,1\nz.png,1\n", r"1 of 2 .* z.png \(.*No such file"),
        ("a", "file,tags\na.png,1\nz.png,2\n", r"z.png \(.*No such file"),
        ("ab", "file,tags\na.png,1\n", r"b.png \(no label in labels.csv\)"),
        ("a", "name,label\na.png,1\n", "columns file,label or file,tags, .* got name,label"),
        ("ab", "file,tags\na.png,\nb.png,\n", "labels.csv names no tag at all; give pictures"),
        ("a", "file,label,more\na.png,1,2\n", "got file,label,more"),
        ("a", "file,label\na.png\n", "columns file,label or file,tags"),
        ("a", "", "columns file,label or file,tags"),
        ("a", "file,label\na.png,1\na.png,2\n", "names a.png 2 times; leave one line"),
    ],
)
def test_faults_are_named(tmp_path, files, text, message):
    save_pictures(tmp_path, {f"{name}.png": PICTURES[f"{name}.png"] for name in files})
    if text is not None:
        table(tmp_path, text)
    with pytest.raises(ValueError, match=message):
        read_pictures(str(tmp_path))


def test_a_table_that_is_no_text(tmp_path):
    save_pictures(tmp_path, PICTURES)
    (tmp_path / "labels.csv").write_bytes(b"file,label\n\xff\xfe,1\n")
    with pytest.raises(ValueError, match="labels.csv cannot be read as a table"):
        read_pictures(str(tmp_path))


def test_a_picture_beside_the_folders_of_classes(tmp_path):
    save_pictures(tmp_path, {"cat/a.png": PICTURES["a.png"], "b.png": PICTURES["b.png"]})
    with pytest.raises(ValueError, match=r"b.png \(lies beside the folders of classes\)"):
        read_pictures(str(tmp_path))


@pytest.mark.parametrize("name", ["b.png", "b.jpg", "b.webp", "b.bmp"])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.1, 0.5])
def test_damaged_files_of_every_kind_are_bad_pictures(tmp_path, name, keep):
    """Empty, cut off in the header, in the middle: always named, never a traceback."""
    save_pictures(tmp_path, {"a.png": noise(64, 64, 3), name: noise(64, 64, 3)})
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * keep)])
    with pytest.raises(ValueError, match=rf"1 of 2 pictures .* cannot be used: {name} \("):
        read_pictures(str(tmp_path))


def test_skipped_pictures_leave_the_others_with_their_labels(tmp_path):
    folder = tmp_path / "pictures"
    save_pictures(folder, {f"{name[0]}/{name}": array for name, array in PICTURES.items()})
    (folder / "b" / "b.png").write_bytes(b"no picture")
    Image.new("L", (6, 4)).save(folder / "d" / "d.png")
    data = DataConfig(dataset=str(folder), on_bad="skip", test_share=0.0)
    with pytest.raises(ValueError, match="2 of 5 pictures"):
        load_dataset(DataConfig(dataset=str(folder), test_share=0.0))
    found = load_dataset(data)
    assert [found.legend.names[k - 1] for k in found.labels.tolist()] == ["a", "c", "e"]
    assert np.array_equal(found.images[1].movedim(0, -1), PICTURES["c.png"])


@pytest.mark.parametrize("splits", [("train", "val"), ("train",), ("Test", "Train", "valid")])
def test_folders_of_splits_are_no_classes(tmp_path, splits):
    for split in splits:
        save_pictures(tmp_path / split / "cat", PICTURES)
        save_pictures(tmp_path / split / "dog", PICTURES)
    message = f"got folders of splits .*: {', '.join(sorted(splits))}; name one of them, such as"
    with pytest.raises(ValueError, match=message):
        read_pictures(str(tmp_path))
    assert len(read_pictures(str(tmp_path), labelled=False).images) == 10 * len(splits)
    assert read_pictures(str(tmp_path / splits[0])).legend.names == ("cat", "dog")


def test_a_class_may_be_called_train(tmp_path):
    save_pictures(tmp_path / "train", PICTURES)
    save_pictures(tmp_path / "ship" / "old", PICTURES)
    assert read_pictures(str(tmp_path)).legend.names == ("ship", "train")
    save_pictures(tmp_path / "test", PICTURES)
    (tmp_path / "ship").rename(tmp_path / ".ship")
    assert read_pictures(str(tmp_path)).legend.names == ("test", "train")


def test_pictures_of_other_formats_are_counted(tmp_path, capsys):
    save_pictures(tmp_path, PICTURES)
    for name in ("a.gif", "b.TIFF", "c.jfif", "notes.txt", ".hidden.gif"):
        (tmp_path / name).write_bytes(b"no matter")
    assert len(read_pictures(str(tmp_path)).images) == 5
    told = [line for line in capsys.readouterr().err.splitlines() if line.startswith("left out")]
    assert len(told) == 1
    assert "3 files, a.gif (none of .bmp, .jpeg, .jpg, .png, .webp)" in told[0]


def test_names_are_found_in_either_spelling_of_unicode(tmp_path):
    """As a Mac writes them, in letters and their dots, and as others do."""
    two, one = (unicodedata.normalize(form, "Bär") for form in ("NFD", "NFC"))
    assert two != one
    for name in (f"{two} 1.png", f"{one} 2.png"):
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "labels.csv").write_text(f"file,label\n{one} 1.png,{one}\n{two} 2.png,{one}\n")
    source = folder_source(tmp_path, 0.0)
    for number in range(2):
        with source.read(number) as picture:
            assert picture.size == (8, 8)
    assert source.class_names == (one,)
    for asked in (one, two):
        assert Labels((two, "Hund")).parse(asked).tolist() == [1]


def test_a_class_in_two_spellings_is_refused(tmp_path):
    for form in ("NFD", "NFC"):
        folder = tmp_path / unicodedata.normalize(form, "Bär")
        folder.mkdir()
        Image.new("L", (8, 8)).save(folder / "a.png")
    with pytest.raises(ValueError, match="has the class 'Bär', 2 times; rename it"):
        folder_source(tmp_path, 0.0)
