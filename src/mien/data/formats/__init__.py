"""Readers of data sets in their publishers' layouts, one file per kind of label."""
