"""The manifest: what a training program takes and gives, layer by layer.

A program is a pure function without weights::

    train(*parameters, x, y, *masks) -> (loss, logits, *results)
    predict(*parameters, x)          -> (logits,)

in the order of ``ModelManifest.parameters``: a parameter's result is its gradient, a running statistic's its new value. The
manifest travels beside the program's files and names their digests.
"""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from wire.errors import ManifestError

__all__ = [
    "LayerSpec",
    "Loss",
    "MaskSpec",
    "ModelManifest",
    "ParameterSpec",
    "ProgramFile",
    "StepMemory",
    "decode_manifest",
    "encode_manifest",
]

MAX_LAYERS = 4096
MAX_DIMENSIONS = 8
MAX_LAYER_PARAMS = 2**28
MAX_MASKS = 1024
MAX_PARTIALS = 99

Name = Annotated[str, Meta(min_length=1, max_length=200)]
Size = Annotated[int, Meta(ge=1, le=2**31 - 1)]
Shape = Annotated[tuple[Size, ...], Meta(max_length=MAX_DIMENSIONS)]
Digest = Annotated[str, Meta(pattern=r"^[0-9a-f]{64}\Z")]
FileName = Annotated[str, Meta(pattern=r"^(train(-[1-9][0-9]?)?|predict)\.(onnx|pte)\Z")]
Loss = Literal["cross-entropy", "binary-cross-entropy", "mse", "huber"]
"""Each a mean over examples, positions and, but for cross-entropy, outputs; Huber's changes at 1."""


class ParameterSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One named tensor of float32 values.

    Args:
        name: The name in the torch module, for example ``conv1.weight``.
        shape: Its dimensions; empty for a scalar.
    """

    name: Name
    shape: Shape

    @property
    def num_values(self) -> int:
        """Number of values, at least 1."""
        return math.prod(self.shape)


class LayerSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A named group of parameters that is shared, or kept personal, as one: a torch module with its own parameters.

    Args:
        name: The module's name, for example ``conv1``.
        parameters: Its tensors, in the module's order, at least one.
        kind: ``statistics`` for a norm's running statistics: training gives their new values, not gradients, no optimizer
            moves them, and they are personal unless the fleet's configuration says otherwise; absent: parameters.
    """

    name: Name
    parameters: Annotated[tuple[ParameterSpec, ...], Meta(min_length=1, max_length=MAX_LAYERS)]
    kind: Literal["statistics"] | UnsetType = UNSET

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shapes of its parameters, in their order."""
        return tuple(parameter.shape for parameter in self.parameters)

    @property
    def num_params(self) -> int:
        """Number of values in all parameters together."""
        return sum(parameter.num_values for parameter in self.parameters)


class ProgramFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the program.

    Args:
        sha256: Its digest, 64 hexadecimal digits.
        size_bytes: Its size.
    """

    sha256: Digest
    size_bytes: Size


class MaskSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A dropout's mask, which whoever trains draws for every step: 0 where a value is dropped, else 1 / (1 - probability).

    Args:
        shape: Of one example's mask, without the batch dimension; float32.
        probability: Of a value to be dropped, above 0 and below 1.
    """

    shape: Shape
    probability: Annotated[float, Meta(gt=0, lt=1)]


class StepMemory(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The most memory that the values of one training step take at one time: parameters, activations, gradients.

    Args:
        fixed_bytes: Whatever the batch is.
        example_bytes: More for each example.
    """

    fixed_bytes: Annotated[int, Meta(ge=0)]
    example_bytes: Annotated[int, Meta(ge=1)]


class ModelManifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a device must know to run a program, and all that the aggregator knows of the model.

    Args:
        model: The name it was exported under.
        layers: Its layers, in the model's order.
        input_shape: One example's shape, without the batch dimension; float32.
        num_classes: The size of the logits' last dimension: classes for cross-entropy, whose targets are int64 in
            ``[0, num_classes)``; labels or values for other losses, whose targets are float32 in the shape of the logits.
        files: ``train.onnx``, ``predict.onnx``, ``train.pte``, ``predict.pte``, ``train-1.onnx`` and so on, those that were
            exported.
        version: The format of this manifest.
        loss: What is trained for; absent: cross-entropy.
        positions: The logits' dimensions between the batch and the last, as in a sequence; absent: none.
        num_tokens: Inputs are whole numbers in ``[0, num_tokens)``; absent: any numbers.
        masks: Of dropouts, in the program's order; absent: none.
        partials: Sets of layers: ``train-1`` gives the gradients of the first set alone, and so on; absent: none.
        memory: What a step needs, by which a device chooses how many examples it computes at once; absent: unknown.
    """

    model: Name
    layers: Annotated[tuple[LayerSpec, ...], Meta(min_length=1, max_length=MAX_LAYERS)]
    input_shape: Shape
    num_classes: Size
    files: dict[FileName, ProgramFile]
    version: Literal[1] = 1
    loss: Loss | UnsetType = UNSET
    positions: Shape | UnsetType = UNSET
    num_tokens: Size | UnsetType = UNSET
    masks: Annotated[tuple[MaskSpec, ...], Meta(max_length=MAX_MASKS)] | UnsetType = UNSET
    partials: Annotated[tuple[tuple[Name, ...], ...], Meta(max_length=MAX_PARTIALS)] | UnsetType = UNSET
    memory: StepMemory | UnsetType = UNSET

    @property
    def output_shape(self) -> tuple[int, ...]:
        """One example's logits, without the batch dimension."""
        return (*(self.positions or ()), self.num_classes)

    @property
    def has_classes(self) -> bool:
        """Say whether targets are classes; else they are values in the shape of the logits."""
        return (self.loss or "cross-entropy") == "cross-entropy"

    @property
    def target_shape(self) -> tuple[int, ...]:
        """One example's target, without the batch dimension; int64 if these are classes, else float32."""
        return self.positions or () if self.has_classes else self.output_shape

    @property
    def statistics_layers(self) -> tuple[str, ...]:
        """The names of the layers that are running statistics."""
        return tuple(layer.name for layer in self.layers if layer.kind)

    @property
    def statistics(self) -> frozenset[str]:
        """The names of the parameters that are running statistics."""
        return frozenset(p.name for layer in self.layers if layer.kind for p in layer.parameters)

    @property
    def parameters(self) -> tuple[ParameterSpec, ...]:
        """All parameters, in the order in which the program takes them and returns their gradients."""
        return tuple(parameter for layer in self.layers for parameter in layer.parameters)

    @property
    def layer_names(self) -> tuple[str, ...]:
        """The layers' names, in the model's order."""
        return tuple(layer.name for layer in self.layers)

    def program_for(self, layers: Collection[str]) -> tuple[str, tuple[ParameterSpec, ...]]:
        """Return the smallest training program that gives these layers' gradients.

        Args:
            layers: Their names; none is all.

        Returns:
            Its file's name without the ending, ``train`` or ``train-1``, and the parameters of which it gives a gradient or
            a new value, in their order.
        """
        sets = [("train", frozenset(self.layer_names))]
        sets += [(f"train-{number}", frozenset(names)) for number, names in enumerate(self.partials or (), start=1)]
        wanted = frozenset(layers or self.layer_names) - set(self.statistics_layers)
        fitting = [(stem, names) for stem, names in sets if wanted <= names]
        sizes = {layer.name: layer.num_params for layer in self.layers}
        stem, chosen = min(fitting or sets[:1], key=lambda it: sum(sizes.get(name, 0) for name in it[1]))
        given = (layer for layer in self.layers if layer.kind or layer.name in chosen)
        return stem, tuple(parameter for layer in given for parameter in layer.parameters)

    def layer(self, name: str) -> LayerSpec:
        """Return the layer of this name.

        Raises:
            ManifestError: If the model has no such layer.
        """
        for layer in self.layers:
            if layer.name == name:
                return layer
        known = ", ".join(self.layer_names)
        raise ManifestError(f"model {self.model!r} has no layer {name!r}; it has {known}")


def encode_manifest(manifest: ModelManifest) -> bytes:
    """Return the manifest as indented JSON; its ``content_digest`` is the model's id."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=2)


def decode_manifest(data: bytes) -> ModelManifest:
    """Return the manifest that the bytes hold.

    Raises:
        ManifestError: If they are no manifest of a known version, two layers or parameters share a name, or a layer has
            more than 2**28 values, or a partial program trains a layer that is none.
    """
    try:
        manifest = msgspec.json.decode(data, type=ModelManifest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ManifestError(f"not a manifest: {error}; export the model again with `fedlag export`") from error
    for names in (manifest.layer_names, [parameter.name for parameter in manifest.parameters]):
        if len(set(names)) != len(names):
            raise ManifestError("not a manifest: two layers or parameters share a name")
    strangers = {name for names in manifest.partials or () for name in names} - set(manifest.layer_names)
    if strangers:
        raise ManifestError(f"not a manifest: a partial program trains {min(strangers)!r}, which is no layer")
    for layer in manifest.layers:
        if layer.num_params > MAX_LAYER_PARAMS:
            raise ManifestError(f"layer {layer.name!r} has {layer.num_params} values, at most {MAX_LAYER_PARAMS}")
    return manifest
