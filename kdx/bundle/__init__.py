"""The bundle, a folder that holds a detector: how it is opened, checked, changed and signed."""
