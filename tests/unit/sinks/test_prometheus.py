"""What a run tells Prometheus: names, units, labels, kinds; over HTTP; and what Prometheus' own checker says of it."""

import re
import shutil
import subprocess
import urllib.request

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from darts_async.config.metrics_rules import Address
from darts_async.errors import ConfigError
from darts_async.messages import EvalResult, StepMetrics
from darts_async.sinks.catalogue import CATALOGUE, meaning_of
from darts_async.sinks.prometheus import RoleSight, RunExporter
from darts_async.sinks.prometheus_names import family_of
from darts_async.sinks.prometheus_server import ScrapeServer, check_address


@pytest.mark.parametrize(
    ("metric", "name", "labels", "factor"),
    [
        ("learner/step_s", "darts_async_learner_step_seconds", {}, 1.0),
        ("cancel/latency_p99_ms", "darts_async_cancel_latency_p99_seconds", {}, 1e-3),
        ("learner/cache_mib", "darts_async_learner_cache_bytes", {}, 1048576.0),
        ("generator/tokens_per_s", "darts_async_generator_tokens_per_second", {}, 1.0),
        ("generator/idle_ratio", "darts_async_generator_idle_ratio", {}, 1.0),
        ("tokens/cancelled_tail", "darts_async_tokens_total", {"state": "cancelled_tail"}, 1.0),
        ("failed/engine died", "darts_async_failed_rollouts_total", {"reason": "engine died"}, 1.0),
        ("queue/ready_groups/depth", "darts_async_queue_depth", {"queue": "ready_groups"}, 1.0),
        ("link/groups/waiting_bytes", "darts_async_link_waiting_bytes", {"link": "groups"}, 1.0),
        ("candidates/12", "darts_async_sampled_groups", {"candidates": "12"}, 1.0),
        ("age/3/log_ratio_abs", "darts_async_token_age_log_ratio_abs", {"age": "3"}, 1.0),
        ("shadow/ppo_clip+tis/kl_k1", "darts_async_shadow_kl_k1", {"pair": "ppo_clip+tis"}, 1.0),
        ("reward/component/format", "darts_async_reward_component", {"component": "format"}, 1.0),
        ("mine/Odd-Name_ms", "darts_async_mine_odd_name_seconds", {}, 1e-3),
    ],
)
def test_names_units_and_labels(metric, name, labels, factor):
    family = family_of(metric)
    assert (family.name, dict(family.labels), family.factor) == (name, labels, factor)


@given(st.text(max_size=60))
def test_whatever_a_metric_is_called_prometheus_can_take_it(name: str):
    assert re.fullmatch(r"[a-zA-Z_:][a-zA-Z0-9_:]*", family_of(name).name)


def test_a_counter_is_called_so_and_nothing_else_is():
    for pattern, meaning in CATALOGUE.items():
        family = family_of(re.sub(r"<\w+>", "x", pattern))
        assert family.name.endswith("_total") == (meaning.kind == "counter")
        assert meaning.help.endswith(".") and meaning_of(re.sub(r"<\w+>", "x", pattern))[0] is meaning


def exporter() -> RunExporter:
    """A run with one of everything that the catalogue lists."""
    everything = {re.sub(r"<\w+>", "some", name): 1.0 + place for place, name in enumerate(CATALOGUE)}
    of_roles = {name: value for name, value in everything.items() if not name.endswith("/loop_lag_p99_ms")}
    generator = {name: value for name, value in of_roles.items() if name.startswith(("engine/", "generator/", "loop"))}
    sights = [
        RoleSight("generator", 0, is_up=True, restarts=0, gauges=generator),
        RoleSight(
            "generator",
            1,
            is_up=False,
            restarts=2,
            gauges={"generator/tokens_per_s": float("nan"), "mine/odd-name": 1.0, "mine/odd_name": 2.0},
        ),
        RoleSight("selector", 0, is_up=True, restarts=0, gauges={"tokens/trained": 70.0, "learner/idle_ratio": 0.5}),
    ]
    made = RunExporter(
        run='a "run"',
        steps=40,
        info={"version": "1", "mode": "async"},
        bounds=lambda: {"ready_groups": 16},
        roles=lambda: sights,
        own=lambda: {"sink/wandb/lost_lines": 3.0},
    )
    made.heard("generator", 0)
    made.line({"step": 4, "wall_s": 12.5, "reward/mean": 0.5})
    rest = {name: value for name, value in of_roles.items() if name not in generator}
    made.reported(StepMetrics(step=4, values=rest | {"policy_version": 5.0}))
    made.reported(StepMetrics(step=4, values={"tokens/trained": 60.0, "learner/idle_ratio": 0.25}))
    made.evaluated(
        EvalResult(label="during", policy_version=4, reward=0.5, response_length=float("nan"), num_rollouts=8)
    )
    return made


