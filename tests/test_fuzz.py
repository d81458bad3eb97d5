"""Whatever is in a file: it is read, or refused in one line."""

import json
import string
from dataclasses import fields

import pytest
import tomli_w
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save

import vfn.configs
from vfn.configs import Config, dumps, loads, override
from vfn.configs.schema import SECTIONS
from vfn.data import Labels
from vfn.model import DataShape, build_model
from vfn.runs import RunFiles, check_usable, digest, load_checkpoint, save_checkpoint
from vfn.train.state import checkpoint_of, init_state, restore


def refused(read, *arguments):
    """Whether a reader refuses something, which it must do in one line."""
    try:
        read(*arguments)
    except ValueError as error:
        message = str(error)
    else:
        return False
    assert message.isprintable()  # no line breaks, no codes that a terminal obeys
    return True


scalars = st.one_of(
    st.booleans(), st.integers(-2, 200), st.integers(), st.floats(), st.text(), st.datetimes(),
    st.dates(), st.times(),
    st.sampled_from([10**400, -(10**400), 1e308, "legacy", "fixed_medium", "bf16"]),
)  # fmt: skip
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=3),
)


def section(cls):
    known = st.sampled_from([field.name for field in fields(cls)])
    return st.dictionaries(known, values, max_size=3) | st.dictionaries(known | st.text(), values)


known_tables = st.fixed_dictionaries({}, optional={n: section(c) for n, c in SECTIONS.items()})
tables = known_tables | st.dictionaries(st.sampled_from(sorted(SECTIONS)) | st.text(), values)


@given(tables)
def test_tables(content):
    text = tomli_w.dumps(content)
    if not refused(loads, text):
        assert loads(dumps(loads(text))) == loads(text)


@given(st.text() | st.text(alphabet=string.printable))
def test_text(text):
    refused(loads, text)


@pytest.mark.parametrize("depth", [10, 100_000])
def test_nesting(depth):
    assert refused(loads, f"[train]\nsteps = {'[' * depth}{']' * depth}")


@given(st.binary())
def test_bytes_in_a_config_file(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "fuzz.toml"
    path.write_bytes(content)
    refused(vfn.configs.load, str(path))


CONFIG = override(
    Config(),
    {"hid_channels": 32, "ch_multipliers": [1], "apply_attn": [False], "num_res_blocks": 1},
)
SHAPE = DataShape(1, 4, 4, Labels(("a", "b")))


def fresh_state():
    return init_state(build_model(CONFIG, SHAPE), CONFIG.train)


@pytest.fixture(scope="module")
def valid(tmp_path_factory):
    """A checkpoint as it should be: bytes, metadata, tensors."""
    state = fresh_state()
    state.step = 7
    run = RunFiles(tmp_path_factory.mktemp("valid"))
    path = save_checkpoint(run, checkpoint_of(state, CONFIG, SHAPE), keep=1)
    with safe_open(path, "pt") as file:
        return path.read_bytes(), file.metadata(), load_file(path)


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    """Reads bytes as a checkpoint, and goes on from it."""
    path, state = tmp_path_factory.mktemp("fuzz") / "step-00000007.safetensors", fresh_state()

    def read(content):
        path.write_bytes(content)
        found = load_checkpoint(path)
        check_usable(found, state.params, resumed=True)
        restore(state, found)
        return found

    return read


def with_checksum(tensors, metadata):
    """A file whose only fault is its content."""
    return save(tensors, metadata | {"sha256": digest(tensors, metadata)})


def test_what_is_altered_below_was_valid(valid, read):
    content, metadata, tensors = valid
    assert read(content).step == read(with_checksum(tensors, metadata)).step == 7


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_bytes_in_a_checkpoint(read, header, rest):
    assert refused(read, header + rest)
    assert refused(read, len(header).to_bytes(8, "little") + header + rest)


@given(st.dictionaries(st.text(), values | st.none()), st.binary(max_size=50))
def test_headers(read, header, rest):
    header = json.dumps(header, default=str).encode()
    assert refused(read, len(header).to_bytes(8, "little") + header + rest)


@given(st.data())
def test_altered_bytes_are_noticed(valid, read, data):
    """Wherever they are, unless they are blanks around the header's JSON."""
    content = bytearray(valid[0])
    end = 8 + int.from_bytes(content[:8], "little")
    places = st.integers(0, end) | st.integers(0, len(content) - 1)
    for place in data.draw(st.lists(places, min_size=1, max_size=3, unique=True)):
        content[place] ^= data.draw(st.integers(1, 255))
    if not refused(read, bytes(content)):
        blank = valid[0][:end].rstrip()
        assert content[: len(blank)] == blank
        assert content[end:] == valid[0][end:]


@given(st.data())
def test_cut_and_stretched_files_are_noticed(valid, read, data):
    content, cut = valid[0], data.draw(st.integers(0, len(valid[0]) - 1))
    assert refused(read, content[:cut])
    assert refused(
        read, content[:cut] + data.draw(st.binary(min_size=1, max_size=9)) + content[cut:]
    )


shapes = st.fixed_dictionaries(
    {}, optional={name: st.integers(-1, 9) | values for name in DataShape._fields}
)
texts = st.one_of(
    st.text(),
    st.integers().map(str),
    (shapes | values).map(lambda value: json.dumps(value, default=str)),
    tables.map(tomli_w.dumps),
    st.sampled_from(["[" * 100_000, "9" * 5000, "9" * 400, "-1", "vfn-model-1"]),
)


@given(st.data())
def test_metadata(valid, read, data):
    _, metadata, tensors = valid
    names = st.sampled_from(sorted(metadata)) | st.text()
    changes = data.draw(st.dictionaries(names, texts | st.none(), min_size=1, max_size=2))
    changed = {n: text for n, text in (metadata | changes).items() if text is not None}
    refused(read, save(tensors, changed))
    refused(read, with_checksum(tensors, changed))


DTYPES = [torch.float64, torch.bfloat16, torch.float8_e4m3fn, torch.complex64, torch.bool]


@given(st.data())
def test_tensors(valid, read, data):
    """Left out, renamed, of other shapes and types."""
    _, metadata, tensors = valid
    tensors, counters = dict(tensors), [name for name in tensors if name.startswith("counters")]
    for name in data.draw(
        st.sets(st.sampled_from([*sorted(tensors), *counters]), min_size=1, max_size=2)
    ):
        value = tensors.pop(name)
        change = data.draw(st.sampled_from(["leave out", "rename", "shape", "type"]))
        if change == "rename":
            tensors[data.draw(st.text() | st.sampled_from(["params", "ema.", "counters.x"]))] = (
                value
            )
        if change == "shape":
            tensors[name] = torch.zeros(data.draw(st.lists(st.integers(0, 3), max_size=3)))
        if change == "type":
            tensors[name] = value.to(data.draw(st.sampled_from(DTYPES)))
    refused(read, with_checksum(tensors, metadata))
