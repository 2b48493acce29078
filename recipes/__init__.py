"""Recipes: what `mien train` runs, and the scripts that prepare its labels."""
