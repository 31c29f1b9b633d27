"""Tests of the house itself: namespace, packaging, licence, doors between rooms, sizes, README."""
