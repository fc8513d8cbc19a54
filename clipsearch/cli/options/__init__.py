"""Groups of options that several commands share, each resolved once into a frozen record."""
