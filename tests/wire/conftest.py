"""One example of each message, and Hypothesis strategies for all of them, built from their types."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import strategies as st
from msgspec import inspect

from wire.messages import (
    Acknowledgement,
    DeviceStatus,
    InventoryItem,
    Invitation,
    LayerSummary,
    Measurement,
    Message,
    Part,
    RoundPlan,
    ServerStatus,
    Summary,
    TrainingSettings,
    WantedPart,
)

A, B, C = (digit * 64 for digit in "abc")

EXAMPLES: tuple[Message, ...] = (
    ServerStatus(state="online", session=3),
    DeviceStatus(state="waiting", session=7, reason="quiet hours", runtime="onnx", epoch=1, round_number=12),
    RoundPlan(
        fleet="home",
        epoch=1,
        round_number=12,
        previous=A,
        model_id=B,
        shared_layers={"conv1": A, "conv2": B},
        personal_layers={"fc1": C},
        training=TrainingSettings(learning_rate=0.1, upload_dtype="bfloat16"),
        sketch_seed=5,
        sketch_width=256,
        swap_candidates=("conv2",),
        duration_s=90.0,
        signature=b"signed",
    ),
    Invitation(plan=A),
    Part(digest=A, index=1, num_parts=2, size_bytes=1027, data=b"\x00\x01\xff"),
    Summary(
        plan=A,
        epoch=1,
        round_number=12,
        num_examples=320,
        num_steps=32,
        train_loss=0.25,
        layers={"conv1": LayerSummary(0.5, b"\x00\x00\x80\x3f"), "fc1": LayerSummary(0.125)},
        before=Measurement(0.75, 0.5, 40),
        after=Measurement(0.5, 0.75, 40),
        test=Measurement(0.5, 0.625, 80),
        swap_gains={"conv2": -0.125},
        inventory=(InventoryItem("conv1", B, 1027),),
        bytes_up=1000,
        bytes_down=2000,
    ),
    Acknowledgement(epoch=1, round_number=12, inventory=C, state="wanted", wanted=(WantedPart(B, 0), WantedPart(B, 1))),
)


def strategy_of(kind: inspect.Type) -> st.SearchStrategy[Any]:  # noqa: C901, PLR0911 - a case for each kind of type
    """Whatever a value of this type may be."""
    match kind:
        case inspect.LiteralType(values=values):
            return st.sampled_from(values)
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType(ge=smallest, le=largest):
            return st.integers(smallest, largest)
        case inspect.FloatType(gt=gt, lt=lt, ge=ge, le=le):
            lower, upper = (gt if ge is None else ge), (lt if le is None else le)
            return st.floats(lower, upper, exclude_min=gt is not None, exclude_max=lt is not None, allow_nan=False)
        case inspect.StrType(min_length=shortest, max_length=longest, pattern=pattern):
            alphabet = st.characters(exclude_categories=["Cs"])
            if pattern is not None:
                return st.from_regex(pattern)
            return st.text(alphabet, min_size=shortest or 0, max_size=min(longest or 30, 30))
        case inspect.BytesType():
            return st.binary(max_size=50)
        case inspect.NoneType():
            return st.none()
        case inspect.VarTupleType(item_type=item):
            return st.lists(strategy_of(item), max_size=3).map(tuple)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(strategy_of(key), strategy_of(value), max_size=3)
        case inspect.UnionType(types=kinds):
            return st.one_of(*map(strategy_of, kinds))
        case inspect.StructType(cls=cls):
            return messages_of(cls)
    raise TypeError(f"no strategy for {kind}")


def messages_of(cls: type[msgspec.Struct]) -> st.SearchStrategy[Any]:
    """Every message of a type, of this protocol version."""
    fields = inspect.type_info(cls).fields  # type: ignore[attr-defined]
    return st.builds(cls, **{field.name: strategy_of(field.type) for field in fields if field.name != "version"})


@pytest.fixture(scope="session", params=EXAMPLES, ids=lambda message: type(message).__name__)
def example(request: pytest.FixtureRequest) -> Message:
    """One example of each message."""
    message: Message = request.param
    return message


@pytest.fixture(scope="session")
def examples() -> dict[str, Message]:
    """The examples by the names of their types."""
    return {type(message).__name__: message for message in EXAMPLES}


@pytest.fixture(scope="session")
def any_message() -> st.SearchStrategy[Message]:
    """Every message of every type."""
    return st.one_of(*(messages_of(type(message)) for message in EXAMPLES))


@pytest.fixture(scope="session")
def plans() -> st.SearchStrategy[RoundPlan]:
    """Every plan."""
    return messages_of(RoundPlan)