def scrape(address: Address) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        return str(answer.read(), "utf-8")


@pytest.fixture(scope="module")
def page() -> str:
    server = ScrapeServer(Address("127.0.0.1", 0), exporter())
    try:
        return scrape(server.address)
    finally:
        server.close()


def samples(page: str, name: str) -> dict[tuple[str, str], float]:
    return {
        (sample.labels["role"], sample.labels["rank"]): sample.value
        for family in text_string_to_metric_families(page)
        for sample in family.samples
        if sample.name == name
    }


def test_the_page_has_every_figure_with_run_role_and_rank(page):
    families = {family.name: family for family in text_string_to_metric_families(page)}
    for family in families.values():
        assert family.documentation
        for sample in family.samples:
            assert sample.labels["run"] == 'a "run"' and {"role", "rank"} <= set(sample.labels)
    for pattern in CATALOGUE:
        if pattern != "<role>/loop_lag_p99_ms":
            name = family_of(re.sub(r"<\w+>", "some", pattern)).name
            assert name.removesuffix("_total") in families, pattern
    assert samples(page, "darts_async_role_up") == {("generator", "0"): 1, ("generator", "1"): 0, ("selector", "0"): 1}
    assert samples(page, "darts_async_role_restarts_total")["generator", "1"] == 2
    assert 0 <= samples(page, "darts_async_role_heartbeat_age_seconds")["generator", "0"] < 60
    assert samples(page, "darts_async_run_info") == {("launcher", "0"): 1}
    assert samples(page, "darts_async_run_steps_done") == {("launcher", "0"): 5}
    assert samples(page, "darts_async_queue_bound") == {("launcher", "0"): 16}
    assert samples(page, "darts_async_sink_lost_lines_total")["launcher", "0"] == 3
    assert samples(page, "darts_async_mine_odd_name") == {("generator", "1"): 1}
    assert page.count("\ndarts_async_mine_odd_name{") == 1
    # What is not a number is left out; a counter never falls behind what is known; a step's gauge is the step's.
    assert ("generator", "1") not in samples(page, "darts_async_generator_tokens_per_second")
    assert samples(page, "darts_async_tokens_total")["selector", "0"] == 70
    assert samples(page, "darts_async_learner_idle_ratio")["selector", "0"] == 0.25
    assert ("allocator", "0") not in samples(page, "darts_async_eval_response_length")
    assert samples(page, "darts_async_eval_rollouts")["allocator", "0"] == 8


def test_promtool_finds_nothing(page):
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian: apt install prometheus)")
    checked = subprocess.run([promtool, "check", "metrics"], input=page, capture_output=True, text=True, check=False)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")


def test_a_taken_port_is_a_config_error():
    server = ScrapeServer(Address("localhost", 0), exporter())
    try:
        for listens in (lambda: check_address(server.address), lambda: ScrapeServer(server.address, exporter())):
            with pytest.raises(
                ConfigError, match=r"metrics\.prometheus.*cannot be listened on \(Address already in use"
            ):
                listens()
    finally:
        server.close()
    check_address(server.address)
    with pytest.raises(ConfigError, match="cannot be listened on"):
        check_address(Address("no-such-host.invalid", 9464))
