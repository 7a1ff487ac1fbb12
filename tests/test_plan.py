"""Arms, digests, order of specs, and what is refused against a log. All of it without a sandbox."""

from dataclasses import replace

import pytest

from rollout.compose import compose
from rollout.config import ResourcesConf, TimeoutsConf
from rollout.dataset.state import RunState
from rollout.errors import ConfigError
from rollout.plan import (
    arm_record,
    complete_tasks,
    fitness_problems,
    ids_with,
    limit_problems,
    make_arms,
    make_specs,
    mode_problems,
    refuse_changes,
    stand,
    under_logged_names,
)
from rollout.types import (
    Arm,
    Blueprint,
    Outcome,
    Output,
    Resources,
    ScoreMode,
    Task,
    Tree,
    Verifier,
    group_id,
    trajectory_id,
)

SCRIPT = ["agent=script", "agent.script=ls"]


def arms_of(*overrides: str) -> tuple[Arm, ...]:
    return make_arms(compose(overrides).points)


def digest_of(*overrides: str) -> str:
    return arms_of(*SCRIPT, *overrides)[0].digest


def task(name: str, base: str = "host", **more: object) -> Task:
    return replace(
        Task(id=name, instruction=f"Do {name}.", blueprint=Blueprint(base=base)),
        **more,  # type: ignore[arg-type]
    )


TASKS = (task("a"), task("b", "other"), task("c"))


def logged(arms: tuple[Arm, ...], tasks: tuple[Task, ...] = TASKS) -> RunState:
    return RunState(
        arms={arm.name: arm_record(arm) for arm in arms},
        tasks={each.id: each.digest for each in tasks},
        samples=2,
    )


# ---------------------------------------------------------------- arms


def test_without_a_sweep_there_is_one_arm_called_default() -> None:
    (arm,) = arms_of("agent=nop")
    assert (arm.name, arm.settings, arm.agent.version) == ("default", (), "1")


def test_arms_are_named_by_their_settings() -> None:
    arms = arms_of(
        "agent=script", "+sweep.agent.script=[ls,pwd]", "+sweep.timeouts.multiplier=[1,2]"
    )
    assert [arm.name for arm in arms] == [
        "agent.script=ls,timeouts.multiplier=1",
        "agent.script=ls,timeouts.multiplier=2",
        "agent.script=pwd,timeouts.multiplier=1",
        "agent.script=pwd,timeouts.multiplier=2",
    ]
    assert [arm.timeout_multiplier for arm in arms] == [1.0, 2.0, 1.0, 2.0]
    assert arms[2].agent.kwargs()["script"] == "pwd"
    assert arms[3].settings == (("agent.script", "pwd"), ("timeouts.multiplier", "2"))


@pytest.mark.parametrize(
    "same",
    [
        "executor=local",
        "executor.episodes_per_worker=3",
        "pool=cold",
        "pool.max_spares=3",
        "store.uri=elsewhere",
        "store.format=arrow",
        "retry.max_attempts=9",
        "engine.root_dir=/elsewhere",
        "samples=5",
        "name=another",
        "timeouts.create_s=5",
    ],
)
def test_what_cannot_change_a_result_is_not_in_the_digest(same: str) -> None:
    assert digest_of(same) == digest_of()


@pytest.mark.parametrize(
    "other",
    [
        "agent.script=pwd",
        "agent.shell=bash",
        "agent.timeout_s=5",
        "scorer=command",
        "verifier.mode=fork",
        "timeouts.multiplier=2",
        "timeouts.agent_override_s=9",
    ],
)
def test_what_changes_a_result_is_in_the_digest(other: str) -> None:
    assert digest_of(other) != digest_of()


def test_the_agents_version_is_in_the_digest() -> None:
    (arm,) = arms_of(*SCRIPT)
    assert replace(arm, agent=replace(arm.agent, version="2")).digest != arm.digest


def test_ids_never_change() -> None:
    """Datasets of older versions are continued by these ids: a change here orphans their rows."""
    (arm,) = arms_of(*SCRIPT)
    assert arm.digest == "1f0979e86ab86fe7baaf3a581cb86f9bec96de023dd9677cf63451e8c72e46b4"
    assert trajectory_id("run", "arm", "task", 0) == "2a1b0284f3eb91b2dcb4d6abf26b31ce"
    assert group_id("run", "arm", "task") == "2984ccef3de5ef453cdec7da517ccccc"


