"""The YAML written here, read by PyYAML: what went in comes out, whatever the names."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from previa.errors import InputError
from previa.export import _yaml

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(TEXT, VALUES, max_size=5))
def test_what_is_written_is_read_again(value):
    found = yaml.safe_load(_yaml.dump(value, "a comment: {\n- of two lines")) if value else {}
    assert found == value


@pytest.mark.parametrize(
    "name",
    ["yes", "no", "null", "1e3", "0x1f", "2024-01-01", "a: b", "# a", "- a", "*a", "&a", "!a", "%a", "@a", "'", '"', "\\",
     "a\nb", "\t", " a ", "", "~", "=", "<<", "é", "\U0001f600", "\x7f", "\x85", "\u2028", "\ufeff", "[a]", "{a}", "on", "id"],
)  # fmt: skip
def test_no_name_is_read_as_anything_else(name):
    value = {name: name, "list": [name, {name: [name]}]}
    assert yaml.safe_load(_yaml.dump(value)) == value


def test_small_and_large_numbers_stay_numbers():
    value = {"a": 1e-05, "b": 1e16, "c": -2.5e-300, "d": 0.1, "e": 5}
    assert yaml.safe_load(_yaml.dump(value)) == value


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(InputError, match="finite"):
        _yaml.dump({"a": float("nan")})
