"""Prints `docs/settings.md`."""

from cardiotune.settings.page import page

print(page(), end="")
