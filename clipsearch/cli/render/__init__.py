"""Results as tables, lines, JSON and progress, for a terminal, a pipe or a program."""