def test_two_settings_that_mean_the_same_are_refused() -> None:
    with pytest.raises(ConfigError, match="are the same arm"):
        arms_of(*SCRIPT, "+sweep.timeouts.multiplier=[1,1.0]")


def test_an_agent_that_cannot_be_built_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"agent\.script: is empty"):
        arms_of("agent=script", "agent.script='  '")


def test_a_model_is_refused_while_nobody_would_speak_to_it() -> None:
    with pytest.raises(ConfigError, match="model"):
        arms_of("+model.name=some-model")


def test_trust_is_part_of_an_arm() -> None:
    assert digest_of("verifier.trust=system") != digest_of()


# ---------------------------------------------------------------- tasks


def test_fresh_scoring_of_a_task_without_outputs_is_refused_by_name() -> None:
    fresh, fork = arms_of(*SCRIPT, "verifier.mode=fresh"), arms_of(*SCRIPT, "verifier.mode=fork")
    declared = arms_of(*SCRIPT)
    artifacts = (Output(source="/logs/artifacts"),)
    own = Verifier(mode=ScoreMode.FRESH)
    nothing, harbor = task("nothing"), task("harbor", outputs=artifacts)
    says = task("says", outputs=(Output(source="/app"),))
    (one, two) = mode_problems(fresh, [nothing, harbor, says])
    assert one.startswith("task nothing: verifier.mode=fresh")
    assert two.startswith("task harbor: ")
    assert "verifier.mode=fork" in one
    assert mode_problems(fork, [nothing, harbor, says]) == []
    assert mode_problems(declared, [nothing, harbor, says]) == []
    # A task that is itself for a fresh scorer may mean just its artifacts.
    assert mode_problems(declared, [task("separate", outputs=artifacts, verifier=own)]) == []
    assert len(mode_problems(declared, [task("empty", verifier=own)])) == 1


def test_what_tasks_leave_open_is_filled_and_shows_in_their_digest() -> None:
    own = task("a", agent_timeout_s=5.0, blueprint=Blueprint(resources=Resources(memory_mb=64)))
    conf = ResourcesConf(memory_mb=512, pids=100)
    filled, plain = complete_tasks([own, task("b")], conf, TimeoutsConf(agent_s=30.0))
    assert filled.blueprint.resources == Resources(memory_mb=64, pids=100)
    assert (filled.agent_timeout_s, plain.agent_timeout_s) == (5.0, 30.0)
    (longer,) = complete_tasks([task("b")], conf, TimeoutsConf(agent_s=31.0))
    assert longer.digest != plain.digest


def test_limits_people_wrote_must_hold_and_imported_ones_are_recorded() -> None:
    limited = Blueprint(resources=Resources(memory_mb=64, disk_mb=10))
    ours = task("ours", blueprint=limited)
    theirs = task("theirs", blueprint=limited, limits_imported=True)
    can = frozenset({"memory"})
    found = limit_problems([ours, theirs], ResourcesConf(), "native", can)
    assert len(found) == 1
    assert found[0].startswith("task ours: disk_mb=10 cannot be enforced")
    (asked,) = limit_problems([theirs], ResourcesConf(cpu=1.5), "native", can)
    assert asked.startswith("resources.cpu=1.5 cannot be enforced")
    judge = task("judged", verifier=Verifier(blueprint=Blueprint(resources=Resources(disk_mb=9))))
    (of_verifier,) = limit_problems([judge], ResourcesConf(), "native", can)
    assert of_verifier.startswith("verifier of task judged: disk_mb=9 cannot be enforced")
    relaxed = ResourcesConf(cpu=1.5, unenforceable="record")
    assert limit_problems([ours, theirs], relaxed, "native", can) == []


