"""framework explain, and trainer.backprop at the command line."""

import json

TINY = ("data=csv", "data.path=points.csv", "data.target=label", "model.widths=[2]", "trainer.device=cpu")


def test_a_tiny_network_is_shown_number_by_number(command, tmp_path):
    rows = [f"{x},{y},{int(x > y)}" for x in range(6) for y in range(6)]
    (tmp_path / "points.csv").write_text("\n".join(["x,y,label", *rows]))
    done = command("explain", *TINY, "example=3")
    assert done.returncode == 0, done.stderr
    for term in ("z1", "a1", "z2", "CrossEntropy(z2, y)", "softmax(z2) − y", "δ1", "∂L/∂W1", "δ1 xᵀ"):
        assert term in done.stdout
    assert "norm" not in done.stdout


def test_a_large_one_by_its_norms(command):
    done = command("explain", "model=convnet")
    assert done.returncode == 0, done.stderr
    assert "norm" in done.stdout
    assert "W2 ⋆ p1 + b2" in done.stdout


def test_mistakes(command, refused):
    refused(command("explain", "example=5000"), "example=5000: the training set has examples 0 to")
    refused(command("explain", "example=first"), "example")
    refused(command("explain", "model.norm=batch"), "BatchNorm1d is frozen in evaluation mode")
    refused(command("explain", "model=mpl"), "did you mean 'mlp'")


def test_a_run_says_how_it_goes(command, tmp_path):
    done = command("trainer.max_steps=5", "hydra.run.dir=first")
    assert "backprop: by hand, layer by layer" in done.stderr
    done = command("trainer.max_steps=5", "trainer.backprop=autograd", "hydra.run.dir=second")
    assert "backprop: autograd, as asked." in done.stderr
    results = [json.loads((tmp_path / run / "result.json").read_text()) for run in ("first", "second")]
    assert results[0]["best"]["scores"]["loss/val"] == results[1]["best"]["scores"]["loss/val"]


def test_manual_is_refused_where_it_is_not_possible(command, refused):
    done = command("trainer.backprop=manual", "trainer.precision=bf16", "trainer.max_steps=5")
    refused(done, "trainer.backprop=manual is not possible, since mixed precision")
    done = command("trainer.backprop=hand")
    refused(done, "trainer.backprop cannot be 'hand': choose one of: auto, autograd, manual.")
