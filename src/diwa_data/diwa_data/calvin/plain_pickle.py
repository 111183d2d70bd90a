"""Pickles of plain values and numpy's arrays, read without running anything that they name.

The instructions are `pickletools`', which only takes a pickle apart. What they build is made here: lists, tuples, dicts
and sets of text, bytes and numbers, and arrays from a checked dtype, shape and number of bytes (protocols 2 to 5, names
of old and new numpy).
"""

from __future__ import annotations

import io
import math
import pickletools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

_DEEPEST = 50  # containers within containers
_Scalar = (str, bytes, int, float, complex, type(None))
_LITERALS = re.compile("(SHORT_|LONG_)?(BIN)?(INT|LONG|FLOAT|BYTES|UNICODE|STRING)[0-9]*|BYTEARRAY8")
_DTYPE = re.compile(r"[biufcUS]\d{1,9}|O8?")
_ORDERS = "<>=|"


@dataclass(frozen=True)
class _Name:
    """A function or class that the pickle names; only known ones get so far."""

    make: str


@dataclass(eq=False)
class _Call:
    """A call of one that will be made up for at the end, when its state is known."""

    make: str
    arguments: Any
    state: Any = None


_ARRAY, _CLASS = "array", "ndarray"
_NAMES = {
    ("numpy", "ndarray"): _CLASS,
    ("numpy", "dtype"): "dtype",
    ("_codecs", "encode"): "encode",
    **{(f"numpy.{core}.multiarray", "_reconstruct"): _ARRAY for core in ("core", "_core")},
    **{(f"numpy.{core}.multiarray", "scalar"): "scalar" for core in ("core", "_core")},
    **{(f"numpy.{core}.numeric", "_frombuffer"): "buffer" for core in ("core", "_core")},
    **{
        (module, kind): kind
        for module in ("builtins", "__builtin__")
        for kind in ("bytearray", "bytes", "complex", "frozenset", "set")
    },
}


def load(content: bytes) -> Any:
    """The value that a pickle holds; bytes behind it are not looked at.

    Raises `ValueError` (or another of Python's errors of values, types and look-ups) where it is damaged or asks for
    anything but plain values.
    """
    machine = _Machine()
    for opcode, argument, _ in pickletools.genops(io.BytesIO(content)):
        if opcode.name == "STOP":
            return _Values().of(machine.stack.pop(), 0)
        machine.do(opcode.name, argument)
    raise ValueError("it ends early")


