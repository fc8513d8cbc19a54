"""Reports as pages: each one a single file, without scripts and without anything from elsewhere."""
