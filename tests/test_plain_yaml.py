"""YAML as people write it: numbers of YAML 1.2, merges, nothing silently octal or base 60."""

from __future__ import annotations

import math

import pytest
import yaml

from mmn_utils.plain_yaml import load_yaml, read_yaml


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 0.001), ("1E5", 1e5), ("-2.5e+3", -2500.0), (".5", 0.5), ("5.", 5.0),
        ("01.5", 1.5),
        ("7", 7), ("+7", 7), ("-7", -7), ("0", 0), ("0x1F", 31), ("0o17", 15),
        ("1_000", "1_000"), ("1:30", "1:30"), ("190:20:30.15", "190:20:30.15"), ("0b11", "0b11"),
        ("1_0.5", "1_0.5"), ("yes", "yes"), ("no", "no"), ("on", "on"), ("off", "off"),
        ("2024-01-01", "2024-01-01"), ("true", True), ("False", False), ("~", None), ("", None),
        (".inf", math.inf), ("'010'", "010"), ("=", "="), ("e5", "e5"),
    ],
)  # fmt: skip
def test_scalars_are_those_of_the_core_schema(text, value):
    read = read_yaml(text)
    assert read == value
    assert type(read) is type(value)


@pytest.mark.parametrize("text", ["010", "-010", "09", "00", "[1, 007]", "{010: x}", "a: 0123"])
def test_an_int_with_leading_zeros_is_refused_with_both_remedies(text):
    with pytest.raises(yaml.YAMLError, match=r"write -?\d+ for the number, '-?\d+' in quotes"):
        read_yaml(text)


def test_merges_work_and_own_keys_win():
    text = "base: &b {a: 1, c: 2}\nx: {<<: *b, a: 5}\ny: {<<: [*b, {d: 4}]}\n"
    assert read_yaml(text)["x"] == {"a": 5, "c": 2}
    assert read_yaml(text)["y"] == {"a": 1, "c": 2, "d": 4}


@pytest.mark.parametrize("text", ["{a: 1, a: 2}", "x: {1: a, 1: b}", "{<<: {a: 1}, <<: {b: 1}}"])
def test_a_key_given_twice_is_refused(text):
    with pytest.raises(yaml.YAMLError, match="given twice"):
        read_yaml(text)
    assert read_yaml("{1: a, '1': b, true: c}") == {1: "c", "1": "b"}


def test_a_file_that_is_none_is_named(tmp_path):
    for content in (b"a: [", b"\xff\xfe\x00", b"n: 010"):
        (tmp_path / "x.yaml").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.yaml cannot be read as YAML"):
            load_yaml(tmp_path / "x.yaml")
