"""The engine for a GPU: what it replays is what it would compute. What needs a GPU runs where there is one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from simulations.engines.cuda import CUDA_ENGINES, MOST_GRAPHS, GraphEngine
from simulations.engines.engine import CPU, Engine, StepRule
from simulations.engines.model import Stack
from simulations.engines.planner import make_engine
from simulations.engines.products import ProductEngine
from simulations.engines.serial import SerialEngine
from tests.simulations.engines.cases import CHAINS, RULES, Case, distance, make_case
from wire.errors import ConfigError

HAS_GPU = torch.cuda.is_available()
NEEDS_GPU = pytest.mark.skipif(not HAS_GPU, reason="no GPU here")
COMPILES = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
"""What torch's compiler says of torch itself, and of what it did not do."""
Trained = tuple[Stack, torch.Tensor]


class Recorder:
    """Records work without a GPU: replaying it runs it again, into the same memory."""

    def __init__(self) -> None:
        self.num_recorded = self.num_replayed = 0

    def __call__(self, work: Callable[[], Trained]) -> tuple[Trained, Callable[[], object]]:
        trained, losses = work()
        self.num_recorded += 1

        def replay() -> None:
            self.num_replayed += 1
            again, losses_again = work()
            for name, values in trained.items():
                values.copy_(again[name])
            losses.copy_(losses_again)

        return (trained, losses), replay


def graph_engine(case: Case) -> tuple[GraphEngine, Recorder]:
    recorder = Recorder()
    return GraphEngine(ProductEngine(case.model), CPU, recorder), recorder


@pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
@pytest.mark.parametrize("name", ["tanh", "norms", "fashion14-cnn"])
def test_a_replayed_epoch_is_a_computed_one_for_other_clients_and_another_order(name: str, rule: StepRule) -> None:
    case = make_case(name, (6, 6, 6, 6), is_double=True)
    engine, recorder = graph_engine(case)
    for part in (slice(0, 2), slice(2, 4), slice(1, 3)):
        start = {parameter: values[part] for parameter, values in case.params.items()}
        anchor = {parameter: values + 0.1 for parameter, values in start.items()}
        batches = case.batches(2, part, batch_size=4)
        found, losses = engine.train(start, batches, rule, anchor)
        expected, expected_losses = ProductEngine(case.model).train(start, batches, rule, anchor)
        assert distance(found, expected) < 1e-12
        assert torch.allclose(losses, expected_losses, atol=1e-12, rtol=0)
    assert (recorder.num_recorded, recorder.num_replayed) == (1, 2)


def test_what_was_returned_stays_when_the_next_epoch_is_replayed() -> None:
    case = make_case("tanh", (6, 6), is_double=True)
    engine, _ = graph_engine(case)
    batches, rule = case.batches(), RULES["plain"]
    engine.train(case.params, batches, rule)
    second, _ = engine.train(case.params, batches, rule)
    kept = {name: values.clone() for name, values in second.items()}
    engine.train({name: values + 1 for name, values in case.params.items()}, batches, rule)
    assert distance(second, kept) == 0


def test_only_so_many_epochs_are_held_and_the_oldest_goes() -> None:
    case = make_case("tanh", (6, 6), is_double=True)
    engine, recorder = graph_engine(case)
    rules = [StepRule(0.1 * (number + 1)) for number in range(MOST_GRAPHS + 1)]
    for rule in [*rules, *rules]:
        engine.train(case.params, case.batches(), rule)
    assert recorder.num_recorded == MOST_GRAPHS + 1
    engine.train(case.params, case.batches(), rules[-1])
    assert recorder.num_recorded == MOST_GRAPHS + 1
    engine.train(case.params, case.batches(), rules[0])
    assert recorder.num_recorded == MOST_GRAPHS + 2


def test_where_memory_runs_out_what_was_captured_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    case = make_case("tanh", (6, 6), is_double=True)
    engine, recorder = graph_engine(case)
    for _ in range(2):
        engine.train(case.params, case.batches(), RULES["plain"])

    def fail(*_: object) -> Trained:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as full:
        full.setattr(engine._engine, "train", fail)
        with pytest.raises(torch.OutOfMemoryError):
            engine.train(case.params, case.batches(2), RULES["plain"])
    engine.train(case.params, case.batches(), RULES["plain"])
    assert recorder.num_recorded == 2


def test_an_epoch_is_computed_as_exactly_as_the_engine_says_and_what_comes_after_as_before() -> None:
    case = make_case("tanh", (6, 6))
    seen = []

    class Watched(ProductEngine):
        def train(self, *arguments: Any, **named: Any) -> Trained:
            seen.append(torch.get_float32_matmul_precision())
            return super().train(*arguments, **named)

    engine = GraphEngine(Watched(case.model), CPU, Recorder(), precision="high")
    engine.train(case.params, case.batches(), RULES["plain"])
    assert (seen, torch.get_float32_matmul_precision()) == (["high"], "highest")


@pytest.mark.skipif(HAS_GPU, reason="there is a GPU")
@pytest.mark.parametrize("engine", CUDA_ENGINES)
def test_without_a_gpu_the_engine_is_refused(engine: str) -> None:
    with pytest.raises(ConfigError, match="needs a GPU"):
        make_engine(engine, make_case("tanh").model)


def on_gpu(case: Case) -> Case:
    params = {name: values.cuda() for name, values in case.params.items()}
    return Case(case.model, params, case.population.to(torch.device("cuda")))


def distance_to_serial(engine: Engine, case: Case, rule: StepRule) -> float:
    expected, _ = SerialEngine(case.model).train(case.params, case.batches(2), rule, case.params)
    there, distances = on_gpu(case), []
    for _ in range(3):  # step by step, captured, replayed
        found, _ = engine.train(there.params, there.batches(2), rule, there.params)
        distances.append(distance({name: values.cpu() for name, values in found.items()}, expected))
    return max(distances)


@NEEDS_GPU
@pytest.mark.parametrize("name", [*CHAINS, "resnet9-gn"])
def test_on_a_gpu_every_epoch_is_the_serial_loops(name: str) -> None:
    case = make_case(name, (6, 6, 6), is_double=True)
    engine = make_engine("cuda", case.model)
    assert all(distance_to_serial(engine, case, rule) < 1e-9 for rule in RULES.values())


@COMPILES
@NEEDS_GPU
@pytest.mark.parametrize("name", ["tanh", "norms", "fashion14-cnn", "watch-cnn"])
def test_on_a_gpu_what_was_compiled_is_the_serial_loops(name: str) -> None:
    case = make_case(name, (6, 6, 6), is_double=True)
    engine = make_engine("cuda-compiled", case.model)
    assert all(distance_to_serial(engine, case, RULES[rule]) < 1e-9 for rule in ("plain", "all at once"))


@NEEDS_GPU
def test_on_a_gpu_the_serial_loop_is_the_same() -> None:
    case = make_case("fashion14-cnn", is_double=True)
    engine = make_engine("cuda-serial", case.model)
    assert all(distance_to_serial(engine, case, rule) < 1e-9 for rule in RULES.values())


@COMPILES
@NEEDS_GPU
def test_on_a_gpu_short_types_change_an_epoch_by_their_rounding_alone() -> None:
    case = make_case("fashion14-cnn", (6, 6, 6))
    engine = make_engine("cuda-bf16", case.model)
    assert 0 < distance_to_serial(engine, case, RULES["plain"]) < 0.1
