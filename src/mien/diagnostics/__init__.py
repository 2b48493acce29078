"""Checks of the installation, and measurements of speed and memory."""
