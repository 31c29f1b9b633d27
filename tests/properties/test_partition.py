from __future__ import annotations

import dataclasses
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.model.flops import (
    ModelDimensions,
    backward_flops,
    forward_flops,
    partition_costs,
    window_of,
)
from megatron.seq1f1b.partition import (
    PARTITION_STRATEGIES,
    Window,
    pairs_of_first,
    partition,
    tokens_at_cost,
)


def cost(tokens: int, linear_cost: float, attention_cost: float) -> float:
    return linear_cost * tokens + attention_cost * tokens * tokens / 2


@st.composite
def cuts(draw: st.DrawFn) -> dict[str, int]:
    multiple_of = draw(st.sampled_from((1, 2, 8, 64)))
    num_units = draw(st.integers(1, 3000))
    return {
        "seq_length": num_units * multiple_of,
        "chunks": draw(st.integers(1, min(num_units, 40))),
        "multiple_of": multiple_of,
    }


COSTS = st.sampled_from((0.0, 1e-12, 1e-6, 1e-3, 1.0, 1e6, 1e12))


@settings(deadline=None)
@given(cut=cuts(), linear_cost=COSTS, attention_cost=COSTS)
def test_uniform_comp_is_a_proper_partition_for_any_costs(
    cut: dict[str, int], linear_cost: float, attention_cost: float
) -> None:
    if linear_cost == attention_cost == 0.0:
        return
    boundaries = partition("uniform_comp", **cut, linear_cost=linear_cost, attention_cost=attention_cost)
    assert boundaries[0] == 0
    assert boundaries[-1] == cut["seq_length"]
    assert len(boundaries) == cut["chunks"] + 1
    assert all(start < stop for start, stop in pairwise(boundaries))
    assert all(boundary % cut["multiple_of"] == 0 for boundary in boundaries)


@pytest.mark.parametrize("attention_cost", [0.0, 1e-9, 1e-4, 1e-2, 1.0])
@pytest.mark.parametrize("chunks", [1, 2, 4, 7])
@pytest.mark.parametrize("multiple_of", [1, 64])
def test_uniform_comp_balances_to_within_rounding(
    attention_cost: float, chunks: int, multiple_of: int
) -> None:
    seq_length = 65536
    boundaries = partition(
        "uniform_comp",
        seq_length=seq_length,
        chunks=chunks,
        multiple_of=multiple_of,
        attention_cost=attention_cost,
    )
    whole = cost(seq_length, 1.0, attention_cost)
    a_boundary_moved = multiple_of / 2 * (1.0 + attention_cost * seq_length)
    for index, boundary in enumerate(boundaries):
        assert abs(cost(boundary, 1.0, attention_cost) - whole * index / chunks) <= a_boundary_moved * 1.01


def test_uniform_comp_gives_later_chunks_fewer_tokens() -> None:
    boundaries = partition("uniform_comp", seq_length=4096, chunks=4, attention_cost=1e-3)
    assert boundaries == (0, 1691, 2672, 3441, 4096)


def test_attention_alone_cuts_at_square_roots() -> None:
    boundaries = partition("uniform_comp", seq_length=1000, chunks=4, linear_cost=0.0, attention_cost=3.0)
    assert boundaries == (0, 500, 707, 866, 1000)


def test_without_attention_uniform_comp_is_even() -> None:
    assert partition("uniform_comp", seq_length=12, chunks=4) == (0, 3, 6, 9, 12)


def test_as_many_chunks_as_units_leaves_one_unit_each() -> None:
    assert partition("uniform_comp", seq_length=8, chunks=4, multiple_of=2, attention_cost=9.0) == (
        0, 2, 4, 6, 8,
    )  # fmt: skip


WINDOWS = st.none() | st.builds(
    Window, keys=st.integers(1, 10**6), windowless_share=st.sampled_from((0.0, 0.25, 1.0))
)


@given(linear_cost=COSTS, attention_cost=COSTS, tokens=st.floats(1e-3, 1e7), window=WINDOWS)
def test_tokens_at_cost_inverts_the_cost(
    linear_cost: float, attention_cost: float, tokens: float, window: Window | None
) -> None:
    if linear_cost == attention_cost == 0.0:
        return
    costs = {"linear_cost": linear_cost, "attention_cost": attention_cost}
    total = linear_cost * tokens + attention_cost * pairs_of_first(tokens, window)
    assert tokens_at_cost(total, **costs, window=window) == pytest.approx(tokens, rel=1e-9)


