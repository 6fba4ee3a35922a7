from __future__ import annotations

import torch

from offline.language.common_space import CommonSpaceTower


def test_items_are_unit_vectors_of_all_their_sources() -> None:
    torch.manual_seed(0)
    ids_ND, text_NH = torch.randn(7, 3) * 9, torch.randn(7, 5) * 0.01
    tower = CommonSpaceTower([ids_ND, text_NH], 4)
    vectors_ND = tower()
    torch.testing.assert_close(vectors_ND.norm(dim=1), torch.ones(7))
    for place, width in ((0, 3), (1, 5)):
        with torch.no_grad():
            source = tower.get_buffer(f"source_{place}")
            before = source.clone()
            source.copy_(torch.randn(7, width))
            assert float((tower() - vectors_ND).abs().max()) > 0.05
            source.copy_(before)
    assert torch.equal(tower(), vectors_ND)


def test_gradient_reaches_every_projector() -> None:
    tower = CommonSpaceTower([torch.randn(7, 3), torch.randn(7, 5)], 4)
    (tower() @ torch.randn(4)).sum().backward()
    assert all(p.grad is not None and float(p.grad.abs().sum()) > 0 for p in tower.parameters())


def test_the_frozen_vectors_are_no_part_of_what_is_saved() -> None:
    assert not any("source" in name for name in CommonSpaceTower([torch.randn(7, 3)], 4).state_dict())
