"""Encoders that models build on."""
