"""requirements.txt: every package is pinned and hashed, and no address is written."""

import re
from pathlib import Path

import pytest

from denoiselab.errors import ConfigError
from denoiselab.tools import hashes

REPOSITORY = Path(__file__).resolve().parents[2]
TEXT = (REPOSITORY / "requirements.txt").read_text()
ONE, OTHER = "sha256:" + "1" * 64, "sha256:" + "2" * 64


def test_every_package_is_pinned_and_has_a_hash():
    blocks = re.split(r"\n(?=[^\s#])", re.sub(r"(?m)^#.*\n|^\n", "", TEXT))
    assert len(blocks) > 100
    for block in blocks:
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[^\s\\]+( \\\n    --hash=sha256:[0-9a-f]{64})+\n?", block), block[:80]


def test_requirements_name_no_address():
    for name in ("requirements.txt", "requirements-torch.txt"):
        assert not re.search(r"://|--index|--find-links|--extra|@ ", (REPOSITORY / name).read_text())


def test_torch_is_pinned_in_a_file_of_its_own():
    assert list(hashes.pins((REPOSITORY / "requirements-torch.txt").read_text())) == ["torch"]
    assert "torch" not in hashes.pins(TEXT)


def test_rewriting_keeps_comments_and_order_and_replaces_hashes():
    text = f"# One.\nB_b==2\nA==1 \\\n    --hash={ONE}\n\n# Two.\nc==3\n"
    made = hashes.rewritten(text, {"b-b": [OTHER, ONE], "a": [OTHER], "c": [ONE]})
    assert made == (
        f"# One.\nB_b==2 \\\n    --hash={ONE} \\\n    --hash={OTHER}\nA==1 \\\n    --hash={OTHER}\n\n"
        f"# Two.\nc==3 \\\n    --hash={ONE}\n"
    )
    assert hashes.rewritten(made, {"b-b": [OTHER, ONE], "a": [OTHER], "c": [ONE]}) == made


def test_a_package_without_a_hash_is_named():
    with pytest.raises(ConfigError, match="A==1 has no hash"):
        hashes.rewritten("A==1\n", {})
