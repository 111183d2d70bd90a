"""Pickles that others wrote: plain values and arrays are read, nothing that they name is run."""

import math
import pickle
import pickletools
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_data.calvin import plain_pickle
from diwa_data.calvin.format import load_pickled_array
from diwa_data.errors import DiwaError


def write(path: Path, pickled: bytes) -> Path:
    """A `.npy` file of one pickled object."""
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": ()})
        file.write(pickled)
    return path


def old_names(pickled: bytes) -> bytes:
    """A pickle of protocol 2 or 3 as numpy 1 wrote it."""
    return pickled.replace(b"cnumpy._core.", b"cnumpy.core.")


def same(one, other) -> bool:
    if isinstance(one, np.ndarray):
        return isinstance(other, np.ndarray) and one.dtype == other.dtype and np.array_equal(one, other)
    if isinstance(one, dict):
        return type(other) is dict and one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return type(one) is type(other) and len(one) == len(other) and all(map(same, one, other))
    return type(one) is type(other) and one == other


NUMBERS = st.integers(-(2**70), 2**70) | st.floats(allow_nan=False) | st.booleans() | st.none()
ARRAYS = st.sampled_from(["b1", "u1", ">i4", "i8", "f4", "<f8", "c16", "U3", "S2"]).flatmap(
    lambda dtype: st.lists(st.integers(0, 99), max_size=6).map(lambda row: np.array(row).astype(dtype))
)
LEAVES = (
    NUMBERS
    | st.text(max_size=5)
    | st.binary(max_size=300)
    | st.binary(max_size=9).map(bytearray)
    | ARRAYS
    | st.integers(-9, 9).map(np.int64)
)
VALUES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
        | st.sets(st.integers(), max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=200)
@given(VALUES, st.integers(2, 5))
def test_plain_values_and_arrays_are_read_as_they_were_written(value, protocol: int) -> None:
    pickled = pickle.dumps(value, protocol)
    expected = pickle.loads(pickled)  # arrays of another byte order come in this machine's
    assert same(expected, plain_pickle.load(pickled))
    if protocol < 4:
        assert same(expected, plain_pickle.load(old_names(pickled)))


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_an_annotation_file_of_any_protocol_is_read(protocol: int, tmp_path: Path) -> None:
    matrix = np.asfortranarray(np.arange(6.0).reshape(2, 3))
    content = {"emb": matrix, "indx": [(np.int64(3), 5)], "text": ["a"], "set": {1}, "flag": np.bool_(True)}
    pickled = pickle.dumps(np.array(content, object), protocol)
    for variant in (pickled, old_names(pickled) if protocol < 4 else pickled):
        assert same(content, load_pickled_array(write(tmp_path / "some.npy", variant)))


class Harmful:
    def __reduce__(self):
        return (exec, ("import pathlib; pathlib.Path('harmed').touch()",))


