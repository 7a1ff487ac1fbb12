"""Everything in conf/ composes and fits; every slip on a command line is one clear message."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from rollout import plugins
from rollout.checks import AT_MOST, CHOICES, MAY_BE_ZERO, problems
from rollout.compose import compose, composed_of, conf_dir, restore, spelled_for_hydra
from rollout.config import RunConf
from rollout.errors import ConfigError

CONF = Path(__file__).parents[1] / "conf"
EXPERIMENTS = sorted(path.stem for path in (CONF / "experiment").glob("*.yaml"))
OPTIONS = sorted(
    (path.parent.name, path.stem)
    for path in CONF.glob("*/*.yaml")
    if path.parent.name != "experiment"
)
NEEDED = {
    ("experiment", "harbor"): ["task.path=tasks"],
    ("experiment", "jsonl"): ["task.path=tasks.jsonl"],
    ("experiment", "eval"): ["model.name=m", "model.urls=[http://127.0.0.1:8000/v1]"],
    ("experiment", "rft"): ["model.name=m", "model.urls=[http://127.0.0.1:8000/v1]"],
    ("task", "harbor"): ["task.path=tasks"],
    ("task", "jsonl"): ["task.path=tasks.jsonl"],
    ("agent", "script"): ["agent.script=ls"],
    ("agent", "command"): ["agent.name=mine", "agent.command=ls"],
    ("model", "openai"): ["model.name=m", "model.urls=[http://127.0.0.1:8000/v1]"],
    ("model", "anthropic"): ["model.name=m"],
    ("model", "litellm"): ["model.name=provider/m"],
    ("model", "scripted"): ["model.script=replies.json"],
    ("scorer", "judge"): [
        "scorer.rubric=good",
        "scorer.model.name=m",
        "scorer.model.urls=[http://127.0.0.1:8000/v1]",
    ],
    ("scorer", "file"): ["scorer.path=/out", "scorer.gold=x"],
    ("store", "s3"): ["store.uri=s3://bucket/prefix"],
    **{
        ("sampler", name): ["online.batch=8"]
        for name in ("uniform", "recent_success", "drop_solved", "retry_failed")
    },
}
"""What an option leaves to its user, as `???` or as an incomplete URI."""


def refusal(*overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    return str(caught.value)


# ---------------------------------------------------------------- what ships


def test_the_checkouts_conf_is_the_one_in_use() -> None:
    assert conf_dir() == CONF


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_and_its_targets_take_their_arguments(name: str) -> None:
    composed = compose([f"+experiment={name}", *NEEDED.get(("experiment", name), [])])
    assert composed.conf.name == name
    assert composed.points
    for point in composed.points:
        for kind in ("agent", "scorer"):
            node = getattr(point.conf, kind)
            assert callable(plugins.resolve(node["_target_"]))
            assert plugins.make(plugins.plugin_of(node)) is not None


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_says_first_how_to_run_it(name: str) -> None:
    lines = (CONF / "experiment" / f"{name}.yaml").read_text().splitlines()
    assert lines[0] == "# @package _global_"
    assert lines[1].startswith(f"# python -m rollout +experiment={name}")


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_of_every_group_composes(group: str, option: str) -> None:
    compose([f"{group}={option}", *NEEDED.get((group, option), [])])


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_lists_every_argument_so_that_none_needs_a_plus(
    group: str, option: str
) -> None:
    written = OmegaConf.to_container(OmegaConf.load(CONF / group / f"{option}.yaml"))
    if isinstance(written, dict) and "_target_" in written:
        assert set(plugins.arguments(written)) == {str(key) for key in written} - {"_target_"}


def test_the_quickstart_needs_no_word_more() -> None:
    composed = compose(["+experiment=quickstart"])
    assert composed.conf.samples == 8
    assert (composed.conf.engine.kind, composed.conf.executor.kind) == ("auto", "ray")
    assert [dict(point.settings) for point in composed.points] == [
        {"agent": "oracle"},
        {"agent": "nop"},
    ]


def test_every_rule_about_values_names_a_key_that_exists() -> None:
    conf = OmegaConf.structured(RunConf)
    for key in {*CHOICES, *MAY_BE_ZERO, *AT_MOST}:
        assert OmegaConf.select(conf, key, default="nowhere") != "nowhere", key
    assert problems(RunConf()) == []


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["samplez=3"], ["samplez: unknown key", '"samples"']),
        (["blueprint.sise=small"], ["blueprint.sise: unknown key", '"size"']),
        (["blueprint.size=smal"], ["blueprint.size: 'smal'", "x_small", '"small"']),
        (["blueprint.resources.memory=1"], ["resources.memory: unknown key", '"memory_mb"']),
        (["blueprint.build_network=public"], ["blueprint.build_network", "none, host"]),
        (["blueprint.resources.cpu=0"], ["blueprint.resources.cpu", "above 0"]),
        (["+experimnt=quickstart"], ["experimnt", '"+experiment=…"']),
        (["experiment=quickstart"], ["+experiment=quickstart"]),
        (["+experiment=quickstar"], ["experiment", "'quickstar'", '"quickstart"']),
        (["engine=nativ"], ["engine", "'nativ'", '"native"']),
        (["engin=native"], ["engin: unknown key", '"engine"']),
        (["engine.knd=native"], ["engine.knd: unknown key", '"kind"']),
        (["+engine.knd=native"], ["engine.knd: unknown key", '"kind"']),
        (["engine.kind=natve"], ["engine.kind", "'natve'", '"native"']),
        (["executor.kind=rya"], ["executor.kind", "'rya'", '"ray"']),
        (["engine.max_slots=big"], ["engine.max_slots", "whole number", "'big'"]),
        (["samples=1.5"], ["samples", "whole number", "'1.5'"]),
        (["samples=0"], ["samples", "above 0", "0"]),
        (["timeouts.agent_s=-1"], ["timeouts.agent_s", "above 0", "-1"]),
        (["timeouts.agent_s=nan"], ["timeouts.agent_s", "nan"]),
        (["retry.storm_share=1.5"], ["retry.storm_share", "at most 1", "1.5"]),
        (["resources.pids=-3"], ["resources.pids", "-3"]),
        (["task.pth=x"], ["task.pth: unknown key", '"path"']),
        (["+task.pth=x"], ["task.pth: unknown key", '"path"']),
        (["task.limit=many"], ["task.limit", "'many'", "whole number or null"]),
        (["task=harbor"], ["task.path: must be given"]),
        (["agent=script"], ["agent.script: must be given"]),
        (["agent._target_=rollout.agents.orcle.Oracle"], ["agent._target_", '"oracle"']),
        (["agent._target_=rollout.agents.oracle.Orakle"], ["agent._target_", '"Oracle"']),
        (["agent._target_=os.system"], ["agent._target_", '"run"']),
        (["store=s3"], ["store.uri", "s3://bucket/prefix"]),
        (["name=../up"], ["name", "'../up'"]),
        (["name=${oc.env:NO_SUCH_VARIABLE}"], ["name", "NO_SUCH_VARIABLE"]),
        (["agent=script", "agent.script='${oc.env:HOME}'"], ["agent.script", "saved"]),
        (["+samples=3"], ["samples", "without the plus"]),
        (["samples"], ["'samples'", "key=value"]),
        (["samples=[1"], ["samples=[1", "key=value"]),
        (["samples=1,2"], ["samples", "--multirun"]),
        (["agent=[oracle,nop]"], ["agent", "+sweep.agent=[oracle,nop]"]),
        (["sweep=3"], ["sweep"]),
        (["+sweep.agent=[oracle,nopp]"], ["agent=nopp", '"nop"']),
        (["+sweep.agent=oracle"], ["sweep.agent", "list", "'oracle'"]),
        (
            ["+experiment=quickstart", "+sweep.agent.script=[a,b]"],
            ["sweep.agent: is a list", "'script'", "'~sweep.agent' '+sweep.agent.script=[a,b]'"],
        ),
        (["agent=nop", "+sweep.agent.script=[a,b]"], ["agent.script", "unknown"]),
        (["+sweep.agent=[nop,nop]"], ["sweep.agent", "twice"]),
        (["+sweep.samples=[1,2]"], ["sweep.samples", "cannot differ"]),
        (["+sweep.engine=[native,memory]"], ["sweep.engine", "cannot differ"]),
        (["+sweep.agent.scrip=[a,b]", "agent=script"], ["agent.scrip=a", '"script"']),
        (["agent=nop", "+sweep.agent=[nop,oracle]"], ["agent=nop", "~sweep.agent"]),
    ],
)
def test_a_slip_is_one_message_that_names_the_key_and_the_way_out(
    overrides: list[str], said: list[str]
) -> None:
    message = refusal(*overrides)
    for words in said:
        assert words in message, message
    assert "Traceback" not in message
    assert len(message.splitlines()) <= 2


def test_all_that_is_out_of_range_is_told_at_once() -> None:
    lines = refusal("samples=0", "executor.kind=rya", "task.limit=many").splitlines()
    assert [line.partition(":")[0] for line in lines] == ["samples", "executor.kind", "task.limit"]


def test_a_broken_file_in_a_users_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nengine: {knd: 1}\n")
    with pytest.raises(ConfigError, match=r"engine\.knd.*kind"):
        compose(["+experiment=mine"], str(tmp_path))
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\n  a: [1\n b: 2")
    with pytest.raises(ConfigError):
        compose(["+experiment=mine"], str(tmp_path))


def test_a_users_experiment_is_found_and_lends_its_name(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\nsamples: 3\n")
    composed = compose(["+experiment=mine"], str(tmp_path))
    assert (composed.conf.name, composed.conf.samples) == ("mine", 3)
    assert compose(["+experiment=mine", "name=other"], str(tmp_path)).conf.name == "other"


# ---------------------------------------------------------------- the sweep


def test_every_combination_is_a_point_and_options_bring_their_own_keys() -> None:
    composed = compose(["+sweep.agent=[oracle,nop]", "+sweep.verifier.mode=[fork,shared]"])
    assert [point.settings for point in composed.points] == [
        (("agent", "oracle"), ("verifier.mode", "fork")),
        (("agent", "oracle"), ("verifier.mode", "shared")),
        (("agent", "nop"), ("verifier.mode", "fork")),
        (("agent", "nop"), ("verifier.mode", "shared")),
    ]
    last = composed.points[-1].conf
    assert (last.agent["_target_"], last.verifier.mode) == ("rollout.agents.nop.Nop", "shared")


def test_a_dotted_and_a_nested_sweep_key_are_the_same(tmp_path: Path) -> None:
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults: [override /agent: script]\n"
        "sweep: {agent.script: ['true', 'false']}\n"
    )
    composed = compose(["+experiment=mine"], str(tmp_path))
    assert [point.conf.agent["script"] for point in composed.points] == ["true", "false"]
    with pytest.raises(ConfigError, match="given twice"):
        compose(["+experiment=mine", "+sweep.agent.script=[a]"], str(tmp_path))


def test_an_option_of_the_sweep_is_composed_with_the_experiments_own_words(tmp_path: Path) -> None:
    (tmp_path / "agent").mkdir()
    (tmp_path / "agent" / "hello.yaml").write_text(
        "_target_: rollout.agents.script.Script\nscript: echo hello\nname: ${name}-agent\n"
    )
    composed = compose(["+sweep.agent=[hello,nop]", "name=first"], str(tmp_path))
    assert composed.points[0].conf.agent["name"] == "first-agent"
    assert "script" not in composed.points[1].conf.agent


def test_sweep_words_may_be_written_with_or_without_a_plus() -> None:
    assert spelled_for_hydra(["sweep.a=[1]", "+sweep.a=[1]"]) == ["++sweep.a=[1]"] * 2
    composed = compose(["+experiment=quickstart", "sweep.agent=[nop]"])
    assert [point.settings for point in composed.points] == [(("agent", "nop"),)]


@pytest.mark.parametrize("word", ["~sweep", "sweep={}", "~sweep.agent"])
def test_an_experiments_sweep_can_be_left_out(word: str) -> None:
    composed = compose(["+experiment=quickstart", word, "agent=nop"])
    assert [point.settings for point in composed.points] == [()]
    assert composed.conf.agent["_target_"] == "rollout.agents.nop.Nop"


def test_what_an_option_leaves_open_may_be_set_by_the_sweep() -> None:
    composed = compose(["agent=script", "+sweep.agent.script=['sleep 1','sleep 2']"])
    assert [point.conf.agent["script"] for point in composed.points] == ["sleep 1", "sleep 2"]
    assert restore(composed.saved) == composed


def test_what_a_target_takes_and_its_file_leaves_out_may_be_swept_over() -> None:
    words = ["agent=nop", "agent._target_=rollout.agents.script.Script", "+agent.script=ls"]
    composed = compose([*words, "+sweep.agent.timeout_s=[1.0,2.0]"])
    assert [point.conf.agent["timeout_s"] for point in composed.points] == [1.0, 2.0]


@pytest.mark.parametrize(
    "image",
    ["python:3.11-slim", "registry.example/a/b:1.2", "x@sha256:0123", "registry.example/a b:[c]"],
)
def test_images_are_added_by_their_own_names(image: str) -> None:
    composed = compose(["+experiment=harbor", "task.path=x", f"+task.images.{image}=host"])
    assert composed.conf.task["images"][image] == "host"
    assert len(composed.conf.task["images"]) > 1


# ---------------------------------------------------------------- saved and restored


def test_what_is_saved_restores_the_same_run() -> None:
    composed = compose(["+experiment=quickstart", "sweep.timeouts.multiplier=[1,2.5]"])
    again = restore(composed.saved)
    assert again.conf == composed.conf
    assert again.points == composed.points


def test_a_variable_is_saved_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLOUT_TEST_PLACE", "there")
    composed = compose(["store.uri='${oc.env:ROLLOUT_TEST_PLACE}'"])
    assert composed.conf.store.uri == "there"
    assert "there" not in str(composed.saved)
    monkeypatch.setenv("ROLLOUT_TEST_PLACE", "elsewhere")
    assert restore(composed.saved).conf.store.uri == "elsewhere"


def test_a_saved_config_cannot_call_what_it_names() -> None:
    saved = compose([]).saved
    saved["arms"][0]["config"]["agent"] = {"_target_": "os.system", "command": "true"}
    with pytest.raises(ConfigError, match=r"agent\._target_"):
        restore(saved)
    with pytest.raises(ConfigError, match="does not fit"):
        restore({"config": {"samples": "many"}, "arms": []})


def test_a_config_may_be_made_in_python() -> None:
    base = compose([]).conf
    base.samples, base.sweep = 2, {"timeouts.multiplier": [1.0, 3.0]}
    composed = composed_of(base)
    assert [point.conf.timeouts.multiplier for point in composed.points] == [1.0, 3.0]
    base.sweep = {"agent": ["oracle"]}
    with pytest.raises(ConfigError, match="overrides"):
        composed_of(base)


def test_headers_of_a_model_need_no_plus() -> None:
    words = ["model=anthropic", "model.name=m", "model.headers.anthropic-beta='a-1,b-2'"]
    assert compose(words).points[0].conf.model.headers == {"anthropic-beta": "a-1,b-2"}
