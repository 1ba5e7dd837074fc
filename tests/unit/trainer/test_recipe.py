"""Recipes: what ships loads, and every fault is one clear line."""

from __future__ import annotations

import pytest
from pydantic import BaseModel

from rewardmesh.wire.errors import RecipeError
from trainer.recipe import InvalidRecipe, Recipe, dump_recipe, load_recipe, parse_recipe, shipped_recipes


def lines(text: str, *overrides: str) -> list[str]:
    with pytest.raises(InvalidRecipe) as caught:
        parse_recipe(text, which="mine.yaml", overrides=overrides)
    assert str(caught.value).splitlines() == list(caught.value.lines)
    assert all(line.startswith("recipe mine.yaml: ") for line in caught.value.lines)
    return [line.removeprefix("recipe mine.yaml: ") for line in caught.value.lines]


SMALL = "name: x\nfeedback: {oracles: [{name: object_count}]}\n"


@pytest.mark.parametrize("name", ["demo", "every_boundary", "group_bradley_terry", "shortfall", "smoke"])
def test_shipped_recipes_load_and_their_resolved_form_reads_back_equal(name: str) -> None:
    recipe = load_recipe(name)
    assert recipe.name == name
    resolved = dump_recipe(recipe)
    assert parse_recipe(resolved, which="resolved") == recipe
    assert "learning_rate:" in resolved


def test_the_shipped_recipes_are_those() -> None:
    assert set(shipped_recipes()) >= {"demo", "every_boundary", "group_bradley_terry", "smoke"}
    assert load_recipe("group_bradley_terry").algorithm.surrogate.form == "group_bradley_terry"
    assert load_recipe("every_boundary").feedback.pictures == "every_boundary"
    assert load_recipe("demo").algorithm.surrogate.form.startswith("value_")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("run.iteratoins=3", "unknown key run.iteratoins: did you mean iterations?"),
        ("feedback.oracles.0.foo=1", "unknown key feedback.oracles.0.foo: known here are name, weight"),
        ("feedback.max_inflight=0", "feedback.max_inflight is 0: input should be greater than or equal to 1"),
        ("algorithm.surrogate.beta=abc", "algorithm.surrogate.beta is 'abc': input should be a valid number"),
        ("run.iterations=yes", "run.iterations is True: must not be true or false"),
        ("run.seed=1.5", "run.seed is 1.5: input should be a valid integer"),
        ("algorithm.student.reward_scale=.inf", "algorithm.student.reward_scale is inf: input should be a finite"),
        (
            "algorithm.surrogate.form=magic",
            "algorithm.surrogate.form is 'magic': input should be 'group_bradley_terry'",
        ),
        ("prompts.group_size=120", "algorithm.batch_size (96) must hold at least one whole group"),
        ("algorithm.student.tau={lower: 0.9, upper: 0.5}", "lower (0.9) must be below upper (0.5)"),
        ("feedback.oracles=[]", "feedback.oracles: "),
        ("feedback.oracles=[{name: a}, {name: a}]", "each name may stand there once"),
        (
            "feedback.oracles=[{name: a, on_missing: {then: mask}}]",
            "every reward of a prompt with objects may be masked",
        ),
        (
            "feedback.oracles=[{name: a, applies: objects}, {name: b, on_missing: {then: mask}}]",
            "every reward of a prompt with text may be masked or late, which leaves nothing to learn from: give",
        ),
        ("feedback.oracles.0.on_missing={wait_s: 0}", "wait_s 0 with drop_group gives up every group at once"),
        ("feedback.oracles.0.on_missing={wait_s: .inf}", "feedback.oracles.0.on_missing.wait_s is inf"),
        ("feedback.oracles.0.on_missing={then: ignore}", "input should be 'drop_group', 'mask' or 'abort'"),
        ("feedback.oracles.0.weight=0", "weight is 0: an oracle without weight teaches nothing: give it one above 0"),
        ("feedback.oracles.0.weight=-1", "feedback.oracles.0.weight is -1: an oracle without weight"),
        ("feedback.oracles.0.reuse_answers_s=0", "reuse_answers_s is 0: input should be greater than 0"),
        ("feedback.oracles.0.reuse_answers_s=1000000", "reuse_answers_s is 1000000: input should be less than"),
        ("feedback.oracles.0.role=late", "unknown key feedback.oracles.0.role"),
        ("feedback.join=gpdo", "input should be 'sum' or 'gdpo'"),
        ("feedback={oracles: [{name: a}], max_inflight: 8, max_staleness: 2}", "must be at least max_inflight - 1 (7)"),
        ("algorithm.surrogate.form=group_bradley_terry", "set surrogate.fresh_share to 1"),
        ("algorithm.surrogate.form=tilt", "surrogate.form tilt learns from present groups only"),
        ("algorithm.surrogate={form: tilt, fresh_share: 1}", "set fake_score.target to boundary_score"),
        ("algorithm.surrogate.min_spread=-0.1", "min_spread is -0.1: input should be greater than or equal to 0"),
        ("store.segment_bytes=2147483648", "segment_bytes must be at most half of max_bytes"),
        ("feedback.oracles.7.weight=1", "'7' is not one of 1 entries"),
        ("name.more=1", "name holds no keys"),
        ("run.seed", "must have the form section.key=value"),
        ("run.seed=[1", "has a value that is not YAML"),
    ],
)
def test_a_fault_is_one_line_that_says_where_and_why(override: str, expected: str) -> None:
    (line,) = lines(SMALL, override)
    assert expected in line


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        (
            "feedback.join=gdpo",
            "reward_weighting shortfall needs to know the highest reward there is, and feedback.join",
        ),
        (
            "feedback.oracles.0.normalisation=group_std",
            "object_count: algorithm.student.reward_weighting shortfall needs",
        ),
    ],
)
def test_a_shortfall_is_of_a_known_highest_reward(override: str, expected: str) -> None:
    (line,) = lines(SMALL, "algorithm.student.reward_weighting=shortfall", override)
    assert expected in line


