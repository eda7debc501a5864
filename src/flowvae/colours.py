"""Colours of curves and labels."""

TEN = (
    "#0114fa", "#b58d00", "#03a966", "#a10700", "#760091",
    "#00002f", "#066aff", "#6c2a34", "#9189d3", "#4b8888",
)  # fmt: skip
"""Ten colours for lines and marks on white, which also differ for readers with deuteranopia or protanopia.

Each has a contrast of at least 3 to white.
"""