class _Machine:
    """The stack and memo of a pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def do(self, name: str, argument: Any) -> None:
        """One instruction."""
        push = self.stack.append
        if _LITERALS.fullmatch(name):
            push(argument)
        elif name in _CONSTANTS:
            push(_CONSTANTS[name]())
        elif name == "MARK":
            self._marks.append(len(self.stack))
        elif name in ("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"):
            self._memo[len(self._memo) if name == "MEMOIZE" else int(argument)] = self.stack[-1]
        elif name in ("GET", "BINGET", "LONG_BINGET"):
            push(self._memo[int(argument)])
        elif name in ("POP", "POP_MARK", "DUP"):
            self._discard(name)
        elif name in ("GLOBAL", "STACK_GLOBAL"):
            push(_name(*(argument.split(" ", 1) if name == "GLOBAL" else self._pop(2))))
        elif name in ("REDUCE", "BUILD"):
            self._call(name)
        elif name not in ("PROTO", "FRAME"):
            self._collect(name)

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) - (self._marks[-1] if self._marks else 0) < count:
            raise ValueError("its stack is empty")
        values = self.stack[len(self.stack) - count :]
        del self.stack[len(self.stack) - count :]
        return values

    def _pop_to_mark(self) -> list[Any]:
        return self._pop(len(self.stack) - self._marks.pop()) if self._marks else self._pop(len(self.stack) + 1)

    def _discard(self, name: str) -> None:
        if name == "DUP":
            self.stack.append(self.stack[-1])
        elif name == "POP_MARK":
            self._pop_to_mark()
        else:
            self._pop(1)

    def _call(self, name: str) -> None:
        target, argument = self._pop(2)
        if name == "REDUCE" and isinstance(target, _Name) and isinstance(argument, tuple):
            self.stack.append(_Call(target.make, argument))
        elif name == "BUILD" and isinstance(target, _Call) and target.state is None and isinstance(argument, tuple):
            target.state = argument
            self.stack.append(target)
        else:
            raise ValueError("it calls or changes what is no array")

    def _collect(self, name: str) -> None:
        """Make or fill a list, tuple, dict or set."""
        if name in ("TUPLE1", "TUPLE2", "TUPLE3"):
            self.stack.append(tuple(self._pop(int(name[-1]))))
            return
        items = self._pop(1) if name == "APPEND" else self._pop(2) if name == "SETITEM" else self._pop_to_mark()
        if name in _COLLECT:
            self.stack.append(_COLLECT[name](items))
            return
        if name not in _FILL:
            raise ValueError(f"its instruction {name} makes no plain value")
        kind, fill = _FILL[name]
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"it fills a {type(self.stack[-1]).__name__} by {name}")
        fill(self.stack[-1], items)


def _name(module: Any, name: Any) -> _Name:
    if not isinstance(module, str) or not isinstance(name, str):
        raise ValueError("it asks for what has no name")
    made = _NAMES.get((module, name))
    if made is None:
        raise ValueError(f"it asks for {module[:80]}.{name[:80]}, which is neither plain nor numpy's")
    return _Name(made)


def _scalars(values: list[Any]) -> list[Any]:
    """Keys and elements of sets: nothing whose hash could take long."""
    if not all(isinstance(value, _Scalar) for value in values):
        raise ValueError("a key or an element of a set is neither text nor a number")
    return values


def _dict(items: list[Any]) -> dict[Any, Any]:
    return dict(zip(_scalars(items[::2]), items[1::2], strict=True))


def _set(items: list[Any]) -> set[Any]:
    return set(_scalars(items))


_CONSTANTS: dict[str, Callable[[], Any]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": list,
    "EMPTY_TUPLE": tuple,
    "EMPTY_DICT": dict,
    "EMPTY_SET": set,
}
_COLLECT: dict[str, Callable[[list[Any]], Any]] = {
    "LIST": list,
    "TUPLE": tuple,
    "DICT": _dict,
    "FROZENSET": lambda items: frozenset(_set(items)),
}
_FILL: dict[str, tuple[type, Callable[[Any, list[Any]], None]]] = {
    "APPEND": (list, list.extend),
    "APPENDS": (list, list.extend),
    "SETITEM": (dict, lambda made, items: made.update(_dict(items))),
    "SETITEMS": (dict, lambda made, items: made.update(_dict(items))),
    "ADDITEMS": (set, lambda made, items: made.update(_set(items))),
}


class _Values:
    """What the machine left, with every call made up for; each object once, cycles and deep nesting refused."""

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, Any]] = {}  # the first keeps the id taken

    def of(self, value: Any, depth: int) -> Any:
        if isinstance(value, (*_Scalar, bytearray, set, frozenset)):
            return value
        if depth > _DEEPEST:
            raise ValueError(f"its values lie more than {_DEEPEST} deep in one another")
        if id(value) not in self._done:
            self._done[id(value)] = (value, self)
            self._done[id(value)] = (value, self._made(value, depth + 1))
        made = self._done[id(value)][1]
        if made is self:
            raise ValueError("one of its values holds itself")
        return made

    def _made(self, value: Any, depth: int) -> Any:
        if isinstance(value, list | tuple):
            return type(value)(self.of(each, depth) for each in value)
        if isinstance(value, dict):
            return {key: self.of(each, depth) for key, each in value.items()}
        if not isinstance(value, _Call) or value.make == _CLASS:
            raise ValueError("it leaves a function or class, not a value")
        arguments = [None if isinstance(each, _Name) else self.of(each, depth) for each in value.arguments]
        state = None if value.state is None else self.of(value.state, depth)
        if state is not None and value.make not in (_ARRAY, "dtype"):
            raise ValueError(f"it changes a {value.make}")
        return _MAKERS[value.make](arguments, state)


def _dtype(arguments: list[Any], state: Any) -> np.dtype:
    code = arguments[0]
    if not isinstance(code, str) or not _DTYPE.fullmatch(code):
        raise ValueError("a dtype is none of plain numbers and text")  # what else it is may take long to say
    dtype = np.dtype(code)
    if state is None:
        return dtype
    _, order, *structure = state
    if not isinstance(order, str) or order not in _ORDERS or any(each is not None for each in structure[:3]):
        raise ValueError(f"dtype {code} has a structure")
    return dtype.newbyteorder(order)  # type: ignore[arg-type]


def _array(arguments: list[Any], state: Any) -> np.ndarray:
    shape, dtype, fortran, content = state[-4:]
    return _filled(content, dtype, shape, "F" if fortran else "C")


def _scalar(arguments: list[Any], state: Any) -> Any:
    dtype, content = arguments
    return _filled(content, dtype, (), "C")[()]


def _from_buffer(arguments: list[Any], state: Any) -> np.ndarray:
    content, dtype, shape, order = arguments
    return _filled(content, dtype, shape, order)


def _filled(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """The array of these bytes (or objects), if they are as many as its shape asks for."""
    if not isinstance(dtype, np.dtype) or not isinstance(shape, tuple) or order not in ("C", "F"):
        raise ValueError("an array has no dtype, shape or order")
    if not all(isinstance(size, int) and size >= 0 for size in shape) or len(shape) > 16:
        raise ValueError("an array has a negative size, or too many")
    if dtype.hasobject:
        if not isinstance(content, list) or len(content) != math.prod(shape):
            raise ValueError(f"an array of shape {shape} has not as many values")
        array = np.empty(len(content), object)
        for index, each in enumerate(content):
            array[index] = each
        return array.reshape(shape, order=order)
    wanted = math.prod(shape) * dtype.itemsize
    if not isinstance(content, bytes | bytearray) or len(content) != wanted or not dtype.itemsize:
        raise ValueError(f"an array of {wanted} bytes has not as many")
    if dtype.kind == "U":
        codes = np.frombuffer(content, np.dtype("u4").newbyteorder(dtype.byteorder))
        if ((codes > 0x10FFFF) | ((codes >= 0xD800) & (codes < 0xE000))).any():
            raise ValueError("an array of text holds what is no character")
    if dtype.kind == "b":
        return (np.frombuffer(content, np.uint8) != 0).reshape(shape, order=order)
    return np.frombuffer(bytearray(content), dtype).reshape(shape, order=order)


def _bytes(arguments: list[Any], state: Any) -> bytes:
    text, encoding = arguments
    if encoding not in ("latin1", "latin-1"):
        raise ValueError("bytes are written in an unknown way")
    return text.encode("latin1")


def _plain(make: Callable[..., Any], *kinds: type) -> Callable[[list[Any], Any], Any]:
    """A maker from arguments of these types."""

    def made(arguments: list[Any], state: Any) -> Any:
        if len(arguments) > len(kinds) or not all(map(isinstance, arguments, kinds)):
            raise ValueError(f"a {make.__name__} is made of something else")
        return make(*arguments)

    return made


_MAKERS: dict[str, Callable[[list[Any], Any], Any]] = {
    "dtype": _dtype,
    _ARRAY: _array,
    "scalar": _scalar,
    "buffer": _from_buffer,
    "encode": _bytes,
    "complex": _plain(complex, float, float),
    "bytearray": _plain(bytearray, bytes),
    "bytes": _plain(bytes),
    "set": _plain(_set, list),
    "frozenset": _plain(lambda items: frozenset(_set(items)), list),
}
