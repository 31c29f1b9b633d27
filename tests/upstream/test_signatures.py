"""What we use of Megatron-Core's internals is still what it was when it was checked.

One test per seam: when a release changes one, this says which, before any number is wrong.
"""

from __future__ import annotations

import inspect

import pytest

from megatron.seq1f1b.errors import ConfigurationError
from megatron.seq1f1b.upstream import check_megatron_core, install_cpu_support
from megatron.seq1f1b.upstream.version import SUPPORTED_MEGATRON_CORE
from tests.upstream.seams import listed, seams

install_cpu_support()

from megatron.core.models.common.embeddings.rotary_pos_embedding import RotaryEmbedding  # noqa: E402
from megatron.core.models.gpt import GPTModel  # noqa: E402
from megatron.core.optimizer import get_megatron_optimizer  # noqa: E402
from megatron.core.packed_seq_params import PackedSeqParams  # noqa: E402
from megatron.core.pipeline_parallel import schedules  # noqa: E402
from megatron.core.tensor_parallel import layers, mappings  # noqa: E402


def test_every_name_in_use_takes_what_it_took_when_it_was_checked() -> None:
    expected = listed()
    found = {name: taken for name, taken in seams().items() if name in expected}
    assert found == {name: expected[name] for name in found}


def test_every_private_name_in_use_is_in_the_list() -> None:
    private = {name for name in seams() if name.rsplit(".", 1)[-1].startswith("_")}
    assert private <= listed().keys(), "python -m tests.upstream.seams > tests/upstream/seams.txt"


def parameters(function: object) -> list[str]:
    return list(inspect.signature(function).parameters)  # type: ignore[arg-type]


def test_the_installed_release_is_supported() -> None:
    assert check_megatron_core() in SUPPORTED_MEGATRON_CORE


def test_another_release_is_refused_by_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.metadata.version", lambda name: "0.99.0")
    with pytest.raises(ConfigurationError, match=r"0\.99\.0.*0\.16\.1"):
        check_megatron_core()


def test_forward_step_takes_what_the_program_gives() -> None:
    assert parameters(schedules.forward_step) == [
        "forward_step_func",
        "data_iterator",
        "model",
        "num_microbatches",
        "input_tensor",
        "forward_data_store",
        "config",
        "cp_group_size",
        "collect_non_loss_data",
        "checkpoint_activations_microbatch",
        "is_first_microbatch",
        "current_microbatch",
        "vp_stage",
        "is_last_stage",
    ]


def test_the_loss_is_computed_by_what_follows_a_forward_step() -> None:
    assert parameters(schedules.forward_step_calc_loss) == [
        "model",
        "output_tensor",
        "loss_func",
        "config",
        "vp_stage",
        "collect_non_loss_data",
        "num_microbatches",
        "forward_data_store",
        "cp_group_size",
        "is_last_stage",
    ]
    source = inspect.getsource(schedules.forward_step)
    assert "forward_step_calc_loss(" in source
    timer = "config.timers('forward-compute').stop()"
    assert timer in inspect.getsource(schedules.forward_step_calc_loss), "it stops what forward_step starts"


def test_custom_backward_takes_output_and_gradient() -> None:
    assert parameters(schedules.custom_backward) == ["output", "grad_output"]


def test_schedule_functions_take_the_keywords_that_ours_stands_in_for() -> None:
    from megatron.seq1f1b.runtime.chunked_schedule import ChunkedSchedule

    ours = set(parameters(ChunkedSchedule.__call__)) - {"self"}
    upstream = set(parameters(schedules.forward_backward_pipelining_without_interleaving))
    assert ours == upstream


def test_linear_layers_call_forward_impl_by_keyword() -> None:
    for layer in (layers.ColumnParallelLinear, layers.RowParallelLinear):
        assert parameters(layer._forward_impl) == ["self", "input", "weight", "args", "kwargs"]
        source = inspect.getsource(layer.forward)
        for keyword in ("input=", "weight=", "bias=", "allreduce_dgrad=", "sequence_parallel=", "tp_group="):
            assert keyword in source


def test_mappings_take_a_group() -> None:
    assert parameters(mappings._gather_along_first_dim)[:2] == ["input_", "group"]
    assert parameters(mappings._reduce_scatter_along_first_dim)[:2] == ["input_", "group"]
    assert parameters(mappings._reduce) == ["input_", "group"]


def test_rotary_table_is_asked_for_a_length_and_then_for_that_table() -> None:
    assert parameters(RotaryEmbedding.get_rotary_seq_len)[:6] == [
        "self",
        "inference_context",
        "transformer",
        "transformer_input",
        "transformer_config",
        "packed_seq_params",
    ]
    source = inspect.getsource(GPTModel._preprocess)
    assert "rotary_seq_len = self.rotary_pos_emb.get_rotary_seq_len(" in source
    assert "self.rotary_pos_emb(\n                    rotary_seq_len" in source


def test_packed_sequence_parameters_are_only_asked_for_the_thd_format() -> None:
    source = inspect.getsource(GPTModel._preprocess)
    assert "packed_seq_params.qkv_format == 'thd'" in source
    assert "qkv_format" in PackedSeqParams.__dataclass_fields__


def test_the_optimizer_is_built_from_configuration_and_parts() -> None:
    assert parameters(get_megatron_optimizer)[:2] == ["config", "model_chunks"]
