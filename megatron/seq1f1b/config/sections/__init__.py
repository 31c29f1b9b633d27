"""The options by section, one file each; `options.py` puts them together."""
