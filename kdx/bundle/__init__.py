"""The bundle: what one folder on disk holds, how it is opened, checked, changed and signed."""
