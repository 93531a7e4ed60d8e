"""make plan: sizes without weights, counts of passes, batches that fit, refusals with a remedy."""

from __future__ import annotations

import json
import re
import time

import pytest
import torch

from mmn_utils.models import load_model
from mmn_utils.models.hub import MissingParts
from mmn_utils.plain_yaml import load_yaml
from mmn_utils.presets import NOTEBOOKS, PRESETS, load_preset, resolve
from mmn_utils.running import planning
from mmn_utils.running.__main__ import main
from mmn_utils.running.planning import systems
from mmn_utils.running.planning.costs import Ask, asks_of, cost_of, need_of, number
from mmn_utils.running.planning.devices import Given
from mmn_utils.running.planning.measuring import Rates
from mmn_utils.running.planning.passes import PASSES, Taken, Trials
from mmn_utils.running.planning.shown import duration
from mmn_utils.running.planning.systems import Size, read_size, size_of

TINY = Size("tiny", "llama", 4, 32, 64, 4, 100, 9)
RATES = Rates(1e9, 1e9, 1e9, 1e8)


def trials(size: Size = TINY) -> Trials:
    found = Trials(size, torch.float32, RATES)
    found.taken = lambda name, rows, length: Taken(1000 * rows, 7.0 * rows, 0.1 * rows)
    return found


def test_a_batch_is_no_larger_than_what_the_device_takes_at_once():
    gradients, captions = (Ask(name, 64, 64, 5) for name in ("attribution", "caption"))
    found = trials(size_of("miniature"))
    rows = need_of(gradients, found, 1e12).batch
    assert 1 <= rows == found.together("attribution") < 64
    assert need_of(captions, found, 1e12).batch == 64
    found.device = torch.device("cuda")
    assert need_of(gradients, found, 1e12).batch == 64


def test_the_published_systems_are_as_large_as_their_papers_say():
    billions = {name: size_of(name).parameters / 1e9 for name in load_yaml(systems.KNOWN)}
    assert billions["limber"] == pytest.approx(6.05, rel=0.01)
    assert billions["llava"] == pytest.approx(13.0, rel=0.01)
    for name in ("instructblip", "mplug_owl2", "llava15"):
        assert billions[name] == pytest.approx(6.74, rel=0.01)
    assert size_of("llava15@main") == size_of("llava15")


@pytest.mark.weights
@pytest.mark.parametrize(
    "name",
    [
        "miniature",
        "miniature/llava",
        "miniature/instructblip",
        "miniature/mplug_owl2",
        "trial",
        "trial/llava",
    ],
)
def test_sizes_from_a_configuration_are_those_of_the_loaded_system(name):
    try:
        model, size = load_model(name), size_of(name)
    except MissingParts as error:
        pytest.skip(str(error))
    found = (size.layers, size.width, size.units, size.image_tokens)
    assert size.vocabulary == pytest.approx(model.sizes.vocabulary, rel=0.02)
    count = model.image_tokens.count
    assert found[:3] == (model.sizes.layers, model.sizes.width, model.sizes.units)
    assert found[3] == pytest.approx(count, abs=1)
    matrices = sum(p.numel() for p in model.layer(0).parameters() if p.ndim == 2)
    assert size.matrices == pytest.approx(matrices, rel=0.01) or name.endswith("owl2")
    assert not size.assumed


def test_every_system_with_a_name_of_its_own_has_a_size():
    models = {load_preset(path.stem).settings.get("model") for path in PRESETS.glob("*.yaml")}
    own = {name for name in models if name and re.match(r"[^/]+$|(miniature|trial)/", name)}
    assert {"llava15", "trial/llava", "miniature"} <= own
    assert all(size_of(name).layers for name in own)


def test_a_system_without_a_configuration_is_refused_with_the_command():
    with pytest.raises(ValueError, match=r"hf download some/model config\.json"):
        size_of("some/model")
    with pytest.raises(ValueError, match=r"some/model config\.json --revision v2"):
        size_of("some/model@v2")
    with pytest.raises(ValueError, match="has none of num_hidden_layers, n_layer"):
        read_size("x", {"hidden_size": 3})


