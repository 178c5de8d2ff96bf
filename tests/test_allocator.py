"""Freed memory that the process keeps."""

import ctypes
import sys

from framework import allocator


def test_both_options_are_taken(monkeypatch):
    told = []

    class Library:
        def mallopt(self, option, value):
            told.append((option, value))
            return 1

    monkeypatch.setattr(ctypes, "CDLL", lambda name: Library())
    monkeypatch.setattr(sys, "platform", "linux")
    assert allocator.keep_freed_memory()
    assert dict(told) == {-3: 2**25, -1: 2**30}


def test_without_glibc_nothing_is_called(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(ctypes, "CDLL", None)
    assert not allocator.keep_freed_memory()


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", lambda name: object())
    assert not allocator.keep_freed_memory()
