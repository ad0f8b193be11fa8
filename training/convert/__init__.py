"""Reads and writes labelled articles in the formats of other tools."""
