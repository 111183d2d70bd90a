"""Pickles of plain values and numpy's arrays, read without running anything that they name.

The unpickler is Python's own, of which only the instructions that make plain values are left. Whatever a pickle calls
is made here, of checked arguments: an array of its dtype, shape and number of bytes (protocols 2 to 5, names of old and
new numpy, bytes as Python 2 wrote them). Python's unpickler in C cannot serve for that: it hashes any key and makes
room for any number of memos.
"""

from __future__ import annotations

import io
import math
import pickle
import re
import struct
from collections.abc import Callable
from types import FunctionType
from typing import Any, ClassVar

import numpy as np

_SCALARS = (str, bytes, int, float, complex, type(None))
_DTYPE = re.compile(r"[biufcUS]\d{1,9}|O8?")
_INSTRUCTIONS = """
    PROTO FRAME STOP MARK POP POP_MARK DUP GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL
    NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT STRING BINSTRING SHORT_BINSTRING
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8 BINBYTES SHORT_BINBYTES BINBYTES8
    EMPTY_LIST EMPTY_DICT EMPTY_TUPLE EMPTY_SET LIST TUPLE TUPLE1 TUPLE2 TUPLE3 APPEND APPENDS
"""


def load(content: bytes) -> Any:
    """The value that a pickle holds; bytes behind it are not looked at.

    Raises `ValueError`, or whatever else Python raises on damage, if it is damaged or asks for anything but plain
    values. Values may hold themselves.
    """
    value = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    pending, seen = [value], set()
    while pending:
        each = pending.pop()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict):
            pending += each.values()
        elif isinstance(each, list | tuple):
            pending += each
        elif isinstance(each, np.ndarray):
            pending += each.flat if each.dtype.hasobject else []
        elif not isinstance(each, (*_SCALARS, bytearray, set, frozenset, np.generic)):
            raise ValueError("it leaves a function or class, not a value")
    return value


class _Unpickler(pickle._Unpickler):
    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: pickle._Unpickler.dispatch[code] for code in (getattr(pickle, name)[0] for name in _INSTRUCTIONS.split())
    }
    stack: list[Any]
    append: Callable[[Any], None]
    pop_mark: Callable[[], list[Any]]
    read: Callable[[int], bytes]

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("numpy", "ndarray"):
            return None  # the class that an array is told to have
        package = re.sub(r"^numpy\._?core\.", "numpy.", module)
        if (package, name) not in _MAKERS:
            raise ValueError(f"it asks for {module[:80]}.{name[:80]}, which is neither plain nor numpy's")
        return _MAKERS[package, name]

    def load_reduce(self) -> None:
        arguments, make = self.stack.pop(), self.stack.pop()
        if not isinstance(make, FunctionType) or not isinstance(arguments, tuple):
            raise ValueError("it calls what is not a function")
        self.append(make(*arguments))

    def load_build(self) -> None:
        state, made = self.stack.pop(), self.stack[-1]
        if isinstance(made, _Dtype):
            made.complete(*state)
        elif isinstance(made, np.ndarray) and made.size == 0:
            shape, dtype, fortran, content = state[-4:]
            made.__setstate__(_array(content, dtype, shape, "F" if fortran else "C").__reduce__()[2])  # type: ignore[arg-type]
        else:
            raise ValueError("it changes what is not an array")

    def load_bytearray8(self) -> None:
        self.append(bytearray(self.read(*struct.unpack("<Q", self.read(8)))))

    def load_dict(self) -> None:
        self.append(_dict(self.pop_mark()))

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._fill(dict, _dict([key, value]))

    def load_setitems(self) -> None:
        items = _dict(self.pop_mark())
        self._fill(dict, items)

    def load_additems(self) -> None:
        items = _set(self.pop_mark())
        self._fill(set, items)

    def load_frozenset(self) -> None:
        self.append(frozenset(_set(self.pop_mark())))

    def _fill(self, kind: type[Any], items: Any) -> None:
        if type(self.stack[-1]) is not kind:
            raise ValueError(f"it fills a {type(self.stack[-1]).__name__} as a {kind.__name__}")
        self.stack[-1].update(items)

    for _name in ("REDUCE", "BUILD", "BYTEARRAY8", "DICT", "SETITEM", "SETITEMS", "ADDITEMS", "FROZENSET"):
        dispatch[getattr(pickle, _name)[0]] = locals()[f"load_{_name.lower()}"]


