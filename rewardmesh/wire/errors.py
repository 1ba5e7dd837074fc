"""The one error tree. A message says what went wrong, which one, and what to do.

    RewardmeshError
    ├── RecipeError              an experiment that cannot be run as written
    ├── WeightsMissing           a file of weights is not there, or is not the one that was shipped
    ├── PictureRejected          bytes that are no picture, or too large to open
    ├── ChecksMissing            a prompt says nothing that this oracle could verify
    ├── ProtocolError            a message that does not have the protocol's shape
    ├── AddressRefused           a URL that this deployment does not call
    ├── PortInUse                somebody else listens there
    ├── CheckpointCorrupt        a checkpoint or store whose checksum does not hold
    ├── UnknownOracle            no oracle of that name is registered
    ├── UnknownRun               no run of that name is training
    ├── BufferFault             the server that carries samples
    │   ├── BufferUnavailable        (retryable) it does not answer
    │   ├── BufferMisconfigured      it would lose what it acknowledged, or is too old
    │   └── BufferFull               an oracle's byte budget is spent
    ├── StreamError              what a caller asked of a stream
    │   ├── StaleClaim               the lease was lost to another consumer
    │   ├── UnknownGroup             never enqueued, or already forgotten
    │   ├── UnknownLetter            no dead letter of that id
    │   └── PictureGone              pushed out by younger ones; nothing can be asked about it again
    ├── AccessError              what a token may not do
    │   ├── TokenRefused             no token, an unknown one, an expired one, a revoked one
    │   ├── ScopeMissing             the token is good, but not for this
    │   ├── InviteRefused            a rater's link: forged, unknown, withdrawn, expired, no place left
    │   └── RateExceeded             (retryable) it asked more often than it may
    ├── PreferenceError          what a rater asked of the preference queue
    │   ├── LeaseLost                the lease expired, or is another's
    │   ├── ChoiceRefused            not a choice here, or another one was made already
    │   ├── NothingToUndo            no choice to take back, or a reward has used it
    │   └── UnknownRater             nobody of that id has joined
    ├── RegistrationRefused      an oracle that cannot be registered, or changed, like that
    ├── GatewayUnavailable       (retryable) the gateway does not answer
    └── OracleError              the service that turns pictures into rewards
        ├── OracleUnavailable        (retryable) it does not answer, or says that it is busy
        ├── OracleTimeout            (retryable) it did not answer in time
        └── OracleRejected           it answered, and will answer the same again

Foreign exceptions are mapped to these once, at the boundary where they arise.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "AccessError",
    "AddressRefused",
    "BufferFault",
    "BufferFull",
    "BufferMisconfigured",
    "BufferUnavailable",
    "CheckpointCorrupt",
    "ChecksMissing",
    "ChoiceRefused",
    "GatewayUnavailable",
    "InviteRefused",
    "LeaseLost",
    "NothingToUndo",
    "OracleError",
    "OracleRejected",
    "OracleTimeout",
    "OracleUnavailable",
    "PictureGone",
    "PictureRejected",
    "PortInUse",
    "PreferenceError",
    "ProtocolError",
    "RateExceeded",
    "RecipeError",
    "RegistrationRefused",
    "RewardmeshError",
    "ScopeMissing",
    "StaleClaim",
    "StreamError",
    "TokenRefused",
    "UnknownGroup",
    "UnknownLetter",
    "UnknownOracle",
    "UnknownRater",
    "UnknownRun",
    "WeightsMissing",
]


class RewardmeshError(Exception):
    """Base of all errors of this project; `retryable` says whether the same call may succeed later."""

    retryable: ClassVar[bool] = False

    def __init__(self, what: str, which: str = "", what_to_do: str = "") -> None:
        super().__init__(what, which, what_to_do)
        self.what = what
        self.which = which
        self.what_to_do = what_to_do

    def __str__(self) -> str:
        """One line: `what (which): what to do`."""
        which = f" ({self.which})" if self.which else ""
        what_to_do = f": {self.what_to_do}" if self.what_to_do else ""
        return " ".join(f"{self.what}{which}{what_to_do}".split())


class RecipeError(RewardmeshError):
    """A recipe with an unknown key, a wrong type or an impossible number."""


class WeightsMissing(RewardmeshError):
    """A file of weights is missing or does not have the recorded checksum."""


class PictureRejected(RewardmeshError):
    """Bytes that are no picture, are not what they claim to be, or are too large to open."""


class ChecksMissing(RewardmeshError):
    """The sample's checks hold nothing that the oracle asked could verify."""


class ProtocolError(RewardmeshError):
    """A message that does not have the protocol's shape."""


class AddressRefused(RewardmeshError):
    """A URL whose address is not public and not in an allowed network, or that is not plain http(s)."""


class PortInUse(RewardmeshError):
    """Another process listens on the port."""


class CheckpointCorrupt(RewardmeshError):
    """A checkpoint or a store that does not match its checksum."""


class UnknownOracle(RewardmeshError):
    """No oracle of that name is registered."""


class UnknownRun(RewardmeshError):
    """No run of that name is training."""


class BufferFault(RewardmeshError):
    """Something about the server that carries samples."""


class BufferUnavailable(BufferFault):
    """The server does not answer."""

    retryable = True


class BufferMisconfigured(BufferFault):
    """The server is too old, evicts keys, or is not one that we can use."""


class BufferFull(BufferFault):
    """The byte budget of an oracle is spent."""


class StreamError(RewardmeshError):
    """A stream was asked for something that it cannot do."""


class StaleClaim(StreamError):
    """The lease on a sample was lost to another consumer."""


class UnknownGroup(StreamError):
    """The group was never enqueued, or was forgotten."""


class AccessError(RewardmeshError):
    """A token may not do what was asked."""


class TokenRefused(AccessError):
    """There is no token, or it is unknown, expired or revoked."""


class ScopeMissing(AccessError):
    """The token is good, but its scopes do not allow this."""


class InviteRefused(AccessError):
    """A rater's link is forged, unknown, withdrawn, expired, or has no place left."""


class RateExceeded(AccessError):
    """The token asked more often than it may; `retry_after_s` says when to come back."""

    retryable = True
    retry_after_s: int = 1


class PreferenceError(RewardmeshError):
    """A rater asked for something that the preference queue cannot do."""


class LeaseLost(PreferenceError):
    """The lease expired, was given back, or is another rater's."""


class ChoiceRefused(PreferenceError):
    """The comparison has no such choice, or another choice was made under its lease."""


class NothingToUndo(PreferenceError):
    """The rater has made no choice, or a reward has used the last one."""


class UnknownRater(PreferenceError):
    """Nobody of that id has joined the queue."""


class RegistrationRefused(RewardmeshError):
    """An oracle that cannot be registered, or changed, like that. What to do may be a report of several lines."""

    def __str__(self) -> str:
        return f"{self.what} ({self.which}): {self.what_to_do}"


class GatewayUnavailable(RewardmeshError):
    """The gateway does not answer."""

    retryable = True


class UnknownLetter(StreamError):
    """There is no dead letter of that id: it was requeued, discarded, or pushed out by younger ones."""


class PictureGone(StreamError):
    """The picture of a dead letter was pushed out by younger ones."""


class OracleError(RewardmeshError):
    """The service that turns pictures into rewards did not give a usable answer."""


class OracleUnavailable(OracleError):
    """It does not answer, or says that it is overloaded."""

    retryable = True


class OracleTimeout(OracleError):
    """It did not answer within its deadline."""

    retryable = True


class OracleRejected(OracleError):
    """It answered, and would answer the same again."""
