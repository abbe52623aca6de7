"""What else a user could take instead of ResIST: how accurate it is after how many seconds on a slow link."""

from .command import main

__all__ = ['main']
