"""How a run uses one oracle: its weight, on which scale, and what is done without it. Where it is, the registry knows.

Part of a recipe, and what an amendment to one says (`rewardmesh.wire.amendments`).
"""

from __future__ import annotations

from typing import Literal, Self

from pydantic import ConfigDict, Field, field_validator, model_validator

from rewardmesh.wire.messages import Message, Name, Number

__all__ = ["OnMissing", "OracleUse"]


class OnMissing(Message):
    """What the trainer does without an oracle's rewards: a bounded wait, and then one of three things.

    A reward is missing when the oracle has not answered in time, was never asked because its budget was full, or
    failed. Every policy begins with a wait that ends, so `wait` is no fourth kind.
    """

    model_config = ConfigDict(use_attribute_docstrings=True)

    wait_s: Number | None = Field(default=None, ge=0, le=86_400)
    """Longest wait for its rewards in an iteration; null means feedback.wait_s. 0 (with mask) makes it late: never
    waited for, its answers are taken whenever they come."""
    then: Literal["drop_group", "mask", "abort"] = "drop_group"
    """Leave out the group, or the one sample that failed; use the other rewards; or do as drop_group does and end the
    run with an error that names the oracle, if a whole group is without its rewards."""

    @model_validator(mode="after")
    def _waits_for_what_it_needs(self) -> Self:
        if self.wait_s == 0 and self.then != "mask":
            raise ValueError(
                f"wait_s 0 with {self.then} gives up every group at once: set wait_s above 0, or then to mask"
            )
        return self


class OracleUse(Message):
    """How the run uses one oracle."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    name: Name
    """The oracle's registered name."""
    weight: Number = Field(default=1.0, le=1000)
    """Weight of its reward in the weighted mean over the oracles that apply to a sample."""
    normalisation: Literal["none", "unit_range", "group_std"] = "unit_range"
    """Before weighting: as it is; mapped from [reward_min, reward_max] to [-0.5, 0.5]; or centred and divided by its
    standard deviation in the group."""
    reward_min: Number = 0.0
    """Lower end of its reward, for `unit_range`."""
    reward_max: Number = 1.0
    """Upper end of its reward, for `unit_range`."""
    on_missing: OnMissing = OnMissing()
    """What is done without its rewards."""
    applies: Literal["objects", "text", "all"] = "all"
    """Prompts it is asked about: those whose checks name objects, those that ask for a text, or every one."""
    reuse_answers_s: Number | None = Field(default=None, gt=0, le=604_800)
    """Age of the oldest answer that is taken again, instead of asking, when it has the same version and gets the same
    picture, prompt and checks; null: always asked. Leave it null for an oracle whose answers vary."""
    send_hint: bool = False
    """Send the surrogate's present opinion of each finished picture along, for an oracle that chooses what to ask; the
    group's other oracles see it too. One forward of the surrogate a group."""

    @field_validator("weight")
    @classmethod
    def _weighs_something(cls, weight: float) -> float:
        if weight <= 0:
            raise ValueError("an oracle without weight teaches nothing: give it one above 0, or leave it out")
        return weight

    @model_validator(mode="after")
    def _range_is_a_range(self) -> Self:
        if self.reward_min >= self.reward_max:
            raise ValueError(f"reward_min ({self.reward_min}) must be below reward_max ({self.reward_max})")
        return self

    @property
    def is_late(self) -> bool:
        """Never waited for."""
        return self.on_missing.wait_s == 0

    @property
    def is_needed(self) -> bool:
        """Without its reward there is none."""
        return self.on_missing.then != "mask"
