from plugins_shelf import shelf  # noqa: F401  # the fixture
