"""Components that bring examples of their own, and losses that do not say what their mean is over, pass, too."""

import textwrap

import pytest

from framework.testing import run_checks

SOURCES = {
    "torchs_own": """
        from torch import nn

        from framework.registry import loss


        @loss("torchs_own")
        class TorchsOwn(nn.CrossEntropyLoss):
            "One of torch's, with what it has."
    """,
    "plain_function": """
        from torch.nn.functional import mse_loss

        from framework.registry import loss


        def squares(prediction, target):
            if prediction.shape != target.shape:
                raise ValueError("one shape")
            return mse_loss(prediction, target)


        @loss("plain_function")
        def plain_function():
            "A function, whose rows are counted."
            return squares
    """,
    "own_examples": """
        import torch
        from torch import nn

        from framework.registry import loss


        @loss("own_examples")
        class Contrast(nn.Module):
            "Pairs of embeddings that belong together by their rows: a batch is more than its parts."

            additive = False

            @staticmethod
            def examples(generator):
                return torch.randn(12, 2, 5, generator=generator), torch.zeros(12)

            def forward(self, prediction, target):
                scores = prediction[:, 0] @ prediction[:, 1].T
                return scores.logsumexp(1).sub(scores.diagonal()).sum() / max(len(target), 1)
    """,
    "small_words": """
        import torch
        from torch import nn

        from framework.batching import TensorSet
        from framework.datasets import Data
        from framework.registry import model


        @model("small_words")
        class SmallWords(nn.Module):
            "Sums of three words' vectors, which none of the usual inputs has."

            @staticmethod
            def examples(generator):
                words = torch.randint(4, (48, 3), generator=generator)
                pairs = TensorSet((words, words[:, 0]))
                return Data("classification", (3,), 4, pairs, pairs)

            def __init__(self, input_shape, outputs):
                super().__init__()
                assert input_shape == (3,)
                self.words = nn.EmbeddingBag(4, 8, mode="sum")
                self.last = nn.Linear(8, outputs)

            def forward(self, inputs):
                return self.last(self.words(inputs))
    """,
}


@pytest.mark.parametrize("name", SOURCES)
def test_all_checks_pass(name, tmp_path, monkeypatch):
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins" / f"{name}.py").write_text(textwrap.dedent(SOURCES[name]))
    monkeypatch.chdir(tmp_path)
    results = run_checks(name)
    assert len(results) > 15
    assert [str(result) for result in results if not result.ok] == []


def test_what_takes_none_is_told_of_examples(tmp_path, monkeypatch):
    (tmp_path / "plugins").mkdir()
    source = SOURCES["own_examples"].replace("def examples", "def others").replace("own_examples", "none_taken")
    source = source.replace("scores =", "assert prediction.shape[1] == 9\n                scores =")
    (tmp_path / "plugins" / "none_taken.py").write_text(textwrap.dedent(source))
    monkeypatch.chdir(tmp_path)
    (result,) = run_checks("none_taken", checks=["loss_ignores_the_order"])
    assert result.verdict == "failed"
    assert "it takes none of the standard examples" in result.seen
    assert "give it a static method examples(generator)" in result.seen
