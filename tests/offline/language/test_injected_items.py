from __future__ import annotations

import pytest
import torch

from offline.language.injected_items import FixedItemProjector, ItemProjector, VocabularyRows

ITEMS, D, H = 9, 4, 6


def _vectors() -> torch.Tensor:
    return torch.randn(ITEMS, D, generator=torch.Generator().manual_seed(0)) * 3 + 1


def _text() -> torch.Tensor:
    raw = torch.randn(ITEMS, H, generator=torch.Generator().manual_seed(1))
    return torch.nn.functional.normalize(raw - raw.mean(0), dim=-1)


def _projector(*, ids: bool, text: bool) -> ItemProjector:
    torch.manual_seed(2)
    return ItemProjector(dim=D if ids else None, text_NH=_text() if text else None, hidden=H, input_std=0.02)


@pytest.mark.parametrize(("ids", "text"), [(True, False), (False, True), (True, True)])
def test_the_formula(ids: bool, text: bool) -> None:
    projector = _projector(ids=ids, text=text)
    rows, vectors = torch.tensor([3, 0, 3]), _vectors()
    expected = torch.zeros(3, H)
    if ids:
        assert projector.ids is not None
        expected = expected + projector.ids((vectors / vectors.std())[rows])
    if text:
        assert projector.text is not None
        expected = expected + projector.text(_text()[rows] * H**0.5)
    torch.testing.assert_close(projector(rows, vectors if ids else None), expected * 0.02)


def test_the_scale_of_the_id_vectors_does_not_matter() -> None:
    projector, rows = _projector(ids=True, text=False), torch.arange(ITEMS)
    torch.testing.assert_close(projector(rows, _vectors()), projector(rows, 50 * _vectors()))


def test_the_table_is_every_row_and_carries_no_gradient() -> None:
    projector, vectors = _projector(ids=True, text=True), _vectors().requires_grad_()
    table = projector.table(ITEMS, vectors)
    torch.testing.assert_close(table, projector(torch.arange(ITEMS), vectors))
    assert not table.requires_grad


def test_gradient_reaches_the_id_vectors_that_were_read_and_no_others() -> None:
    vectors = _vectors().requires_grad_()
    _projector(ids=True, text=True)(torch.tensor([1, 4]), vectors).sum().backward()
    assert vectors.grad is not None
    assert (vectors.grad.abs().sum(1) > 0).nonzero().flatten().tolist() == [1, 4]


def test_text_vectors_are_no_part_of_what_is_saved() -> None:
    assert "text_NH" not in _projector(ids=True, text=True).state_dict()


def test_rows_of_a_vocabulary_start_as_the_projection_and_learn_where_they_are_read() -> None:
    projector, vectors = _projector(ids=True, text=False), _vectors()
    rows = VocabularyRows(projector, vectors)
    torch.testing.assert_close(rows.table(ITEMS, None), projector.table(ITEMS, vectors))
    read = torch.tensor([3, 0, 3])
    torch.testing.assert_close(rows(read, None), projector(read, vectors))
    rows(read, None).sum().backward()
    assert rows.rows_NH.grad is not None
    assert rows.rows_NH.grad.abs().sum(1).nonzero().flatten().tolist() == [0, 3]
    assert all(p.grad is None for p in projector.parameters()), "the start is no part of what learns"


def test_fixed_ids_are_projected_once_and_stay_whatever_queries_are_matched_with() -> None:
    torch.manual_seed(0)
    ids_ND, text_NH, rows = torch.randn(6, 3), torch.randn(6, 4), torch.tensor([5, 1, 5, 0])
    fixed = FixedItemProjector(ids_ND, text_NH=text_NH, hidden=4, input_std=0.5)
    plain = ItemProjector(dim=3, text_NH=text_NH, hidden=4, input_std=0.5)
    plain.load_state_dict(fixed.state_dict())
    torch.testing.assert_close(fixed(rows, torch.randn(6, 9)), plain(rows, ids_ND))
    torch.testing.assert_close(fixed.table(6, None), plain.table(6, ids_ND))
    asked: list[torch.Size] = []
    assert fixed.ids is not None
    fixed.ids.register_forward_pre_hook(lambda _module, given: asked.append(given[0].shape))
    fixed(rows, None)
    assert asked == [torch.Size([3, 3])]
