import pytest
import torch
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounter
from torch._functorch.aot_autograd import make_boxed_func
from torch._functorch.partitioners import min_cut_rematerialization_partition

from golf.model.depth import plan_passes
from golf.model.linear import set_fake_quant
from golf.model.residual import Residual
from golf.params.model import Model
from golf.runtime.errors import ConfigError
from tests.golf.model.tiny import EVERYTHING, tiny, tokens

LOOP = {"loop_first": 1, "loop_last": 2, "loop_passes": 3}
# The records' loop: 11 layers, 3 to 5 three times.
RECORD = {"num_layers": 11, "loop_first": 3, "loop_last": 5, "loop_passes": 3, "xsa_layers": 11}


def mergers(passes=3, **overrides):
    """(slot, from layer, to layer) of each merger, in the order in which they happen."""
    plan = plan_passes(Model(**(RECORD | overrides)), passes)
    return [(step.slot, plan[step.source].layer, step.layer) for step in plan if step.source is not None]


def test_the_records_order_of_layers():
    layers = [step.layer for step in plan_passes(Model(**RECORD), 3)]
    assert layers == [0, 1, 2, 3, 4, 5, 3, 4, 5, 3, 4, 5, 6, 7, 8, 9, 10]
    assert [step.repeat for step in plan_passes(Model(**RECORD), 3)] == [0] * 6 + [1] * 3 + [2] * 3 + [0] * 5
    assert [step.layer for step in plan_passes(Model(**RECORD), 1)] == list(range(11))


def test_without_loops_both_bindings_pair_the_halves():
    expected = [(0, 4, 5), (1, 3, 6), (2, 2, 7), (3, 1, 8), (4, 0, 9)]
    assert mergers(1) == mergers(1, skip_binding="position") == expected
    assert mergers(1, unet_skips="none") == []


def test_the_published_binding_moves_every_slot_when_the_loop_turns_on():
    assert mergers(skip_binding="position") == [
        (0, 4, 5), (1, 3, 3), (2, 5, 4), (3, 4, 5), (4, 3, 6), (5, 2, 7), (6, 1, 8), (7, 0, 9),
    ]  # fmt: skip


def test_the_binding_by_layer_keeps_every_slot_and_adds_new_ones():
    looped = mergers()
    assert [merger for merger in looped if merger[0] < 5] == mergers(1)
    assert sorted(slot for slot, _, _ in looped) == list(range(8))
    published = mergers(skip_binding="position")
    assert [layers for _, *layers in looped] == [layers for _, *layers in published]
    assert mergers(2)[0] == (5, 5, 4)  # the outermost new pair has its slot with two passes and with three
    assert (5, 5, 4) in looped


@pytest.mark.parametrize("binding", ["layer", "position"])
@pytest.mark.parametrize("layers", [1, 2, 3, 6, 7])
def test_plans_of_every_loop_are_sound(layers, binding):
    for first in range(layers):
        for last in range(first, layers):
            for passes in (1, 2, 3):
                config = Model(
                    num_layers=layers, loop_first=first, loop_last=last, loop_passes=3, skip_binding=binding,
                    xsa_layers=0, value_embed_layers=0,
                )  # fmt: skip
                plan = plan_passes(config, passes)
                sources = [step.source for step in plan if step.source is not None]
                slots = [step.slot for step in plan if step.source is not None]
                assert len(plan) == layers + (passes - 1) * (last - first + 1)
                assert len(set(sources)) == len(sources)
                assert len(set(slots)) == len(slots)
                assert {index for index, step in enumerate(plan) if step.kept} == set(sources)
                assert all(step.source < index for index, step in enumerate(plan) if step.source is not None)


@pytest.mark.parametrize("skips", ["none", "additive", "gated"])
@pytest.mark.parametrize("binding", ["layer", "position"])
def test_one_pass_is_the_model_without_a_loop(skips, binding):
    looped = tiny(**LOOP, unet_skips=skips, skip_binding=binding)
    looped.set_passes(1)
    plain = tiny(unet_skips=skips)
    state = dict(looped.state_dict())
    for name in ("skips.weights", "skips.gates"):
        if name in state:
            state[name] = state[name][:2]
    plain.load_state_dict(state)
    assert torch.equal(looped(tokens()), plain(tokens()))
    looped.set_passes(3)
    assert not torch.allclose(looped(tokens()), plain(tokens()), atol=1e-2)


@pytest.mark.parametrize("skips", ["additive", "gated"])
def test_new_slots_start_without_effect(skips):
    model = tiny(**LOOP, unet_skips=skips, awake=False)
    skip, x = torch.randn(2, 1, 3, 32, generator=torch.Generator().manual_seed(0))
    assert model.skips.weights.shape == (4, 32)

    def merged(slot):
        return Residual.of(x).mixed(model.skips()[slot].of(skip)).added(kernels=False)

    for slot in (2, 3):
        assert torch.equal(merged(slot), x)
    for slot in (0, 1):
        half = 0.5 * (x + skip) if skips == "gated" else x + skip
        assert torch.allclose(merged(slot), half)
    merged(3).sum().backward()
    assert model.skips.weights.grad[3].abs().min() > 0