@pytest.mark.parametrize("window", [Window(keys=1), Window(keys=33), Window(keys=90), Window(keys=1000)])
def test_pairs_under_a_window_are_those_counted(window: Window) -> None:
    """But for half a pair per query of the triangle, as everywhere."""
    counted = sum(min(query + 1, window.keys) for query in range(100))
    assert counted - 50 <= pairs_of_first(100, window) <= counted
    mixed = Window(keys=window.keys, windowless_share=0.25)
    assert pairs_of_first(100, mixed) == pytest.approx(
        0.75 * pairs_of_first(100, window) + 0.25 * pairs_of_first(100)
    )


@pytest.mark.parametrize("windowless_share", [0.0, 0.25])
def test_balanced_chunks_of_a_windowed_model_cost_the_same(windowless_share: float) -> None:
    model = ModelDimensions(
        num_layers=8,
        hidden_size=64,
        ffn_hidden_size=128,
        num_query_heads=4,
        num_query_groups=4,
        head_dim=16,
        is_gated=False,
        padded_vocab_size=128,
        window=Window(keys=4097, windowless_share=windowless_share),
    )
    boundaries = partition("uniform_comp", seq_length=65536, chunks=8, **partition_costs(model))
    costs = [forward_flops(model, *span) + backward_flops(model, *span) for span in pairwise(boundaries)]
    assert max(costs) / min(costs) < 1.002
    full = dataclasses.replace(model, window=None)
    others = partition("uniform_comp", seq_length=65536, chunks=8, **partition_costs(full))
    assert boundaries[1] < others[1], "under a window the first chunk gains less"


def test_average_is_even() -> None:
    assert partition("average", seq_length=4096, chunks=4, multiple_of=64) == (0, 1024, 2048, 3072, 4096)


@pytest.mark.parametrize("strategy", PARTITION_STRATEGIES)
@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"chunks": 0}, "--pipe-sp-splits 0 leaves no chunk"),
        ({"chunks": 4097}, "is more than the 4096 tokens of --seq-length"),
        ({"chunks": 4, "multiple_of": 3}, "is not a multiple of 3, as chunk boundaries must be"),
        ({"chunks": 4, "multiple_of": 3}, "use 4095 or 4098"),
        ({"chunks": 1, "multiple_of": 8192}, "use 8192"),
        ({"chunks": 65, "multiple_of": 64}, "holds only 64 multiples of 64 tokens"),
        ({"chunks": 1, "seq_length": 0}, "must be at least 1"),
    ],
)
def test_impossible_cuts_are_refused(strategy: str, cut: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        partition(strategy, **{"seq_length": 4096, **cut})


@pytest.mark.parametrize(
    ("cut", "message"),
    [
        ({"chunks": 3}, "--pipe-sp-splits 3 cannot divide --seq-length 4096 evenly; use 2 or 4, or"),
        ({"chunks": 31, "multiple_of": 128}, "in multiples of 128 tokens; use 16 or 32, or"),
        ({"chunks": 4095}, "use 2048 or 4096, or --pipe-sp-strategy uniform_comp"),
    ],
)
def test_uneven_averages_are_refused_with_counts_that_work(cut: dict[str, int], message: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(message)):
        partition("average", seq_length=4096, **cut)


@pytest.mark.parametrize(
    ("linear", "attention"), [(0.0, 0.0), (-1.0, 1.0), (1.0, float("nan")), (float("inf"), 1.0)]
)
def test_costs_that_cannot_be_balanced_are_refused(linear: float, attention: float) -> None:
    with pytest.raises(ConfigurationError, match="cannot be balanced"):
        partition("uniform_comp", seq_length=64, chunks=2, linear_cost=linear, attention_cost=attention)


def test_an_unknown_strategy_is_refused_with_those_that_exist() -> None:
    with pytest.raises(ConfigurationError, match="uniform does not exist; use one of average, uniform_comp"):
        partition("uniform", seq_length=64, chunks=2)


def test_a_window_that_reaches_all_keys_is_none() -> None:
    assert window_of((-1, 0), None, num_layers=4) is None
    assert window_of((32, 0), 2, num_layers=4) == Window(keys=33, windowless_share=0.5)
