"""The cells of a table: what they are made of, when they may stand side by side, when one counts as done."""

import json
from pathlib import Path

import pytest

from darts_async.bench.plan import PRESETS, Cell, engine_config, make_cells
from darts_async.bench.variants import make_variants
from darts_async.config import to_toml
from darts_async.errors import ConfigError


def plan_cells(
    out: Path, presets=("quickstart", "grpo_sync"), *overrides: tuple[str, str], seeds: int = 2
) -> list[Cell]:
    return make_cells(presets, seeds=seeds, steps=3, eval_prompts=4, out=out, overrides=overrides)


def test_cells_go_seed_by_seed_and_begin_with_another_preset(tmp_path):
    cells = plan_cells(tmp_path)
    assert [(cell.preset, cell.seed, cell.config.run.seed) for cell in cells] == [
        ("quickstart", 0, 0),
        ("grpo_sync", 0, 0),
        ("grpo_sync", 1, 1),  # another one pays for being the first
        ("quickstart", 1, 1),
    ]
    assert cells[2].paths.root == tmp_path / "grpo_sync-seed1"
    assert {(cell.config.run.steps, cell.config.eval.prompts) for cell in cells} == {(3, 4)}


def test_the_published_presets_can_be_compared(tmp_path):
    assert len(plan_cells(tmp_path, PRESETS, seeds=1)) == 7


def test_a_preset_of_another_kind_is_refused(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('extends = "quickstart"\n[group]\ngroups_per_step = 4\n')
    with pytest.raises(ConfigError, match=r"group.groups_per_step = 4: preset `own` differs from `quickstart` \(8\)"):
        plan_cells(tmp_path, ("quickstart", str(own)))
    assert len(plan_cells(tmp_path, ("quickstart", str(own)), ("group.groups_per_step", "2"))) == 4


@pytest.mark.parametrize(
    ("presets", "override", "key"),
    [
        (("quickstart", "quickstart"), None, "--presets"),
        (("quickstart",), ("run.steps", "9"), "run.steps"),
        (("quickstart",), ("generator.replicas", "2"), "generator.replicas"),
        (("quickstart", "nosuch"), None, "CONFIG"),
    ],
)
def test_what_cannot_work_is_said_before_anything_starts(tmp_path, presets, override, key):
    with pytest.raises(ConfigError) as error:
        plan_cells(tmp_path, presets, *([override] if override else []))
    assert error.value.key == key


def test_off_policy_settings_of_one_preset(tmp_path):
    variants = make_variants(
        ["eta 0: pipeline.mode=stream", "eta 4: pipeline.mode=async, pipeline.max_staleness=4"],
        ['learner.correction=none,["geometric_mask","tis"]'],
    )
    cells = make_cells(["quickstart"], seeds=2, steps=3, eval_prompts=4, out=tmp_path, variants=variants)
    assert [(cell.preset, cell.name) for cell in cells[:4]] == [
        ("eta 0, correction none", "quickstart-eta-0-correction-none-seed0"),
        ("eta 0, correction geometric_mask+tis", "quickstart-eta-0-correction-geometric_mask-tis-seed0"),
        ("eta 4, correction none", "quickstart-eta-4-correction-none-seed0"),
        ("eta 4, correction geometric_mask+tis", "quickstart-eta-4-correction-geometric_mask-tis-seed0"),
    ]
    assert cells[4].preset == "eta 0, correction geometric_mask+tis"  # another one pays for being the first
    last = cells[3].config
    assert (last.pipeline.mode, last.pipeline.max_staleness) == ("async", 4)
    assert last.learner.correction == ["geometric_mask", "tis"]
    assert len({cell.paths.root for cell in cells}) == 8


def test_settings_of_several_presets_name_both(tmp_path):
    cells = make_cells(
        ["quickstart", "grpo_sync"],
        seeds=1,
        steps=3,
        eval_prompts=4,
        out=tmp_path,
        variants=make_variants([], ["learner.lr=1e-3,2e-3"]),
    )
    assert [cell.preset for cell in cells] == [
        f"{preset}: lr {lr}" for preset in ("quickstart", "grpo_sync") for lr in ("1e-3", "2e-3")
    ]


@pytest.mark.parametrize(
    ("grid", "override", "key"),
    [
        ("run.seed=1,2", None, "run.seed"),
        ("learner.lr=1e-3,2e-3", ("learner.lr", "1e-4"), "learner.lr"),
        ("generator.cpu_threads=1,2", None, "generator.cpu_threads"),  # fixed when an engine starts
    ],
)
def test_a_grid_that_one_table_cannot_have_is_refused(tmp_path, grid, override, key):
    with pytest.raises(ConfigError) as error:
        make_cells(
            ["quickstart"],
            seeds=1,
            steps=3,
            eval_prompts=4,
            out=tmp_path,
            overrides=[override] if override else [],
            variants=make_variants([], [grid]),
        )
    assert error.value.key == key


def test_the_engine_has_the_most_slots_that_any_cell_needs(tmp_path):
    own = tmp_path / "own.toml"
    own.write_text('extends = "quickstart"\n[generator]\nmax_num_seqs = 160\n')
    cells = plan_cells(tmp_path, ("quickstart", str(own)))
    assert engine_config([cell.config for cell in cells]).generator.max_num_seqs == 160
    assert cells[0].config.generator.max_num_seqs == 128


def test_done_is_a_finished_run_of_exactly_this_config(tmp_path):
    cell = plan_cells(tmp_path, ("quickstart",))[0]
    assert not cell.done
    cell.paths.root.mkdir()
    cell.paths.resolved_config.write_text(to_toml(cell.config))
    for status, done in (("failed", False), ("interrupted", False), ("done", True)):
        cell.paths.summary.write_text(json.dumps({"status": status}))
        assert cell.done is done
    assert not plan_cells(tmp_path, ("quickstart",), ("learner.lr", "1e-5"))[0].done
    cell.paths.summary.write_text('{"status": "do')
    assert not cell.done


def test_a_cell_with_checkpoints_is_done_when_they_are_scored(tmp_path):
    cell = plan_cells(tmp_path, ("quickstart",), ("checkpoint.every_steps", "1"))[0]
    assert (cell.config.checkpoint.keep, cell.config.checkpoint.optimiser) == (3, False)
    cell.paths.root.mkdir()
    cell.paths.resolved_config.write_text(to_toml(cell.config))
    for bench, done in (({}, False), ({"held_out": []}, True)):
        cell.paths.summary.write_text(json.dumps({"status": "done", "bench": bench}))
        assert cell.done is done
