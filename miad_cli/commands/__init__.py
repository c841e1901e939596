"""One thin file per subcommand: options to request, use case, rendering. No work at import."""
