"""A random seed: drawn once, and known from then on."""

import pytest

from sfumato import EditRequest
from sfumato.errors import OptionError
from sfumato.request import make_request
from sfumato.server.submission import JobOptions

FIELDS = {"image": "a.png", "prompt": "a red ball"}


def test_minus_one_is_drawn_where_the_request_is_made() -> None:
    requests = [EditRequest(**FIELDS, seed=-1) for _ in range(8)]
    seeds = {request.seed for request in requests}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**32 for seed in seeds)
    stored = requests[0].model_dump(mode="json")
    assert EditRequest.model_validate(stored).seed == requests[0].seed


def test_all_other_seeds_stay() -> None:
    assert EditRequest(**FIELDS).seed == 0
    assert [EditRequest(**FIELDS, seed=seed).seed for seed in (0, 7, 2**62)] == [0, 7, 2**62]
    with pytest.raises(OptionError, match="seed=-2 is not possible"):
        make_request({**FIELDS, "seed": -2})


def test_a_job_holds_the_seed_that_was_drawn() -> None:
    once = JobOptions.model_validate({"prompt": "x", "seed": "-1"}).model_dump(exclude_unset=True)
    assert once["seed"] >= 0
    assert JobOptions.model_validate(once).model_dump()["seed"] == once["seed"]
