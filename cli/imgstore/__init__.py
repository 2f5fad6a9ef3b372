"""The command line of imgstore: parse, call the library, print, exit code."""

__version__ = "0.1.0"
