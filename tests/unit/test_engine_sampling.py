"""The nucleus without sorting the vocabulary, against transformers' own warper."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import TopPLogitsWarper

from emotion_circuits.engine import sampling


def warped(scores: torch.Tensor, top_p: float) -> torch.Tensor:
    return torch.as_tensor(TopPLogitsWarper(top_p)(torch.empty(0, dtype=torch.long), scores))


@given(
    seed=st.integers(0, 10_000),
    vocabulary=st.sampled_from([3, 50, 4000, 20_000]),
    peak=st.sampled_from([0.0, 0.3, 2.0, 8.0]),
    top_p=st.sampled_from([0.05, 0.5, 0.9, 0.999]),
    rounded=st.booleans(),
)
def test_nucleus_equals_the_warper_of_transformers(
    seed: int, vocabulary: int, peak: float, top_p: float, rounded: bool
) -> None:
    scores = torch.randn(5, vocabulary, generator=torch.Generator().manual_seed(seed)) * peak
    if rounded:  # many ties, as bfloat16 gives them
        scores = scores.bfloat16().float()
    found, expected = sampling.nucleus(scores.clone(), top_p), warped(scores, top_p)
    assert bool(((found == scores) | found.isinf()).all())
    for own, theirs, row in zip(found, expected, scores, strict=True):
        if len(row.unique()) < vocabulary:  # which of equal tokens it keeps is the warper's own affair
            own, theirs = own.sort().values, theirs.sort().values
        assert torch.equal(own, theirs)


@pytest.mark.parametrize("top_p", [0.3, 0.9])
def test_only_flat_and_undecided_rows_are_sorted_whole(top_p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "CANDIDATES", 16)
    sorted_rows: list[int] = []

    class Counting(TopPLogitsWarper):
        def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
            sorted_rows.append(len(scores))
            return torch.as_tensor(super().__call__(input_ids, scores))

    monkeypatch.setattr(sampling, "TopPLogitsWarper", Counting)
    peaked, flat, tied = torch.arange(500.0).neg(), torch.zeros(500), torch.full((500,), -50.0)
    tied[:2] = 0.0
    found = sampling.nucleus(torch.stack([peaked, flat, tied]), top_p)
    assert torch.equal(found[:2], warped(torch.stack([peaked, flat]), top_p))
    assert found[2].isfinite().nonzero()[:, 0].tolist() == ([0] if top_p == 0.3 else [0, 1])  # lowest ids first
    assert sorted_rows == [1]


def test_a_nucleus_of_everything_changes_nothing() -> None:
    scores = torch.randn(2, 10)
    assert sampling.nucleus(scores, 1.0) is scores
