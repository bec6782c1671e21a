"""What torchvision, timm, MONAI and Keras test of their networks, asked of ours, alone and in timm's registry."""

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models.feature_extraction import create_feature_extractor, get_graph_node_names

from densekit import create_model
from densekit.errors import InvalidInput
from densekit.models import DenseNet, build


def in_timm(name: str, **settings: object) -> nn.Module:
    timm = pytest.importorskip("timm", reason="needs the extra timm")
    import densekit.timm

    return timm.create_model(densekit.timm.register(name), **settings)


Make = Callable[..., Any]
"""Makes a network of ours, also one that timm registers: an `nn.Module` with the methods of an `ImageClassifier`."""

MAKERS: dict[str, Make] = {
    "dense": lambda **settings: create_model("densenet_bc_16_8", **settings),
    "dense, plain layers": lambda **settings: create_model("densenet_10_8", **settings),
    "dense, stem of ImageNet": lambda **settings: create_model(
        "densenet_bc_16_8", stem="imagenet", image_size=32, **settings
    ),
    "residual": lambda **settings: create_model("resnet_8", **settings),
    "residual, preactivated": lambda **settings: create_model("preact_resnet_20", **settings),
    "dense, in timm": lambda **settings: in_timm("densenet_bc_16_8", **settings),
    "residual, in timm": lambda **settings: in_timm("resnet_8", **settings),
}
every = pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)


def images(*shape: int) -> Tensor:
    return torch.randn(*(shape or (2, 3, 32, 32)), generator=torch.Generator().manual_seed(5))


@every
@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (2, 3, 33, 47), (3, 3, 64, 20), (0, 3, 32, 32)])
def test_logits_at_odd_sizes_and_batches(make: Make, shape: tuple[int, ...]) -> None:
    model = make(num_classes=7).eval()
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            assert model(images(*shape)).shape == (shape[0], 7)


@every
@pytest.mark.parametrize("channels", [1, 2, 4])
def test_any_number_of_input_channels(make: Make, channels: int) -> None:
    name = "in_channels" if "timm" not in type(make()).__module__ else "in_chans"
    assert make(**{name: channels}).eval()(images(2, channels, 32, 32)).shape == (2, 10)


@every
def test_a_seed_decides_the_initial_weights(make: Make) -> None:
    states = []
    for _ in range(2):
        torch.manual_seed(1)
        states.append(make().state_dict())
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())


@every
def test_gradients_reach_every_parameter(make: Make) -> None:
    model, x = make().train(), images().requires_grad_()
    model(x).square().sum().backward()
    for name, parameter in [("input", x), *model.named_parameters()]:
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@every
def test_a_state_dict_goes_in_and_out(make: Make) -> None:
    model, other = make(), make()
    model(images())  # running statistics of its own
    assert not other.load_state_dict(model.state_dict()).missing_keys
    assert torch.equal(model.eval()(images()), other.eval()(images()))
    twin = copy.deepcopy(model)
    assert torch.equal(twin(images()), model(images()))


@every
def test_the_head_can_be_replaced_and_removed(make: Make) -> None:
    model = make().eval()
    features = model.forward_features(images())
    assert features.shape[:2] == (2, model.num_features)
    model.reset_classifier(5)
    assert model(images()).shape == (2, 5)
    pooled = model.forward_head(features, pre_logits=True)
    model.reset_classifier(0)
    torch.testing.assert_close(model(images()), pooled)
    assert pooled.shape == (2, model.num_features)


@every
def test_intermediates_end_in_the_features(make: Make) -> None:
    model = make().eval()
    final, maps = model.forward_intermediates(images())
    torch.testing.assert_close(final, model.forward_features(images()))
    sizes = [each.shape[-1] for each in maps]
    assert sizes == sorted(sizes, reverse=True)
    with pytest.raises(InvalidInput, match="out of range"):
        model.forward_intermediates(images(), [len(maps)])


@every
def test_torchvisions_feature_extractor_finds_each_stage(make: Make) -> None:
    model = make().eval()
    dense = isinstance(model, DenseNet)
    node = "features.transition1.pool" if dense else "stages.0"
    extractor = create_feature_extractor(model, {node: "stage"})
    seen: list[Tensor] = []
    model.get_submodule(node).register_forward_hook(lambda _, __, output: seen.append(output))
    model(images())
    torch.testing.assert_close(extractor(images())["stage"], seen[0], rtol=1e-4, atol=1e-5)


