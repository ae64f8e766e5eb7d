"""Tools that generate and check the documentation. They are not part of the distribution."""
