"""A study's configuration: one TOML file says what is compared, on what, and how."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from aggregator.config import RoundSettings, Schedule, check_optimizer
from simulations.rounds.lying import Lie
from wire.errors import ConfigError
from wire.messages import OptimizerName, TrainingSettings

__all__ = [
    "DataChoice",
    "MethodChoice",
    "RecordChoice",
    "RoundChoice",
    "ScenarioChoice",
    "StudyConfig",
    "TrainingChoice",
    "TrainingRule",
    "load_study",
    "parse_study",
    "read_tree",
]

Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Seed = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Rate = Annotated[float, Meta(gt=0, le=1e9)]
LearningRates = Annotated[tuple[Rate, ...], Meta(min_length=1)]
Name = Annotated[str, Meta(min_length=1, max_length=120)]


class DataChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose data it is.

    Args:
        name: One of ``simulations.data.scenarios``, or with ``model`` any name.
        model: The user's own model, ``package.module:factory`` or a name that comes with FedLAG Edge; it learns from
            ``folder``, which then holds one ``.npz`` for each client.
        folder: Where the data lies; a relative path starts at the configuration's folder.
        num_clients: Number of clients; absent: the scenario's own.
        examples_per_client: Training and validation examples together, on average.
        validation_examples: The most validation examples of a client.
    """

    name: Name
    model: str | None = None
    folder: str | None = None
    num_clients: Positive | None = None
    examples_per_client: Positive | None = None
    validation_examples: Positive | None = None