def test_several_faults_are_several_lines() -> None:
    assert len(lines(SMALL, "run.seed=-1", "run.iterations=0", "prompts.group_size=1")) == 3


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: [1", "is not YAML: line 1: "),
        ("run: {seed: 1}\nrun: {seed: 2}", "is not YAML: line 2: key 'run' stands twice"),
        ("- 1", "must be a mapping"),
        ("name: x", "feedback is missing"),
        ("", "must be a mapping"),
    ],
)
def test_text_that_is_no_recipe_is_named(text: str, expected: str) -> None:
    assert expected in lines(text)[0]


def test_a_missing_file_says_what_ships() -> None:
    with pytest.raises(RecipeError, match=r"no such file, and no shipped recipe: those are demo"):
        load_recipe("nowhere.yaml")


def test_overrides_reach_lists_and_make_sections() -> None:
    recipe = parse_recipe(SMALL, which="x", overrides=["feedback.oracles.0.weight=2", "run.seed=3", "use_gpu=true"])
    assert (recipe.feedback.oracles[0].weight, recipe.run.seed, recipe.use_gpu) == (2.0, 3, True)


def test_every_key_is_documented_and_frozen() -> None:
    def sections(model: type[BaseModel]) -> set[type[BaseModel]]:
        found = {model}
        for field in model.model_fields.values():
            for part in (field.annotation, *getattr(field.annotation, "__args__", ())):
                if isinstance(part, type) and issubclass(part, BaseModel) and part not in found:
                    found |= sections(part)
        return found

    for section in sections(Recipe):
        assert section.model_config["frozen"]
        assert section.model_config["extra"] == "forbid"
        for name, field in section.model_fields.items():
            assert field.description, f"{section.__name__}.{name} has no docstring"
