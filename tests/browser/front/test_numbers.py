"""What the front end computes in the browser, against torch, COCO's tools, matplotlib and csv."""

from __future__ import annotations

import csv
import io
import itertools
import json
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from matplotlib import colormaps
from matplotlib.colors import LinearSegmentedColormap
from pycocotools import mask as coco_mask

from mmn_utils.browser.front import FOLDER, join
from mmn_utils.neurons.receptive_fields import map_quantile, mask, upsample

MODULES = ("maps", "colours", "address", "words", "python")


@pytest.fixture(scope="module")
def call(chromium):
    """Call an exported function of a module in the browser: call(module, name, *args)."""
    context = chromium.new_context()
    page = context.new_page()
    texts = {name: join(FOLDER, name) for name in MODULES}
    page.evaluate(
        """async (texts) => {
          globalThis.modules = {};
          for (const [name, [text, names]] of Object.entries(texts)) {
            const code = `${text}\\nexport { ${names.join(", ")} };`;
            modules[name] = await import(`data:text/javascript,${encodeURIComponent(code)}`);
          }
          globalThis.plain = (value) => ArrayBuffer.isView(value) ? [...value] : value;
        }""",
        {n: [t, re.findall(r"^export .*?(?:function|const) (\w+)", read(n), re.M)]
         for n, t in texts.items()},
    )  # fmt: skip

    def call(module, name, *args):
        code = "async ([m, n, a]) => JSON.stringify(plain(modules[m][n](...a)))"
        return json.loads(page.evaluate(code, [module, name, list(args)]))

    call.page = page
    yield call
    context.close()


def read(name: str) -> str:
    return (FOLDER / f"{name}.js").read_text()


QUANTILES = (0.95, 0.0, 0.5, 0.123, 1.0)
# A map scaled up, and for each quantile the threshold and the pixels above it.
CUT = """([map, rows, columns, pixels, quantiles]) => {
  const { upsample, quantileOf, above } = modules.maps;
  const large = upsample(map, rows, columns, pixels, pixels), order = large.slice().sort();
  const cut = quantiles.map((quantile) => quantileOf(order, quantile));
  return JSON.stringify([[...large], cut.map((level) => [level, above(large, level).join("")])]);
}"""
SHAPES = [(14, 14, 112), (7, 7, 112), (16, 16, 224), (5, 9, 40), (1, 1, 6), (3, 2, 3)]


@pytest.mark.parametrize(("rows", "columns", "pixels"), SHAPES)
def test_maps_are_scaled_and_cut_as_torch_does(call, rows, columns, pixels):
    field = torch.randn(rows, columns, generator=torch.Generator().manual_seed(rows))
    large = upsample(field, pixels)
    asked = [field.flatten().tolist(), rows, columns, pixels, QUANTILES]
    values, cuts = json.loads(call.page.evaluate(CUT, asked))
    ours = torch.tensor(values).reshape(pixels, pixels)
    torch.testing.assert_close(ours, large, rtol=0, atol=2e-6)
    for quantile, (level, above) in zip(QUANTILES, cuts, strict=True):
        assert level == pytest.approx(float(map_quantile(large.flatten(), quantile)), abs=2e-6)
        expected = mask(ours, quantile)  # of the same numbers the same pixels, every one
        assert above == "".join(map(str, expected.int().flatten().tolist()))


@given(st.lists(st.floats(-4, 4, width=32), min_size=1, max_size=40), st.floats(0, 1))
def test_a_quantile_is_torchs_bit_for_bit(call, values, quantile):
    ours = call("maps", "quantileOf", sorted(values), quantile)
    assert np.float32(ours) == map_quantile(torch.tensor(values), quantile).numpy()


