"""What is of another model, or does not fit this one, ends a round at most; never the device."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np

from aggregator.signing import sign_plan
from edge_client.generation import Traffic, compose_generation
from edge_client.training import run_round
from simulations.loopback.fleet import SIGNING_KEY
from simulations.loopback.network import Crossing, Delivery
from tests.machines.conftest import MakeFleet, Works
from wire.codec import decode_message, encode_message
from wire.messages import RoundPlan, TrainingSettings
from wire.topics import PLAN, parse_topic


def test_another_models_layers_and_residuals_are_not_taken_over(make_fleet: MakeFleet, works: Works) -> None:
    fleet = make_fleet(training=TrainingSettings(upload_dtype="int8"))
    fleet.run(2)
    device = fleet.devices["pi-0"]
    assert device.generation is not None
    other = msgspec.structs.replace(
        device.generation,
        model_id="0" * 64,
        own={"hidden": bytes(4), "gone": bytes(4)},
        residuals={"hidden": bytes(12)},
    )
    work = works["pi-0", 2]
    outcome = run_round(device._program, device._data, work)
    composed = compose_generation(device._program.manifest, work, outcome, other, 30, Traffic())
    assert sorted(composed.own) == sorted(device.generation.own)
    assert {name: values.size for name, values in composed.own_layers().items()} == {
        layer.name: layer.num_params for layer in device._program.manifest.layers
    }


def test_a_plan_that_does_not_fit_the_model_is_not_served_and_the_next_one_is(make_fleet: MakeFleet) -> None:
    seen: list[str] = []

    def misfit_first(crossing: Crossing, receiver: str) -> Sequence[Delivery]:
        is_plan = parse_topic("home", crossing.topic).route is PLAN
        if not is_plan or receiver != "pi-0" or seen:
            return (Delivery(crossing.payload),)
        seen.append(receiver)
        plan = decode_message(crossing.payload, RoundPlan, PLAN.max_bytes)
        layers = {"ghost" if name == "head" else name: digest for name, digest in plan.shared_layers.items()}
        misfit = msgspec.structs.replace(plan, shared_layers=layers)
        return (Delivery(encode_message(sign_plan(misfit, SIGNING_KEY))),)

    fleet = make_fleet(policy=misfit_first, quorum=2, gather_s=1.0)
    fleet.run_for(1)
    session = fleet.devices["pi-0"]._session
    assert session is not None
    state, reason = session.status
    assert state == "waiting"
    assert "names ['ghost', 'hidden', 'middle']" in reason
    fleet.run(2)
    assert "pi-0" in fleet.run(1)[-1].counted
    assert np.isfinite(fleet.aggregator.layer("head")).all()
