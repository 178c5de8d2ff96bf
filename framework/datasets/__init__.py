"""Data sets."""

from framework.datasets.base import Data, Task
from framework.datasets.digits import digits
from framework.datasets.mnist import mnist
from framework.datasets.pixels import Normalize
from framework.datasets.table import csv
from framework.datasets.text import Vocabulary, text
from framework.datasets.tokens import TokenSet

__all__ = ["Data", "Normalize", "Task", "TokenSet", "Vocabulary", "csv", "digits", "mnist", "text"]
