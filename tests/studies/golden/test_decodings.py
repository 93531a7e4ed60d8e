"""The setting that printed a table is found again, off the language model alone."""

from __future__ import annotations

import csv
from dataclasses import replace

import pandas as pd
import pytest
import torch

from mmn_utils.models.alone import SOURCES, load_alone
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.golden.__main__ import main
from mmn_utils.studies.golden.decodings import Setting, matched, spellings, try_settings
from mmn_utils.studies.golden.printed import PrintedList, printed_lists
from tests.studies.golden.planted import (
    LAYOUTS,
    OWN,
    PRINTED,
    gptj,
    llama,
    print_table_of_a,
)

PLANTED = [
    Setting(),
    Setting("final", True, "all", "bfloat16", 1, 0),
    Setting("none", True, "own", "none", 0, 1),
    Setting("final", False, "all", "none", 1, 1),
    Setting("none", False, "all", "bfloat16", 0, 0),
]


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return gptj(tmp_path_factory.mktemp("planted"))


@pytest.fixture
def limber(monkeypatch):
    """LiMBeR, with a vocabulary as short as the tiny tokenizer asks for."""
    monkeypatch.setitem(SOURCES, "limber", replace(SOURCES["limber"], vocabulary=OWN))


@pytest.mark.usefixtures("limber")
@pytest.mark.parametrize("setting", PLANTED, ids=str)
def test_the_setting_that_printed_the_table_is_found(planted, tmp_path, setting):
    model, parts = planted
    print_table_of_a(tmp_path, model, setting)
    printed = printed_lists("limber", tmp_path)
    found = try_settings("limber", printed, **parts)
    assert found.best == [setting]
    best = found.table.iloc[0]
    assert (best["lists"], best["any_order"], best["share"]) == (len(PRINTED), len(PRINTED), 1.0)
    assert len(found.table) == 2**6
    assert found.table["lists"].is_monotonic_decreasing
    assert found.table["lists"].iloc[-1] < len(PRINTED) / 10


@pytest.mark.usefixtures("limber")
def test_the_command_says_which_setting_it_is(planted, tmp_path, capsys):
    model, parts = planted
    print_table_of_a(tmp_path, model, PLANTED[1])
    for name in ("A-table-S3", "ablation_captions"):
        table = pd.read_csv(f"data/golden/{name}.csv")
        table.to_csv(tmp_path / f"{name}.csv", index=False)
    given = [f"--language-model={parts['language_model']}", f"--tokenizer={parts['tokenizer']}"]
    rows = tmp_path / "rows.json"
    assert main(["--preset", "limber", *given, f"--tables={tmp_path}", f"--json={rows}"]) == 0
    said = capsys.readouterr().out
    assert f"Best: {len(PRINTED)} of {len(PRINTED)} lists, 100.0% of the printed tokens" in said
    assert f"  {PLANTED[1]}" in said
    assert "BERTScore: left out" in said
    assert '"decode_norm":"final"' in rows.read_text().replace(" ", "")


@pytest.mark.usefixtures("limber")
def test_what_was_never_decoded_is_not_found(planted, tmp_path):
    model, parts = planted
    print_table_of_a(tmp_path, model, Setting())
    table = pd.read_csv(tmp_path / "A-table-S1.csv", keep_default_na=False)
    table["neuron"] = table["neuron"].sample(frac=1, random_state=0).to_numpy()
    table.to_csv(tmp_path / "A-table-S1.csv", index=False, quoting=csv.QUOTE_ALL)
    found = try_settings("limber", printed_lists("limber", tmp_path), **parts)
    assert found.table["lists"].max() < len(PRINTED) / 4


@pytest.mark.usefixtures("limber")
def test_neurons_that_are_not_there_are_counted(planted):
    _, parts = planted
    printed = [PrintedList(Neuron(0, 0), ("a",), True), PrintedList(Neuron(3, 5), ("b",), True)]
    table = try_settings("limber", printed, **parts).table
    absent = table.groupby(["layers_from", "units_from"])["absent"].unique()
    assert {key: values.tolist() for key, values in absent.items()} == {
        (0, 0): [1], (0, 1): [2], (1, 0): [1], (1, 1): [1],
    }  # fmt: skip


