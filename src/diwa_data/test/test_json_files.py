"""JSON files: whatever is in one, it is a value or one clear error."""

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diwa_data.errors import DiwaError
from diwa_data.files import parse_json, read_json, read_object, require_same_settings, write_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(max_examples=50)
@given(VALUES)
def test_what_was_written_is_read(tmp_path_factory: pytest.TempPathFactory, value: object) -> None:
    path = tmp_path_factory.mktemp("json") / "value.json"
    write_json(path, value)
    assert read_json(path, "write it again") == value


@settings(max_examples=300)
@given(st.binary(max_size=40) | st.text(alphabet='{}[]":,\\ue-019truefalsn', max_size=40).map(str.encode))
def test_any_bytes_are_a_value_or_an_error(content: bytes) -> None:
    try:
        parse_json(content, "x.json", "write it again")
    except DiwaError as error:
        assert str(error).startswith("x.json is damaged (")  # noqa: PT017
        assert str(error).endswith("): write it again")  # noqa: PT017


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "damaged"),
        (b'{"a": 1', "damaged"),
        (b"\xff\xfe{}", "decode"),
        (b"[" * 200_000, "damaged"),
        (b"[" * 200 + b"]" * 200, "nested more than 100 deep"),
        (b"9" * 5000, "digits"),
        (b"1" + b"0" * 400, "an integer of 1329 bits"),
        (b'["\\ud800"]', "surrogates not allowed"),
    ],
)
def test_each_kind_of_damage_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "x.json").write_bytes(content)
    with pytest.raises(DiwaError, match=message) as raised:
        read_json(tmp_path / "x.json", "write it again")
    assert str(tmp_path / "x.json") in str(raised.value)
    assert len(str(raised.value)) < 400


def test_missing_foreign_and_huge_files(tmp_path: Path) -> None:
    with pytest.raises(DiwaError, match=r"x\.json is missing: write it again"):
        read_json(tmp_path / "x.json", "write it again")
    (tmp_path / "x.json").write_text("[1]")
    with pytest.raises(DiwaError, match=r"holds no JSON object"):
        read_object(tmp_path / "x.json", "write it again")
    with (tmp_path / "x.json").open("wb") as file:
        file.truncate(10**12)  # sparse
    with pytest.raises(DiwaError, match="1000000 MB, at most 200 are read"):
        read_json(tmp_path / "x.json", "write it again")


def test_what_was_begun_with_other_settings_is_refused() -> None:
    earlier = {"seed": 1, "sim": {"size": [2, 3], "name": "table"}, "workers": 2}
    require_same_settings("runs/a", earlier, earlier | {"sim": {"size": (2, 3), "name": Path("table")}})
    require_same_settings("runs/a", earlier, earlier | {"workers": 4}, free=("workers",))
    with pytest.raises(
        DiwaError,
        match=r"^runs/a was begun with other settings: sim\.size was \[2, 3\], is \[2, 4\]; "
        r"sim\.name was 'table', is None; alpha was None, is 0\.5\. Restore them, or choose another folder$",
    ):
        require_same_settings("runs/a", earlier, earlier | {"sim": {"size": (2, 4)}, "alpha": 0.5})


def test_what_is_older_than_a_setting_was_begun_with_its_default() -> None:
    earlier, usual = {"sim": {"size": [2, 3]}}, {"sim": {"size": (9, 9), "name": "table"}, "alpha": 0.5, "gone": 1}
    require_same_settings("runs/a", earlier, {"sim": {"size": (2, 3), "name": "table"}, "alpha": 0.5}, usual=usual)
    with pytest.raises(DiwaError, match=r"sim\.name was 'table', is 'chair'; alpha was 0\.5, is None\."):
        require_same_settings("runs/a", earlier, {"sim": {"size": (2, 3), "name": "chair"}, "alpha": None}, usual=usual)
