"""The device's side of the protocol, as a state machine without I/O.

``handle``, ``tick`` and the shell's reports (``connected``, ``program_ready``, ``recalled``, ``trained``, ``failed``) return
effects; the shell carries them out in order. The same machine runs on a device over MQTT and in a simulation.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from msgspec import UNSET

from edge_client.effects import Effect, LoadProgram, Recall, Train
from edge_client.fetching import Fetching, ProgramFiles, Subscribe, Unsubscribe
from edge_client.generation import Generation, goes_back, prepare_work
from edge_client.presence import Presence, Status
from edge_client.training import check_plan
from edge_client.trouble import Trouble
from edge_client.trust import Trust
from edge_client.upload import UploadConversation
from wire.codec import plan_digest
from wire.errors import WireError
from wire.manifest import ModelManifest
from wire.messages import PROTOCOL_VERSION, Acknowledgement, Invitation, Message, Part, RoundPlan, ServerStatus
from wire.tensors import decode_layer, max_encoded_bytes
from wire.topics import MODEL, PLAN, PROGRAM, Address, subscription

__all__ = ["Session"]

MAX_INVITATIONS = 8
PATIENCE_S = 15.0


class Session:
    """One device, from its start to its end.

    Args:
        fleet: The fleet's name.
        device_id: The device's name.
        session_number: Of this start.
        runtime: ``onnx`` or ``executorch``: which of the program's files it needs.
        generation: What the disk gave, ``None`` for a new device.
        trust: Whose plans it takes; by default any of its fleet.
    """

    def __init__(
        self,
        fleet: str,
        device_id: str,
        session_number: int,
        runtime: str,
        generation: Generation | None = None,
        trust: Trust | None = None,
    ) -> None:
        """Start; the shell calls ``connected`` when the link is up."""
        self.device_id = device_id
        self._runtime = runtime
        self._presence = Presence(device_id, session_number, runtime)
        self._trouble = Trouble()
        self._trust = trust or Trust(fleet)
        self._generation = generation
        self._earlier: Generation | None = None
        self._recalled_for = ""
        self._plan: RoundPlan | None = None
        self._plan_digest = ""
        self._invited_to: deque[str] = deque(maxlen=MAX_INVITATIONS)
        self._plan_due_s = math.inf
        self._server_session = -1
        self._fetching = Fetching(fleet)
        self._plan_topic = subscription(fleet, PLAN)
        self._program_files = ProgramFiles({"onnx": ".onnx", "executorch": ".pte"}[runtime], self._fetching)
        self._manifest: ModelManifest | None = None
        self._model_id = ""
        self._values: dict[str, np.ndarray] = {}
        self._is_training = False
        self._upload = UploadConversation(device_id, generation.upload) if generation else None

    @property
    def status(self) -> Status:
        """The state that the fleet sees, and the reason why the device waits."""
        if self._trouble.reason:
            return "waiting", self._trouble.reason
        if self._is_training:
            return "training", self._trust.complaint
        if self._plan is None:
            return "waiting", self._trust.complaint or "no plan from the aggregator yet"
        return ("ready", self._trust.complaint) if self._manifest else ("waiting", "fetching the program")

    @property
    def _seen(self) -> tuple[int, int]:
        """Epoch and round number of the latest plan that it has served or heard of."""
        served = self._generation
        return max(self._trust.seen, (served.epoch, served.round_number) if served else (0, 0))

    @property
    def _is_buffered(self) -> bool:
        return self._plan is not None and self._plan.max_staleness is not UNSET

    def connected(self, now_s: float) -> list[Effect]:
        """The link is up, perhaps again: say who is here and, once the plan is known, what it still holds."""
        if self._plan is None:
            self._plan_due_s = now_s + PATIENCE_S
        return [*self._tell_presence(now_s), *self._announce(now_s)]

    def handle(self, address: Address, message: Message | None, now_s: float) -> list[Effect]:
        """Take a message; return what is to be done.

        Raises:
            WireError: If it is refused; the state is as before, but for what the status says of a plan.
        """
        if address.device_id not in ("", self.device_id):
            raise WireError("unknown-device", f"a message for {address.device_id}, this is {self.device_id}")
        match message:
            case RoundPlan():
                return self._take_plan(message, now_s)
            case Invitation():
                return self._take_invitation(message, now_s)
            case Part():
                return self._take_part(address, message, now_s)
            case Acknowledgement():
                return self._take_acknowledgement(message, now_s)
            case ServerStatus():
                return self._take_server_status(message, now_s)
            case None:
                return []
        raise WireError("unknown-topic", f"a device does not listen to {address.route.name}")

    def tick(self, now_s: float) -> list[Effect]:
        """Let time pass: say again what was not answered, ask again for what did not come."""
        effects: list[Effect] = list(self._upload.tick(now_s)) if self._upload else []
        effects += self._fetching.tick(now_s)
        if now_s >= self._plan_due_s:
            self._plan_due_s = math.inf if self._plan else now_s + PATIENCE_S
            effects += [Unsubscribe(self._plan_topic), Subscribe(self._plan_topic)]
        if self._trouble.is_over(now_s):
            effects += self._go_on() if self._manifest else self._ask_for_program(self._model_id)
        return effects + (self._tell_presence(now_s) if self._presence.is_due(now_s) else self._tell_status())

    def program_ready(self, model_id: str, manifest: ModelManifest, now_s: float) -> list[Effect]:  # noqa: ARG002 - as all reports
        """The shell has loaded the program that it was asked to."""
        if model_id != self._model_id:
            return []
        self._manifest = manifest
        if self._plan is not None:
            try:
                check_plan(self._plan, manifest)
            except WireError as error:
                return self.give_up(str(error))
        return self._go_on()

    def program_missing(self, model_id: str) -> list[Effect]:
        """The disk has no such program: fetch it, manifest first."""
        if model_id != self._model_id:
            return []
        return [*self._program_files.fetch(model_id)]

    def recalled(self, plan: RoundPlan, earlier: Generation | None) -> list[Effect]:
        """The shell has looked for what this plan goes on from; ``None``: from the last generation, as ever."""
        self._earlier, self._recalled_for = earlier, plan_digest(plan)
        return self._go_on()

    def trained(self, generation: Generation, now_s: float) -> list[Effect]:
        """The shell has run the round and committed its generation."""
        self._is_training = False
        self._trouble.succeeded()
        self._generation = generation
        self._upload = UploadConversation(self.device_id, generation.upload)
        return [*self._announce(now_s), *self._go_on()]

    def give_up(self, reason: str) -> list[Effect]:
        """The device cannot serve this plan; it says why and waits for the next."""
        self._is_training = False
        self._trouble.give_up(reason)
        return self._tell_status()

    def failed(self, reason: str, now_s: float) -> list[Effect]:
        """The shell could not load the program or run the round: the device says why, and tries again after a pause."""
        self._is_training = False
        self._trouble.pause(reason, now_s)
        return self._tell_status()

    def _take_invitation(self, invitation: Invitation, now_s: float) -> list[Effect]:
        if invitation.plan not in self._invited_to:
            self._invited_to.append(invitation.plan)
        if invitation.plan != self._plan_digest:
            self._plan_due_s = now_s + PATIENCE_S  # its plan should be here by then
        elif self._upload is not None and self._upload.plan == invitation.plan:
            return self._announce(now_s)  # who asks again has not stored it
        return self._go_on()

    def _take_plan(self, plan: RoundPlan, now_s: float) -> list[Effect]:
        self._trust.check(plan)
        digest = plan_digest(plan)
        if digest == self._plan_digest:
            return []
        seen = self._seen
        if (plan.epoch, plan.round_number) < seen:
            raise WireError("foreign-round", f"plan {plan.epoch}/{plan.round_number} is older than {seen[0]}/{seen[1]}")
        if self._manifest is not None and plan.model_id == self._model_id:
            check_plan(plan, self._manifest)
        self._plan, self._plan_digest, self._plan_due_s = plan, digest, math.inf
        self._trouble.plan_came()
        effects: list[Effect] = [*self._trust.take(plan), *self._fetching.forget(MODEL)]
        effects += self._announce(now_s, is_urgent=not self._is_buffered)  # its last word may be lost
        if plan.model_id != self._model_id:
            effects += self._ask_for_program(plan.model_id)
        return effects + self._go_on()

    def _ask_for_program(self, model_id: str) -> list[Effect]:
        self._manifest, self._model_id, self._values = None, model_id, {}
        return [*self._fetching.forget(PROGRAM), LoadProgram(model_id, None)]

    def _take_part(self, address: Address, part: Part, now_s: float) -> list[Effect]:
        blob, unsubscribed = self._fetching.take(address, part, now_s)
        if blob is None:
            return []
        if address.route is PROGRAM:
            return [*unsubscribed, *self._take_program_file(address.digest, blob)]
        if self._plan is None or self._manifest is None:
            return [*unsubscribed]
        layers = {**self._plan.shared_layers, **self._plan.personal_layers}
        name = next(name for name, digest in layers.items() if digest == address.digest)
        self._values[address.digest] = decode_layer(blob, self._manifest.layer(name))
        return [*unsubscribed, *self._go_on()]

    def _take_program_file(self, digest: str, blob: bytes) -> list[Effect]:
        effects = self._program_files.take(digest, blob)
        if not self._program_files.are_whole:
            return [*effects]
        if self._program_files.are_useless:
            return self.give_up(f"this fleet's program has no files for runtime {self._runtime}")
        return [LoadProgram(self._model_id, self._program_files.files)]

    def _take_acknowledgement(self, acknowledgement: Acknowledgement, now_s: float) -> list[Effect]:
        if self._upload is None or self._plan is None:
            raise WireError("foreign-round", f"no upload of round {acknowledgement.round_number} is waiting")
        envelopes = self._upload.answer(acknowledgement, now_s)
        if acknowledgement.state in ("counted", "refused"):
            self._upload = None
        return [*envelopes, *self._go_on()]

    def _take_server_status(self, status: ServerStatus, now_s: float) -> list[Effect]:
        if status.state != "online" or status.session <= self._server_session:
            return []
        self._server_session = status.session
        if PROTOCOL_VERSION not in status.protocols:
            return self.give_up(f"the aggregator speaks protocol {status.protocols}, this device {PROTOCOL_VERSION}")
        return self._announce(now_s)

    def _go_on(self) -> list[Effect]:
        """Do what is possible now: fetch what the plan needs, train if all is here."""
        plan, manifest = self._plan, self._manifest
        served = self._generation is not None and self._generation.plan == self._plan_digest
        if plan is None or manifest is None or self._trouble.reason or self._is_training or served:
            return self._tell_status()
        if self._plan_digest not in self._invited_to or (self._is_buffered and self._upload is not None):
            return self._tell_status()  # in buffered rounds, what is done is handed over first
        before = self._generation
        if goes_back(plan, before):
            if self._recalled_for != self._plan_digest:
                return [*self._tell_status(), Recall(plan)]
            before = self._earlier or before
        own = self._own_layers(before)
        needed = {**plan.shared_layers, **{n: d for n, d in plan.personal_layers.items() if n not in own}}
        missing = {name: digest for name, digest in needed.items() if digest not in self._values}
        if missing:
            effects: list[Effect] = []
            for name, digest in missing.items():
                effects += self._fetching.want(MODEL, digest, max_encoded_bytes(manifest.layer(name)))
            return effects + self._tell_status()
        self._values = {digest: self._values[digest] for digest in needed.values()}
        work = prepare_work(plan, self.device_id, before, own, self._values)
        self._is_training = True
        return [*self._tell_status(), Train(work, before)]

    def _announce(self, now_s: float, *, is_urgent: bool = True) -> list[Effect]:
        """Say what is held ready, but nothing of a layer that is personal now."""
        plan, upload = self._plan, self._upload
        if plan is None or upload is None:
            return []
        if upload.plan != self._plan_digest and not upload.goes_on_under(plan):
            self._upload = None
            return []
        return [*upload.announce(now_s)] if is_urgent or upload.is_silent else []

    def _own_layers(self, before: Generation | None) -> dict[str, np.ndarray]:
        if before is None or self._manifest is None:
            return {}
        return before.layers_that_fit(self._model_id, self._manifest)

    def _tell_presence(self, now_s: float) -> list[Effect]:
        """Say the status though nothing has changed."""
        self._presence.say_again(now_s)
        return self._tell_status()

    def _tell_status(self) -> list[Effect]:
        return [*self._presence.say(self.status, self._seen)]
