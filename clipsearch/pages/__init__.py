"""Reports and hits as pages: nothing on them comes from elsewhere, and nothing in them acts."""
