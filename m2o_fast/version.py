"""The version of the package: on the lowest floor, since runs and reports write it down."""

__version__ = "0.1.0"
