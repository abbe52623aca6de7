"""The version of resist_mm."""

__version__ = '0.1.0'
