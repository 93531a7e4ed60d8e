"""Addresses of views, there and back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmn_utils.browser.address import EMPTY, MAPS, read, write

TEXT = st.text(min_size=1, max_size=12)
NEURON = st.builds("L{}.u{}".format, st.integers(0, 99), st.integers(0, 99999))
VIEWS = st.fixed_dictionaries(
    {
        "image": st.none() | TEXT,
        "noun": st.none() | TEXT,
        "method": st.sampled_from(["attribution", "contribution", "activation"]),
        "neuron": st.none() | NEURON,
        "chosen": st.lists(NEURON, max_size=3),
        "patch": st.none() | st.integers(0, 10**6),
        "quantile": st.integers(0, 1000).map(lambda n: n / 1000),
        "search": st.none()
        | st.fixed_dictionaries({"word": TEXT, "end": st.sampled_from(["writes", "suppresses"])}),
        "map": st.sampled_from(MAPS),
    }
)


@given(VIEWS)
def test_a_view_comes_back_from_its_address(view):
    assert read(write(view)) == (view, [])


def test_an_address_reads_as_it_is_cited():
    view = {**EMPTY, "image": "12", "neuron": "L7.u15772", "noun": "hot dog", "quantile": 0.9}
    assert write(view) == "#L7.u15772@12&noun=hot%20dog&quantile=0.9"
    assert write({"image": "12"}) == "#@12"
    assert read("L2.u775@10000386")[0]["image"] == "10000386"
    assert read("") == (EMPTY, [])


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("#L7", "'L7' is no neuron"),
        ("#@1&chosen=L1.u2,nix", "'nix' is no neuron"),
        ("#@1&colour=red", "'colour' is no part of an address"),
        ("#@1&quantile=2", "the quantile '2'"),
        ("#@1&quantile=much", "the quantile 'much'"),
        ("#@1&patch=-1", "the patch '-1'"),
        ("#@1&search=horse", "the search 'horse'"),
        ("#@1&map=all", "the map 'all'"),
    ],
)
def test_what_is_not_understood_is_said_and_the_rest_taken(address, said):
    view, trouble = read(address)
    assert len(trouble) == 1
    assert said in trouble[0]
    assert view["image"] == ("1" if "@1" in address else None)
