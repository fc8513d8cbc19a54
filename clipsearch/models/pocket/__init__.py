"""The built-in dual encoder `pocket`: its weights and configuration."""