@pytest.mark.parametrize("notebook", sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
def test_every_notebook_says_what_it_asks_in_its_own_parameters(notebook):
    asks = asks_of(notebook, resolve(notebook, "ci"))
    assert asks
    assert all(ask.name in PASSES and ask.times > 0 and ask.batch > 0 for ask in asks)


def test_numbers_are_products_of_parameters():
    parameters = {"n": 5, "ks": [1, 2, 3], "sweep": {"counts": [1, 2], "n": 7}}
    for value, expected in (
        ("n", 5),
        (4, 4),
        (["n", "ks", 2], 30),
        (["sweep.counts", "sweep.n"], 14),
    ):
        assert number(value, parameters) == expected
    with pytest.raises(KeyError):
        number("m", parameters)


def test_batches_are_halved_until_they_fit():
    need = need_of(Ask("caption", 100, 40, 5), trials(), free=12_000)
    assert (need.batch, need.memory, need.asked) == (10, 10_000, 40)
    assert (need.seconds, need.operations) == pytest.approx((10.0, 700.0))
    assert need_of(Ask("caption", 100, 40, 5), trials(), free=999).batch == 0
    assert need_of(Ask("sweep", 10, 8, 5), trials(), free=2_500).batch == 2


def test_what_does_not_fit_is_refused_with_the_remedy():
    parameters = resolve("02_attribution", "ci")
    fits = cost_of("02_attribution", parameters, trials(), free=10**9)
    assert not fits.refusal
    assert fits.memory == TINY.weights(4) + 12_000  # all twelve pictures at once
    for free in (1000, int((TINY.weights(4) + 500) / 0.9)):
        refused = cost_of("02_attribution", parameters, trials(), free=free).refusal
        assert "set dtype: bfloat16, take a device with more memory" in refused


def test_a_device_that_is_not_here_is_refused(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert main(["plan", "limber"]) == 2
    said = capsys.readouterr().err
    assert "device = 'cuda' is not here" in said
    assert "--memory GIB" in said


def test_a_device_that_is_not_here_is_planned_by_its_data_sheet(capsys, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "name: mine\nonly: [01_projection_decoding]\n"
        "settings: {model: limber, device: cuda:7, dtype: bfloat16, max_new_tokens: 3}\n"
    )
    assert main(["plan", str(path), "--memory", "24", "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["notebooks"][0]["seconds"] is None  # no rates
    assert main(["plan", str(path), "--memory", "8", "--rates", "80", "900"]) == 1
    said = capsys.readouterr().out
    assert "12.4 GiB of weights in bfloat16, 196 image tokens, 3 of text" in said
    assert "cuda:7, bfloat16: 8.0 GiB of memory, 80 teraflops, 900 GB/s (as given)" in said
    assert "does not fit: 12.4 GiB of weights, of 8.0 GiB free 90% count; take a device" in said
    with pytest.raises(ValueError, match="memory = -1"):
        Given(memory=-1)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.2, "3 s"), (90, "1.5 min"), (7200, "2.0 h"), (3e5, "3 days"), (1e9, "32 years")],
)
def test_times_are_written_in_the_unit_that_reads_best(seconds, text):
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("given", "units", "tokens"),
    [
        ({"num_experts_per_tok": 4, "moe_intermediate_size": 32}, 128, 256),
        ({"moe_topk": 2, "moe_num_shared_experts": 1}, 192, 256),
        ({"vision_config": {"patch_size": 14, "spatial_merge_size": 2}}, 64, 391),
        ({"mm_tokens_per_image": 64}, 64, 64),
    ],
)
def test_experts_and_image_tokens_are_read_where_configurations_have_them(given, units, tokens):
    sizes = {"num_hidden_layers": 2, "hidden_size": 16, "num_attention_heads": 2, "vocab_size": 9}
    size = read_size("x", {**sizes, "intermediate_size": 64, **given})
    assert (size.units, size.image_tokens) == (units, tokens)
    assert size.assumed == (tokens == 256)


def test_what_a_configuration_leaves_out_is_that_of_its_class():
    size = read_size("x", {"model_type": "llava", "text_config": {"model_type": "llama"}})
    assert (size.layers, size.width, size.units) == (32, 4096, 11008)
    assert (size.image_tokens, size.assumed) == (576, False)
    assert size.stored == pytest.approx(7.06e9, rel=0.01)  # LLaVA-1.5 (7B), its tower included


def test_the_command_prints_a_table_and_json(capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(planning, "size_of", lambda name: TINY)
    monkeypatch.setattr(Given, "rates_of", lambda *_: RATES)
    monkeypatch.setattr(planning, "Trials", lambda *_, **__: trials())
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nonly: [02_attribution]\nsettings: {n_images: 8}\n")
    assert main(["plan", str(path)]) == 0
    printed = capsys.readouterr().out
    assert "Preset mine" in printed
    assert "9 image tokens" in printed
    assert "caption 8, attribution 8, forward 8" in printed
    assert main(["plan", str(path), "--json"]) == 0
    (record,) = json.loads(capsys.readouterr().out)
    assert record["fits"]
    assert record["notebooks"][0]["batches"] == {"caption": 8, "attribution": 8, "forward": 8}
    monkeypatch.setattr(Given, "free", lambda *_: 1000)
    assert main(["plan", str(path)]) == 1
    assert "does not fit" in capsys.readouterr().out


@pytest.mark.weights
def test_a_plan_of_the_miniature_takes_seconds(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("name: mine\nonly: [01_projection_decoding]\nsettings: {n_images: 8}\n")
    found = planning.plan(path, clock=time.process_time)
    (cost,) = found.costs
    assert cost.operations > 8 * size_of("miniature").parameters
    assert cost.memory > size_of("miniature").weights(4)
    assert 0 < cost.seconds < 600
    assert found.fits