@every
@pytest.mark.parametrize("gradients", [True, False])
def test_a_hook_on_any_module_is_called_once(make: Make, gradients: bool) -> None:
    """As captum, SHAP and activation maps need it; also after a pass without hooks, whose weights are kept."""
    model = make().eval()
    with torch.set_grad_enabled(gradients):
        expected = model(images())
        called: dict[str, int] = {}
        for name, module in model.named_modules():
            module.register_forward_hook(lambda *_, name=name: called.update({name: called[name] + 1}))
            called[name] = 0
        torch.testing.assert_close(model(images()), expected, rtol=1e-4, atol=1e-5)
    # Where a pool may come first, there is no dropout, and the place for it is passed by.
    assert {name: count for name, count in called.items() if count != 1 and not name.endswith(".drop")} == {}


@every
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_near_full_precision(make: Make, dtype: torch.dtype) -> None:
    model = make()
    for _ in range(3):
        model(images(8, 3, 32, 32))
    expected = model.eval()(images())
    with torch.no_grad():
        found = copy.deepcopy(model).to(dtype)(images().to(dtype))
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() <= 0.1 * expected.abs().max()


@every
def test_memory_formats_give_the_same_numbers(make: Make) -> None:
    model = make().eval()
    expected = model(images())
    last = copy.deepcopy(model).to(memory_format=torch.channels_last)
    torch.testing.assert_close(last(images().to(memory_format=torch.channels_last)), expected, rtol=1e-4, atol=1e-5)
    features = last.forward_features(images().to(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)


@every
def test_a_network_made_on_the_meta_device_can_be_filled(make: Make) -> None:
    model = make().eval()
    with torch.device("meta"):
        empty = make().eval()
        assert empty(torch.empty(2, 3, 32, 32)).shape == (2, 10)
    full = empty.to_empty(device="cpu")
    full.load_state_dict(model.state_dict())
    torch.testing.assert_close(full(images()), model(images()))
    with torch.device("meta"):
        assigned = make().eval()
    assigned.load_state_dict(model.state_dict(), assign=True)
    torch.testing.assert_close(assigned(images()), model(images()))


@every
def test_data_parallel_without_devices_is_the_network(make: Make) -> None:
    model = make().eval()
    torch.testing.assert_close(nn.DataParallel(model)(images()), model(images()))


@every
def test_an_exported_program_takes_any_batch_and_size(make: Make) -> None:
    model = make().eval()
    dynamic = {0: torch.export.Dim("batch"), 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC}
    program = torch.export.export(model, (images(2, 3, 40, 36),), dynamic_shapes=(dynamic,)).module()
    for shape in ((5, 3, 48, 64), (1, 3, 32, 40)):
        torch.testing.assert_close(program(images(*shape)), model(images(*shape)), rtol=1e-4, atol=1e-5)


@every
def test_in_evaluation_an_image_does_not_depend_on_its_batch(make: Make) -> None:
    model = make()
    model(images(8, 3, 32, 32))
    model.eval()
    x = images(4, 3, 32, 32)
    alone = torch.cat([model(each[None]) for each in x])
    torch.testing.assert_close(model(x), alone, rtol=1e-4, atol=1e-5)


@every
def test_a_network_reads_what_another_layer_makes(make: Make) -> None:
    """Of images of four channels and any size, as Keras's networks read a tensor that is given to them."""
    first = nn.Conv2d(4, 3, 2, stride=2)
    whole = nn.Sequential(first, make(), nn.Softmax(1))
    answers = whole(images(2, 4, 67, 90))
    torch.testing.assert_close(answers.sum(1), torch.ones(2))
    answers[:, 1].sum().backward()
    assert first.weight.grad is not None
    assert first.weight.grad.isfinite().all()
    assert first.weight.grad.any()


@every
@pytest.mark.parametrize("classes", [1, 4, 20])
def test_each_class_has_a_gradient_even_of_an_image_without_contrast(make: Make, classes: int) -> None:
    """One grey value all over: in training its maps hardly vary where no border is near."""
    model = make(num_classes=classes, **{"in_chans" if "timm" in type(make()).__module__ else "in_channels": 1})
    assert model.get_submodule("classifier").weight.shape[0] == classes
    for training in (False, True):
        x = torch.ones(1, 1, 64, 64, requires_grad=True)
        logits = model.train(training)(x)
        (slopes,) = torch.autograd.grad(logits[:, classes - 1], x)
        assert slopes.shape == x.shape
        assert logits.isfinite().all()
        assert slopes.isfinite().all()


@every
def test_settings_make_the_network_again(make: Make) -> None:
    model = make(num_classes=7).eval()
    config = type(model.config).model_validate_json(model.config.model_dump_json())
    twin = build(config).eval()
    twin.load_state_dict(model.state_dict())
    torch.testing.assert_close(twin(images()), model(images()))


@every
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning:torch")
def test_a_graph_of_the_nodes_trains_as_the_network_and_can_be_scripted(make: Make) -> None:
    model = make()
    twin = copy.deepcopy(model)
    nodes = get_graph_node_names(twin)
    graph = create_feature_extractor(twin, train_return_nodes=nodes[0][-1:], eval_return_nodes=nodes[1][-1:])
    for training in (True, False):
        expected, (found,) = model.train(training)(images()), graph.train(training)(images()).values()
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        if training:
            expected.square().sum().backward()
            found.square().sum().backward()
    gradients = {name: parameter.grad for name, parameter in graph.named_parameters()}
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(gradients[name], parameter.grad, rtol=1e-3, atol=1e-4)
    (scripted,) = torch.jit.script(graph)(images()).values()
    torch.testing.assert_close(scripted, model(images()), rtol=1e-4, atol=1e-5)


@every
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_torchs_older_exporter_writes_a_file_for_any_batch_and_size(make: Make) -> None:
    """Traced; files of the newer one take a few seconds each, and stand below."""
    model, file = make().eval(), io.BytesIO()
    axes = {"images": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(model, (images(),), file, dynamo=False, input_names=["images"], dynamic_axes=axes)  # type: ignore[arg-type]  # torch types it for paths alone
    assert_answers(file.getvalue(), model)


def assert_answers(file: bytes, model: nn.Module) -> None:
    """That a file of ONNX answers as the network, at sizes and batches that it was not written for."""
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra export")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for shape in ((5, 3, 48, 64), (1, 3, 33, 47)):
        (found,) = session.run(None, {session.get_inputs()[0].name: images(*shape).numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(images(*shape)).detach(), rtol=1e-4, atol=1e-4)


@pytest.mark.slow
@every
@pytest.mark.parametrize("sides", [torch.export.Dim.DYNAMIC, torch.export.Dim.AUTO], ids=["dynamic", "auto"])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_torch_writes_a_file_for_any_batch_and_size(make: Make, sides: Any) -> None:
    """Of the module itself, and of its program, whose dynamic dimensions torch finds."""
    model, x = make().eval(), (images(2, 3, 40, 36),)
    if sides is torch.export.Dim.AUTO:
        program = torch.export.export(model, x, dynamic_shapes=({0: sides, 2: sides, 3: sides},))
        for shape in ((5, 3, 48, 64), (1, 3, 33, 47)):
            found = program.module()(images(*shape))
            torch.testing.assert_close(found, model(images(*shape)), rtol=1e-4, atol=1e-4)
        written = torch.onnx.export(program, dynamo=True, verbose=False)
    else:
        shapes = ({0: torch.export.Dim("batch"), 2: sides, 3: sides},)
        written = torch.onnx.export(model, x, dynamo=True, verbose=False, dynamic_shapes=shapes)
    assert written is not None
    assert_answers(written.model_proto.SerializeToString(), model)


@pytest.mark.slow
@every
def test_a_compiled_network_has_the_same_gradients(make: Make) -> None:
    model = make().train()
    twin = copy.deepcopy(model)
    compiled = torch.compile(twin, backend="aot_eager")
    for each in (model, compiled):
        each(images()).square().sum().backward()
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert mine.grad is not None
        torch.testing.assert_close(other.grad, mine.grad, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_densenet121_has_all_of_it() -> None:
    model = create_model("densenet121", num_classes=3).eval()
    assert model(images(1, 3, 97, 70)).shape == (1, 3)
    final, maps = model.forward_intermediates(images(1, 3, 97, 70), [-1, 0])
    assert [each.shape[1] for each in maps] == [256, 1024]
    torch.testing.assert_close(final, model.forward_features(images(1, 3, 97, 70)))
    model.reset_classifier(0)
    assert model(images(1, 3, 64, 64)).shape == (1, 1024)