def _dict(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(_scalars(items[::2]), items[1::2], strict=True))


def _set(items: list[Any]) -> set[Any]:
    return set(_scalars(items))


def _scalars(values: list[Any]) -> list[Any]:
    """Keys and elements of sets: nothing whose hash could take long."""
    if not all(isinstance(value, _SCALARS) for value in values):
        raise ValueError("a key or an element of a set is neither text nor a number")
    return values


class _Dtype:
    """A dtype of numbers, text or objects; its byte order comes last."""

    def __init__(self, code: Any, *_flags: Any):
        if not isinstance(code, str) or not _DTYPE.fullmatch(code):
            raise ValueError("a dtype is none of plain numbers and text")  # what else it is may take long to say
        self.dtype = np.dtype(code)

    def complete(self, version: Any, order: Any, *structure: Any) -> None:
        if order not in ("<", ">", "=", "|") or any(each is not None for each in structure[:3]):
            raise ValueError(f"dtype {self.dtype} has a structure")
        self.dtype = self.dtype.newbyteorder(order)


def _array(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """The array of these bytes (or objects), if they are as many as its shape asks for."""
    if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise ValueError("an array has no dtype, shape or order")
    if not all(isinstance(size, int) and size >= 0 for size in shape) or len(shape) > 16:
        raise ValueError("an array has a negative size, or too many")
    kind = dtype.dtype
    if kind.hasobject:
        if not isinstance(content, list) or len(content) != math.prod(shape):
            raise ValueError(f"an array of shape {shape} has not as many values")
        array = np.empty(len(content), object)
        for index, each in enumerate(content):
            array[index] = each
        return array.reshape(shape, order=order)
    wanted = math.prod(shape) * kind.itemsize
    content = content.encode("latin1") if isinstance(content, str) else content  # as Python 2 wrote it
    if not isinstance(content, bytes | bytearray) or len(content) != wanted or not kind.itemsize:
        raise ValueError(f"an array of {wanted} bytes has not as many")
    if kind.kind == "U":
        codes = np.frombuffer(content, np.dtype("u4").newbyteorder(kind.byteorder))
        if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
            raise ValueError("an array of text holds what is not a character")
    if kind.kind == "b":
        return (np.frombuffer(content, np.uint8) != 0).reshape(shape, order=order)
    return np.frombuffer(bytearray(content), kind).reshape(shape, order=order)


def _encoded(text: str, encoding: str) -> bytes:
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes are written in an unknown way")
    return text.encode("latin1")


def _bytearray(*arguments: Any) -> bytearray:
    """The bytearray made of bytes, or, as protocol 2 has it, of text and its encoding."""
    if arguments and isinstance(arguments[0], str):
        arguments = (_of(_encoded, str, str)(*arguments),)
    return _of(bytearray, bytes)(*arguments)


def _of(make: Callable[..., Any], *kinds: type) -> Callable[..., Any]:
    """`make`, for arguments of these types."""

    def made(*arguments: Any) -> Any:
        if len(arguments) > len(kinds) or not all(map(isinstance, arguments, kinds)):
            raise ValueError("a plain value is made of something else")
        return make(*arguments)

    return made


_MAKERS: dict[tuple[str, str], Callable[..., Any]] = {
    ("numpy", "dtype"): lambda *arguments: _Dtype(*arguments),
    ("numpy.multiarray", "_reconstruct"): lambda kind, shape, code: np.empty(0, np.int8),
    ("numpy.multiarray", "scalar"): lambda dtype, content: _array(content, dtype, (), "C")[()],
    ("numpy.numeric", "_frombuffer"): lambda content, dtype, shape, order: _array(content, dtype, shape, order),
    ("_codecs", "encode"): _of(_encoded, str, str),
    **{
        (module, name): make
        for module in ("builtins", "__builtin__")
        for name, make in {
            "complex": _of(complex, float, float),
            "bytearray": _bytearray,
            "bytes": _of(bytes, bytes),
            "set": _of(_set, list),
            "frozenset": _of(lambda items: frozenset(_set(items)), list),
        }.items()
    },
}
