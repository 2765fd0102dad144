"""nanoGPT's own train.py, unchanged, measured by the line that it prints."""

from __future__ import annotations

import importlib.util
import pickle
import random
from array import array
from pathlib import Path

import pytest

from pytest_nemoperf.models.weights import num_parameters
from tests.integrations.examples import run_example
from tests.public_files import PublicFile, blob_hash

pytestmark = pytest.mark.trainers

COMMIT = "3adf61e154c3fe3fca428ad6bc3818b27a3b8291"
BLOBS = {
    "train.py": "de5785051050d64bbda37a4964c2c079f0739b2b",
    "model.py": "c698f8b60129d793494de058b0dd4e318c0dcb5e",
    "configurator.py": "a8bba9599537cbb34b378399a077b525a87d497f",
}
VOCAB_SIZE = 65


@pytest.fixture
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with the script, its two modules, and a data set of random characters."""
    folder = tmp_path_factory.mktemp("nanoGPT")
    for path, blob in BLOBS.items():
        file = PublicFile(repo="karpathy/nanoGPT", commit=COMMIT, path=path, blob=blob)
        (folder / path).write_bytes(file.read())
    data = folder / "data" / "characters"
    data.mkdir(parents=True)
    source = random.Random(0)  # noqa: S311 (no secrets here)
    for split in ("train", "val"):
        tokens = array("H", (source.randrange(VOCAB_SIZE) for _ in range(20_000)))
        (data / f"{split}.bin").write_bytes(tokens.tobytes())
    (data / "meta.pkl").write_bytes(pickle.dumps({"vocab_size": VOCAB_SIZE}))
    return folder


def num_parameters_of(script: Path) -> int:
    """Return the parameters of the model that nanoGPT makes of the example's options."""
    spec = importlib.util.spec_from_file_location("nanogpt_model", script)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.GPTConfig(block_size=128, vocab_size=VOCAB_SIZE, n_layer=4, n_head=4, n_embd=128, bias=True)
    return sum(each.numel() for each in module.GPT(config).parameters())


def test_nanogpt_is_measured_as_it_is(
    checkout: Path, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = run_example("nanogpt", beside=checkout, pytester=pytester, monkeypatch=monkeypatch)

    assert run.problems == []
    assert len(run.records) == run.plan.total_steps
    assert all(record.loss is not None and 4 < record.loss < 5 for record in run.records)  # log 65 = 4.17
    assert num_parameters(run.plan.model) == num_parameters_of(checkout / "model.py")
    assert blob_hash((pytester.path / "train.py").read_bytes()) == BLOBS["train.py"]
