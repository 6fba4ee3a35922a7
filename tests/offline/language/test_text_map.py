from __future__ import annotations

import torch

from offline.language.text_map import fit_text_map


def test_a_planted_map_is_found_and_noise_is_not() -> None:
    draw = torch.Generator().manual_seed(0)
    features = torch.randn(400, 20, generator=draw)
    planted = torch.randn(6, 20, generator=draw)
    chosen = torch.randint(1, 50, (400,), generator=draw)
    found = fit_text_map(features, features @ planted.T, chosen)
    torch.testing.assert_close(found.weight_DF, planted, rtol=0.05, atol=0.05)
    assert found.explained > 0.99
    nothing = fit_text_map(features, torch.randn(400, 6, generator=draw), chosen)
    assert nothing.explained < 0.1
    assert nothing.ridge > found.ridge, "what is noise is shrunk"


def test_items_that_nobody_chose_are_not_fitted_and_the_often_chosen_weigh_more() -> None:
    features = torch.tensor([[1.0], [1.0], [1.0], [1.0], [1.0], [1.0]])
    vectors = torch.tensor([[1.0], [1.0], [1.0], [3.0], [3.0], [1e6]])
    chosen = torch.tensor([1, 1, 1, 100, 10_000, 0])
    found = fit_text_map(features, vectors, chosen)
    # A hundred choices or ten thousand: the weight is the same.
    ridge = found.ridge
    expected = (3 * 1 + 200 * 3) / (3 + 200 + ridge)
    torch.testing.assert_close(found.weight_DF, torch.tensor([[expected]]))
