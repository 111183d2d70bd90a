"""Damage of other kinds than flipped bits; all seeded."""

from __future__ import annotations

import copy
import json
import math
import pickletools
import random
from collections.abc import Callable
from typing import Any

_ODD: list[Any] = [
    *(None, True, -1, 0, 10**30, 2**63, 1e308, math.nan, math.inf, -math.inf, "", "x", "..", "/etc/passwd", "\ud800"),
    *([], {}, [[]], {"x": 1}, [1, 2, 3], "x" * 10_000, [0] * 1000),
]


def scramble(content: bytes, rng: random.Random) -> bytes:
    """One to eight bytes flipped, put in, taken out, repeated or overwritten; sometimes the end is cut off."""
    damaged = bytearray(content)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(damaged) or 1)
        length = rng.choice([1, 2, 4, 8, 64])
        change = rng.randrange(6)
        if change == 0:
            damaged[at : at + 1] = bytes([rng.randrange(256)])
        elif change == 1:
            damaged[at:at] = rng.randbytes(length)
        elif change == 2:
            del damaged[at : at + length]
        elif change == 3:
            damaged[at:at] = damaged[at : at + length]
        elif change == 4:
            damaged[at : at + length] = rng.choice([b"\xff", b"\x00", b"\x7f"]) * length
        else:
            del damaged[max(at, 1) if rng.random() < 0.2 else len(damaged) :]
    return bytes(damaged)


def random_pickle(content: bytes, rng: random.Random) -> bytes:
    """`content` up to its pickle, then instructions of pickle in any order with any arguments."""
    start = content.index(b"\x80")
    codes = [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
    body = b"\x80\x04"
    for _ in range(rng.randint(1, 60)):
        body += rng.choice(codes) + rng.choice([b"", b"\x01", b"\x00" * 4, rng.randbytes(rng.randint(1, 9)), b"8\n"])
        if rng.random() < 0.2:
            body += rng.choice(
                [b"cnumpy\nndarray\n", b"cnumpy\ndtype\n", b"cbuiltins\nexec\n", b"K\x00\x85R", b"N\x86R"]
            )
    return content[:start] + body + b"."


def changed_json(repack: Callable[[Any], Any], free: tuple[str, ...] = ()) -> Callable[[bytes, random.Random], bytes]:
    """Damage that replaces a value of a JSON object, takes it out, or adds a key; `repack` makes its checksum anew.

    Below the keys `free` anything is allowed, so nothing is changed there.
    """

    def damage(content: bytes, rng: random.Random) -> bytes:
        value = json.loads(content)
        holder, key = rng.choice([place for place in _places(value) if place[0] is not value or place[1] not in free])
        old = copy.deepcopy(holder[key])
        change = rng.random()
        if change < 0.15 and isinstance(holder, dict):
            del holder[key]
        elif change < 0.25 and isinstance(holder, dict):
            holder[f"{key}x"] = holder.pop(key)
        else:
            holder[key] = rng.choice([odd for odd in _ODD if type(odd) is not type(old) or odd != old])
        return json.dumps(repack(value)).encode("utf-8", "surrogatepass")

    def _places(value: Any, depth: int = 0) -> list[tuple[Any, Any]]:
        keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else []
        inner = [place for key in keys if depth or key not in free for place in _places(value[key], depth + 1)]
        return [(value, key) for key in keys] + inner

    return damage
