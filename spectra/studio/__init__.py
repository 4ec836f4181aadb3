"""A local page to browse, play with, train and edit shifts; a view of what the library and the command line do."""