class ScenarioChoice(DataChoice, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Whose data it is, and what holds on it instead of what the study says.

    Args:
        label: What reports call it; by default its name.
        learning_rates: From which the best is chosen here; absent: the study's.
        cohort_size: Clients that train in a round here; absent: the study's.
        lies: What one client in five says of its swap tests (``simulations.rounds.lying``); absent: all are honest.
    """

    label: str = ""
    learning_rates: LearningRates | None = None
    cohort_size: Positive | None = None
    lies: Lie | None = None

    @property
    def data(self) -> DataChoice:
        """The data alone."""
        return DataChoice(**{name: getattr(self, name) for name in DataChoice.__struct_fields__})


class MethodChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A method to compare.

    Args:
        name: One of ``simulations.rounds.methods``; ``mask-`` and layers joined by ``+``: those layers are personal
            throughout; ``masks``: all such choices.
        label: What reports call it; by default its name and options.
        options: The method's own.
    """

    name: Name
    label: str = ""
    options: dict[str, Any] = {}


class RoundChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How rounds run.

    Args:
        num_rounds: Rounds of every method.
        cohort_size: Clients that train in a round; absent: all.
        sketch_width: Most values of one layer's sketch.
    """

    num_rounds: Positive = 40
    cohort_size: Positive | None = None
    sketch_width: Positive = 1024


class TrainingRule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How clients train, whatever the learning rate.

    Args:
        num_epochs: Passes over the local data in a round.
        batch_size: Examples a step.
        momentum: In ``[0, 1)``; of Adam's it is beta1.
        max_gradient_norm: Larger gradients are scaled down to it.
        optimizer: Which one.
        nesterov: Whether SGD looks ahead along its momentum.
        weight_decay: How strongly parameters are pulled to 0.
        proximal: How strongly they are pulled to what the round began with; FedProx and Ditto have their own.
        schedule: How the learning rate falls over the rounds (``aggregator.schedule``).
        warmup_rounds: Rounds over which it rises first.
    """

    num_epochs: Annotated[int, Meta(ge=1, le=1000)] = 1
    batch_size: Positive = 10
    momentum: Annotated[float, Meta(ge=0, lt=1)] = 0.9
    max_gradient_norm: Annotated[float, Meta(gt=0, le=1e9)] = 5.0
    optimizer: OptimizerName = "sgd"
    nesterov: bool = False
    weight_decay: Annotated[float, Meta(ge=0, le=1e3)] = 0.0
    proximal: Annotated[float, Meta(ge=0, le=1e3)] = 0.0
    schedule: Schedule = "constant"
    warmup_rounds: Annotated[int, Meta(ge=0)] = 0

    def __post_init__(self) -> None:
        """Refuse options that contradict each other."""
        check_optimizer(self.settings(1.0))

    def settings(self, learning_rate: float) -> TrainingSettings:
        """Return them as a fleet has them; the schedule is its aggregator's."""
        options = msgspec.structs.asdict(self)
        known = {name: options[name] for name in TrainingSettings.__struct_fields__ if name in options}
        return TrainingSettings(**{**known, "learning_rate": learning_rate})


class TrainingChoice(TrainingRule, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How clients train.

    Args:
        learning_rates: From which the best is chosen on validation data, for each method, scenario and seed.
    """

    learning_rates: LearningRates = (0.01, 0.02, 0.05)

    @property
    def rule(self) -> TrainingRule:
        """All but the learning rates."""
        return TrainingRule(**{name: getattr(self, name) for name in TrainingRule.__struct_fields__})


class RecordChoice(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is recorded beside the results.

    Args:
        conflict: Measure conflict in every round, for the heat maps, though a method does not look at it.
    """

    conflict: bool = False


class StudyConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A study.

    Args:
        name: What the report is called.
        scenarios: On what to compare.
        methods: What to compare.
        seeds: Each decides the draw of the data, the initial values and the batches.
        reference: The method that the others are compared with, pair by pair.
        engine: What trains: ``auto``, or one of ``simulations.rounds.opening``; results differ by rounding alone.
        rounds: How rounds run.
        training: How clients train.
        record: What is recorded beside the results.
    """

    name: Name = "study"
    scenarios: Annotated[tuple[str | ScenarioChoice, ...], Meta(min_length=1)]
    methods: Annotated[tuple[str | MethodChoice, ...], Meta(min_length=1)]
    seeds: Annotated[tuple[Seed, ...], Meta(min_length=1)] = (0, 1, 2)
    reference: str = "fedavg"
    engine: str = "auto"
    rounds: RoundChoice = RoundChoice()
    training: TrainingChoice = TrainingChoice()
    record: RecordChoice = RecordChoice()

    def __post_init__(self) -> None:
        """Refuse what would count twice, and a schedule that does not fit the rounds."""
        RoundSettings(
            num_rounds=self.rounds.num_rounds,
            schedule=self.training.schedule,
            warmup_rounds=self.training.warmup_rounds,
        )
        of_scenarios = [("learning rate", it.learning_rates or ()) for it in self.scenario_choices]
        for what, values in (("seed", self.seeds), ("learning rate", self.training.learning_rates), *of_scenarios):
            twice = [value for place, value in enumerate(values) if value in values[:place]]
            if twice:
                raise ValueError(f"{what} {twice[0]} is there twice")

    @property
    def scenario_choices(self) -> tuple[ScenarioChoice, ...]:
        """The scenarios, those given by name alone included."""
        return tuple(ScenarioChoice(name=it) if isinstance(it, str) else it for it in self.scenarios)

    @property
    def method_choices(self) -> tuple[MethodChoice, ...]:
        """The methods, those given by name alone included."""
        return tuple(MethodChoice(name=it) if isinstance(it, str) else it for it in self.methods)


def load_study(path: Path) -> StudyConfig:
    """Return the study in a TOML file.

    Raises:
        ConfigError: If the file is missing, is no TOML, or an option is unknown, missing or wrong; the line names it.
    """
    return parse_study(read_tree(path), path)


def read_tree(path: Path) -> dict[str, Any]:
    """Return what stands in a TOML file, not yet checked.

    Raises:
        ConfigError: If the file is missing, or is no TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read the study {path}: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from error


def parse_study(tree: Mapping[str, Any], path: Path) -> StudyConfig:
    """Return the study that a tree of options describes; its relative folders start at the file's folder.

    Args:
        tree: As TOML has it.
        path: Where it came from.

    Raises:
        ConfigError: If an option is unknown, missing or wrong; the line names it.
    """
    try:
        study = msgspec.convert(tree, StudyConfig)
    except (msgspec.ValidationError, RecursionError) as error:
        raise ConfigError(f"{path}: {error}; docs/simulations.md explains every option") from error
    here = path.resolve().parent
    scenarios = tuple(
        it if it.folder is None else msgspec.structs.replace(it, folder=str(here / it.folder))
        for it in study.scenario_choices
    )
    return msgspec.structs.replace(study, scenarios=scenarios)
