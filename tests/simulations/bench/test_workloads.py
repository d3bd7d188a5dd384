"""The workloads are what they say, and the same in every program."""

from __future__ import annotations

import pytest
import torch

from simulations.bench.workloads import WORKLOADS, Workload, cohort, make_clients, make_module

SMALL = Workload("T", "a few clients", num_clients=6, cohort_size=3, examples_per_client=20)


@pytest.mark.parametrize(("name", "num_params"), [("T", 25_450), ("S", 55_338), ("L", 582_026)])
def test_a_model_has_the_parameters_of_its_workload(name: str, num_params: int) -> None:
    assert sum(it.numel() for it in make_module(name).parameters()) == num_params


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_model_gives_ten_logits_an_image_and_names_its_layers(name: str) -> None:
    module = make_module(name)
    assert module(torch.zeros(3, 1, 28, 28)).shape == (3, 10)
    layers = list(dict.fromkeys(it.partition(".")[0] for it, _ in module.named_parameters()))
    assert layers == (["fc1", "head"] if name == "T" else ["conv1", "conv2", "fc1", "head"])


def test_a_round_is_200_client_steps() -> None:
    assert {it.num_client_steps for it in WORKLOADS.values()} == {200}


def test_an_incomplete_last_batch_is_a_step() -> None:
    assert Workload("T", "", examples_per_client=21, batch_size=10, num_epochs=2).num_steps == 6


def test_an_unknown_model_is_refused_with_the_names_of_the_known() -> None:
    with pytest.raises(ValueError, match="T, S, L"):
        make_module("XL")


def test_initial_values_depend_on_the_seed_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = make_module("S", seed=1).state_dict()
    assert torch.equal(torch.get_rng_state(), before)
    again, other = make_module("S", seed=1).state_dict(), make_module("S", seed=2).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not any(torch.equal(first[key], other[key]) for key in first)


def test_clients_depend_on_the_seed_alone() -> None:
    inputs, targets = make_clients(SMALL, seed=1)
    assert (inputs.shape, inputs.dtype) == ((6, 20, 1, 28, 28), torch.float32)
    assert (targets.shape, targets.dtype) == ((6, 20), torch.int64)
    again, other = make_clients(SMALL, seed=1), make_clients(SMALL, seed=2)
    assert torch.equal(inputs, again[0])
    assert torch.equal(targets, again[1])
    assert not torch.equal(inputs, other[0])


def test_a_model_learns_the_classes_and_not_at_once() -> None:
    inputs, targets = (it.flatten(0, 1) for it in make_clients(WORKLOADS["T"]))
    module = make_module("T")
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    losses = []
    for first in range(0, len(inputs) // 2, 50):
        loss = torch.nn.functional.cross_entropy(module(inputs[first : first + 50]), targets[first : first + 50])
        losses.append(loss.item())
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
    assert losses[0] > 2
    assert losses[5] > 1
    assert losses[-1] < 1


def test_every_round_has_a_cohort_of_its_own_that_the_seed_decides() -> None:
    first = cohort(WORKLOADS["T"], 1, seed=3)
    assert first == sorted(set(first))
    assert len(first) == 20
    assert set(first) <= set(range(100))
    assert cohort(WORKLOADS["L"], 1, seed=3) == first
    assert cohort(WORKLOADS["T"], 2, seed=3) != first
    assert cohort(WORKLOADS["T"], 1, seed=4) != first
