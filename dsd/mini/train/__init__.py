"""Rebuilds every weight of the small world: `python -m dsd.mini.train --help`."""
