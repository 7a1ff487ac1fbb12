"""Harbor's format: what is honoured, what is refused, and how it is said."""

import json
from pathlib import Path

import pytest

from rollout.errors import ConfigError
from rollout.tasks.harbor import HarborTasks
from rollout.tasks.harbor_folder import LOGS
from rollout.types import (
    BuildStep,
    Collect,
    HealthCheck,
    Output,
    Resources,
    ScoreMode,
    Tree,
)
from tests.tasks.folders import DOCKERFILE, IMAGES, TOML, load, load_one, make_task, write

FULL = """
schema_version = "1.4"
source = "somewhere"
artifacts = ["/app/out", {source = "/app/log/", exclude = ["*.tmp"], destination = "logs"}]

[task]
name = "org/full"
version = "3"
description = "all keys"
authors = [{name = "A", email = "a@example.org"}]
keywords = ["x"]

[metadata]
difficulty = "easy"

[agent]
timeout_sec = 12.5
user = "worker"

[verifier]
timeout_sec = 30
user = 1000
env = {MODE = "strict"}
environment_mode = "shared"
[[verifier.collect]]
command = "dump > /app/out/db"
timeout_sec = 5
user = "postgres"

[environment]
build_timeout_sec = 40
os = "Linux"
cpus = 0.5
memory_mb = 512
storage_mb = 1024.0
gpus = 0
workdir = "/app/"
network_mode = "no-network"
env = {A = "1", B = "${NOT A TEMPLATE"}
mcp_servers = []
[environment.healthcheck]
command = "true"
interval_sec = 1
timeout_sec = 2
start_period_sec = 3
start_interval_sec = 0.5
retries = 4

[solution]
env = {KEY = "value"}
"""


def test_sudo_is_the_configs_to_allow(tmp_path: Path) -> None:
    assert load_one(tmp_path, FULL, sudo=True).blueprint.sudo
    assert not load_one(tmp_path, FULL).blueprint.sudo


def test_every_key_that_can_be_honoured_is(tmp_path: Path) -> None:
    task = load_one(tmp_path, FULL)
    assert task.id == "good"
    assert task.instruction == "Do good."
    assert (task.agent_timeout_s, task.agent_user, task.setup_timeout_s) == (12.5, "worker", 40.0)
    assert task.blueprint.resources == Resources(cpu=0.5, memory_mb=512, disk_mb=1024)
    assert task.blueprint.env == (("A", "1"), ("B", "${NOT A TEMPLATE"))
    assert task.blueprint.workdir == "/app"
    assert task.blueprint.network == "none"
    assert task.limits_imported
    verifier = task.verifier
    assert (verifier.timeout_s, verifier.user) == (30.0, "1000")
    assert verifier.env == (("MODE", "strict"),)
    assert (verifier.mode, verifier.blueprint) == (ScoreMode.SHARED, None)
    assert verifier.collect == (
        Collect(command="dump > /app/out/db", timeout_s=5.0, user="postgres"),
    )
    assert task.healthcheck == HealthCheck(
        command="true",
        interval_s=1.0,
        timeout_s=2.0,
        start_period_s=3.0,
        start_interval_s=0.5,
        retries=4,
    )
    assert task.outputs == (
        Output(source="/logs/artifacts"),
        Output(source="/app/out"),
        Output(source="/app/log", exclude=("*.tmp",), name="logs"),
    )
    assert task.solution_env == (("KEY", "value"),)
    metadata = json.loads(task.metadata)
    assert metadata["difficulty"] == "easy"
    assert metadata["harbor"]["name"] == "org/full"
    assert metadata["harbor"]["source"] == "somewhere"


def test_defaults_are_harbors(tmp_path: Path) -> None:
    task = load_one(tmp_path, "")
    assert task.agent_timeout_s is None
    assert task.verifier.timeout_s == 600.0
    assert task.verifier.mode is ScoreMode.SHARED
    assert task.blueprint.resources == Resources()
    assert task.healthcheck is None
    assert task.dataset == tmp_path.name


def test_blueprint_has_harbors_log_folders_and_the_dockerfiles_steps(tmp_path: Path) -> None:
    task = load_one(tmp_path)
    assert task.blueprint.base == "host"
    assert task.blueprint.steps == (
        BuildStep(op="put", dest="/logs", tree=LOGS),
        BuildStep(op="workdir", dest="/app"),
    )


def test_legacy_keys_are_mapped(tmp_path: Path) -> None:
    toml = (
        'version = "1.0"\n[environment]\nmemory = "2G"\nstorage = "1.5g"\nallow_internet = false\n'
    )
    task = load_one(tmp_path, toml, network="as_declared")
    assert task.blueprint.resources == Resources(memory_mb=2048, disk_mb=1536)


