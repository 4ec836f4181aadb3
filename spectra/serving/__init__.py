"""A base in memory that draws over HTTP for many at once, each picture with shifts of its own."""
