"""Where a fleet goes on when its aggregator starts: from the last checkpoint, or from the first state."""

from __future__ import annotations

import logging

from aggregator.config import AggregatorConfig
from aggregator.evidence import Selector
from aggregator.keeping.store import FleetStore
from aggregator.planning import FleetState, build_plan
from aggregator.program_folder import ProgramFolder
from wire.errors import ConfigError, ModelError, WireError
from wire.tensors import decode_layer

__all__ = ["go_on_from", "open_state"]

log = logging.getLogger(__name__)


def open_state(config: AggregatorConfig, program: ProgramFolder, selector: Selector, store: FleetStore) -> FleetState:
    """Return the state to go on from; it is in the store when this returns.

    Another model starts at round 1 of the next epoch; its layers that the model before had, by name and shapes, go on with their
    averages, the others with their initial values. Another selector, or other options, start without
    evidence and go on with the layers as they are. A fleet that had finished goes on if the configuration now asks for more
    rounds, or if it was asked to go back.

    Raises:
        ConfigError: If the selector, or what shall be trained, does not fit the model.
        ModelError: If the initial values do not fit the manifest.
        StoreError: If the disk refuses, or what it holds is damaged.
    """
    for layer in config.training.trained_layers or ():
        if layer not in program.manifest.layer_names:
            known = ", ".join(program.manifest.layer_names)
            raise ConfigError(f"trained_layers names {layer!r}, which is not in the model; it has {known}")
    state = store.load_state()
    request = store.request()
    if state is not None and request is not None and request.state.plan.model_id == program.model_id:
        state = go_on_from(config, program, selector, request.state, state.plan.epoch + 1)
        store.save(state, {}, program.manifest)
        store.forget_request(request)
        return state
    if state is None or state.plan.model_id != program.model_id:
        return _first_state(config, program, selector, store, state)
    num_rounds = config.rounds.num_rounds
    has_more_rounds = num_rounds is None or state.plan.round_number <= num_rounds
    options = config.selector.options
    is_same_rule = (state.selector, state.selector_options) == (selector.name, options)
    if is_same_rule and not (state.is_finished and has_more_rounds):
        return state
    state = go_on_from(config, program, selector, state, state.plan.epoch + 1)
    store.save(state, {}, program.manifest)
    return state


def go_on_from(
    config: AggregatorConfig, program: ProgramFolder, selector: Selector, version: FleetState, epoch: int
) -> FleetState:
    """Return a version as the state of a later epoch, as it is configured now.

    Raises:
        ModelError: If the version is of another model.
    """
    if version.plan.model_id != program.model_id:
        raise ModelError(f"version {version.name} is of another model than the one in {config.program}")
    selector_state, decision, options = version.selector_state, version.decision, config.selector.options
    if (version.selector, version.selector_options) != (selector.name, options):
        log.warning("the selector is now %s %s: it starts without evidence", selector.name, options or "")
        selector_state, decision = selector.start({layer.name: layer.num_params for layer in program.manifest.layers})
    plan = build_plan(
        config,
        program.model_id,
        program.manifest,
        version.layers,
        decision,
        needs_personal_sketches=selector.needs_personal_sketches,
        epoch=epoch,
        round_number=version.plan.round_number,
        previous=version.plan.previous,
    )
    num_rounds = config.rounds.num_rounds
    return FleetState(
        plan=plan,
        layers=version.layers,
        selector=selector.name,
        selector_options=options,
        selector_state=selector_state,
        decision=decision,
        is_finished=version.is_finished and num_rounds is not None and plan.round_number > num_rounds,
    )


def _first_state(
    config: AggregatorConfig,
    program: ProgramFolder,
    selector: Selector,
    store: FleetStore,
    before: FleetState | None,
) -> FleetState:
    selector_state, decision = selector.start({layer.name: layer.num_params for layer in program.manifest.layers})
    blobs = program.initial_layers(config.initial_values)
    layers = {name: digest for digest, (name, _) in blobs.items()}
    if before is not None:
        kept = {
            name: digest for name, digest in before.layers.items() if _fits(program, name, store.layers.load(digest))
        }
        layers |= kept
        log.warning(
            "another model: %s go on with their averages, the others begin anew", ", ".join(sorted(kept)) or "no layers"
        )
    plan = build_plan(
        config,
        program.model_id,
        program.manifest,
        layers,
        decision,
        needs_personal_sketches=selector.needs_personal_sketches,
        epoch=0 if before is None else before.plan.epoch + 1,
    )
    state = FleetState(
        plan=plan,
        layers=layers,
        selector=selector.name,
        selector_options=config.selector.options,
        selector_state=selector_state,
        decision=decision,
    )
    new = {digest: data for digest, (name, data) in blobs.items() if layers[name] == digest}
    store.save(state, new, program.manifest)
    return state


def _fits(program: ProgramFolder, name: str, data: bytes) -> bool:
    """Say whether these encoded values are of a layer that the program has, too."""
    try:
        return name in program.manifest.layer_names and decode_layer(data, program.manifest.layer(name)) is not None
    except WireError:
        return False