def refused(root: Path, toml: str = TOML, **settings: object) -> str:
    make_task(root, toml=toml)
    with pytest.raises(ConfigError) as caught:
        load(root, **settings)
    return str(caught.value)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ('schema_version = "2.0"', "schema_version: saw '2.0'; use a schema version \"1.x\""),
        ("schema_version = 1.4", "schema_version: saw 1.4; use a string"),
        ('version = "1.0"\nschema_version = "1.4"', "version: saw '1.0'; use the same"),
        ("[[steps]]\nname = 'a'", "steps: saw [{'name': 'a'}]; tasks of several steps"),
        ('multi_step_reward_strategy = "max"', "multi_step_reward_strategy: saw 'max'"),
        ("[environment]\ngpus = 1", "[environment].gpus: saw 1; no engine"),
        ('[environment]\ngpu_types = ["T4"]', "[environment].gpu_types: saw ['T4']"),
        ("[environment.tpu]\ntype = 'v4'", "[environment].tpu: saw"),
        ('[environment]\nos = "windows"', "[environment].os: saw 'windows'; use linux"),
        ("[[environment.mcp_servers]]\nname = 'a'", "[environment].mcp_servers: saw"),
        ('[environment]\nskills_dir = "/skills"', "[environment].skills_dir: saw '/skills'"),
        ("[environment]\ncpus = nan", "[environment].cpus: saw nan; use a finite number"),
        ("[environment]\ncpus = true", "[environment].cpus: saw True; use a number"),
        ("[environment]\nmemory_mb = 0", "[environment].memory_mb: saw 0"),
        ("[environment]\nmemory_mb = 1.5", "[environment].memory_mb: saw 1.5; use a whole"),
        ('[environment]\nmemory = "2T"', "[environment].memory: saw '2T'; use a size"),
        ("[environment]\nmemory = 2", "[environment].memory: saw 2; use a string"),
        ('[environment]\nmemory = "1G"\nmemory_mb = 5', "[environment].memory: saw '1G'; use the"),
        ('[environment]\nworkdir = "app"', "[environment].workdir: saw 'app'; use an absolute"),
        ('[environment]\nenv = ["a"]', "[environment].env: saw ['a']; use a table"),
        ("[environment.env]\nA = 1", "[environment.env].A: saw 1; use a string"),
        ("[environment.healthcheck]\nretries = 2", "[environment.healthcheck].command: saw None"),
        ('[environment]\nnetwork_mode = "vpn"', "[environment].network_mode: saw 'vpn'; use publ"),
        ('[environment]\nallowed_hosts = ["a.b"]', "[environment].allowed_hosts: saw ['a.b']"),
        (
            '[agent]\nnetwork_mode = "allowlist"\nallowed_hosts = ["http://x/"]',
            "[agent].allowed_hosts: saw 'http://x/': ",
        ),
        ("[agent]\ntimeout_sec = -1", "[agent].timeout_sec: saw -1"),
        ("[agent]\nuser = true", "[agent].user: saw True; use a user's name or number"),
        ('[verifier]\nenvironment_mode = "none"', "[verifier].environment_mode: saw 'none'"),
        (
            '[verifier]\nenvironment_mode = "shared"\n[verifier.environment]\ncpus = 1',
            "[verifier].environment_mode: saw 'shared'",
        ),
        (
            '[verifier.environment]\ndocker_image = "python:3.11-slim"',
            "[verifier.environment].docker_image: saw 'python:3.11-slim'; an image that brings",
        ),
        (
            "[verifier.environment.healthcheck]\ncommand = 'true'",
            "[verifier.environment].healthcheck: saw",
        ),
        ("[[verifier.collect]]\ncommand = ''", "[[verifier.collect]] 1.command: saw ''"),
        (
            "[[verifier.collect]]\ncommand = 'a'\nservice = 'db'",
            "[[verifier.collect]] 1.service: saw 'db'",
        ),
        ('artifacts = "/a"', "artifacts: saw '/a'; use a list"),
        ('artifacts = ["/a", "b"]', "[[artifacts]] 2.source: saw 'b'; use an absolute path"),
        ('artifacts = ["/a/../b"]', "[[artifacts]] 1.source: saw '/a/../b'"),
        ('artifacts = [{source = "/a", service = "db"}]', "[[artifacts]] 1.service: saw 'db'"),
        ('artifacts = [{source = "/a", destination = "/b"}]', "[[artifacts]] 1.destination: saw"),
        ('[task]\nversion = "1"', "[task].name: saw None"),
        ("agent = 3", "agent: saw 3; use a table, [agent]"),
        ("x = ", "task.toml: is no TOML"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(tmp_path: Path, toml: str, said: str) -> None:
    assert f"\n  good: {said}" in refused(tmp_path, toml)


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        ("artefacts = []", "artefacts: unknown key; did you mean 'artifacts'?"),
        ("[environment]\nmemroy_mb = 5", "memroy_mb: unknown key; did you mean 'memory_mb'?"),
        ("[agent]\ntimeout = 5", "[agent].timeout: unknown key; did you mean 'timeout_sec'?"),
        ("[verifier]\nevn = {}", "[verifier].evn: unknown key; did you mean 'env'?"),
        ("[solution]\nenvs = {}", "[solution].envs: unknown key; did you mean 'env'?"),
        (
            "[environment.healthcheck]\ncommand='a'\nretry = 1",
            "[environment.healthcheck].retry: unknown key; did you mean 'retries'?",
        ),
    ],
)
def test_unknown_keys_name_the_nearest(tmp_path: Path, toml: str, said: str) -> None:
    assert said in refused(tmp_path, toml)


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({"trajectory.json": "{}"}, "trajectory.json: a prior trajectory"),
        ({"environment/docker-compose.yaml": ""}, "environment/docker-compose.yaml: several"),
        ({"tests/.harborignore": "x"}, "tests/.harborignore: is not supported"),
        ({"instruction.md": " \n"}, "instruction.md: is empty"),
        (
            {"environment/Dockerfile": "FROM debian:13"},
            "no base is known for the image 'debian:13'",
        ),
        ({"environment/Dockerfile": "FROM debian:13"}, '{"debian:13": host}'),
        (
            {"environment/Dockerfile": DOCKERFILE + "RUN --mount=type=secret,id=a,required x"},
            "environment/Dockerfile: RUN needs the secret 'a': blueprint.secrets.a=NAME",
        ),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, files: dict[str, str], said: str) -> None:
    write(make_task(tmp_path), files)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        ("task.toml", "good: task.toml"),
        ("instruction.md", "instruction.md: cannot be read"),
        ("tests/test.sh", "tests/test.sh: is missing"),
        ("environment/Dockerfile", "environment/Dockerfile: is missing"),
    ],
)
def test_missing_files(tmp_path: Path, missing: str, said: str) -> None:
    (make_task(tmp_path) / missing).unlink()
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    assert said in str(caught.value)


