"""Structure from motion: the geometry front end for machines without network weights."""
