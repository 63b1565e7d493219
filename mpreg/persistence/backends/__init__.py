"""One engine each. Nothing above `mpreg.persistence.registry` knows which."""