def test_all_broken_tasks_are_one_error(tmp_path: Path) -> None:
    make_task(tmp_path, "fine")
    for number in range(30):
        make_task(tmp_path, f"bad-{number:02}", toml="[environment]\ngpus = 1\n[agent]\nx = 1\n")
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("30 tasks of ")
    assert lines[1].strip().startswith("bad-00: [environment].gpus: saw 1")
    assert lines[-2].strip() == "… and 10 more"
    assert len(lines) == 53


def test_skip_leaves_the_broken_out_and_tells(tmp_path: Path) -> None:
    make_task(tmp_path, "fine")
    make_task(tmp_path, "bad", toml="[environment]\ngpus = 2\n")
    source = HarborTasks(path=str(tmp_path), images=IMAGES, on_error="skip")
    assert [task.id for task in source.load()] == ["fine"]
    assert len(source.skipped) == 1
    assert source.skipped[0].startswith("bad: [environment].gpus: saw 2")


def test_skip_with_nothing_left_is_an_error(tmp_path: Path) -> None:
    make_task(tmp_path, "bad", toml="nonsense = 1\n")
    with pytest.raises(ConfigError, match="nonsense"):
        load(tmp_path, on_error="skip")


class TestNetwork:
    def test_none_runs_whatever_a_task_declares(self, tmp_path: Path) -> None:
        assert load_one(tmp_path, '[environment]\nnetwork_mode = "public"').id == "good"

    @pytest.mark.parametrize(
        ("toml", "reached"),
        [
            ("", ("public", ())),
            ('[environment]\nnetwork_mode = "public"', ("public", ())),
            ("[environment]\nallow_internet = true", ("public", ())),
            ("[environment]\nallow_internet = false", ("none", ())),
            (
                '[environment]\nnetwork_mode = "allowlist"\nallowed_hosts = ["*.example.org"]',
                ("allowlist", ("*.example.org",)),
            ),
            (
                '[environment]\nnetwork_mode = "no-network"\n[agent]\nnetwork_mode = "public"',
                ("public", ()),
            ),
            (
                '[environment]\nnetwork_mode = "public"\n[verifier]\nnetwork_mode = "no-network"\n'
                '[agent]\nnetwork_mode = "allowlist"\nallowed_hosts = ["10.0.0.0/8 ", "a.org:81"]',
                ("allowlist", ("10.0.0.0/8", "a.org:81")),
            ),
            (
                '[environment]\nnetwork_mode = "no-network"\n[agent]\nnetwork_mode = "no-network"',
                ("none", ()),
            ),
        ],
    )
    def test_as_declared_gives_agents_theirs(
        self, tmp_path: Path, toml: str, reached: tuple[str, tuple[str, ...]]
    ) -> None:
        blueprint = load_one(tmp_path, toml, network="as_declared").blueprint
        assert (blueprint.network, blueprint.allowed_hosts) == reached

    @pytest.mark.parametrize(
        ("toml", "key"),
        [
            ('[verifier]\nnetwork_mode = "public"', "[verifier].network_mode"),
            (
                '[verifier]\nenvironment_mode = "separate"\n'
                "[verifier.environment]\nallow_internet = true",
                "[verifier.environment].network_mode",
            ),
        ],
    )
    def test_as_declared_refuses_a_network_of_a_verifier(
        self, tmp_path: Path, toml: str, key: str
    ) -> None:
        said = refused(tmp_path, toml, network="as_declared")
        assert f"{key}: saw 'public'; verifiers have no network" in said
        assert "task.network=none" in said