@given(st.integers(0, 1 << 30), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_run_lengths_are_decoded_as_coco_encodes_them(call, seed, height, width, share):
    pixels = (np.random.default_rng(seed).random((height, width)) < share).astype(np.uint8)
    runs = coco_mask.encode(np.asfortranarray(pixels))["counts"].decode()
    assert call("maps", "decodeRuns", runs, height, width) == pixels.flatten().tolist()


def test_long_run_lengths_are_decoded_too(call):
    pixels = np.zeros((640, 500), np.uint8)
    pixels[100:600, 50:450] = 1
    pixels[300:310, 60:70] = 0
    runs = coco_mask.encode(np.asfortranarray(pixels))["counts"].decode()
    assert call("maps", "decodeRuns", runs, 640, 500) == pixels.flatten().tolist()


def test_an_outline_goes_along_every_edge_once(call):
    pixels = np.random.default_rng(1).random((9, 7)) < 0.5
    lines = call("maps", "outline", pixels.astype(int).flatten().tolist(), 9, 7)
    drawn = set()
    for x0, y0, x1, y1 in zip(*[iter(lines)] * 4, strict=True):
        steps = [(x, y0, "across") for x in range(x0, x1)]
        steps += [(x0, y, "down") for y in range(y0, y1)]
        assert not drawn & set(steps)
        drawn |= set(steps)
    padded = np.pad(pixels, 1)
    across = {(x - 1, y, "across") for y, x in np.argwhere(padded[1:] != padded[:-1])}
    down = {(x, y - 1, "down") for y, x in np.argwhere(padded[:, 1:] != padded[:, :-1])}
    assert drawn == across | down


def test_the_mean_of_maps(call):
    some = np.random.default_rng(0).normal(size=(3, 6))
    assert call("maps", "meanOf", some.tolist()) == pytest.approx(some.mean(0).tolist())


def test_colours_are_matplotlibs(call):
    anchors = ["#7f3b08", "#e08214", "#f7f7f7", "#4393c3", "#053061"]
    maps = {name: colormaps[name] for name in ("viridis", "cividis")}
    maps["diverging"] = LinearSegmentedColormap.from_list("diverging", anchors)
    for name, theirs in maps.items():
        ours = np.array(list(call("colours", "palette", name)), float).reshape(256, 3)
        expected = theirs(np.arange(256))[:, :3] * 255
        difference = np.abs(ours - expected).max(1)
        assert difference.max() < 6, name  # thirty-two colours are kept, and others lie between
        assert difference[[0, 255]].max() < 1, name


def test_csv_is_read_back_by_csv(call):
    rows = [["a", 'b "quoted"', "c,d"], ["two\nlines", "<b>", "=1+1"], ["", "é", "\r"]]
    text = call("words", "csv", rows)
    assert list(csv.reader(io.StringIO(text, newline=""))) == rows


VIEWS = st.fixed_dictionaries(
    {
        "image": st.text(min_size=1, max_size=8),
        "noun": st.none() | st.text(min_size=1, max_size=8),
        "method": st.sampled_from(["attribution", "contribution"]),
        "neuron": st.none() | st.just("L7.u15772"),
        "chosen": st.lists(st.sampled_from(["L1.u2", "L3.u4"]), unique=True),
        "patch": st.none() | st.integers(0, 500),
        "quantile": st.floats(0, 1),
        "search": st.none()
        | st.fixed_dictionaries(
            {"word": st.text(min_size=1), "end": st.sampled_from(["writes", "suppresses"])}
        ),
        "map": st.sampled_from(["one", "several", "mean"]),
    }
)


@given(VIEWS)
def test_an_address_leads_back_to_its_view(call, view):
    address = call("address", "writeAddress", view)
    assert re.fullmatch(r"#[!-~]*", address)
    read_back, trouble = call("address", "readAddress", address)
    assert (read_back, trouble) == (view, [])


@pytest.mark.parametrize(
    ("address", "trouble"),
    [
        ("#L7u3@p", "no neuron"), ("#@p&patch=x", "no number"), ("#@p&quantile=2", "no fraction"),
        ("#@p&what=1", "no part"), ("#@p&search=horse", "reads writes:WORD"), ("#@%zz", "percent"),
        ("#@p&chosen=L1.u1,x", "no neuron"), ("#@p&map=all", "none of"),
    ],
)  # fmt: skip
def test_what_an_address_does_not_say_is_told(call, address, trouble):
    view, found = call("address", "readAddress", address)
    assert len(found) == 1
    assert trouble in found[0]
    assert view["image"] in ("p", "%zz")


def test_numbers_have_three_digits_and_a_true_minus(call):
    said = {-0.04106: "\u22120.0411", 12.345: "12.3", 0.5: "0.500", 0: "0", 7: "7",
            -1.5e-6: "\u22121.5e\u22126", 123456.7: "1.2e5"}  # fmt: skip
    assert [call("words", "number", value) for value in said] == list(said.values())
    assert call("words", "visible", "<b>\n\x00") == "<b>\\n\\x00"


# --- Python of the views -----------------------------------------------------------------

ODD = 'a "b"\n\\ <b> \u2028 é'
KINDS = ("caption", "table", "patch", "card", "control", "similar", "elsewhere", "search",
         "picture")  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "live", "image", "scope"),
    [*itertools.product(KINDS, (False, True), ("p0", f"own:{ODD}"), ("noun",)),
     ("table", False, "p0", "all")],
)  # fmt: skip
def test_the_python_of_a_view_is_python_and_holds_texts_as_they_are(call, kind, live, image, scope):
    view = {"image": image, "noun": ODD, "method": "attribution", "neuron": "L1.u2",
            "chosen": [], "patch": 3, "quantile": 0.9, "map": "one",
            "search": {"word": ODD, "end": "writes"}}  # fmt: skip
    app = {
        "view": view, "facts": {"run": ODD, "system": "s", "grid": [2, 2], "live": live},
        "shown": {"scope": scope, "layer": 1, "interpretable": True, "generic": None, "by": None,
                  "n": 5, "norm": "none", "nouns": [], "k": 100},
    }  # fmt: skip
    code = call("python", "python", kind, app)
    compile(code, kind, "exec")
    strings = [eval(text) for text in re.findall(r'"(?:[^"\\]|\\.)*"', code)]
    assert ODD in strings or kind in ("picture", "caption")


