"""What tells results apart in the cache."""

from __future__ import annotations

from mmn_utils.cache import canonical
from mmn_utils.models import load_model
from mmn_utils.models.base import LateHash
from mmn_utils.studies import store
from tests.tiny import tiny_limber


def test_what_an_adapter_knows_beside_its_weights_tells_results_apart():
    models = [tiny_limber(mean=(mean,) * 3) for mean in (0.5, 0.5, 0.4)]
    first, same, other = (canonical(store.model_identity(model)) for model in models)
    assert first == same != other


def test_a_hash_of_weight_files_that_waits_to_be_made_stands_for_the_weights(tmp_path):
    file = tmp_path / "model.safetensors"
    models = []
    for content in (b"one", b"one", b"two"):
        file.write_bytes(content)
        models.append(tiny_limber(revision=LateHash([file])))
        assert store.model_identity(models[-1])["facts"]["revision"] == models[-1].revision
    first, same, other = (canonical(store.model_identity(model)) for model in models)
    assert first == same != other


def test_the_hash_of_files_is_part_of_what_tells_systems_apart():
    model = load_model("miniature/llava")
    identity = store.model_identity(model)
    assert identity["facts"]["revision"] == identity["revision"] == model.revision
    assert "miniature" in canonical(identity)
