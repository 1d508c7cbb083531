"""The command line; the one place that sees every room, and imports each only inside the command that needs it."""