@pytest.mark.parametrize("content", [{"a": Harmful()}, {"a": OrderedDict()}, [Path("x")]])
def test_a_pickle_that_names_anything_else_is_refused(content, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.save("auto_lang_ann.npy", np.array(content, object), allow_pickle=True)
    with pytest.raises(DiwaError, match=r"auto_lang_ann.npy.*neither plain nor numpy's"):
        load_pickled_array(tmp_path / "auto_lang_ann.npy")
    assert not Path("harmed").exists()


def nested(open_: bytes, close: bytes, depth: int) -> bytes:
    return b"\x80\x04" + open_ * depth + b"N" + close * depth + b"."


ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tC\x01btR"
DTYPE = (
    b"cnumpy\ndtype\n(X\x02\x00\x00\x00%sI00\nI01\ntR(K\x03X\x01\x00\x00\x00<NNN"
    + b"J\xff\xff\xff\xff" * 2
    + b"K\x00tb"
)


def array(shape: bytes, dtype: bytes, content: bytes) -> bytes:
    return (
        b"\x80\x03"
        + ARRAY
        + b"(K\x01("
        + shape
        + b"t"
        + DTYPE % dtype
        + b"I00\nC"
        + bytes([len(content)])
        + content
        + b"tb."
    )


@pytest.mark.parametrize(
    "pickled",
    [
        b"\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7f\x85X\x02\x00\x00\x00f8tR.",  # numpy.ndarray((2147483647,), "f8")
        b"\x80\x02cnumpy\ndtype\n(X\x01\x00\x00\x00OtR.",
        b"\x80\x02cnumpy\nndarray\n.",
        array(b"J\xff\xff\xff\x7f", b"f8", bytes(8)),  # more than there is
        array(b"J\xff\xff\xff\xff", b"f8", bytes(8)),  # a negative size
        array(b"K\x01", b"O8", bytes(8)),  # a pointer
        array(b"K\x01", b"V8", bytes(8)),
        array(b"K\x01", b"U2", b"\xff" * 8),  # no characters
        nested(b"]", b"a", 100_000),
        nested(b"", b"\x85", 100_000),
        b"\x80\x04}" + nested(b"", b"\x85", 100_000)[2:-1] + b"K\x01s.",  # a key whose hash would be deep
        b"\x80\x04]\x94h\x00a.",  # a list that holds itself
        b"\x80\x04\x8a\xff.",
        b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7fx.",
        b"\x80\x05\x96" + b"\xff" * 7 + b"\x7fx.",
        b"\x80\x05cbuiltins\nbytearray\n\x8a\x06" + b"\x7f" * 6 + b"\x85R.",
        b"\x80\x04Nr\xff\xff\xff\x7f.",  # the two thousand millionth memo
        b"\x80\x04cbuiltins\nset\n)\x81.",
        b"\x80\x04cnumpy\ndtype\n}b.",
        b"\x80\x04K\x01.",
        b"",
        b"\x80\x04Pabc\n.",
        b"\x80\x04(K\x01iexec\nbuiltins\n.",
    ],
)
def test_a_crafted_pickle_is_one_clear_error(pickled: bytes, tmp_path: Path) -> None:
    with pytest.raises(DiwaError, match=r"x\.npy cannot be read"):
        load_pickled_array(write(tmp_path / "x.npy", pickled))


@pytest.mark.parametrize("use", [b"h\x28h\x28\x93.", b"cnumpy\ndtype\nh\x28\x85R."])
def test_a_value_that_unfolds_without_end_is_not_unfolded(use: bytes) -> None:
    """Forty lists, each twice in the next: as text they are 2^40 long."""
    lists = b"".join(b"]\x94(" + 2 * (b"h" + bytes([k])) + b"e" for k in range(40))
    with pytest.raises((ValueError, pickle.UnpicklingError), match=r"requires str|a dtype is none"):
        plain_pickle.load(b"\x80\x04]\x94" + lists + use)


def test_an_array_crafted_rightly_is_read() -> None:
    np.testing.assert_array_equal(plain_pickle.load(array(b"K\x01", b"f8", bytes(8))), [0.0])


@pytest.mark.parametrize("dtype", ["<f8", "<i8", "|u1", "|S3"])
def test_arrays_that_python_2_wrote_are_read(dtype: str) -> None:
    """Old numpy pickled with protocol 2, in which Python 2 has bytes as text."""
    numbers = np.array([3, 200]).astype(dtype)
    content = numbers.tobytes()
    order, code = dtype[0].encode(), dtype[1:].encode()
    pickled = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85U\x01b\x87Rq\x03"
    pickled += b"(K\x01K\x02\x85cnumpy\ndtype\nq\x04U" + bytes([len(code)]) + code + b"K\x00K\x01\x87Rq\x05"
    pickled += b"(K\x03U\x01" + order + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    pickled += b"\x89U" + bytes([len(content)]) + content + b"tb."
    assert same(numbers, plain_pickle.load(pickled))


OPCODES = st.sampled_from([opcode.code.encode("latin1") for opcode in pickletools.opcodes])


@settings(max_examples=300)
@given(st.lists(OPCODES | st.binary(max_size=8), max_size=30))
def test_no_instructions_are_run_or_crash(instructions) -> None:
    """Whatever comes out is plain."""
    try:
        value = plain_pickle.load(b"".join(instructions) + b".")
    except Exception:
        return
    pending, seen = [value], set()
    while pending:
        value = pending.pop()
        if id(value) in seen:
            continue
        seen.add(id(value))
        assert type(value) in (
            *(
                list,
                tuple,
                dict,
                set,
                frozenset,
                str,
                bytes,
                bytearray,
                int,
                bool,
                float,
                complex,
                type(None),
                np.ndarray,
            ),
        ) or isinstance(value, np.generic)
        pending += [*value] if isinstance(value, list | tuple | set | frozenset) else []
        pending += [*value.keys(), *value.values()] if isinstance(value, dict) else []


def test_headers_of_array_files_are_bounded_by_the_file(tmp_path: Path) -> None:
    for shape in ((10**12,), (-1,), ()):
        with (tmp_path / "x.npy").open("wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|O", "fortran_order": False, "shape": shape})
            file.write(pickle.dumps([0] * max(1, min(3, math.prod(shape)))))
        with pytest.raises(DiwaError, match="cannot be read"):
            load_pickled_array(tmp_path / "x.npy")
