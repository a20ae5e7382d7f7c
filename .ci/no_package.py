"""The build backend of pyproject.toml, which builds nothing and says why."""

import sys


def build_wheel(*_, **__):
    """Called by `pip install .`."""
    sys.exit("LFG is a folder to clone or copy, not a package to install: run its commands in that "
             "folder, after pip install -r requirements.txt")


prepare_metadata_for_build_wheel = build_editable = build_sdist = build_wheel
