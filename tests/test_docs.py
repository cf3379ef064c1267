"""What the documents say is so."""

import importlib.util
import re
from pathlib import Path

import torch

import mixers
import wfbench.models as models
from wfbench.measure import count_flops

ROOT = Path(__file__).resolve().parent.parent


def test_the_tables_in_the_readme_are_the_generated_ones():
    spec = importlib.util.spec_from_file_location("update_readme", ROOT / "docs" / "update_readme.py")
    update = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(update)
    readme = (ROOT / "README.md").read_text()
    assert update.BEGIN in readme
    assert update.with_tables(readme) == readme


def test_the_readmes_mixer_works_and_is_counted(tmp_path):
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.S)
    source = next(block for block in blocks if "class MyMixer" in block)
    (tmp_path / "my_mixer.py").write_text(source)
    name = f"{tmp_path}/my_mixer.py:MyMixer"
    x = torch.randn(2, 35, 48)
    assert mixers.create(name, 48)(x, (5, 7)).shape == x.shape
    count = count_flops(models.create("vit-tiny", name), (1, 3, 224, 224))
    assert len(count.counts) == 3
    assert count.macs > 5e8


def test_files_that_the_readme_points_to_exist():
    links = re.findall(r"\]\((?!http|#)([^)]+)\)", (ROOT / "README.md").read_text())
    assert links
    assert [link for link in links if not (ROOT / link.split("#")[0]).exists()] == []