def test_the_passes_are_checked():
    model = tiny(**LOOP)
    assert model.passes == 3
    for passes in (0, 4):
        with pytest.raises(ValueError, match=r"needed 1 to model\.loop_passes"):
            model.set_passes(passes)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"loop_last": 4}, "loop_last: found 4, needed 0 to 3"),
        ({"loop_first": 2, "loop_last": 1}, "loop_first: found 2"),
        ({"loop_passes": 0}, "loop_passes: found 0"),
        ({"parallel_from": 4}, "parallel_from: found 4"),
        ({**LOOP, "parallel": "two_lane", "parallel_from": 2}, "two lanes that begin before or behind the loop"),
        ({"smear_kind": "token", "gate_inputs": 33}, "gate_inputs: found 33, needed 1 to dim"),
        ({"rope_train_len": -1}, "rope_train_len: found -1"),
        ({"value_embed_dim": 8, "value_embed_layers": 5}, "value_embed_layers: found 5, needed 0 to 4"),
    ],
    ids=str,
)
def test_impossible_depths_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        tiny(**values)


def test_a_component_that_is_off_stands_in_nobody_s_way():
    model = tiny(num_layers=1, xsa_layers=1, value_embed_layers=2, gate_inputs=99, smear_gate=False)
    assert model(tokens()).isfinite().all()


def test_each_pass_of_a_looped_layer_has_adapters_of_its_own():
    model, ids = tiny(**EVERYTHING | LOOP), tokens()
    shapes = model.adapter_shapes()
    assert {"head", "bigram.project", "blocks.0.mlp.up", "blocks.2.mlp.up@2"} <= set(shapes)
    assert "blocks.3.mlp.up@1" not in shapes
    assert len(shapes) == 3 + 6 * (2 + 2 * 3)
    reference = model(ids)
    for name in ("blocks.1.attention.key", "blocks.1.attention.key@1", "blocks.1.attention.key@2"):
        low = 0.3 * torch.randn(shapes[name], generator=torch.Generator().manual_seed(0))
        only = model(ids, adapters={name: lambda x, w=low: x @ w.T})
        assert not torch.allclose(only, reference, atol=1e-3), name
    low = 0.3 * torch.randn(shapes["blocks.2.mlp.up"], generator=torch.Generator().manual_seed(0))
    names = [name for name in shapes if name.startswith("blocks.2.mlp.up")]
    every = model(ids, adapters=dict.fromkeys(names, lambda x: x @ low.T))
    with torch.no_grad():
        model.blocks[2].mlp.up.weight += low
    assert torch.allclose(every, model(ids), atol=1e-4)
    model.set_passes(1)
    assert "blocks.2.mlp.up@1" not in model.adapter_shapes()


def test_fake_quantisation_reaches_every_pass():
    model, ids = tiny(**LOOP), tokens()
    set_fake_quant(model, (3, 3.0), (4, 3.0))
    coarse = model(ids)
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "fake_quant", None) is not None:
                module.weight.copy_(module.seen_weight())
    set_fake_quant(model, None, None)
    assert torch.allclose(model(ids), coarse, atol=1e-5)


def test_one_graph_for_each_number_of_passes():
    torch.compiler.reset()
    counter = CompileCounter()
    model, ids = tiny(num_layers=2, loop_first=1, loop_last=1, loop_passes=3), tokens()
    compiled = torch.compile(model, fullgraph=True, dynamic=False, backend=counter)
    for passes in (1, 3, 1, 3):
        model.set_passes(passes)
        assert torch.allclose(compiled(ids), model(ids), atol=1e-5)
    assert counter.frame_count == 2


def test_adapters_of_repeats_trace_into_one_graph():
    torch.compiler.reset()
    model, ids = tiny(num_layers=2, loop_first=1, loop_last=1, loop_passes=2), tokens()
    low = 0.3 * torch.randn(model.adapter_shapes()["blocks.1.mlp.up@1"], generator=torch.Generator().manual_seed(0))

    def adapted(low):
        return model(ids, adapters={"blocks.1.mlp.up@1": lambda x: x @ low.T})

    compiled = torch.compile(adapted, fullgraph=True, dynamic=False, backend="eager")
    assert torch.allclose(compiled(low), adapted(low), atol=1e-5)
    assert not torch.allclose(compiled(low), model(ids), atol=1e-3)


@pytest.mark.slow
def test_a_compiled_step_casts_each_weight_once():
    """The looped layers read the same bf16 copy: the compiler must find the casts of their passes equal."""
    torch.compiler.reset()
    model = tiny(num_layers=2, loop_last=1, loop_passes=2, value_embed_layers=0)
    ids, model.compute_dtype = tokens(), torch.bfloat16
    graphs = []

    def keep(graph, inputs):
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    backend = aot_autograd(fw_compiler=keep, bw_compiler=keep, partition_fn=min_cut_rematerialization_partition)
    torch.compile(model, fullgraph=True, dynamic=False, backend=backend)(ids, ids).mean().backward()
    shape = model.blocks[0].mlp.up.weight.shape
    casts = [
        node
        for node in graphs[0].graph.nodes
        if node.target is torch.ops.prims.convert_element_type.default or node.target is torch.ops.aten._to_copy.default
        if node.meta["val"].shape == shape
    ]
    assert len(casts) == model.config.num_layers