# --- the language model alone -----------------------------------------------------------


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("layout", list(LAYOUTS))
@torch.no_grad()
def test_every_published_layout_is_read(tmp_path, layout, nested):
    model = llama(tmp_path, layout, nested)
    found = load_alone(layout.partition(",")[0], language_model=tmp_path)
    for layer, block in enumerate(model.model.layers):
        assert torch.equal(found.write_vectors(layer), block.mlp.down_proj.weight.T)
    stream = torch.randn(2, 32)
    torch.testing.assert_close(found.final_norm(stream), model.model.norm(stream))
    assert torch.equal(found.with_rows(None).unembedding[0], model.lm_head.weight)
    with pytest.raises(ValueError, match="without its encoder"):
        found.prompt([])


def test_the_command_finds_paper_bs_neurons(tmp_path, capsys):
    model = llama(tmp_path, "llava", nested=False)
    rows = []
    for layer, unit in [(0, 3), (1, 40), (2, 7), (2, 21)]:
        logits = model.lm_head.weight @ model.model.layers[layer].mlp.down_proj.weight[:, unit]
        best = logits[: len(load_alone("llava", language_model=tmp_path).tokenizer)].topk(5).indices
        tokens = [load_alone("llava", language_model=tmp_path).token_strings[i] for i in best]
        rows.append({"model": "LLaVA", "neuron": f"L{layer}.u{unit}"})
        rows[-1]["top tokens"] = ", ".join(token.strip() for token in tokens)
    pd.DataFrame(rows).to_csv(tmp_path / "B-table-2.csv", index=False)
    given = [f"--language-model={tmp_path}", f"--tables={tmp_path}"]
    assert main(["--preset", "llava", *given]) == 0
    said = capsys.readouterr().out
    assert "Best: 4 of 4 lists" in said
    assert "BERTScore" not in said


@pytest.mark.usefixtures("offline")
def test_what_is_missing_is_said_before_anything_is_read(capsys):
    assert main(["--preset", "limber"]) == 2
    said = capsys.readouterr().err
    assert "hf download EleutherAI/gpt-j-6b --revision float16" in said
    assert "beit" not in said
    assert main(["--preset", "miniature"]) == 2
    assert "neither paper prints neurons of 'miniature'" in capsys.readouterr().err


def test_weights_of_another_system_are_refused(planted, tmp_path):
    _, parts = planted
    with pytest.raises(ValueError, match=r"no tensor model\.norm\.weight"):
        load_alone("llava", language_model=parts["language_model"], tokenizer=parts["tokenizer"])
    with pytest.raises(ValueError, match="choose from limber"):
        load_alone("miniature")


# --- how tokens are printed -------------------------------------------------------------


def test_tokens_are_known_by_both_spellings(planted):
    _, parts = planted
    model = load_alone("limber", **parts)
    horse = model.token_strings.index(" horse")
    assert spellings(model, horse, blanks=True) == {" horse"}
    assert spellings(model, horse, blanks=False) == {"horse"}
    odd = model.tokenizer.convert_tokens_to_ids("\u00e9")  # stands for the byte E9
    assert "\u00e9" in spellings(model, odd, blanks=True)


def test_each_decoded_token_counts_once():
    assert matched(["a", "a", "b"], [{"a"}, {"b", "c"}, {"d"}]) == 2


def test_the_papers_own_lists_are_read():
    assert len(printed_lists("limber")) == 108
    first = printed_lists("limber")[0]
    assert (str(first.neuron), first.tokens[0]) == ("L7.u15772", " animals")
    assert len({one.neuron for one in printed_lists("mplug_owl2")}) == 6
    assert printed_lists("llava")[0].tokens == ("church", "Church", "churches", "Kirche", "Kirchen")