class TestHostVariables:
    TOML = '[environment.env]\nA = "${ROLLOUT_TEST_A}"\n[solution.env]\nB = "${ROLLOUT_TEST_B:-x}"'

    def test_only_allowed_ones(self, tmp_path: Path) -> None:
        said = refused(tmp_path, self.TOML)
        assert "[environment.env].A: saw '${ROLLOUT_TEST_A}'" in said
        assert "task.env_allow: [ROLLOUT_TEST_A]" in said
        assert "task.env_allow: [ROLLOUT_TEST_B]" in said

    def test_filled_in(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ROLLOUT_TEST_A", "here")
        task = load_one(tmp_path, self.TOML, env_allow=["ROLLOUT_TEST_A", "ROLLOUT_TEST_B"])
        assert task.blueprint.env == (("A", "here"),)
        assert task.solution_env == (("B", "x"),)

    def test_not_set(self, tmp_path: Path) -> None:
        said = refused(tmp_path, self.TOML, env_allow=["ROLLOUT_TEST_A", "ROLLOUT_TEST_B"])
        assert "set ROLLOUT_TEST_A: it is not set here" in said


class TestVerifierMode:
    def test_default_mode_is_for_tasks_that_do_not_say(self, tmp_path: Path) -> None:
        assert load_one(tmp_path, default_mode="fork").verifier.mode is ScoreMode.FORK
        said = '[verifier]\nenvironment_mode = "shared"'
        assert load_one(tmp_path, said, default_mode="fork").verifier.mode is ScoreMode.SHARED

    def test_separate_without_own_environment_is_the_tasks(self, tmp_path: Path) -> None:
        verifier = load_one(tmp_path, '[verifier]\nenvironment_mode = "separate"').verifier
        assert (verifier.mode, verifier.blueprint) == (ScoreMode.FRESH, None)

    def test_separate_with_own_settings(self, tmp_path: Path) -> None:
        toml = '[environment]\ncpus = 1\n[verifier.environment]\nmemory_mb = 64\nworkdir = "/w"'
        task = load_one(tmp_path, toml)
        own = task.verifier.blueprint
        assert task.verifier.mode is ScoreMode.FRESH
        assert own is not None
        assert own.steps == task.blueprint.steps
        assert (own.resources, own.workdir) == (Resources(memory_mb=64), "/w")

    def test_tests_dockerfile_decides_what_lies_at_tests(self, tmp_path: Path) -> None:
        make_task(
            tmp_path,
            toml='[verifier]\nenvironment_mode = "separate"',
            tests__Dockerfile="FROM python:3.11-slim\nENV CHECK=1\nCOPY test.sh data /tests/\n",
            tests__data__expected="42\n",
        )
        (task,) = load(tmp_path)
        own = task.verifier.blueprint
        assert own is not None
        assert BuildStep(op="env", key="CHECK", value="1") in own.steps
        assert set(task.tests.files()) == {"test.sh", "expected"}


class TestImages:
    def test_docker_image_takes_the_environment_into_the_workdir(self, tmp_path: Path) -> None:
        toml = '[environment]\ndocker_image = "some/image:1"\nworkdir = "/work"'
        folder = make_task(tmp_path, toml=toml, environment__data__x="1")
        (folder / "environment/Dockerfile").unlink()
        (task,) = load(tmp_path, images={"some/image:*": "base"})
        assert task.blueprint.base == "base"
        assert task.blueprint.steps[-1].dest == "/work"
        assert (task.blueprint.steps[-1].tree or Tree()).files() == {"data/x": b"1"}

    def test_a_dockerfile_stands_for_an_unknown_prebuilt_image(self, tmp_path: Path) -> None:
        task = load_one(tmp_path, '[environment]\ndocker_image = "some/image:1"')
        assert task.blueprint.steps[-1] == BuildStep(op="workdir", dest="/app")

    def test_an_unknown_image_alone_is_refused(self, tmp_path: Path) -> None:
        make_task(tmp_path, toml='[environment]\ndocker_image = "some/image:1"')
        (tmp_path / "good/environment/Dockerfile").unlink()
        with pytest.raises(ConfigError, match=r"\[environment\].docker_image: no base is known"):
            load(tmp_path)


def test_a_path_may_be_one_task(tmp_path: Path) -> None:
    folder = make_task(tmp_path)
    assert [task.id for task in load(folder)] == ["good"]


def test_missing_paths_and_empty_folders(tmp_path: Path) -> None:
    make_task(tmp_path / "tasks")
    with pytest.raises(ConfigError, match=r"task.path: .* does not exist; did you mean 'tasks'"):
        load(tmp_path / "taks")
    with pytest.raises(ConfigError, match="holds no task"):
        load(tmp_path)


def test_canary_lines_are_not_shown_to_agents(tmp_path: Path) -> None:
    text = "<!-- harbor canary GUID 1 -->\n# canary 2\n\n# Title\ntext\n"
    make_task(tmp_path, **{"instruction.md": text})
    assert load(tmp_path)[0].instruction == "# Title\ntext"


def test_the_digest_does_not_hang_on_the_checkout(tmp_path: Path) -> None:
    one, two = make_task(tmp_path / "one"), make_task(tmp_path / "two")
    (two / "tests/test.sh").chmod(0o640)
    write(two, {"tests/__pycache__/x.pyc": "bytecode", "tests/y.pyc": "bytecode"})
    first, second = load(one)[0], load(two)[0]
    assert first.digest == second.digest
    (two / "tests/test.sh").chmod(0o755)
    assert load(two)[0].digest != first.digest


def test_size_limit(tmp_path: Path) -> None:
    make_task(tmp_path, tests__big="x" * 5000)
    with pytest.raises(ConfigError, match=r"tests: big brings the task past 0.00\d+ MB"):
        load(tmp_path, size_limit_mb=0.004)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"network": "public"}, "task.network: saw 'public'"),
        ({"default_mode": "as_declared"}, "task.default_mode: saw 'as_declared'"),
        ({"on_error": "ignore"}, "task.on_error: saw 'ignore'"),
        ({"limit": 0}, "task.limit: saw 0"),
        ({"limit": "many"}, "task.limit: saw 'many'"),
        ({"include": [3]}, "task.include: saw 3"),
        ({"images": {"a": 3}}, "task.images: 'a' is mapped to 3"),
        ({"path": "pkg://nothing_here/x"}, "names no installed package"),
    ],
)
def test_wrong_settings(tmp_path: Path, settings: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        HarborTasks(**{"path": str(tmp_path), **settings}).load()  # type: ignore[arg-type]
    assert said in str(caught.value)


def test_commands_of_dockerfiles_have_the_network_and_secrets_of_the_config(tmp_path: Path) -> None:
    run = "RUN --mount=type=secret,id=pip,required pip install x"
    folder = make_task(tmp_path)
    write(folder, {"environment/Dockerfile": DOCKERFILE + run})
    (task,) = load(tmp_path, build_network="host", secrets={"pip": "PIP_TOKEN"})
    assert task.blueprint.build_network == "host"
    assert task.blueprint.secrets == (("pip", "PIP_TOKEN"),)
    assert task.blueprint.steps[-1].argv == ("/bin/sh", "-c", "pip install x")
    with pytest.raises(ConfigError, match=r"task\.build_network: saw 'all'; use"):
        load(tmp_path, build_network="all")


def test_a_dockerfile_for_a_daemon_goes_into_the_task_whole(tmp_path: Path) -> None:
    folder = make_task(tmp_path)
    write(folder, {"environment/Dockerfile": DOCKERFILE + "FROM debian:13\n"})
    (task,) = load(tmp_path)
    assert task.blueprint.dockerfile is not None
    assert task.blueprint.dockerfile.needs == "environment/Dockerfile:3: a second FROM"
    assert task.blueprint.base == "host"
