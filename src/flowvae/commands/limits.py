"""Sizes, and formats of tables, that commands share."""

# More than this in one picture is unreadable, and would fill the memory first.
MOST_IMAGES = 10_000
IMAGES_AT_ONCE = 256
TABLES = (".csv", ".json", ".parquet")  # of all columns; Markdown has those of scores
