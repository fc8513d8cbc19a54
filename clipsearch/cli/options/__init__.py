"""Option groups that several commands share, each resolved once into a frozen record."""