def test_agents_and_scorers_are_asked_about_every_task() -> None:
    solved = replace(TASKS[0], solution=Tree.of({"solve.sh": "true"}))
    arms = arms_of("agent=oracle", "scorer=command", "scorer.command=ls")
    (only,) = fitness_problems(arms, [solved, TASKS[1]])
    assert "arm default" in only
    assert "task b" in only
    assert len(fitness_problems(arms_of("agent=nop", "scorer=command"), TASKS)) == len(TASKS)


# ---------------------------------------------------------------- specs


def test_tasks_of_one_image_stand_together_and_arms_interleave() -> None:
    arms = arms_of("+sweep.agent=[oracle,nop]")
    specs = make_specs("run", arms, TASKS, 2)
    assert [spec.task_id for spec in specs] == ["a"] * 4 + ["c"] * 4 + ["b"] * 4
    assert [spec.arm for spec in specs[:4]] == ["agent=oracle", "agent=nop"] * 2
    assert [spec.sample for spec in specs[:4]] == [0, 0, 1, 1]
    assert len({spec.trajectory_id for spec in specs}) == 12
    assert len({spec.group_id for spec in specs}) == 6
    assert {spec.group_size for spec in specs} == {2}


def test_another_run_name_gives_other_ids_and_more_samples_keep_the_old_ones() -> None:
    arms = arms_of("agent=nop")
    two = {spec.trajectory_id for spec in make_specs("run", arms, TASKS, 2)}
    assert two < {spec.trajectory_id for spec in make_specs("run", arms, TASKS, 3)}
    assert not two & {spec.trajectory_id for spec in make_specs("other", arms, TASKS, 2)}


def test_only_what_is_planned_counts() -> None:
    arms = arms_of("+sweep.agent=[oracle,nop]")
    specs = make_specs("run", arms, TASKS, 2)
    state = logged(arms)
    state.accepted = {
        specs[0].trajectory_id: (Outcome.OK, 1.0),
        specs[1].trajectory_id: (Outcome.SANDBOX_LOST, None),
        specs[3].trajectory_id: (Outcome.OK, 0.0),
    }
    standing = stand(specs, state)
    assert (standing.total, standing.done, standing.missing, standing.unscored) == (12, 3, 9, 1)
    assert standing.done_by_arm == {"agent=oracle": 1, "agent=nop": 2}
    assert standing.exit_code == 1
    fewer = make_specs("run", arms, TASKS[:1], 1)
    assert stand(fewer, state).missing == 0
    assert stand(fewer, state).exit_code == 1
    assert stand(fewer[:1], state).exit_code == 0
    assert ids_with(state, [Outcome.SANDBOX_LOST]) == [specs[1].trajectory_id]


# ---------------------------------------------------------------- against the log


def test_the_same_and_more_may_be_started_again() -> None:
    arms = arms_of("agent=nop")
    state = logged(arms, TASKS[:2])
    refuse_changes("run", arms, TASKS, state)
    more = arms_of("+sweep.agent=[oracle,nop]")
    named = under_logged_names(more, state)
    assert [arm.name for arm in named] == ["agent=oracle", "default"]
    refuse_changes("run", named, TASKS, state)


def test_a_changed_arm_is_refused_with_the_difference() -> None:
    state = logged(arms_of(*SCRIPT))
    with pytest.raises(ConfigError) as caught:
        refuse_changes("run", arms_of(*SCRIPT, "agent.script=pwd"), TASKS, state)
    message = str(caught.value)
    assert "arm default: agent.script was 'ls', is 'pwd'" in message
    assert "agent.shell" not in message
    assert "name=" in message


def test_a_changed_task_is_refused_by_name_and_a_left_out_one_is_not() -> None:
    arms = arms_of("agent=nop")
    changed = replace(TASKS[1], instruction="Do something else.")
    with pytest.raises(ConfigError, match=r"task b: .*changed"):
        refuse_changes("run", arms, (TASKS[0], changed), logged(arms))
    refuse_changes("run", arms, TASKS[:1], logged(arms))


def test_a_long_list_of_changes_is_clipped() -> None:
    many = tuple(task(f"t{n}") for n in range(100))
    arms = arms_of("agent=nop")
    changed = tuple(replace(each, instruction="x") for each in many)
    with pytest.raises(ConfigError, match="and 80 more"):
        refuse_changes("run", arms, changed, logged(arms, many))
