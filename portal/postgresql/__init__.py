"""Django's PostgreSQL, to which any text may be given: see `portal.text.storable`."""
