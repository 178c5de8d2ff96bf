"""A training script as one writes it by hand, on MNIST in a folder; prints the time when its first step has ended."""

import gzip
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

folder = Path(sys.argv[1])
images = np.frombuffer(gzip.decompress((folder / "train-images-idx3-ubyte.gz").read_bytes()), np.uint8, offset=16)
labels = np.frombuffer(gzip.decompress((folder / "train-labels-idx1-ubyte.gz").read_bytes()), np.uint8, offset=8)
inputs = (torch.from_numpy(images.reshape(-1, 784).astype(np.float32)) / 255 - 0.1307) / 0.3081
target = torch.from_numpy(labels.astype(np.int64))

model = nn.Sequential(nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, 10))
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
loss_function = nn.CrossEntropyLoss()
for _epoch in range(5):
    for index in torch.randperm(len(inputs)).split(64):
        optimizer.zero_grad()
        loss = loss_function(model(inputs[index]), target[index])
        loss.backward()
        optimizer.step()
        print(time.time(), flush=True)
        os._exit(0)
