"""The notebooks run, draw what they promise, and are committed without their outputs."""

import ast
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode

from tests.small_run import write_small_run

pytestmark = pytest.mark.docs

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
NAMES = [path.name for path in sorted(NOTEBOOKS.glob("*.ipynb"))]


def notebook(name: str) -> NotebookNode:
    return nbformat.read(NOTEBOOKS / name, as_version=4)


async def executed(name: str, folder: Path) -> NotebookNode:
    """The notebook with its outputs, run by a kernel of its own in `folder`."""
    read = notebook(name)
    resources = {"metadata": {"path": str(folder)}}
    await NotebookClient(read, timeout=120, resources=resources).async_execute()
    return read


def shown(read: NotebookNode) -> list[dict[str, str]]:
    outputs = (output for cell in read.cells for output in cell.get("outputs", ()))
    return [output["data"] for output in outputs if "data" in output]


async def test_it_shows_rows_and_draws_rewards_and_stage_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await write_small_run(tmp_path / "small")
    monkeypatch.setenv("ROLLOUT_RUN", str(tmp_path / "small"))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    read = await executed("first_look.ipynb", tmp_path)
    data = shown(read)
    assert sum("image/png" in each for each in data) == 2
    texts = "\n".join(each.get("text/plain", "") for each in data)
    for words in ("agent=oracle", "count", "sandbox_lost", "6/6"):
        assert words in texts
    streams = [
        output.text
        for cell in read.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stderr"
    ]
    assert streams == []


@pytest.mark.native
async def test_it_learns_a_little_and_draws_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    small = "learner.steps=2 samples=4 online.batch=2 task.count=5 executor.workers=1"
    monkeypatch.setenv("ROLLOUT_LEARN", small)
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOKS.parent))
    read = await executed("learn.ipynb", tmp_path)
    assert sum("image/png" in each for each in shown(read)) == 2
    printed = "".join(
        output.text
        for cell in read.cells
        for output in cell.get("outputs", ())
        if output.output_type == "stream" and output.name == "stdout"
    )
    assert "2 steps, 16 rollouts" in printed
    assert printed.count("command") > 5, "what it has said"


@pytest.mark.parametrize("name", NAMES)
def test_it_is_committed_without_outputs(name: str) -> None:
    cells = [cell for cell in notebook(name).cells if cell.cell_type == "code"]
    assert not any(cell.outputs or cell.execution_count for cell in cells)


@pytest.mark.parametrize("name", NAMES)
def test_it_reads_only_through_the_public_reader_and_the_report(name: str) -> None:
    source = "\n".join(cell.source for cell in notebook(name).cells if cell.cell_type == "code")
    source = source.replace("= await ", "= ")  # a notebook may, a module may not
    nodes = list(ast.walk(ast.parse(source)))
    modules = {node.module for node in nodes if isinstance(node, ast.ImportFrom)}
    modules |= {a.name for node in nodes if isinstance(node, ast.Import) for a in node.names}
    ours = {name for name in modules if (name or "").startswith("rollout")}
    assert all(name == "rollout" or name.startswith("rollout.report.") for name in ours)
    assert modules - ours <= {"os", "pathlib", "matplotlib.pyplot"}
