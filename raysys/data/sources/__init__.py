"""One small file per public log format."""
