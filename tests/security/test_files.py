"""A stranger's data: archives, tables, arrays and texts that lie about themselves."""

import gzip
import hashlib
import io
import os
import zipfile

import numpy as np
import pytest

from framework.datasets.files import RemoteFile, verified
from framework.datasets.idx import parse_idx
from framework.errors import ConfigError

from .conftest import bounded


class Touches:
    """Creates MARKER when it is unpickled."""

    def __reduce__(self):
        return os.mkdir, ("MARKER",)


def header_of(shape: str, dtype: str = "<f8") -> bytes:
    text = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': {shape}, }}"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


def pickled() -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([Touches()], dtype=object), allow_pickle=True)
    return file.getvalue()


def archive(name: str, content: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        packed.writestr(name, content)
    return file.getvalue()


ARRAYS = {
    "pickled objects": pickled(),
    "objects by their header": header_of("(1,)", "|O") + b"cos\nsystem\n(S'mkdir MARKER'\ntR.",
    "a terabyte by its header": header_of("(2000000000, 64)") + bytes(64),
    "a negative shape": header_of("(-1, 64)") + bytes(512),
    "a shape beyond numbers": header_of("(" + "9" * 40 + ", 64)") + bytes(64),
    "a shape that calls": header_of("__import__('os').mkdir('MARKER')"),
    "a header of ten thousand brackets": header_of("(" * 10_000 + ")" * 10_000),
    "a header cut off": header_of("(5, 64)")[:20],
    "an archive": archive("x.npy", bytes(2**20)),
    "an archive that leaves its folder": archive("../../MARKER.npy", header_of("(1, 64)") + bytes(512)),
    "nothing": b"",
}


@pytest.mark.filterwarnings("ignore")  # numpy's on a strange header
@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_to_predict(stranger, refused, tmp_path, case):
    (tmp_path / "new.npy").write_bytes(ARRAYS[case])
    assert "input=new.npy must hold numbers" in refused("predict", "run=run", "input=new.npy")


@pytest.mark.parametrize("suffix", ["npy", "csv"])
@pytest.mark.parametrize("kind", ["pipe", "device", "folder", "pickle"])
def test_what_is_no_file_of_inputs(stranger, refused, tmp_path, kind, suffix):
    path = tmp_path / f"new.{suffix}"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"cos\nmkdir\n(S'MARKER'\ntR.")
    assert f"input=new.{suffix}" in refused("predict", "run=run", f"input=new.{suffix}") or kind in ("pipe", "device")


@pytest.mark.parametrize("output", ["new.csv", "run", "link.csv"])
def test_predictions_overwrite_neither_their_input_nor_a_folder(stranger, refused, tmp_path, output):
    np.savetxt(tmp_path / "new.csv", np.zeros((2, 64)), delimiter=",")
    (tmp_path / "link.csv").symlink_to("new.csv")
    assert "must be a file of its own" in refused("predict", "run=run", "input=new.csv", f"output={output}")


TABLES = {
    "a cell of a megabyte": "a,b\n1," + "2" * 2**20 + "\n",
    "an open quotation": 'a,b\n1,"' + "2\n" * 2**18,
    "a number beyond a float": "a,b\n1e999,1\n",
    "a formula": "a,b\n__import__('os').mkdir('MARKER'),1\n",
    "no UTF-8": b"a,b\n\xff\xfe,1\n",
    "more cells than columns": "a,b\n1" + ",1" * 100_000 + "\n",
    "a zero byte": "a,b\n1,\x001\n",
}


@pytest.mark.parametrize("case", TABLES)
def test_tables(stranger, refused, tmp_path, case):
    content = TABLES[case]
    (tmp_path / "t.csv").write_bytes(content if isinstance(content, bytes) else content.encode())
    refused("data=csv", "data.path=t.csv", "data.task=regression", "loss=mse", "trainer.max_epochs=1")


@pytest.mark.parametrize("kind", ["pipe", "device"])
@pytest.mark.parametrize("data", ["csv", "text", "mnist"])
def test_what_is_no_file_of_data(stranger, refused, tmp_path, data, kind):
    (tmp_path / "mnist").mkdir()
    path = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    os.mkfifo(path) if kind == "pipe" else path.symlink_to("/dev/zero")
    words = ["data.root=.", "data.download=false"] if data == "mnist" else [f"data.path={path}"]
    refused(f"data={data}", *words, "trainer.max_epochs=1")


def test_an_archive_s_bomb_is_unpacked_no_further_than_its_size(tmp_path):
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=9) as file:
        for _ in range(1024):
            file.write(bytes(2**20))
    assert path.stat().st_size < 2**21
    with bounded(), pytest.raises(ValueError, match="its content must have 1,000 bytes, got more"):
        verified(path, RemoteFile("bomb.gz", 1000, hashlib.sha256(bytes(1000)).hexdigest()))


@pytest.mark.parametrize(
    "sizes", [(2**32 - 1, 2**32 - 1, 2**32 - 1), (60_000, 28, 28), (0, 28, 28), (1, 1, 2), (2**31, 2, 1)]
)
def test_an_idx_file_that_announces_what_it_has_not(sizes):
    content = bytes((0, 0, 8, 3)) + b"".join(n.to_bytes(4, "big") for n in sizes) + b"x"
    with bounded(), pytest.raises(ConfigError, match="the header announces"):
        parse_idx(content, "images", dimensions=3)


def test_an_idx_header_cut_off():
    with pytest.raises(ConfigError, match="the header must have 16 bytes, got 7"):
        parse_idx(bytes((0, 0, 8, 3, 0, 0, 0)), "images", dimensions=3)
