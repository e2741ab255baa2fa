"""The command line. Each command is one thin file; heavy imports happen inside the command."""
