"""What tells results apart in the cache."""

from __future__ import annotations

from mmn_utils.cache import canonical
from mmn_utils.studies import store
from tests.tiny import tiny_limber


def test_what_an_adapter_knows_beside_its_weights_tells_results_apart():
    models = [tiny_limber(mean=(mean,) * 3) for mean in (0.5, 0.5, 0.4)]
    first, same, other = (canonical(store.model_identity(model)) for model in models)
    assert first == same != other
