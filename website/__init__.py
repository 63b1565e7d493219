"""How the pages become a site: `make docs`. They are written to be read as they stand, too, so what
only the site has is added here, where a page says so."""
