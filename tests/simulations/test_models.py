import pytest
import torch
from torch import nn

from export.models import built_in_models
from simulations.models import load_simulation_model, simulation_models
from wire.errors import ExportError

SIZES = {
    "fashion14-cnn": 98_442,
    "fashion28-cnn": 582_026,  # PFLlib's FedAvgCNN
    "tiles-cnn": 98_362,
    "watch-cnn": 33_335,
}


def num_params(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


@pytest.mark.parametrize("name", simulation_models() + built_in_models())
def test_every_model_gives_one_logit_a_class_and_learns_in_every_layer(name: str) -> None:
    torch.manual_seed(0)
    model = load_simulation_model(name)
    x = torch.randint(0, model.num_classes, (4, *model.input_shape)).float() / (1 if name == "char-gru" else 8)
    logits = model.module(x)
    loss = nn.functional.cross_entropy(logits, torch.arange(4))
    gradients = torch.autograd.grad(loss, list(model.module.parameters()))
    assert logits.shape == (4, model.num_classes)
    assert all(bool(gradient.any()) for gradient in gradients)


@pytest.mark.parametrize("name", simulation_models())
def test_layers_are_named_modules_at_the_top_and_the_last_is_the_head(name: str) -> None:
    layers = [name for name, child in load_simulation_model(name).module.named_children() if num_params(child)]
    assert layers[-1] == "head"
    assert 3 <= len(layers) <= 11
    assert not list(load_simulation_model(name).module.buffers())  # nothing that no gradient moves


@pytest.mark.parametrize(("name", "size"), SIZES.items())
def test_the_known_models_have_their_known_sizes(name: str, size: int) -> None:
    assert num_params(load_simulation_model(name).module) == size


@pytest.mark.parametrize("name", ["fashion14-cnn", "tiles-cnn", "watch-cnn"])
def test_the_studys_models_start_uniformly_with_unit_gain_and_without_biases(name: str) -> None:
    for layer in load_simulation_model(name).module.children():
        weight, bias = (dict(layer.named_parameters())[part] for part in ("weight", "bias"))
        bound = (3 / weight[0].numel()) ** 0.5
        assert 0.8 * bound < float(weight.detach().abs().max()) <= bound
        assert not bias.any()


@pytest.mark.parametrize("name", ["fashion14-cnn", "resnet9-gn", "char-gru"])
def test_the_seed_decides_the_initial_values(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([p.flatten() for p in load_simulation_model(name).module.parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("name", ["resnet9-gn", "resnet20-gn"])
def test_a_residual_network_treats_every_example_alone(name: str) -> None:
    module = load_simulation_model(name).module
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.allclose(module(x)[:1], module(x[:1]), atol=1e-5)


def test_a_name_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ExportError, match="no model is named 'fashion-cnn'"):
        load_simulation_model("fashion-cnn")
