"""From and to other tools' files and whole models: formats, baking, extraction, transplanting."""
