from __future__ import annotations

import math

import pytest

from rewardmesh.wire.strict_json import dump_json
from trainer.learning import UpdateTally


def test_figures_are_averaged_over_the_updates_that_have_them() -> None:
    tally = UpdateTally()
    tally.add("surrogate", {"loss": 1.0, "ranking": 0.5}, 0.1)
    tally.add("surrogate", {"loss": 3.0, "ranking": math.nan}, 0.2)
    tally.add("student", {"loss": math.inf}, 0.3)
    assert tally.means() == {"surrogate": {"loss": 2.0, "ranking": 0.5}, "student": {}}
    assert tally.counts == {"surrogate": 2, "student": 1}
    assert tally.seconds["surrogate"] == pytest.approx(0.3)
    dump_json(tally.means())  # metrics are strict JSON
