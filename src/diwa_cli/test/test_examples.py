"""The examples run as they are printed, on a demo made small, and the notebook names what there is."""

import ast
import base64
import builtins
import importlib
import json
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[3] / "examples"
SCRIPTS = {
    "load_dataset": ["DEMO/play.h5"],
    "dream": ["DEMO/world_model", "DEMO/play.h5"],
    "finetune_toy": ["DEMO", "toy"],
    "run_skill": ["open_drawer", "3"],
    "own_task": ["DEMO/play.h5"],
}
"""Script -> its arguments."""
LEFT = {
    "load_dataset": "frames.png",
    "dream": "dream.png",
    "finetune_toy": "toy/weights.safetensors",
    "run_skill": "skill.mp4",
}
"""Script -> a file that it writes."""
NOTEBOOK = json.loads((EXAMPLES / "tour.ipynb").read_text())


def test_every_script_is_short_run_here_and_named_with_its_arguments():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == set(SCRIPTS)
    page = (EXAMPLES / "README.md").read_text()
    for name, words in SCRIPTS.items():
        text = (EXAMPLES / f"{name}.py").read_text()
        assert len(text.splitlines()) < 60
        assert f"    python examples/{name}.py " in ast.get_docstring(ast.parse(text), clean=False)
        assert f"[{name}.py]({name}.py)" in page
        assert len(text.split(f"python examples/{name}.py ")[1].splitlines()[0].split()) <= len(words)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs(name, small_demo, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DIWA_HOME", str(tmp_path / "home"))
    words = [word.replace("DEMO", str(small_demo)) for word in SCRIPTS[name]]
    monkeypatch.setattr("sys.argv", [name, *words])
    runpy.run_path(str(EXAMPLES / f"{name}.py"), run_name="__main__")
    assert len(capsys.readouterr().out.splitlines()) > 1
    assert name not in LEFT or (tmp_path / LEFT[name]).stat().st_size > 100


def cells(kind):
    return ["".join(cell["source"]) for cell in NOTEBOOK["cells"] if cell["cell_type"] == kind]


def test_the_notebook_imports_what_there_is_and_uses_what_it_imported():
    known = {*vars(builtins), "display"}
    for number, code in enumerate(cells("code"), 1):
        tree = ast.parse(code, f"cell {number}")
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                assert [each.name for each in node.names if not hasattr(module, each.name)] == []
            if isinstance(node, ast.Import | ast.ImportFrom):
                known |= {each.asname or each.name.partition(".")[0] for each in node.names}
            known |= {node.id} if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) else set()
            known |= {node.arg} if isinstance(node, ast.arg) else set()
            known |= {node.name} if isinstance(node, ast.FunctionDef) else set()
        used = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
        assert used - known == set(), f"cell {number}"


def test_the_notebook_is_run_small_and_shows_pictures():
    counts = [cell["execution_count"] for cell in NOTEBOOK["cells"] if cell["cell_type"] == "code"]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [out for cell in NOTEBOOK["cells"] for out in cell.get("outputs", ())]
    assert not [out for out in outputs if out["output_type"] == "error"]
    pictures = [out["data"]["image/png"] for out in outputs if "image/png" in out.get("data", {})]
    assert len(pictures) >= 3
    assert all(base64.b64decode(picture).startswith(b"\x89PNG") for picture in pictures)
    assert (EXAMPLES / "tour.ipynb").stat().st_size < 600_000
    assert "/tmp/" not in json.dumps(NOTEBOOK)
