"""The commands, as functions of the directories of runs."""