@pytest.mark.parametrize(
    ("kind", "live", "noun"),
    [*itertools.product(KINDS, (False,), ("first",)), ("table", False, "all"),
     ("table", True, "other"), ("patch", True, "first")],
)  # fmt: skip
def test_the_python_of_a_view_runs(call, made, monkeypatch, capsys, kind, live, noun):
    """On the tiny system's atlas, which is found by its folder."""
    if live or kind == "control":
        pytest.importorskip("mmn_utils.browser.live.session")
    monkeypatch.setattr("mmn_utils.face.load", lambda name: made.model)
    facts = made.atlas.facts
    picture = next(found for found in map(made.atlas.image, "01234") if found.nouns)
    scores = picture.scores
    own = [one.noun for one in picture.nouns]
    word = next(
        token.text.strip() for token in made.atlas.neuron("L0.u0").writes if token.text.strip()
    )
    view = {"image": picture.image, "noun": word if noun == "other" else own[0],
            "method": "attribution", "neuron": scores["address"].iloc[0], "patch": 0,
            "chosen": [], "quantile": 0.9, "map": "one",
            "search": {"word": word, "end": "writes"}}  # fmt: skip
    app = {
        "view": view,
        "facts": {"run": str(made.folder), "system": facts.model, "grid": facts.grid, "live": live},
        "shown": {"scope": "all" if noun == "all" else "noun", "layer": 0, "interpretable": False,
                  "generic": None, "by": None, "n": 5, "norm": "none", "nouns": own, "k": 10},
    }  # fmt: skip
    exec(call("python", "python", kind, app), {})
    assert capsys.readouterr().out.strip()
