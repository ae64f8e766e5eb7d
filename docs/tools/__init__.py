"""What the documentation is made and checked with. Nothing here is part of the distribution."""
