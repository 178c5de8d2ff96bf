"""Text: blocks and their targets, the vocabulary, and every way a file can be wrong."""

import pytest
import torch

from framework.batching.sets import ExampleSet
from framework.datasets import TokenSet, Vocabulary, text
from framework.errors import ConfigError
from framework.registry import build

TEXT = "Zoë says: “no”.\r\n" * 20 + "𝔘nique"


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "some.txt"
    path.write_bytes(TEXT.encode())
    return str(path)


def test_every_block_is_the_text_and_its_targets_are_one_ahead(path):
    data = build("data", "text", {"path": path, "block": 7, "held_out": 0.2})
    words = Vocabulary(data.classes)
    assert data.classes == tuple(sorted(set(TEXT)))
    assert (data.task, data.input_shape, data.outputs) == ("language", (7,), len(set(TEXT)))
    end = len(TEXT) - round(0.2 * len(TEXT))
    middle = (end + len(TEXT)) // 2
    for part, expected in [
        (data.train, TEXT[:end]),
        (data.validation, TEXT[end:middle]),
        (data.test, TEXT[middle:]),
    ]:
        assert len(part) == (len(expected) - 1) // 7
        inputs, targets = part.gather(torch.arange(len(part)))
        assert inputs.dtype == targets.dtype == torch.int64
        assert inputs.is_contiguous()
        assert targets.is_contiguous()
        assert words.decode(inputs.flatten()) == expected[: len(part) * 7]
        assert words.decode(targets.flatten()) == expected[1 : len(part) * 7 + 1]


def test_overlapping_blocks_subsets_and_the_last_block():
    tokens = torch.arange(100, 111)
    blocks = TokenSet(tokens, block=4, stride=3)
    inputs, targets = blocks.gather(torch.tensor([2, 0]))
    assert inputs.tolist() == [[106, 107, 108, 109], [100, 101, 102, 103]]
    assert targets.equal(inputs + 1)
    assert len(blocks) == 3
    some: ExampleSet = blocks.subset(torch.tensor([2, 1])).to(torch.device("cpu"))
    assert len(some) == 2
    assert some.gather(torch.tensor([0]))[0].equal(inputs[:1])
    assert some.labels is None
    assert len(TokenSet(tokens[:5], block=4, stride=9)) == 1
    with pytest.raises(ConfigError, match="block of 4 needs at least 5 tokens, one ahead included, got 4"):
        TokenSet(tokens[:4], block=4, stride=1)


def test_stride_and_held_out(path):
    assert len(text(path=path, block=7, stride=1, held_out=0.0).train) == len(TEXT) - 7
    without = text(path=path, block=7, held_out=0.0)
    assert without.validation is None
    assert without.test is None


def test_encode_and_decode():
    words = Vocabulary("abë𝔘")
    assert words.encode("𝔘ab").tolist() == [3, 0, 1]
    assert words.decode([3, 0, 2]) == "𝔘aë"
    assert words.decode(words.encode("")) == ""
    with pytest.raises(ConfigError, match="vocabulary of 4 characters has no 'c'"):
        words.encode("abc")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read data.path=.*: No such file"),
        (b"", "is empty"),
        (b"good \xff bad", "is not from byte 5 on"),
        (b"short", "training part: a block of 64 needs at least 65 tokens"),
        (b"x" * 700, "validation part: a block of 64 needs at least 65 tokens, .* got 35"),
    ],
)
def test_wrong_files_are_refused(content, message, tmp_path):
    path = tmp_path / "wrong.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        text(path=str(path))


def test_a_folder_and_a_missing_path_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="Is a directory"):
        text(path=str(tmp_path))
    with pytest.raises(ConfigError, match=r"data\.path is required"):
        build("data", "text", {})


def test_shakespeare(real_data):
    data = text(path=str(real_data / "tinyshakespeare.txt"), block=256)
    # as published of this corpus: 65 characters, and 1,003,854 of them to train on
    assert data.outputs == 65
    assert "".join(data.classes).startswith("\n !$&',-.3:;?ABC")
    assert len(data.train) == (1_003_854 + 1 - 1) // 256
    first = data.train.gather(torch.tensor([0]))[0][0]
    assert Vocabulary(data.classes).decode(first).startswith("First Citizen:\nBefore we proceed")
