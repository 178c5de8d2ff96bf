"""Every mistake is one short message with the nearest valid name, exit code 2, and leaves nothing behind."""

import pytest

MISTAKES = [
    (["optimzer=adam"], "optimzer is not a setting: did you mean 'optimizer'?"),
    (["optimizer=adm"], "optimizer 'adm' does not exist: did you mean 'adam'?"),
    (["optimizer.lrr=1"], "optimizer.lrr is not a setting of adam: did you mean 'lr'?"),
    (["trainer.max_epoch=3"], "trainer.max_epoch is not a setting: did you mean 'max_epochs'?"),
    (["optimizer.lr=abc"], "optimizer.lr must be a number, got 'abc'."),
    (["optimizer.lr=-1"], "optimizer.lr must be >= 0, got -1."),
    (["optimizer.betas=[0.9,1.5]"], "optimizer.betas[1] must be >= 0 and < 1, got 1.5."),
    (["optimizer.betas=[0.9]"], "optimizer.betas must have 2 values, got 1"),
    (["trainer.precision=fp15"], "trainer.precision cannot be 'fp15': did you mean 'fp16'?"),
    (["data.batch_size=0"], "data.batch_size must be >= 1, got 0."),
    (["model.widths=3"], "model.widths must be a list, such as [a,b], got 3."),
    (["seed=-1"], "seed must be >= 0, got -1."),
    (["+loss.extra=1"], "'+loss.extra=1': settings cannot be added"),
    (["++x=1"], "'++x=1': settings cannot be added"),
    (["~model"], "'~model' is no override"),
    (["data=text"], "data.path is required: set data.path=..."),
    (["optimizer.lr=[1,"], "'optimizer.lr=[1,' cannot be read"),
    (["regularizer=[l2,l2]"], "'regularizer=[l2,l2]' names one twice"),
    (["regularizer.l2.strength=1"], "regularizer 'l2' is not chosen: add regularizer=[l2]"),
    (["regularizer=[l2]", "regularizer.l2.strenth=1"], "did you mean 'strength'"),
    (["regularizer=[l1]", "regularizer.l2.strength=1"], "regularizer 'l2' is not chosen: add regularizer=[l2]"),
    (["loss.name=mse"], "choose a loss by loss=mse"),
    (["seed=1,2"], "'seed=1,2' has several values: add -m"),
    (["plot", "output=x.txt"], "plot draws a PNG"),
    (["model=null"], "a run needs a model: choose one of: convnet"),
    (["experiment=nope"], "experiment 'nope' does not exist"),
    (["trian"], "there is no command 'trian': did you mean 'train'?"),
    (["train", "foo"], "'foo' is no override: write key=value"),
    (["--foo"], "'--foo' is no flag of framework"),
    (["--experimental-rerun=x.pickle"], "is no flag of framework"),
    (["--config-dir", "nowhere"], "--config-dir needs a folder, got 'nowhere'."),
    (["hydra.searchpath=[file:///tmp]"], "hydra.searchpath cannot be set"),
    (["optimizer=os.system"], "optimizer 'os.system' does not exist"),
    (["-m", "optimizer=sgd,nope"], "optimizer 'nope' does not exist"),
    (["-m", "optimizer.lr=0.1,abc"], "optimizer.lr must be a number, got 'abc'."),
    (["-m", "optimizer=sgd,adam", "optimizer.momentum=0.9"], "optimizer.momentum is not a setting of adam"),
    (["evaluate"], "evaluate needs run=DIR."),
    (["evaluate", "run=nowhere"], "run=nowhere is not the folder of a run"),
    (["predict", "run=nowhere"], "predict needs input=FILE."),
    (["predict", "run=x", "input=y"], "run=x is not the folder of a run"),
    (["--config-dir"], "--config-dir needs a folder, got ''."),
]


@pytest.mark.parametrize(("arguments", "message"), MISTAKES, ids=lambda v: " ".join(v) if isinstance(v, list) else "")
def test_composition_mistakes(command, tmp_path, arguments, message):
    run = command(*arguments)
    assert message in run.stderr
    assert run.stderr.startswith("error: ")
    assert run.returncode == 2
    assert len(run.stderr.strip().splitlines()) == 1
    assert "+" not in run.stderr.replace(arguments[0], "")
    assert run.stdout == ""
    assert list(tmp_path.iterdir()) == []


RUNTIME_MISTAKES = [
    (["trainer.device=gpu"], "trainer.device must be auto, cpu, cuda, cuda:N or mps, got 'gpu'."),
    (["trainer.evaluate_every=often"], "trainer.evaluate_every must be a number of epochs or steps"),
    (["trainer.monitor=accuracy/val"], "accuracy/val is better higher: set trainer.mode"),
    (["loss=mse"], "MSE: prediction and target must have the same shape, got (1, 10) and (1,)"),
    (["loss=mse", "trainer.devices=2", "trainer.device=cpu"], "MSE: prediction and target must have the same shape"),
    (["trainer.monitor=loss/vall"], "there is no score 'loss/vall': did you mean 'loss/val'?"),
    (["data=mnist", "data.root=empty", "data.download=false"], "train-images-idx3-ubyte.gz"),
    (["model=transformer"], "model 'transformer' needs sequences of tokens"),
    (["model=transformer", "trainer.devices=2", "trainer.device=cpu"], "model 'transformer' needs sequences of tokens"),
    (["model.dropout=0.5", "regularizer=[dropout]"], "both set the dropout rate"),
    (["optimizer=adamw", "regularizer=[weight_decay]"], "both decay the weights"),
    (["optimizer.lr_multipliers={head.*:2.0}"], "'head.*' matches no trainable parameter"),
]


@pytest.mark.parametrize(("arguments", "message"), RUNTIME_MISTAKES, ids=lambda v: v[0] if isinstance(v, list) else "")
def test_mistakes_that_building_finds(command, tmp_path, arguments, message):
    run = command(*arguments)
    assert message in run.stderr
    assert run.returncode == 2
    assert len(run.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_null_chooses_nothing(command):
    assert "initializer" in command("initializer=null", "experiment=null", "regularizer=null", "--help").stdout


def test_a_traceback_is_shown_where_asked_for(command):
    assert "Traceback" in command("optimizer.lr=abc", FRAMEWORK_TRACEBACK="1").stderr
