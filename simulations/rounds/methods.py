"""The methods of a comparison by name: what each shares, and how its clients train.

=========================  =============================================================================================
``fedavg``                 B. McMahan et al., AISTATS 2017. All layers are shared.
``fedavg-finetuned``       The same, then ``num_local_rounds`` rounds alone: each client's own fine-tuning.
``local``                  Every client alone, from the common initial values.
``fedavg-then-local``      Half of the rounds shared, half alone: what the code released with FedLAG does.
``fedper``                 M. Arivazhagan et al., arXiv:1912.00818. The last layers are personal, all train together.
``fedrep``                 L. Collins et al., ICML 2021. As FedPer, but the personal layers train first, then the shared
                           ones. Ours: one epoch for the head instead of ten, so that rounds cost much the same.
``fedbabu``                J. Oh et al., ICLR 2022. The head stays at its initial values, the body is shared; then all
                           train alone for some rounds. Ours: fine-tuning is rounds of the run, not epochs after it.
``lg-fedavg``              P. P. Liang et al., arXiv:2001.01523. The first layers are personal. Ours: no vote on new data.
``fedbn``                  X. Li et al., ICLR 2021. Norm layers are personal. Ours: group norm, which has no statistics
                           to keep apart, so only scale and shift are.
``ditto``                  T. Li et al., ICML 2021. FedAvg, and a personal model that is pulled to it. Ours: as many
                           epochs for both, so a round costs twice.
``fedprox``                T. Li et al., MLSys 2020. FedAvg with a pull to what the round began with. Ours: no client
                           does less work than another.
``fedala``                 J. Zhang et al., AAAI 2023. See ``simulations.rounds.adaptive``.
``random-k``               Some layers, drawn once: the control for every choice of layers.
``fedlag-paper``           T. Nguyen et al., arXiv:2410.02845. Layers in conflict, frozen after a warm-up; see
                           ``aggregator.paper_selection`` for how ours differs.
``fedlag-paper-every-round``  The same, chosen anew in every round.
``fedlag-paper-exact``     ``fedlag-paper`` from the updates themselves, not from sketches.
``fedlag-swap``            Our own, ``aggregator.swap_selection``.
``fedprox+fedlag``         ``fedlag-swap`` with FedProx's pull.
``ditto+fedlag``           ``fedlag-swap``, with a Ditto model pulled to what the client was given, its own layers
                           included; that model is measured.
``grouped``                The named layers, or all, are averaged among every fourth client, the rest among all: what
                           groups bring at best where there are four. Evidence only, a fleet has none.
``own-choice``             ``fedavg``, but a client uses its own version of a layer where that is better on its validation
                           examples, layer after layer from the head. Evidence only.
``fedlag+own-choice``      The same with ``fedlag-swap``.
=========================  =============================================================================================

The head is the model's last layer.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

import msgspec
from torch import nn

from aggregator.selection import make_selector
from simulations.engines.model import SimulatedModel
from simulations.rounds.method import LocalRule, Method, check_fit
from wire.errors import ConfigError

__all__ = ["METHODS", "MethodMaker", "make_method", "norm_layers"]

MethodMaker = Callable[..., Method]
"""``(name, model, num_rounds, **options) -> Method``."""

NORMS = (nn.GroupNorm, nn.LayerNorm, nn.RMSNorm, nn.modules.batchnorm._NormBase)  # noqa: SLF001 - batch and instance norm
FINETUNING_ROUNDS = 3


def make_method(name: str, model: SimulatedModel, num_rounds: int, **options: Any) -> Method:
    """Return a method for a model.

    Args:
        name: One of ``METHODS``.
        model: Whose layers it divides.
        num_rounds: Of the whole run, fine-tuning included.
        **options: The method's own, for example ``num_personal``; selectors' options go to the selector.

    Raises:
        ConfigError: If there is no such method or option, an option is wrong, or the model or the run does not fit.
    """
    if name not in METHODS:
        raise ConfigError(f"no method is called {name!r}; choose one of {', '.join(METHODS)}")
    make = METHODS[name]
    known = inspect.signature(make).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    own = [option for option, parameter in known.items() if parameter.kind is parameter.KEYWORD_ONLY]
    unknown = [option for option in options if option not in own]
    if unknown and not takes_any:
        raise ConfigError(f"method {name} has no option {unknown[0]!r}; it has {', '.join(own) or 'none'}")
    method = make(name, model, num_rounds, **options)
    check_fit(method, model.layer_sizes)
    make_selector(method.selector, method.options, num_rounds).start(model.layer_sizes)
    return method


def norm_layers(model: SimulatedModel) -> tuple[str, ...]:
    """Return the layers that normalize, by the types of the module's parts, in the model's order."""
    norms = {name for name, part in model.module.named_modules() if isinstance(part, NORMS)}
    return tuple(layer for layer in model.layer_sizes if layer in norms)


def _selected(selector: str) -> MethodMaker:
    """Return a maker of a selector with its own options and nothing else."""

    def make(name: str, _model: SimulatedModel, _num_rounds: int, **options: Any) -> Method:
        return Method(name=name, selector=selector, options=options)

    return make


def _finetuned(
    name: str, _model: SimulatedModel, num_rounds: int, *, num_local_rounds: int = FINETUNING_ROUNDS
) -> Method:
    return Method(name=name, selector="fedavg-then-local", options=_rounds_before(name, num_rounds, num_local_rounds))


def _fedrep(
    name: str, _model: SimulatedModel, _num_rounds: int, *, num_personal: int = 1, personal_epochs: int = 1
) -> Method:
    local = _local(name, personal_epochs=personal_epochs)
    return Method(name=name, selector="fedper", options={"num_personal": num_personal}, local=local)


def _fedbabu(name: str, model: SimulatedModel, num_rounds: int, *, num_local_rounds: int = FINETUNING_ROUNDS) -> Method:
    options = _rounds_before(name, num_rounds, num_local_rounds)
    head = tuple(model.layer_sizes)[-1:]
    return Method(name=name, selector="fedavg-then-local", options=options, local=LocalRule(frozen=head))


def _fedbn(name: str, model: SimulatedModel, _num_rounds: int) -> Method:
    norms = norm_layers(model)
    if not norms:
        raise ConfigError(f"{name} keeps norm layers personal, but the model has none: take another model or method")
    return Method(name=name, selector="fixed", options={"layers": norms})


def _fedprox(name: str, _model: SimulatedModel, _num_rounds: int, *, proximal: float = 0.01) -> Method:
    return Method(name=name, selector="fedavg", local=_local(name, proximal=proximal))


def _ditto(name: str, _model: SimulatedModel, _num_rounds: int, *, pull: float = 0.1) -> Method:
    return Method(name=name, selector="fedavg", local=_local(name, ditto=pull))


def _fedala(
    name: str,
    model: SimulatedModel,
    _num_rounds: int,
    *,
    num_adaptive: int = 1,
    adaptive_rate: float = 1.0,
    adaptive_share: float = 0.8,
) -> Method:
    layers = tuple(model.layer_sizes)
    if not 1 <= num_adaptive <= len(layers):
        raise ConfigError(f"num_adaptive = {num_adaptive}, but the model has {len(layers)} layers")
    adaptive = layers[-num_adaptive:]
    local = _local(name, adaptive=adaptive, adaptive_rate=adaptive_rate, adaptive_share=adaptive_share)
    return Method(name=name, selector="fedavg", local=local)


def _fedlag_every_round(name: str, _model: SimulatedModel, _num_rounds: int, **options: Any) -> Method:
    return Method(name=name, selector="fedlag-paper", options={"schedule": "every_round", **options})


def _fedlag_exact(name: str, _model: SimulatedModel, _num_rounds: int, **options: Any) -> Method:
    return Method(name=name, selector="fedlag-paper", options=options, is_exact=True)


def _fedprox_fedlag(
    name: str, _model: SimulatedModel, _num_rounds: int, *, proximal: float = 0.01, **options: Any
) -> Method:
    return Method(name=name, selector="fedlag-swap", options=options, local=_local(name, proximal=proximal))


def _ditto_fedlag(name: str, _model: SimulatedModel, _num_rounds: int, *, pull: float = 0.1, **options: Any) -> Method:
    return Method(name=name, selector="fedlag-swap", options=options, local=_local(name, ditto=pull))


def _grouped(name: str, model: SimulatedModel, _num_rounds: int, *, layers: Collection[str] | None = None) -> Method:
    grouped = tuple(model.layer_sizes if layers is None else layers)
    return Method(name=name, selector="fixed", options={"layers": grouped}, local=_local(name, grouped=grouped))


def _choosing(selector: str) -> MethodMaker:
    """Return a maker of a selector whose clients each use what is better for them."""

    def make(name: str, _model: SimulatedModel, _num_rounds: int, **options: Any) -> Method:
        return Method(name=name, selector=selector, options=options, local=LocalRule(chooses=True))

    return make


def _local(name: str, **rule: Any) -> LocalRule:
    """Return the rule, its values checked."""
    try:
        return msgspec.convert(rule, type=LocalRule)
    except msgspec.ValidationError as error:
        raise ConfigError(f"method {name}: {error}") from error


def _rounds_before(name: str, num_rounds: int, num_local_rounds: int) -> dict[str, Any]:
    """Return the option that leaves so many rounds to train alone."""
    if not 1 <= num_local_rounds < num_rounds:
        raise ConfigError(f"{name} trains alone for {num_local_rounds} of {num_rounds} rounds: at least 1, and not all")
    return {"num_shared_rounds": num_rounds - num_local_rounds}


METHODS: dict[str, MethodMaker] = {
    "fedavg": _selected("fedavg"),
    "fedavg-finetuned": _finetuned,
    "local": _selected("local"),
    "fedavg-then-local": _selected("fedavg-then-local"),
    "fedper": _selected("fedper"),
    "fedrep": _fedrep,
    "fedbabu": _fedbabu,
    "lg-fedavg": _selected("lg-fedavg"),
    "fedbn": _fedbn,
    "ditto": _ditto,
    "fedprox": _fedprox,
    "fedala": _fedala,
    "random-k": _selected("random"),
    "fedlag-paper": _selected("fedlag-paper"),
    "fedlag-paper-every-round": _fedlag_every_round,
    "fedlag-paper-exact": _fedlag_exact,
    "fedlag-swap": _selected("fedlag-swap"),
    "fedprox+fedlag": _fedprox_fedlag,
    "ditto+fedlag": _ditto_fedlag,
    "grouped": _grouped,
    "own-choice": _choosing("fedavg"),
    "fedlag+own-choice": _choosing("fedlag-swap"),
}
"""Name -> what makes the method."""
